"""P(track | country, age) of the simulated service: what country and age allow at best, from its hidden parameters.

Shapes  C countries, A ages, S scenes, T tribes, N tracks of the catalogue, B listeners
"""

from __future__ import annotations

import numpy as np

from jobs.ingest.simulate.catalogue import AGES, COUNTRIES, World, build
from jobs.ingest.simulate.listeners import FROM_CHART, PERSONAL_SCENES, Ids, draw_ages
from jobs.settings.source import SimulateSettings

TRIBE_SHARE, OWN_SHARES, SPREAD = 0.75, (0.15, 0.10), 0.6  # of draw_traits
N_DRAWS = 200_000  # of the weights of a listener's scenes, and of ages


def track_probabilities(
    settings: SimulateSettings, track_id_N: np.ndarray, country_B: np.ndarray, age_B: np.ndarray
) -> np.ndarray:
    """Return the probability of each track in a stream of each listener, (B, N), by country and age alone.

    Args:
        settings: of the simulated service.
        track_id_N: ids of the tracks.
        country_B: country codes, None where unknown: the mean over countries.
        age_B: ages in years, -1 where unknown: the mean over ages.
    """
    world = build(settings)
    scene_CAS = scene_probabilities(world)
    countries, ages = np.array(list(COUNTRIES.values())), age_shares()
    by_country_CS = np.einsum("cas,a->cs", scene_CAS, ages)
    names = {name: c for c, name in enumerate(COUNTRIES)}
    scene_BS = np.empty((len(age_B), world.n_scenes))
    for b, (country, age) in enumerate(zip(country_B, age_B, strict=True)):
        c = names.get(country)
        of_age_CS = by_country_CS if age < 0 else scene_CAS[:, age - AGES[0]]
        scene_BS[b] = countries @ of_age_CS if c is None else of_age_CS[c]
    ids = Ids.of(world, settings).track
    order = np.argsort(ids)
    hidden_N = order[np.searchsorted(ids[order], track_id_N)]
    in_scene_N = np.diff(world.track_cum)[hidden_N]
    probabilities: np.ndarray = scene_BS[:, world.artist_scene[world.track_artist[hidden_N]]] * in_scene_N
    return probabilities


def scene_probabilities(world: World) -> np.ndarray:
    """Return the probability of each scene in a stream of a listener of a country and an age, (C, A, S)."""
    n_countries, n_ages, n_tribes = len(COUNTRIES), len(AGES), len(world.tribe_scenes)
    tribe_CAT = _shares(world.tribe_cum, n_countries * n_ages).reshape(n_countries, n_ages, n_tribes)
    country_CS = _shares(world.scene_cum, n_countries)
    # A listener's weights vary: their mean after normalisation, by simulation. They are the same for every tribe.
    weights = np.concatenate([TRIBE_SHARE * world.tribe_weights[0], OWN_SHARES])
    noise = np.random.default_rng(0).standard_normal((N_DRAWS, len(weights)))
    drawn = weights * np.exp(SPREAD * noise)
    mean = (drawn / drawn.sum(1, keepdims=True)).mean(0)
    of_tribe_TS = np.zeros((n_tribes, world.n_scenes))
    for slot, weight in enumerate(mean[:-PERSONAL_SCENES]):
        np.add.at(of_tribe_TS, (np.arange(n_tribes), world.tribe_scenes[:, slot]), weight)
    own = mean[-PERSONAL_SCENES:].sum()
    taste_CAS = tribe_CAT @ of_tribe_TS + own * country_CS[:, None]
    scene_CAS: np.ndarray = (1 - FROM_CHART) * taste_CAS + FROM_CHART * country_CS[:, None]
    return scene_CAS


def age_shares() -> np.ndarray:
    """Return the share of each age, (A,), by simulation."""
    return np.bincount(draw_ages(N_DRAWS, np.random.default_rng(1)) - AGES[0], minlength=len(AGES)) / N_DRAWS


def _shares(stacked: np.ndarray, n_rows: int) -> np.ndarray:
    """Return the shares of the rows of `stack_rows`, (n_rows, n)."""
    rows = stacked.reshape(n_rows, -1) - np.arange(n_rows)[:, None]
    return np.diff(rows, axis=1, prepend=0.0)
