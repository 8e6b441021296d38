"""The hidden parameters of the simulated service: catalogue, scenes, and how taste depends on country and age.

A genre has scenes; an artist belongs to one scene; popularity is long-tailed within a scene and within an artist. A
tribe is a type of taste: a few scenes with weights. Country and age determine which tribes are likely. Nothing of this
is written to a table, except the properties of tracks (artist, album, genre, length).

Shapes  N tracks, A artists, S scenes, T tribes, C countries, E editorial playlists
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.platform.list_columns import to_list_column
from jobs.settings.source import SimulateSettings

GENRES = (
    "pop",
    "hip hop",
    "rock",
    "electronic",
    "latin",
    "r&b",
    "metal",
    "jazz",
    "classical",
    "country",
    "reggae",
    "folk",
)
COUNTRIES = {
    "FR": 0.27,
    "BR": 0.19,
    "DE": 0.10,
    "US": 0.09,
    "GB": 0.08,
    "MX": 0.07,
    "CO": 0.05,
    "ES": 0.04,
    "PL": 0.035,
    "NL": 0.03,
    "IT": 0.025,
    "MA": 0.02,
}
AGES = np.arange(5, 91)
# Ids of one kind differ from ids of another and exceed 32 bits: a wrong join finds nothing instead of nonsense.
TRACK, ARTIST, ALBUM, PLAYLIST = (n * 10**12 for n in (1, 2, 3, 4))
TRIBE_SCENES = 4
EDITORIAL_SHARE = 0.2
EXPLICIT_EVERY = 12  # one track in so many has explicit lyrics
BEFORE_LOG = 0  # release day of a track that is older than the log
FEATURE_SPREAD, FEATURE_NOISE = 0.5, 1.0  # standard deviations of artists and tracks; that of scenes is 1
REDRAWS = 8  # in the range of a draw, then in its scene, until the track is released
SYLLABLES = ("ba", "lo", "mi", "ren", "sa", "tu", "vel", "no", "ki", "dra", "fe", "shi", "or", "lan", "zu", "pe")
WORDS = ("night", "river", "gold", "fire", "summer", "heart", "moon", "road", "dance", "glass", "storm", "blue")


@dataclass(frozen=True)
class World:
    """Hidden parameters as arrays. Tracks are ordered by scene, then artist: both are ranges of one cumulative sum."""

    track_artist: np.ndarray  # (N,) int64
    track_album: np.ndarray  # (N,) int64
    track_duration: np.ndarray  # (N,) int64 seconds
    track_cum: np.ndarray  # (N + 1,) popularity, each scene's total 1
    artist_start: np.ndarray  # (A + 1,) first track of each artist
    scene_start: np.ndarray  # (S + 1,) first track of each scene
    track_release: np.ndarray  # (N,) int64 days since 1970, BEFORE_LOG for older tracks
    artist_scene: np.ndarray  # (A,)
    scene_genre: np.ndarray  # (S,)
    tribe_scenes: np.ndarray  # (T, TRIBE_SCENES)
    tribe_weights: np.ndarray  # (T, TRIBE_SCENES)
    tribe_cum: np.ndarray  # (C * ages * T,) row r is shifted by r: one search serves all rows
    scene_cum: np.ndarray  # likewise: what listeners of a country stream
    n_editorial: int

    @property
    def artist_release(self) -> np.ndarray:
        """Release day of the first track of each artist, (A,), as `track_release`."""
        first: np.ndarray = np.minimum.reduceat(self.track_release, self.artist_start[:-1])
        return first

    @property
    def n_scenes(self) -> int:
        """Number of scenes."""
        return len(self.scene_genre)

    def draw_tracks(self, start: np.ndarray, end: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a track (n,) of each range [start, end) by popularity, from uniform u (n,)."""
        low = self.track_cum[start]
        position = np.searchsorted(self.track_cum, low + u * (self.track_cum[end] - low), side="right") - 1
        tracks: np.ndarray = np.clip(position, start, end - 1)
        return tracks

    def draw_released(
        self, start: np.ndarray, end: np.ndarray, day: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """Draw a track (n,) of each range [start, end) by popularity that is released by each day (n,) since 1970.

        A draw of a track that is not yet released is repeated, REDRAWS times in its range, as often in its scene; after
        that it becomes the first track of the scene, which is older than the log. Without releases during the log,
        this is `draw_tracks`.
        """
        track = self.draw_tracks(start, end, rng.random(len(start)))
        for turn in range(2 * REDRAWS):
            early = np.flatnonzero(self.track_release[track] > day)
            if not len(early):
                return track
            low, high = start[early], end[early]
            if turn >= REDRAWS:
                scene = self.artist_scene[self.track_artist[low]]
                low, high = self.scene_start[scene], self.scene_start[scene + 1]
            track[early] = self.draw_tracks(low, high, rng.random(len(early)))
        early = np.flatnonzero(self.track_release[track] > day)
        track[early] = self.scene_start[self.artist_scene[self.track_artist[start[early]]]]
        return track

    def draw_in_scene(self, scene: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a track (n,) of each scene (n,)."""
        return self.draw_tracks(self.scene_start[scene], self.scene_start[scene + 1], u)

    def draw_by_artist(self, artist: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a track (n,) of each artist (n,)."""
        return self.draw_tracks(self.artist_start[artist], self.artist_start[artist + 1], u)

    def draw_tribe(self, country: np.ndarray, age: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a tribe (n,) for each country index (n,) and age in years (n,)."""
        row = country * len(AGES) + age - AGES[0]
        return draw_row(self.tribe_cum, row, len(self.tribe_scenes), u)

    def draw_scene(self, country: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw a scene (n,) that listeners of the country (n,) stream."""
        return draw_row(self.scene_cum, country, self.n_scenes, u)

    def editorial(self, scene: np.ndarray, u: np.ndarray) -> np.ndarray:
        """Draw an editorial playlist (n,) about each scene (n,): playlist p is about scene p mod S."""
        if self.n_editorial < self.n_scenes:
            return np.asarray(scene % self.n_editorial)
        count = (self.n_editorial - 1 - scene) // self.n_scenes + 1
        turn = np.minimum((u * count).astype(np.int64), count - 1)
        playlists: np.ndarray = scene + self.n_scenes * turn
        return playlists


def stack_rows(shares: np.ndarray) -> np.ndarray:
    """Return rows of weights (R, n) as one ascending array (R * n,): cumulative shares of row r are in (r, r + 1]."""
    cum = np.cumsum(shares / shares.sum(1, keepdims=True), axis=1)
    cum[:, -1] = 1.0
    return np.ravel(cum + np.arange(len(cum))[:, None])


def draw_row(stacked: np.ndarray, row: np.ndarray, n: int, u: np.ndarray) -> np.ndarray:
    """Draw a column (m,) of each row (m,) of `stack_rows` of width n, from uniform u (m,)."""
    position = np.searchsorted(stacked, row + u, side="right") - row * n
    columns: np.ndarray = np.clip(position, 0, n - 1)
    return columns


def zipf_sizes(total: int, parts: int, exponent: float, rng: np.random.Generator) -> np.ndarray:
    """Return sizes (parts,) of at least 1 that add up to `total`, long-tailed, in random order."""
    weights = np.arange(1, parts + 1) ** -exponent
    cum = np.floor(np.cumsum(weights / weights.sum()) * (total - parts) + 1e-9).astype(np.int64)
    cum[-1] = total - parts
    return rng.permutation(1 + np.diff(cum, prepend=0))


def release_days(settings: SimulateSettings, track_album: np.ndarray, scene_start: np.ndarray) -> np.ndarray:
    """Return the release day of each track (N,), int64 days since 1970; BEFORE_LOG if it is older than the log.

    A share `release_share` of the albums is released during the log, on days spread evenly over it. The first album of
    each scene is not among them, so that every scene has a track on every day.
    """
    first, last = (np.datetime64(day, "D").astype(np.int64) for day in (settings.first_day, settings.last_day))
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 51)))
    n_albums = int(track_album[-1]) + 1
    others = np.setdiff1d(np.arange(n_albums), track_album[scene_start[:-1]])
    n_new = min(round(settings.release_share * n_albums), len(others))
    day = np.full(n_albums, BEFORE_LOG, np.int64)
    day[rng.choice(others, n_new, replace=False)] = first + np.arange(n_new) * (last - first + 1) // max(1, n_new)
    release: np.ndarray = day[track_album]
    return release


def build(settings: SimulateSettings) -> World:
    """Build the world of (seed, n_tracks, n_playlists, release_share, days); it does not depend on n_users."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 0)))
    n = settings.n_tracks
    per_genre = int(np.clip(round(n / (len(GENRES) * 40)), 2, 40))
    n_scenes = min(len(GENRES) * per_genre, n)
    n_artists = max(n_scenes, n // 8)
    scene_genre = np.arange(n_scenes) % len(GENRES)
    artist_scene = np.sort(np.concatenate([np.arange(n_scenes), rng.integers(0, n_scenes, n_artists - n_scenes)]))
    sizes = zipf_sizes(n, n_artists, 0.7, rng)
    artist_start = np.concatenate([[0], np.cumsum(sizes)])
    scene_start = artist_start[np.searchsorted(artist_scene, np.arange(n_scenes + 1))]
    track_artist = np.repeat(np.arange(n_artists), sizes)
    # Popularity: of the artist in the scene, of the track in the artist; both long-tailed, in random order.
    by_artist = rng.lognormal(0.0, 0.9, n_artists)
    by_track = rng.lognormal(0.0, 0.9, n)
    by_track /= np.repeat(np.add.reduceat(by_track, artist_start[:-1]), sizes)
    popularity = by_artist[track_artist] * by_track
    popularity /= np.repeat(np.add.reduceat(popularity, scene_start[:-1]), np.diff(scene_start))
    in_artist = np.arange(n) - artist_start[track_artist]
    album_of = np.concatenate([[0], np.cumsum(np.diff(track_artist) | np.diff(in_artist // 9) != 0)])
    duration = np.clip(rng.lognormal(5.36, 0.3, n), 45, 900).astype(np.int64)

    n_countries = len(COUNTRIES)
    n_tribes = max(8, n_scenes)
    first = rng.integers(0, n_scenes, n_tribes)
    tribe_scenes = np.stack([first, *(rng.integers(0, n_scenes, n_tribes) for _ in range(TRIBE_SCENES - 1))], axis=1)
    same_genre = rng.random((n_tribes, TRIBE_SCENES - 1)) < 0.5
    turn = rng.integers(0, max(1, n_scenes // len(GENRES)), same_genre.shape)
    kin = first[:, None] % len(GENRES) + len(GENRES) * turn
    tribe_scenes[:, 1:] = np.where(same_genre, np.minimum(kin, n_scenes - 1), tribe_scenes[:, 1:])
    tribe_weights = np.tile(np.array([0.42, 0.26, 0.19, 0.13]), (n_tribes, 1))
    size = 0.4 * rng.standard_normal(n_tribes)
    by_country = 0.9 * rng.standard_normal((n_countries, n_tribes))
    heart = rng.uniform(12, 60, n_tribes)
    by_age = -0.5 * ((AGES[:, None] - heart) / 13.0) ** 2
    tribe_share = np.exp(size + by_country[:, None, :] + np.maximum(by_age, -4.0)[None])
    heard = np.zeros((n_countries, n_scenes))
    overall = tribe_share[:, 10:50].mean(1)
    for slot in range(TRIBE_SCENES):
        np.add.at(heard.T, tribe_scenes[:, slot], (overall * tribe_weights[:, slot]).T)
    heard += 0.02 * heard.sum(1, keepdims=True) / n_scenes
    return World(
        track_artist=track_artist,
        track_album=album_of,
        track_duration=duration,
        track_release=release_days(settings, album_of, scene_start),
        track_cum=np.concatenate([[0.0], np.cumsum(popularity)]),
        artist_start=artist_start,
        scene_start=scene_start,
        artist_scene=artist_scene,
        scene_genre=scene_genre,
        tribe_scenes=tribe_scenes,
        tribe_weights=tribe_weights,
        tribe_cum=stack_rows(tribe_share.reshape(-1, n_tribes)),
        scene_cum=stack_rows(heard),
        n_editorial=max(1, round(settings.n_playlists * EDITORIAL_SHARE)),
    )


def track_table(world: World, settings: SimulateSettings) -> pa.Table:
    """Return the table `tracks` in order of id: generated names, some genres and older release dates unknown."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 1)))
    n, artist = len(world.track_artist), world.track_artist
    # Ids are assigned in random order: the position of a track in its scene is a hidden parameter.
    genre = np.array(GENRES)[world.scene_genre[world.artist_scene[artist]]]
    n_albums = int(world.track_album[-1]) + 1
    first_day = np.datetime64(settings.first_day, "D").astype(np.int64)
    released = first_day - 1 - np.minimum(rng.exponential(2200, n_albums), 20_000).astype(np.int64)
    is_new = world.track_release != BEFORE_LOG
    days = np.where(is_new, world.track_release, released[world.track_album]).astype(np.int32)
    words = np.array(WORDS)
    pair = words[rng.integers(0, len(words), (n, 2))]
    titles = np.char.add(np.char.add(np.char.capitalize(pair[:, 0]), " "), pair[:, 1])
    parts = np.array(SYLLABLES)[rng.integers(0, len(SYLLABLES), (len(world.artist_scene), 3))]
    names = np.char.capitalize(np.char.add(np.char.add(parts[:, 0], parts[:, 1]), parts[:, 2]))
    table = pa.table(
        {
            "track_id": pa.array(TRACK + public_ids(n, settings, "track")),
            "artist_id": pa.array(ARTIST + public_ids(len(names), settings, "artist")[artist]),
            "album_id": pa.array(ALBUM + public_ids(n_albums, settings, "album")[world.track_album]),
            "genre": pa.array(genre, pa.string(), mask=rng.random(n) < 0.03),
            "duration_s": pa.array(world.track_duration.astype(np.int32)),
            "release_date": pa.array(days, mask=(rng.random(n) < 0.05) & ~is_new).cast(pa.date32()),
            "title": pa.array(titles, pa.string()),
            "artist_name": pa.array(names[artist], pa.string()),
            "explicit": pa.array(np.arange(n) % EXPLICIT_EVERY == 0),
            "available": pa.repeat(True, n),
        }
    )
    if settings.content_width:
        table = table.append_column("content_features", to_list_column(content_features(world, settings)))
    return table.sort_by("track_id")


def content_features(world: World, settings: SimulateSettings) -> np.ndarray:
    """Return features of the tracks (N, content_width) float32: a vector of the scene, one of the artist, and noise."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 52)))
    artist = world.track_artist

    def normal(n: int) -> np.ndarray:
        return rng.standard_normal((n, settings.content_width), np.float32)

    of_artist = normal(world.n_scenes)[world.artist_scene] + FEATURE_SPREAD * normal(len(world.artist_scene))
    features: np.ndarray = of_artist[artist] + FEATURE_NOISE * normal(len(artist))
    return features


def playlist_titles(number: np.ndarray) -> pa.Array:
    """Return generated titles of playlists (n,) by number; distant numbers can have equal titles."""
    words = np.char.capitalize(np.array(WORDS))
    first, second = words[number % len(words)], words[number // len(words) % len(words)]
    return pa.array(np.char.add(np.char.add(first, " and "), second), pa.string())


def public_ids(n: int, settings: SimulateSettings, kind: str) -> np.ndarray:
    """Return the numbers 1 to n in the order in which entities of this kind got their id: (n,) int64."""
    stream = 2 + ("track", "artist", "album").index(kind)
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, stream)))
    return rng.permutation(n).astype(np.int64) + 1
