"""Made-up listeners for `overture make-deezer`: who they are, what they hear, what they do on their first day.

Shapes   U listeners, N tracks of a made-up catalogue (jobs/ingest/service.py), n things drawn
Source   COUNTRIES and the catalogue's scenes and tribes of the simulated service: country and age say which tribes are
         likely, a tribe says which scenes are heard, popularity is long-tailed within a scene

The numbers below are made up too; where the paper tells one (5 % without any interaction, 77 % with a stream, ages
unknown, at least 50 tracks in the month after) it is that one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from jobs.ingest.service import AGES, COUNTRIES, World
from models.input_vector import Ragged

NO_INTERACTION, STREAMS_AMONG_ACTIVE, AGE_UNKNOWN = 0.05, 0.81, 0.14
MIN_HEARD = 50
TRIBE, COUNTRY, HITS = 0.45, 0.17, 0.03  # where a track is heard from; the rest of the time it can be from any scene
# block -> share of active listeners who do it, and how often on average
FIRST_DAY = {
    "streamed": (STREAMS_AMONG_ACTIVE, 9.0), "skipped": (0.45, 4.0), "banned": (0.03, 1.5),
    "onboarding_like_artists": (0.6, 3.0),
    "search_songs": (0.12, 1.8), "search_artists": (0.25, 1.6), "search_albums": (0.08, 1.4),
    "search_playlists": (0.06, 1.3),
}  # fmt: skip
# Filled for warm listeners only, as in the published files.
FAVOURITES = {
    "favorite_songs": (0.6, 8.0), "favorite_artists": (0.5, 4.0), "favorite_albums": (0.3, 3.0),
    "favorite_playlists": (0.25, 2.0),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class People:
    """Country index (U,) into COUNTRIES, age (U,) years, what is told of it (-1: nothing), tribe (U,)."""

    country: np.ndarray
    age: np.ndarray
    told_age: np.ndarray
    tribe: np.ndarray


def draw_people(world: World, n: int, rng: np.random.Generator) -> People:
    """U listeners: country by its share, age around 30, a tribe that fits both."""
    shares = np.array(list(COUNTRIES.values()))
    country = rng.choice(len(shares), n, p=shares / shares.sum())
    age = np.clip(np.round(13 + rng.gamma(2.4, 8.0, n)), 13, AGES[-1]).astype(np.int64)
    told = np.where(rng.random(n) < AGE_UNKNOWN, -1, age)
    return People(country, age, told, world.draw_tribe(country, age, rng.random(n)))


class Taste:
    """Draws tracks as listeners would."""

    def __init__(self, world: World, rng: np.random.Generator) -> None:
        """Over one catalogue; `rng` also chooses which tracks everybody knows."""
        n = len(world.track_artist)
        self.world, self.rng = world, rng
        self.hits = rng.permutation(n)
        self.hit_cum = np.cumsum(1.0 / (np.arange(n) + 8.0))
        self.slots = np.cumsum(world.tribe_weights[0])

    def draw(self, people: People, who: np.ndarray) -> np.ndarray:
        """One track (n,) for each of the listeners `who` (n,)."""
        world, rng, n = self.world, self.rng, len(who)
        slot = np.minimum(np.searchsorted(self.slots, rng.random(n) * self.slots[-1]), len(self.slots) - 1)
        scene = world.tribe_scenes[people.tribe[who], slot]
        u = rng.random(n)
        by_country = (u >= TRIBE) & (u < TRIBE + COUNTRY)
        scene[by_country] = world.draw_scene(people.country[who[by_country]], rng.random(int(by_country.sum())))
        anywhere = u >= TRIBE + COUNTRY
        scene[anywhere] = rng.integers(0, world.n_scenes, int(anywhere.sum()))
        track = world.draw_in_scene(scene, rng.random(n))
        hit = rng.random(n) < HITS
        place = np.searchsorted(self.hit_cum, rng.random(int(hit.sum())) * self.hit_cum[-1])
        track[hit] = self.hits[np.minimum(place, len(self.hits) - 1)]
        return np.asarray(track)

    def heard(self, people: People, block: int = 10_000) -> Ragged:
        """Distinct tracks of each listener's days 1 to 30, at least MIN_HEARD, ascending."""
        n_tracks, parts, lengths = len(self.world.track_artist), [], []
        for start in range(0, len(people.age), block):
            who = np.arange(start, min(start + block, len(people.age)))
            plays = np.maximum(75, self.rng.lognormal(5.2, 0.6, len(who))).astype(np.int64)
            key = np.unique(np.repeat(who - start, plays) * n_tracks + self.draw(people, np.repeat(who, plays)))
            while (short := np.flatnonzero(np.bincount(key // n_tracks, minlength=len(who)) < MIN_HEARD)).size:
                more = np.repeat(short, MIN_HEARD)
                key = np.unique(np.concatenate([key, more * n_tracks + self.rng.integers(0, n_tracks, len(more))]))
            parts.append((key % n_tracks).astype(np.int32))
            lengths.append(np.bincount(key // n_tracks, minlength=len(who)))
        return ragged(np.concatenate(lengths), np.concatenate(parts))

    def first_days(self, people: People, heard: Ragged, warm: np.ndarray) -> dict[str, Ragged]:
        """The interaction blocks of all listeners; `warm` (U,) tells who has favourites."""
        rng, n = self.rng, len(people.age)
        active = rng.random(n) >= NO_INTERACTION
        counts = {name: self._counts(active, *how) for name, how in FIRST_DAY.items()}
        counts |= {name: self._counts(active & warm, *how) for name, how in FAVOURITES.items()}
        idle = active & (np.sum(list(counts.values()), axis=0) == 0)
        counts["streamed"][idle] = 1
        found: dict[str, Ragged] = {}
        for name, count in counts.items():
            tracks = self._of_the_day(people, heard, np.repeat(np.arange(n), count), name)
            levels = ("songs", "artists", "albums") if name in ("streamed", "skipped", "banned") else ("",)
            for level in levels:
                block = f"{name}_{level}" if level else name
                found[block] = ragged(count, self._entities(block.rsplit("_", 1)[1], tracks))
        return found

    def _of_the_day(self, people: People, heard: Ragged, who: np.ndarray, name: str) -> np.ndarray:
        """Tracks (n,) that stand for what the listeners `who` (n,) do; half are heard again later, skips are not."""
        tracks = self.draw(people, who)
        if name in ("skipped", "banned"):
            strange = self.rng.random(len(who)) < 0.6
            tracks[strange] = self.world.draw_in_scene(
                self.rng.integers(0, self.world.n_scenes, int(strange.sum())), self.rng.random(int(strange.sum()))
            )
            return tracks
        again = self.rng.random(len(who)) < 0.5
        place = (self.rng.random(int(again.sum())) * heard.lengths[who[again]]).astype(np.int64)
        tracks[again] = heard.ids[heard.offsets[who[again]] + place]
        return tracks

    def _entities(self, level: str, tracks: np.ndarray) -> np.ndarray:
        """Ids of the level (songs, artists, albums, playlists) that tracks (n,) belong to."""
        world = self.world
        if level == "songs":
            return tracks
        if level == "albums":
            return np.asarray(world.track_album[tracks])
        artist = world.track_artist[tracks]
        if level == "artists":
            return np.asarray(artist)
        return world.editorial(world.artist_scene[artist], self.rng.random(len(tracks)))

    def _counts(self, who: np.ndarray, share: float, mean: float) -> np.ndarray:
        n = len(who)
        return np.where(who & (self.rng.random(n) < share), self.rng.geometric(1 / mean, n), 0)


def ragged(lengths: np.ndarray, ids: np.ndarray) -> Ragged:
    """Lists of these lengths (U,), end to end."""
    return Ragged(np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]), np.asarray(ids))
