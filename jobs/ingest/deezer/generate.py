"""`overture make-deezer`: generate eight synthetic files in the format of the paper's public dataset, of any size.

Input    none; sizes and seed
Output   OUT/song_embeddings.parquet, user_embeddings.parquet, user_features_{train,validation,test}_{svd,mf}.parquet
Grain    as published (jobs/ingest/deezer/files.py)
Seed     the same sizes and seed give the same values
Memory   lists of tracks and vectors of all listeners; input rows a chunk at a time

Tastes depend on country and age, first-day signals depend on tastes, and warm listeners form segments, so methods
differ in quality. Neither the size nor the order of these differences applies to real listeners. Every footer marks the
file as generated, so that it is not mistaken for the published one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_array

from contracts.errors import BadArgument
from jobs.ingest.deezer.files import CONTRACT, KEY, MADE_UP, SONGS, SPLITS, TRUTH, USERS
from jobs.ingest.deezer.generate_users import Listeners, TrackSampler, draw_listeners
from jobs.ingest.simulate.catalogue import COUNTRIES, World, build
from jobs.platform.progress import progress
from jobs.settings.base import SPACES, Space
from jobs.settings.source import SimulateSettings
from models.cold_start.input_vector import (
    AGE_CLASSES,
    BLOCKS,
    SCALARS,
    Demographics,
    Entities,
    FirstDays,
    Layout,
    age_classes,
    input_vectors,
)
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import normalise

MIN_TRACKS, MIN_USERS = 200, 50
CHUNK = 4_096
SHARES = {"train": 0.7, "validation": 0.2, "test": 0.1}


@dataclass(frozen=True)
class GeneratorOptions:
    """Arguments of the generator: numbers of listeners and tracks, seed, encoding of vectors, spaces.

    Raises:
        BadArgument: a size is too small or the encoding is unknown.
    """

    users: int = 100_000
    tracks: int = 50_000
    seed: int = 7
    encoding: Literal["array", "json"] = "array"
    spaces: tuple[Space, ...] = SPACES

    def __post_init__(self) -> None:
        if self.users < MIN_USERS:
            raise BadArgument(f"--users: must be at least {MIN_USERS}, got {self.users}")
        if self.tracks < MIN_TRACKS:
            raise BadArgument(f"--tracks: must be at least {MIN_TRACKS}, got {self.tracks}")
        if self.encoding not in ("array", "json"):
            raise BadArgument(f"--encoding: must be array or json, got {self.encoding!r}")

    @property
    def split_of(self) -> np.ndarray:
        """Index into SPLITS of each listener (U,): training listeners first, as in the published files."""
        sizes = [round(self.users * SHARES[name]) for name in SPLITS[:2]]
        return np.repeat(np.arange(3), [*sizes, self.users - sum(sizes)])

    def rng(self, use: int) -> np.random.Generator:
        """Return the random generator of one purpose, numbered by `use`."""
        return np.random.default_rng(np.random.SeedSequence((self.seed, 100 + use)))


@dataclass(frozen=True, eq=False)
class Service:
    """The simulated listeners and songs: everything but the input rows. Ids of songs are song_index.

    Attributes:
        world: the catalogue and its hidden parameters.
        listeners: country, age and taste of each listener (U,).
        warm: whether a listener is in the training split (U,) bool.
        month_tracks: songs that each listener streams on days 1 to 30.
        days: first-day interactions by block.
        song_of: song_index (N,) of each track of the catalogue.
        songs: song vectors (N, d) by space.
        users: vectors of the warm listeners by space.
    """

    world: World
    listeners: Listeners
    warm: np.ndarray
    month_tracks: Ragged
    days: dict[str, Ragged]
    song_of: np.ndarray
    songs: dict[Space, np.ndarray]
    users: dict[Space, np.ndarray]


def prepare(options: GeneratorOptions) -> Service:
    """Draw all listeners and compute the vectors of both spaces."""
    world = build(
        SimulateSettings(n_tracks=options.tracks, n_playlists=max(20, options.tracks // 10), seed=options.seed)
    )
    listeners = draw_listeners(world, options.users, options.rng(0))
    sampler = TrackSampler(world, options.rng(1))
    month_tracks = sampler.month_tracks(listeners)
    warm = options.split_of == 0
    days = sampler.first_days(listeners, month_tracks, warm)
    # Songs are numbered by popularity among all listeners, cold ones included, so that the order differs slightly from
    # that among warm users.
    song_of = np.empty(options.tracks, np.int64)
    by_popularity = np.argsort(-np.bincount(month_tracks.ids, minlength=options.tracks), kind="stable")
    song_of[by_popularity] = np.arange(options.tracks)
    month_tracks = sorted_lists(Ragged(month_tracks.offsets, song_of[month_tracks.ids]), options.tracks)
    for name in [n for n in days if n.endswith("_songs")]:
        days[name] = Ragged(days[name].offsets, song_of[days[name].ids])
    songs = {space: song_vectors(world, song_of, space, options) for space in SPACES}
    users = {space: user_vectors(month_tracks, warm, vectors, options) for space, vectors in songs.items()}
    return Service(world, listeners, warm, month_tracks, days, song_of, songs, users)


def run(out: Path, options: GeneratorOptions) -> dict[str, Any]:
    """Write the files; return their names, sizes and numbers of rows."""
    out.mkdir(parents=True, exist_ok=True)
    service = prepare(options)
    songs, users = service.songs, service.users
    _write_vectors(out / SONGS, "song_index", {CONTRACT.spaces[s].songs.column: songs[s] for s in SPACES}, options)
    _write_vectors(out / USERS, KEY, {CONTRACT.spaces[s].users.column: users[s] for s in SPACES}, options)
    files = [SONGS, USERS]
    for space in options.spaces:
        entities, demographics = (
            item_vectors(service, space, options),
            mean_vectors(service.listeners, service.warm, users[space]),
        )
        for part, split in enumerate(SPLITS):
            name = f"user_features_{split}_{CONTRACT.spaces[space].suffix}.parquet"
            order = options.rng(10 + part).permutation(np.flatnonzero(options.split_of == part))
            _write_features(out / name, order, service, entities, demographics, options)
            files.append(name)
    return {
        "path": str(out),
        "files": files,
        "bytes": sum((out / name).stat().st_size for name in files),
        "songs": options.tracks,
        **{split: int((options.split_of == n).sum()) for n, split in enumerate(SPLITS)},
        "songs_heard": int(service.month_tracks.ids.size),
        "seed": options.seed,
        "encoding": options.encoding,
    }


def sorted_lists(lists: Ragged, n: int) -> Ragged:
    """Return the lists with each list ascending; ids are below n."""
    key = np.repeat(np.arange(len(lists)), lists.lengths) * n + lists.ids
    key.sort()
    return Ragged(lists.offsets, key % n)


# -- vectors -------------------------------------------------------------------------------------------------------


def song_vectors(world: World, song_of: np.ndarray, space: Space, options: GeneratorOptions) -> np.ndarray:
    """Return vectors (N, d) by song_index: songs of a genre, a scene and an artist are close to each other.

    Vectors of tt_svd have unit length. Those of ut_als have length 10 to 13, longer for popular songs.
    """
    d, rng = CONTRACT.spaces[space].width, options.rng(2 + SPACES.index(space))

    def noise(n: int) -> np.ndarray:
        return np.asarray(rng.standard_normal((n, d), np.float32))

    genre = noise(int(world.scene_genre.max()) + 1)
    scene = 0.6 * genre[world.scene_genre] + 0.8 * noise(world.n_scenes)
    artist = scene[world.artist_scene] + 0.5 * noise(len(world.artist_scene))
    # Popular songs are streamed with all songs of their scene, so they are close to its centre; rare songs are spread
    # around it.
    distance = (0.3 + 0.9 * (song_of / options.tracks) ** 0.4).astype(np.float32)
    vectors = normalise(artist[world.track_artist] + distance[:, None] * noise(options.tracks))
    by_song = np.empty_like(vectors)
    by_song[song_of] = vectors
    if space == "ut_als":
        rank = np.arange(options.tracks, dtype=np.float32) / options.tracks
        by_song *= (12.9 - 2.8 * rank)[:, None].astype(np.float32)
    return by_song


def user_vectors(month_tracks: Ragged, warm: np.ndarray, song_ND: np.ndarray, options: GeneratorOptions) -> np.ndarray:
    """Return unit vectors of the warm listeners: the mean of the songs that they stream, plus noise."""
    warm_tracks = month_tracks.take(warm)
    ones = np.ones(warm_tracks.ids.size, np.float32)
    sums = csr_array((ones, warm_tracks.ids, warm_tracks.offsets), shape=(len(warm_tracks), len(song_ND))) @ song_ND
    d = song_ND.shape[1]
    noise = options.rng(6).standard_normal((len(warm_tracks), d), np.float32)
    return normalise(normalise(sums) + np.float32(0.3 / np.sqrt(d)) * noise)


def item_vectors(service: Service, space: Space, options: GeneratorOptions) -> Entities:
    """Return vectors of all entities: artists and albums are means of their songs, playlists of 30 songs."""
    world, song_of, song_ND = service.world, service.song_of, service.songs[space]
    song_of_artist = csr_array(
        (np.ones(options.tracks, np.float32), (world.track_artist, song_of)),
        shape=(len(world.artist_scene), options.tracks),
    )
    n_albums = int(world.track_album[-1]) + 1
    song_of_album = csr_array(
        (np.ones(options.tracks, np.float32), (world.track_album, song_of)), shape=(n_albums, options.tracks)
    )
    n_playlists, rng = max(world.n_editorial, world.n_scenes), options.rng(7)
    in_playlist = np.repeat(np.arange(n_playlists), 30)
    playlist_songs = song_of[world.draw_in_scene(in_playlist % world.n_scenes, rng.random(len(in_playlist)))]
    ones = np.ones(len(playlist_songs), np.float32)
    song_of_playlist = csr_array((ones, (in_playlist, playlist_songs)), shape=(n_playlists, options.tracks))
    vectors = {
        kind: np.asarray((matrix @ song_ND) / matrix.sum(axis=1)[:, None], np.float32)
        for kind, matrix in (("artist", song_of_artist), ("album", song_of_album), ("playlist", song_of_playlist))
    }
    vectors["song"] = song_ND
    return Entities({kind: np.arange(len(v)) for kind, v in vectors.items()}, vectors)


def mean_vectors(listeners: Listeners, warm: np.ndarray, user_UD: np.ndarray) -> Demographics:
    """Return mean vectors of the warm listeners by country and by reported age class."""
    country, age = listeners.country[warm], age_classes(listeners.reported_age[warm])
    zero = np.zeros(user_UD.shape[1], np.float32)

    def mean(mask: np.ndarray) -> np.ndarray:
        return np.asarray(user_UD[mask].mean(axis=0) if mask.any() else zero)

    return Demographics(
        country={name: mean(country == n) for n, name in enumerate(COUNTRIES)},
        age_class=np.stack([mean(age == n) for n in range(len(AGE_CLASSES))]),
    )


# -- files ---------------------------------------------------------------------------------------------------------


def _with_generator_key(schema: pa.Schema, options: GeneratorOptions) -> pa.Schema:
    return schema.with_metadata(
        {MADE_UP: f"users={options.users} tracks={options.tracks} seed={options.seed}".encode()}
    )


def _write_vectors(path: Path, key: str, columns: dict[str, np.ndarray], options: GeneratorOptions) -> None:
    """Write a key and columns of vectors, as arrays or as JSON text in bytes."""
    kind = pa.list_(pa.float32()) if options.encoding == "array" else pa.binary()
    schema = _with_generator_key(pa.schema([(key, pa.int32()), *((name, kind) for name in columns)]), options)
    n = len(next(iter(columns.values())))
    with pq.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for start in range(0, n, CHUNK):
            parts: list[pa.Array] = [pa.array(np.arange(start, min(start + CHUNK, n), dtype=np.int32))]
            for values in columns.values():
                rows = values[start : start + CHUNK]
                if options.encoding == "json":
                    parts.append(pa.array([json.dumps(row).encode() for row in rows.tolist()], pa.binary()))
                else:
                    offsets = np.arange(0, rows.size + 1, rows.shape[1], dtype=np.int32)
                    parts.append(pa.ListArray.from_arrays(offsets, np.ascontiguousarray(rows).ravel()))
            writer.write_table(pa.table(parts, schema=schema))


def _write_features(
    path: Path,
    order: np.ndarray,
    service: Service,
    entities: Entities,
    demographics: Demographics,
    options: GeneratorOptions,
) -> None:
    """Write input rows of the listeners `order`, in that order; a count of 0 is missing, as in the published files."""
    layout = Layout(entities.d)
    count = pa.int64() if options.encoding == "array" else pa.float64()
    fields = [(KEY, pa.int32()), (TRUTH, pa.list_(pa.int32()))]
    fields += [(name, pa.float64()) for name in layout.names()[: len(BLOCKS) * layout.d]]
    fields += [(name, pa.int32() if name == "age_value" else count) for name in SCALARS]
    schema = _with_generator_key(pa.schema(fields), options)
    starts = range(0, len(order), CHUNK)
    with pq.ParquetWriter(path, schema, use_dictionary=False, write_statistics=False) as writer:
        for start in progress(starts, len(starts), f"make-deezer: batches of {path.name}"):
            batch = order[start : start + CHUNK]
            x_BF = input_vectors(first_days(service.listeners, service.days, batch), entities, demographics)
            truth = service.month_tracks.take(batch)
            lists = pa.ListArray.from_arrays(truth.offsets.astype(np.int32), truth.ids.astype(np.int32))
            columns = [pa.array(batch.astype(np.int32)), lists, *_columns(x_BF, layout, schema)]
            writer.write_table(pa.table(columns, schema=schema))


def first_days(listeners: Listeners, days: dict[str, Ragged], selected: np.ndarray) -> FirstDays:
    """Return the first days of the listeners `selected`."""
    names = np.array(list(COUNTRIES), object)
    return FirstDays(
        names[listeners.country[selected]],
        listeners.reported_age[selected],
        {n: lists.take(selected) for n, lists in days.items()},
    )


def _columns(x_BF: np.ndarray, layout: Layout, schema: pa.Schema) -> Iterator[pa.Array]:
    """Yield one Arrow column per feature."""
    x_FB = np.ascontiguousarray(x_BF.T, np.float64)
    for column in range(len(BLOCKS) * layout.d):
        yield pa.array(x_FB[column])
    for name in SCALARS:
        values = x_FB[layout.scalar(name)]
        if name == "age_value":
            yield pa.array(values.astype(np.int32))
        elif pa.types.is_integer(schema.field(name).type):
            yield pa.array(values.astype(np.int64), mask=values == 0)
        else:
            yield pa.array(np.where(values == 0, np.nan, values))
