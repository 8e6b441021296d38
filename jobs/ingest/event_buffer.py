"""An external sort: rows are written to disk in runs, grouped by a small key, and read back one group at a time.

A run is what fits in memory at once, stably sorted by key. A group contains a key's rows of all runs in the order in
which they were added, so groups do not depend on how rows were cut into runs. Memory: one run, or one group.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

KINDS = ("stream", "skip", "ban", "favorite", "search", "onboarding")
ENTITIES = ("track", "album", "artist", "playlist")
DAY_US = 86_400_000_000
# An event on disk: `code` = kind * 4 + entity, `listened_s` = -1 where unknown; ts in microseconds since 1970, UTC.
EVENT = np.dtype(
    [("user_id", "<i8"), ("ts", "<i8"), ("entity_id", "<i8"), ("listened_s", "<i4"), ("code", "u1")], align=False
)


def code(kind: str, entity: str) -> int:
    """Return the number that encodes a kind and an entity."""
    return KINDS.index(kind) * len(ENTITIES) + ENTITIES.index(entity)


def events(
    user_id: np.ndarray,
    ts: np.ndarray,
    code: np.ndarray | int,
    entity_id: np.ndarray,
    listened_s: np.ndarray | int = -1,
) -> np.ndarray:
    """Return columns (n,) as one array (n,) of EVENT."""
    rows = np.empty(len(user_id), EVENT)
    rows["user_id"], rows["ts"], rows["entity_id"], rows["listened_s"], rows["code"] = (
        user_id,
        ts,
        entity_id,
        listened_s,
        code,
    )
    return rows


class EventBuffer:
    """Runs of rows below one folder. The creator of the folder removes it."""

    def __init__(self, folder: Path, name: str) -> None:
        """Start an empty buffer `name` in `folder`; nothing is written before the first run."""
        self._folder, self._name = folder, name
        self._runs: list[tuple[Path, dict[int, tuple[int, int]]]] = []

    def add(self, keys: np.ndarray, rows: np.ndarray) -> None:
        """Add one run: `rows` (n,) of any structured type with `keys` (n,) int64."""
        if not len(rows):
            return
        order = np.argsort(keys, kind="stable")
        unique_keys, starts, sizes = np.unique(keys[order], return_index=True, return_counts=True)
        file = self._folder / f"{self._name}-{len(self._runs):06d}"
        rows[order].tofile(file)
        index = {int(k): (int(s), int(n)) for k, s, n in zip(unique_keys, starts, sizes, strict=True)}
        self._runs.append((file, index))
        self._dtype = rows.dtype

    def keys(self) -> list[int]:
        """Return all keys, ascending."""
        return sorted({key for _, index in self._runs for key in index})

    def sizes(self) -> dict[int, int]:
        """Return the number of rows of each key."""
        totals: dict[int, int] = {}
        for _, index in self._runs:
            for key, (_, size) in index.items():
                totals[key] = totals.get(key, 0) + size
        return totals

    def groups(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield each key, ascending, with all its rows in the order in which they were added."""
        handles: list[IO[bytes]] = [file.open("rb") for file, _ in self._runs]
        try:
            for key in self.keys():
                parts = []
                for handle, (_, index) in zip(handles, self._runs, strict=True):
                    if key in index:
                        start, size = index[key]
                        handle.seek(start * self._dtype.itemsize)
                        parts.append(np.fromfile(handle, self._dtype, size))
                yield key, np.concatenate(parts)
        finally:
            for handle in handles:
                handle.close()


class Batches:
    """Record batches on disk, from which a table is written."""

    def __init__(self, folder: Path, name: str, schema: pa.Schema) -> None:
        """Start an empty buffer for batches of `schema`."""
        self._file, self._schema = folder / f"{name}.arrow", schema
        self._writer = pa.ipc.new_stream(str(self._file), schema)
        self.rows = 0

    def add(self, columns: list[pa.Array]) -> None:
        """Add one batch: arrays in the order of the schema, cast to its types."""
        arrays = [a.cast(f.type) if a.type != f.type else a for a, f in zip(columns, self._schema, strict=True)]
        batch = pa.record_batch(arrays, schema=self._schema)
        self.rows += batch.num_rows
        self._writer.write_batch(batch)

    def read(self) -> Iterator[pa.RecordBatch]:
        """Yield all batches in the order in which they were added; nothing can be added afterwards."""
        self._writer.close()
        with pa.ipc.open_stream(str(self._file)) as reader:
            yield from reader


def sort_day(rows: np.ndarray) -> tuple[np.ndarray, int]:
    """Return rows (n,) of EVENT sorted by (ts, user, kind and entity, id), and the number of exact repeats dropped.

    Rows that come in order of user are sorted by time alone: the sort is stable.
    """
    user = rows["user_id"]
    by_user = bool((user[1:] >= user[:-1]).all())
    order = np.argsort(rows["ts"], kind="stable") if by_user else np.lexsort((user, rows["ts"]))
    rows = rows[order]
    tied = (rows["ts"][1:] == rows["ts"][:-1]) & (rows["user_id"][1:] == rows["user_id"][:-1])
    if not tied.any():
        return rows, 0
    at = np.flatnonzero(np.concatenate([tied, [False]]) | np.concatenate([[False], tied]))
    part = rows[at]
    rows[at] = part[np.lexsort((part["entity_id"], part["code"], part["user_id"], part["ts"]))]
    same = np.ones(len(rows) - 1, bool)
    for name in ("ts", "user_id", "code", "entity_id"):
        same &= rows[name][1:] == rows[name][:-1]
    return rows[np.concatenate([[True], ~same])], int(same.sum())


def event_table(rows: np.ndarray) -> pa.Table:
    """Return rows (n,) of EVENT as a table of the contract `events`."""
    kind, entity = np.divmod(rows["code"], len(ENTITIES))
    listened = np.ascontiguousarray(rows["listened_s"])
    names = {"kind": (kind, KINDS), "entity": (entity, ENTITIES)}
    columns = {
        "user_id": pa.array(np.ascontiguousarray(rows["user_id"])),
        "ts": times(rows["ts"]),
        **{
            name: pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int8)), list(values)).cast(pa.string())
            for name, (codes, values) in names.items()
        },
        "entity_id": pa.array(np.ascontiguousarray(rows["entity_id"])),
        "listened_s": pa.array(listened, mask=listened < 0),
    }
    return pa.table(columns)


def times(us: np.ndarray) -> pa.Array:
    """Return microseconds since 1970 (n,) int64 as timestamps in UTC."""
    return pc.cast(pa.array(np.ascontiguousarray(us)), pa.timestamp("us", tz="UTC"))
