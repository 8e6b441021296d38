"""New listeners of the simulated service for experiments: their first day, and how they react to a list.

Seed         the world of the settings' seed, which the lake's events come from; listeners who are not in the lake
Hidden       whether a listener streams a displayed track depends on the hidden taste and on its position, which
             no policy can read. This module returns only outcomes and the mean probability by display, for tests of
             estimators
Probability  look(position) * (NOISE + SCENE * [share of the scene in the listener's taste] + ARTIST * [a favourite
             artist]); a stream becomes a favourite with LIKE, or LIKE_ARTIST for a favourite artist. look: the first
             three positions are seen and each later one by 85 % of those before it (as in
             serving/recommend/carousel.py)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jobs.ingest.event_buffer import DAY_US, code
from jobs.ingest.simulate.catalogue import COUNTRIES, World, build
from jobs.ingest.simulate.listeners import (
    BACKLOG,
    BLOCK,
    DAY,
    Ids,
    Span,
    UserTraits,
    draw_events,
    draw_traits,
    with_context_taste,
)
from jobs.settings.source import SimulateSettings
from serving.recommend.carousel import exposures

NOISE, SCENE, ARTIST = 0.03, 0.5, 0.2
LIKE, LIKE_ARTIST = 0.05, 0.3
FIRST_ID = 10**9  # far above the ids of the lake's listeners
NO_COUNTRY, NO_AGE = 0.06, 0.14
SIGNALS = {
    ("onboarding", "artist"): ("onboarding", "artists"),
    ("stream", "track"): ("streams", "tracks"),
    ("skip", "track"): ("skips", "tracks"),
    ("ban", "track"): ("bans", "tracks"),
    **{("favorite", one): ("favourites", f"{one}s") for one in ("track", "artist", "album", "playlist")},
    **{("search", one): ("searches", f"{one}s") for one in ("track", "artist", "album", "playlist")},
}
REQUEST_FIELDS = {code(*event): words for event, words in SIGNALS.items()}
MAX_IDS = 1_000  # maximum number of ids of one kind in a request


@dataclass(frozen=True)
class NewListener:
    """What the service may know of a listener: id, registration day (days since 1970), first day as in a request."""

    user_id: int
    day: int
    listener: dict[str, Any]


class NewListeners:
    """Listeners who register over the days of a span, with their hidden taste."""

    def __init__(self, settings: SimulateSettings, span: Span, n: int, seed: int) -> None:
        """Generate about `n` listeners; the same settings, span, number and seed give the same listeners."""
        self._world = build(settings)
        ids = Ids.of(self._world, settings)
        order = np.argsort(ids.track)
        self._public, self._hidden = ids.track[order], order
        total = round(n / (1 - BACKLOG))
        self.members: list[NewListener] = []
        self._taste: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for block in range(-(-total // BLOCK)):
            rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 200, seed, block)))
            user = np.arange(block * BLOCK, min((block + 1) * BLOCK, total))
            traits = with_context_taste(self._world, draw_traits(self._world, user, span, total, rng), settings, rng)
            self._add(self._world, ids, traits, FIRST_ID + user, span, rng)

    def _add(
        self, world: World, ids: Ids, traits: UserTraits, user_id: np.ndarray, span: Span, rng: np.random.Generator
    ) -> None:
        registered = traits.registered // DAY
        _, events = draw_events(world, ids, traits, user_id, span, rng)
        on_first = events["ts"] // DAY_US - span.first == registered[events["user_id"] - user_id[0]]
        signals: list[dict[str, dict[str, list[int]]]] = [{} for _ in user_id]
        for user, what, entity in zip(
            (events["user_id"] - user_id[0])[on_first].tolist(),
            events["code"][on_first].tolist(),
            events["entity_id"][on_first].tolist(),
            strict=True,
        ):
            word, level = REQUEST_FIELDS[what]
            ids_of = signals[user].setdefault(word, {}).setdefault(level, [])
            if len(ids_of) < MAX_IDS:
                ids_of.append(entity)
        countries, hide = list(COUNTRIES), rng.random((2, len(user_id)))
        k = traits.scenes.shape[1]
        cum = traits.scene_cum.reshape(-1, k) - np.arange(len(user_id))[:, None]
        weights = np.diff(cum, axis=1, prepend=0.0)
        for at in np.flatnonzero(registered >= 0).tolist():
            country = None if hide[0, at] < NO_COUNTRY else countries[int(traits.country[at])]
            age = None if hide[1, at] < NO_AGE else int(traits.age[at])
            listener = {"country": country, "age": age, **signals[at]}
            self.members.append(NewListener(int(user_id[at]), span.first + int(registered[at]), listener))
            self._taste.append((traits.scenes[at], weights[at], traits.artists[at].ravel()))

    def stream_probabilities(self, at: int, tracks: list[int]) -> np.ndarray:
        """Return the probability of a stream of each displayed track (k,) by listener `at` of `members`."""
        scenes, weights, artists = self._taste[at]
        artist = self._world.track_artist[self._hidden[np.searchsorted(self._public, tracks)]]
        scene = self._world.artist_scene[artist]
        share = ((scene[:, None] == scenes) * weights).sum(1)
        look = exposures("cascade", len(tracks))
        probability_k: np.ndarray = np.minimum(look * (NOISE + SCENE * share + ARTIST * np.isin(artist, artists)), 1.0)
        return probability_k

    def react(self, at: int, tracks: list[int], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return the listener's reaction to the list: streamed (k,), marked as favourite (k,), both bool."""
        streamed = rng.random(len(tracks)) < self.stream_probabilities(at, tracks)
        artist = self._world.track_artist[self._hidden[np.searchsorted(self._public, tracks)]]
        like = np.where(np.isin(artist, self._taste[at][2]), LIKE_ARTIST, LIKE)
        return streamed, streamed & (rng.random(len(tracks)) < like)
