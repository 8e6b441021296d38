"""Synthetic listeners for `overture make-deezer`: country, age, taste, streamed tracks and first-day interactions.

Shapes   U listeners, N tracks of a simulated catalogue (jobs/ingest/simulate/catalogue.py), n draws
Source   COUNTRIES, scenes and tribes of the simulated service: country and age determine which tribes are likely, a
         tribe determines which scenes are streamed, and popularity is long-tailed within a scene

The numbers below are the paper's where it reports them (5 % without any interaction, 77 % with a stream, unknown ages,
at least 50 tracks in the month after the registration). The others are assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.ingest.simulate.catalogue import AGES, COUNTRIES, World
from models.cold_start.input_vector import age_classes
from models.cold_start.ragged import Ragged

NO_INTERACTION, STREAMS_AMONG_ACTIVE, AGE_UNKNOWN = 0.05, 0.81, 0.14
MIN_HEARD = 50
# Source of a stream: charts or tribe with this probability, else any scene; a hit may replace either.
CHARTS_AND_TRIBE, HITS = 0.85, 0.04
CHART = 400  # tracks in the charts of a country and an age class
TYPICAL_AGES = np.array([15, 21, 29, 41, 57])  # one per age class
# block -> share of active listeners with such interactions, and their mean number
FIRST_DAY = {
    "streamed": (STREAMS_AMONG_ACTIVE, 22.0),
    "skipped": (0.6, 9.0),
    "banned": (0.03, 1.5),
    "onboarding_like_artists": (0.75, 7.0),
    "search_songs": (0.25, 2.0),
    "search_artists": (0.35, 1.8),
    "search_albums": (0.2, 1.6),
    "search_playlists": (0.15, 1.4),
}
# For warm listeners only, as in the published files.
FAVOURITES = {
    "favorite_songs": (0.25, 5.0),
    "favorite_artists": (0.2, 3.0),
    "favorite_albums": (0.1, 2.0),
    "favorite_playlists": (0.1, 1.5),
}


@dataclass(frozen=True, eq=False)
class Listeners:
    """Hidden properties of the listeners.

    Attributes:
        country: index (U,) into COUNTRIES.
        age: age (U,) in years.
        reported_age: reported age (U,), -1 where unknown.
        tribe: type of taste (U,).
        devotion: probability (U,) of a stream from the tribe's scenes rather than from the charts.
    """

    country: np.ndarray
    age: np.ndarray
    reported_age: np.ndarray
    tribe: np.ndarray
    devotion: np.ndarray


def draw_listeners(world: World, n: int, rng: np.random.Generator) -> Listeners:
    """Draw n listeners: country by its share, age around 30, and a tribe that is likely for both."""
    shares = np.array(list(COUNTRIES.values()))
    country = rng.choice(len(shares), n, p=shares / shares.sum())
    age = np.clip(np.round(13 + rng.gamma(2.4, 8.0, n)), 13, AGES[-1]).astype(np.int64)
    reported_age = np.where(rng.random(n) < AGE_UNKNOWN, -1, age)
    tribe = world.draw_tribe(country, age, rng.random(n))
    return Listeners(country, age, reported_age, tribe, 0.1 + 0.6 * rng.beta(1.0, 1.4, n))


class TrackSampler:
    """Draws tracks by listener: from the tribe's scenes, the charts of country and age class, hits, or any scene."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        """Draw the hits and the charts of one catalogue."""
        n = len(world.track_artist)
        self.world, self.rng = world, rng
        self.hits = rng.permutation(n)
        self.hit_cum = np.cumsum(1.0 / (np.arange(n) + 8.0))
        self.slots = np.cumsum(world.tribe_weights[0])
        country = np.repeat(np.arange(len(COUNTRIES)), len(TYPICAL_AGES) * CHART)
        age = np.tile(np.repeat(TYPICAL_AGES, CHART), len(COUNTRIES))
        self.charts = self._draw_from_tribe(world.draw_tribe(country, age, rng.random(len(age)))).reshape(-1, CHART)
        self.chart_cum = np.cumsum(1.0 / (np.arange(CHART) + 8.0))

    def _draw_from_tribe(self, tribe: np.ndarray) -> np.ndarray:
        """Draw a track (n,) of a scene of each tribe (n,)."""
        world, rng, n = self.world, self.rng, len(tribe)
        slot = np.minimum(np.searchsorted(self.slots, rng.random(n) * self.slots[-1]), len(self.slots) - 1)
        return world.draw_in_scene(world.tribe_scenes[tribe, slot], rng.random(n))

    def draw(self, listeners: Listeners, user_n: np.ndarray) -> np.ndarray:
        """Draw one track (n,) for each of the listeners `user_n`."""
        world, rng = self.world, self.rng
        track = self._draw_from_tribe(listeners.tribe[user_n])
        u = rng.random(len(user_n)) - listeners.devotion[user_n]
        is_chart = (u >= 0) & (u < CHARTS_AND_TRIBE - listeners.devotion[user_n])
        chart = listeners.country[user_n[is_chart]] * len(TYPICAL_AGES) + age_classes(listeners.age[user_n[is_chart]])
        track[is_chart] = self.charts[chart, _place(self.chart_cum, rng.random(int(is_chart.sum())))]
        is_any_scene = u >= CHARTS_AND_TRIBE - listeners.devotion[user_n]
        scene = rng.integers(0, world.n_scenes, int(is_any_scene.sum()))
        track[is_any_scene] = world.draw_in_scene(scene, rng.random(len(scene)))
        is_hit = rng.random(len(user_n)) < HITS
        track[is_hit] = self.hits[_place(self.hit_cum, rng.random(int(is_hit.sum())))]
        return np.asarray(track)

    def month_tracks(self, listeners: Listeners, block: int = 10_000) -> Ragged:
        """Draw the distinct tracks of each listener on days 1 to 30, at least MIN_HEARD, ascending."""
        n_tracks, parts, lengths = len(self.world.track_artist), [], []
        for start in range(0, len(listeners.age), block):
            user = np.arange(start, min(start + block, len(listeners.age)))
            plays = np.maximum(75, self.rng.lognormal(5.2, 0.6, len(user))).astype(np.int64)
            key = np.unique(np.repeat(user - start, plays) * n_tracks + self.draw(listeners, np.repeat(user, plays)))
            while (short := np.flatnonzero(np.bincount(key // n_tracks, minlength=len(user)) < MIN_HEARD)).size:
                extra = np.repeat(short, MIN_HEARD)
                key = np.unique(np.concatenate([key, extra * n_tracks + self.rng.integers(0, n_tracks, len(extra))]))
            parts.append((key % n_tracks).astype(np.int32))
            lengths.append(np.bincount(key // n_tracks, minlength=len(user)))
        return ragged(np.concatenate(lengths), np.concatenate(parts))

    def first_days(self, listeners: Listeners, month_tracks: Ragged, warm: np.ndarray) -> dict[str, Ragged]:
        """Draw the first-day interactions of all listeners by block; only `warm` (U,) listeners have favourites."""
        rng, n = self.rng, len(listeners.age)
        active = rng.random(n) >= NO_INTERACTION
        counts = {name: self._counts(active, *how) for name, how in FIRST_DAY.items()}
        counts |= {name: self._counts(active & warm, *how) for name, how in FAVOURITES.items()}
        idle = active & (np.sum(list(counts.values()), axis=0) == 0)
        counts["streamed"][idle] = 1
        blocks: dict[str, Ragged] = {}
        for name, count in counts.items():
            tracks = self._first_day_tracks(listeners, month_tracks, np.repeat(np.arange(n), count), name)
            levels = ("songs", "artists", "albums") if name in ("streamed", "skipped", "banned") else ("",)
            for level in levels:
                block = f"{name}_{level}" if level else name
                blocks[block] = ragged(count, self._entities(block.rsplit("_", 1)[1], tracks))
        return blocks

    def _first_day_tracks(
        self, listeners: Listeners, month_tracks: Ragged, user_n: np.ndarray, name: str
    ) -> np.ndarray:
        """Draw the tracks (n,) behind interactions of the listeners `user_n`.

        A fifth of the tracks is also streamed on days 1 to 30. Skipped and banned tracks are drawn without this
        rule, and 60 % of them come from any scene.
        """
        tracks = self.draw(listeners, user_n)
        if name in ("skipped", "banned"):
            is_any_scene = self.rng.random(len(user_n)) < 0.6
            tracks[is_any_scene] = self.world.draw_in_scene(
                self.rng.integers(0, self.world.n_scenes, int(is_any_scene.sum())),
                self.rng.random(int(is_any_scene.sum())),
            )
            return tracks
        is_repeated = self.rng.random(len(user_n)) < 0.2
        place = (self.rng.random(int(is_repeated.sum())) * month_tracks.lengths[user_n[is_repeated]]).astype(np.int64)
        tracks[is_repeated] = month_tracks.ids[month_tracks.offsets[user_n[is_repeated]] + place]
        return tracks

    def _entities(self, level: str, tracks: np.ndarray) -> np.ndarray:
        """Return the entities (n,) of a level (songs, artists, albums, playlists) that tracks (n,) belong to."""
        world = self.world
        if level == "songs":
            return tracks
        if level == "albums":
            return np.asarray(world.track_album[tracks])
        artist = world.track_artist[tracks]
        if level == "artists":
            return np.asarray(artist)
        return world.editorial(world.artist_scene[artist], self.rng.random(len(tracks)))

    def _counts(self, is_active_U: np.ndarray, share: float, mean: float) -> np.ndarray:
        n = len(is_active_U)
        return np.where(is_active_U & (self.rng.random(n) < share), self.rng.geometric(1 / mean, n), 0)


def _place(cum: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Draw positions (n,) by cumulative weights `cum`, from uniform u (n,)."""
    return np.asarray(np.minimum(np.searchsorted(cum, u * cum[-1]), len(cum) - 1))


def ragged(lengths: np.ndarray, ids: np.ndarray) -> Ragged:
    """Return lists of the given lengths (U,) with concatenated ids."""
    return Ragged(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), np.asarray(ids))
