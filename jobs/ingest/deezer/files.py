"""Read and check the published files of the paper's dataset, a batch at a time.

Input    DATA/song_embeddings.parquet                                  song_index, features_svd, features_mf
         DATA/user_embeddings.parquet                                  user_index, svd_embeddings, mf_embeddings
         DATA/user_features_{train,validation,test}_{svd,mf}.parquet   user_index, d1d30_songs, 2579 or 5139 values
Shapes   N songs, U users, B rows of a batch, D width of the space, F values of an input row
Memory   one batch of rows; the operating system may evict pages of a memory-mapped file

Vectors are arrays, or JSON text in bytes. A violation of the contract (contracts/published/deezer.yaml) raises an error
that names file, column and row. Unusual values are counted and reported as warnings.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts import published
from contracts.errors import CheckFailed
from jobs.settings.base import Space
from models.cold_start.input_vector import BLOCKS, SCALARS, Layout
from models.cold_start.ragged import Ragged

CONTRACT = published.load("deezer")
SPLITS = ("train", "validation", "test")
SONGS, USERS = "song_embeddings.parquet", "user_embeddings.parquet"
KEY, TRUTH = "user_index", "d1d30_songs"
# A footer with this key marks files that `overture make-deezer` generated.
MADE_UP = b"overture_made_up"
BATCH = 2_048
VECTOR_BATCH = 8_192


@dataclass(frozen=True)
class Files:
    """The five files of one space.

    Attributes:
        folder: folder of the files.
        space: ut_als or tt_svd.
        rows: number of rows of the songs and of each split.
        made_up: the generator's arguments if `make-deezer` generated a file, else None.
    """

    folder: Path
    space: Space
    rows: dict[str, int]
    made_up: str | None

    @property
    def songs(self) -> Path:
        """File of the song vectors."""
        return self.folder / SONGS

    @property
    def users(self) -> Path:
        """File of the warm users' vectors."""
        return self.folder / USERS

    def features(self, split: str) -> Path:
        """Return the file of the input rows of one split."""
        return self.folder / f"user_features_{split}_{CONTRACT.spaces[self.space].suffix}.parquet"

    @property
    def claims(self) -> bool:
        """Whether the files count as the published ones: exactly their sizes, and not marked as generated."""
        return self.made_up is None and self.rows == CONTRACT.sizes


def inspect(folder: Path, space: Space) -> Files:
    """Check the footers of the five files of a space: all files exist, belong to this space and have the right columns.

    Raises:
        CheckFailed: a file or column is missing or has the wrong type; the message names the file and the column.
    """
    columns, layout = CONTRACT.spaces[space], Layout(CONTRACT.spaces[space].width)
    files = Files(folder, space, {}, None)
    rows: dict[str, int] = {}
    made_up = set()
    parts = {"songs": files.songs, "users": files.users} | {split: files.features(split) for split in SPLITS}
    missing = [path.name for path in parts.values() if not path.is_file()]
    if missing:
        raise CheckFailed(
            f"{folder}: no file {missing[0]}; the dataset needs {', '.join(p.name for p in parts.values())}"
        )
    for part, path in parts.items():
        with open_parquet(path) as source:
            schema, metadata = source.schema_arrow, source.metadata
            if part == "songs":
                _check_columns(path, schema, "song_index", columns.songs.column)
            elif part == "users":
                _check_columns(path, schema, KEY, columns.users.column)
            else:
                _check_columns(path, schema, KEY, TRUTH)
                _check_layout(path, schema, layout, space)
            rows[part] = metadata.num_rows
            made_up.add((metadata.metadata or {}).get(MADE_UP))
        if not rows[part]:
            raise CheckFailed(f"{path}: has no rows")
    n_users = rows.pop("users")
    if n_users != rows["train"]:
        raise CheckFailed(
            f"{files.features('train')}: has {rows['train']} rows, {USERS} {n_users}; both need one row per warm user"
        )
    # One marked file suffices: a mixture of files is not the published dataset either.
    generator_arguments = max((m for m in made_up if m is not None), default=None)
    return Files(folder, space, rows, None if generator_arguments is None else generator_arguments.decode())


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a memory-mapped Parquet file.

    Raises:
        CheckFailed: the file is not a complete Parquet file.
    """
    try:
        return pq.ParquetFile(path, memory_map=True, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise CheckFailed(f"{path}: cannot be read as Parquet, possibly truncated: {error}") from None


def md5(path: Path) -> str:
    """Return the MD5 digest of a file; it detects accidental damage, not tampering."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _check_columns(path: Path, schema: pa.Schema, *names: str) -> None:
    for name in names:
        if name not in schema.names:
            shown = ", ".join(schema.names[:6])
            raise CheckFailed(f"{path}: column '{name}' is missing; the first columns are {shown}")


def _check_layout(path: Path, schema: pa.Schema, layout: Layout, space: Space) -> None:
    """Check that the file has exactly the feature columns of the space, all of them numeric."""
    columns, expected = [name for name in schema.names if name not in (KEY, TRUTH)], layout.names()
    for other, spec in CONTRACT.spaces.items():
        if other != space and set(columns) == set(Layout(spec.width).names()):
            raise CheckFailed(
                f"{path}: has the {len(columns)} features of {other}; {space} has {layout.size} "
                f"({layout.d} values per block)"
            )
    present, known = set(columns), set(expected)
    missing = [name for name in expected if name not in present]
    if missing:
        raise CheckFailed(
            f"{path}: column '{missing[0]}' is missing: a row has {len(present & known)} of {layout.size} features"
        )
    extra = [name for name in columns if name not in known]
    if extra or len(columns) != len(present):
        what = f"column '{extra[0]}' is not among" if extra else "a column is repeated among"
        raise CheckFailed(f"{path}: {what} the {layout.size} features of {space}")
    for name in (KEY, *expected):
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or (name != KEY and pa.types.is_floating(kind))):
            raise CheckFailed(f"{path}: column '{name}' must be a number, found {kind}")


def batches(path: Path, columns: list[str], size: int) -> Iterator[pa.RecordBatch]:
    """Yield batches of `size` rows of the named columns.

    Raises:
        CheckFailed: the file is truncated or damaged.
    """
    with open_parquet(path) as source:
        remaining = source.iter_batches(batch_size=size, columns=columns)
        while True:
            try:
                batch = next(remaining)
            except StopIteration:
                return
            except (pa.ArrowException, OSError) as error:
                raise CheckFailed(f"{path}: cannot be read as Parquet, possibly truncated: {error}") from None
            yield batch


# -- vectors -------------------------------------------------------------------------------------------------------


def read_vectors(path: Path, key: str, column: published.Vectors) -> tuple[np.ndarray, np.ndarray, int]:
    """Return keys (n,) ascending, their vectors (n, D) float32, and the number of vectors of unusual length.

    Raises:
        CheckFailed: a repeated key, or a vector that is missing, not finite, of the wrong width or of an invalid
            length.
    """
    with open_parquet(path) as source:
        n = source.metadata.num_rows
    keys, vectors = np.empty(n, np.int64), np.empty((n, column.width), np.float32)
    start = 0
    for batch in batches(path, [key, column.column], VECTOR_BATCH):
        stop = start + batch.num_rows
        keys[start:stop] = _keys(path, key, batch.column(key))
        _decode(path, key, column, keys[start:stop], batch.column(column.column), vectors[start:stop])
        start = stop
    order = np.argsort(keys, kind="stable")
    keys, vectors = keys[order], vectors[order]
    _check_unique(path, key, keys)
    return keys, vectors, _check_norms(path, key, column, keys, vectors)


def _keys(path: Path, key: str, column: pa.Array) -> np.ndarray:
    if not pa.types.is_integer(column.type):
        raise CheckFailed(f"{path}: column '{key}' must be an integer, found {column.type}")
    if column.null_count:
        raise CheckFailed(f"{path}: column '{key}' has {column.null_count} nulls in one batch; none are allowed")
    keys = column.to_numpy().astype(np.int64)
    if (keys < 0).any():
        raise CheckFailed(f"{path}: column '{key}' must be 0 or more, found {keys.min()}")
    return np.asarray(keys)


def _check_unique(path: Path, key: str, keys: np.ndarray) -> None:
    """Check that no key is repeated in ascending `keys`."""
    if (repeated := keys[1:] == keys[:-1]).any():
        raise CheckFailed(
            f"{path}: {key} {keys[int(np.argmax(repeated))]} is present twice; each needs exactly one row"
        )


def _decode(
    path: Path, key: str, column: published.Vectors, keys: np.ndarray, values: pa.Array, out_BD: np.ndarray
) -> None:
    """Decode a column of arrays or of JSON text into `out_BD` (B, D)."""
    name, width = column.column, column.width
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if values.null_count:
        row = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        raise CheckFailed(f"{path}: column '{name}': {key} {keys[row]} has no vector")
    kind = values.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists and pa.types.is_floating(kind.value_type):
        if pa.types.is_fixed_size_list(kind):
            lengths = np.full(len(values), kind.list_size)
        else:
            lengths = np.diff(values.offsets.to_numpy())
        _check_widths(path, key, column, keys, lengths)
        out_BD[:] = values.flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or _is_text(kind):
        for row, text in enumerate(values.to_pylist()):
            try:
                vector = np.asarray(json.loads(text), np.float32)
            except (ValueError, TypeError, RecursionError):
                vector = None
            if vector is None or vector.ndim != 1:
                raise CheckFailed(
                    f"{path}: column '{name}': {key} {keys[row]} is not a JSON list of numbers: {text[:40]!r}"
                )
            _check_widths(path, key, column, keys[row : row + 1], np.array([vector.size]))
            out_BD[row] = vector
    else:
        raise CheckFailed(f"{path}: column '{name}' must be arrays of numbers or JSON text of them, found {kind}")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _check_widths(path: Path, key: str, column: published.Vectors, keys: np.ndarray, lengths: np.ndarray) -> None:
    if (wrong := lengths != column.width).any():
        row = int(np.argmax(wrong))
        raise CheckFailed(
            f"{path}: column '{column.column}': {key} {keys[row]} has {lengths[row]} values, not {column.width}"
        )


def _check_norms(path: Path, key: str, column: published.Vectors, keys: np.ndarray, vectors_ND: np.ndarray) -> int:
    """Return the number of unusual lengths.

    Raises:
        CheckFailed: a length is 0, not finite or outside the contract.
    """
    norms = np.sqrt(np.vecdot(vectors_ND, vectors_ND))
    low, high = column.norm or (np.finfo(np.float32).tiny, np.finfo(np.float32).max)
    if (is_invalid := ~((norms >= low) & (norms <= high))).any():
        row = int(np.argmax(is_invalid))
        bounds = f"must be {low:g} to {high:g}" if column.norm else "must be above 0 and finite"
        raise CheckFailed(
            f"{path}: column '{column.column}': the vector of {key} {keys[row]} has length {norms[row]:g}, {bounds} "
            f"({int(is_invalid.sum())} such rows)"
        )
    if column.usual_norm is None:
        return 0
    low, high = column.usual_norm
    return int(((norms < low) | (norms > high)).sum())


# -- lists of songs and input rows ---------------------------------------------------------------------------------


def read_truth(path: Path, n_songs: int) -> tuple[np.ndarray, Ragged]:
    """Return user_index (B,) in the order of the file, and the distinct songs that each user streamed on days 1 to 30.

    Raises:
        CheckFailed: a repeated user, an empty list, a song that is repeated in a list or outside 0 .. n_songs - 1.
    """
    keys, lengths, songs = [], [], []
    for batch in batches(path, [KEY, TRUTH], VECTOR_BATCH):
        users, lists = _keys(path, KEY, batch.column(KEY)), batch.column(TRUTH)
        kind = lists.type
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind)) or not pa.types.is_integer(kind.value_type):
            raise CheckFailed(f"{path}: column '{TRUTH}' must be lists of song indices, found {kind}")
        lists = lists.fill_null([]) if lists.null_count else lists
        length, song = np.diff(lists.offsets.to_numpy()), lists.flatten().to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(users)), length)
        if (empty := length == 0).any():
            raise CheckFailed(f"{path}: column '{TRUTH}' of {KEY} {users[int(np.argmax(empty))]} is empty")
        if (is_invalid := ~((song >= 0) & (song < n_songs))).any():
            position = int(np.argmax(is_invalid))
            raise CheckFailed(
                f"{path}: column '{TRUTH}' of {KEY} {users[row[position]]} contains song {song[position]:g}; "
                f"there are songs 0 to {n_songs - 1}"
            )
        key = np.sort(row * n_songs + song.astype(np.int64))
        if (repeated := key[1:] == key[:-1]).any():
            user, repeated_song = divmod(int(key[int(np.argmax(repeated))]), n_songs)
            raise CheckFailed(f"{path}: column '{TRUTH}' of {KEY} {users[user]} contains song {repeated_song} twice")
        keys.append(users)
        lengths.append(length.astype(np.int64))
        songs.append(song.astype(np.int32))
    users = np.concatenate(keys)
    _check_unique(path, KEY, np.sort(users))
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.concatenate(lengths))])
    return users, Ragged(offsets, np.concatenate(songs))


@dataclass
class Missing:
    """Numbers of missing and unusual values: NaN or null is read as 0, a missing age as unknown.

    Attributes:
        counts: missing counts of interactions.
        ages: missing ages.
        values: missing values of vectors.
        old: ages above the usual maximum.
    """

    counts: int = 0
    ages: int = 0
    values: int = 0
    old: int = 0


def input_rows(path: Path, layout: Layout, missing: Missing) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield user_index (B,) and input rows (B, F) float32 in the order of `Layout`, a batch at a time.

    A missing count or vector is read as 0, a missing age as -1; `missing` counts them.

    Raises:
        CheckFailed: a value that is not finite as float32, a count below 0 or an age below -1; the message names column
            and user.
    """
    names, first, age = layout.names(), len(BLOCKS) * layout.d, layout.scalar("age_value")
    for batch in batches(path, [KEY, *names], BATCH):
        users = _keys(path, KEY, batch.column(KEY))
        x_FB = np.empty((layout.size, len(users)), np.float32)
        with np.errstate(over="ignore"):
            for column, name in enumerate(names):
                x_FB[column] = batch.column(name).to_numpy(zero_copy_only=False)
        absent = np.isnan(x_FB)
        if absent.any():
            missing.values += int(absent[:first].sum())
            missing.ages += int(absent[age].sum())
            missing.counts += int(absent[first:].sum()) - int(absent[age].sum())
            x_FB[absent] = 0
            x_FB[age, absent[age]] = -1
        if not np.isfinite(x_FB).all():
            column, row = np.argwhere(~np.isfinite(x_FB))[0]
            raise CheckFailed(f"{path}: column '{names[column]}' of {KEY} {users[row]} is not finite")
        for name in SCALARS:
            column, minimum = layout.scalar(name), CONTRACT.min_age if name == "age_value" else 0
            if (is_below := x_FB[column] < minimum).any():
                row = int(np.argmax(is_below))
                raise CheckFailed(
                    f"{path}: column '{name}' of {KEY} {users[row]} is {x_FB[column, row]:g}, must be {minimum} or more"
                )
        missing.old += int((x_FB[age] > CONTRACT.usual_max_age).sum())
        yield users, np.ascontiguousarray(x_FB.T)


def count_of(x_BF: Any, layout: Layout, name: str) -> np.ndarray:
    """Return one scalar of input rows (B,), such as nb_streamed_songs, as integers."""
    return np.asarray(x_BF[:, layout.scalar(name)]).astype(np.int64)
