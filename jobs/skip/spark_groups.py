"""Plays and carried state between Spark's groups and the arrays that models/skip works on.

Spark shuffles plays and state by artist, then by user, into groups of bounded size; inside a group everything is numpy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

import contracts
from contracts.arrow import arrow_schema
from jobs.platform.lake import Lake
from models.skip.features import counter_state, track, user
from models.skip.features.columns import known
from models.skip.features.counters import TOTALS, USER_NUMBERS
from models.skip.features.shared import Daily, shared_counts

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TABLE = "skip_features"
ROW = (
    ("play_id", "bigint"),
    ("sample_id", "bigint"),
    ("ts", "bigint"),
    ("user_id", "bigint"),
    ("track_id", "bigint"),
    ("artist_id", "bigint"),
    ("album_id", "bigint"),
    ("genre_id", "bigint"),
    ("context_type", "int"),
    ("platform_name", "int"),
    ("platform_family", "int"),
    ("user_gender", "int"),
    ("user_age", "int"),
    ("duration_s", "int"),
    ("release_day", "double"),
    ("is_flow", "boolean"),
    ("listened", "bigint"),
    ("daypart", "int"),
    ("platform_flow", "int"),
)
TRACK_NEEDED = ("ts", "track_id", "artist_id", "album_id", "is_flow", "listened")
USER_NEEDED = (*TRACK_NEEDED, "user_id", "genre_id", "context_type", "platform_name", "platform_family", "daypart")
STATE = ("kind", "key", "other", *TOTALS, "last_ts", *USER_NUMBERS)
TRACK_COUNTS = (
    "artist_plays",
    "artist_listened",
    "track_plays",
    "track_listened",
    "album_plays",
    "album_listened",
    "track_flow_plays",
    "track_flow_listened",
    "track_plays_7d",
    "track_plays_30d",
    "track_plays_90d",
    "artist_plays_7d",
    "artist_plays_30d",
    "artist_plays_90d",
    "track_kind_plays",
    "track_kind_listened",
    "artist_kind_plays",
    "artist_kind_listened",
)
SHARED_NEEDED = ("user_gender", "user_age", "platform_flow")
Prior = dict[int, float]


def arrays(table: pa.Table, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Columns as numpy; nulls of floats are NaN."""
    return {name: np.asarray(table.column(name).to_numpy()) for name in names}


def carried_rows(table: pa.Table) -> counter_state.Rows:
    """A group of state rows; numbers that a kind does not have are -1 here and null in the table."""
    columns = {name: table.column(name).fill_null(-1).to_numpy() for name in STATE[1:]}
    columns["kind"] = np.asarray(table.column("kind").to_numpy().astype(object))
    lists = [table.column(name).combine_chunks() for name in ("days", "plays")]
    lengths = lists[0].value_lengths().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return counter_state.Rows(columns, offsets, lists[0].flatten().to_numpy(), lists[1].flatten().to_numpy())


def state_table(parts: list[counter_state.Rows]) -> pa.Table:
    """State rows as the contract has them."""
    tables = []
    for part in parts:
        columns: dict[str, Any] = {name: pa.array(part.columns[name].astype(object), pa.string()) for name in STATE[:1]}
        for name in STATE[1:]:
            values = part.columns[name]
            columns[name] = pa.array(values, pa.int64(), mask=values < 0 if name in USER_NUMBERS else None)
        offsets = pa.array(part.offsets, pa.int32())
        for name, values in (("days", part.days), ("plays", part.plays)):
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32()))
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def by_artist(leaky: bool) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Plays of some artists and their state: the same plays with TRACK_COUNTS."""

    def counted(plays: pa.Table, before: pa.Table) -> pa.Table:
        rows, carried = arrays(plays, TRACK_NEEDED), carried_rows(before)
        kinds = {kind: counter_state.unpack(carried, kind) for kind in track.KINDS}
        found = track.track_counts(rows, kinds, leaky=leaky)
        columns = [plays.column(name) for name, _ in ROW]
        columns += [pa.array(found[name].astype(np.int32)) for name in TRACK_COUNTS]
        return pa.table(columns, names=[*(name for name, _ in ROW), *TRACK_COUNTS])

    return counted


def by_user(
    prior: Prior, shared: dict[str, Daily], gap_s: int, smoothing: float, leaky: bool
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Plays of some users with TRACK_COUNTS, and the users' state: rows of skip_features, by (ts, play_id)."""
    schema = arrow_schema(contracts.load(TABLE))

    def finished(plays: pa.Table, before: pa.Table) -> pa.Table:
        rows, carried = arrays(plays, USER_NEEDED), carried_rows(before)
        kinds = {kind: counter_state.unpack(carried, kind) for kind in user.KINDS}
        counts = user.user_counts(rows, kinds, gap_s, leaky=leaky) | arrays(plays, TRACK_COUNTS)
        of_day = rows["ts"] // 86_400
        counts |= shared_counts(rows | arrays(plays, SHARED_NEEDED), of_day, shared, leaky=leaky)
        day, at = np.unique(of_day, return_inverse=True)
        everybody = np.array([prior[int(one)] for one in day], np.float64)[at] if len(day) else np.zeros(0)
        more = arrays(plays, ("release_day", "duration_s", "user_gender"))
        found = known(rows | more, counts, everybody, gap_s, smoothing)
        found["ts"] = rows["ts"] * 1_000_000
        order = pa.array(np.lexsort((plays.column("play_id").to_numpy(), rows["ts"])))
        columns = []
        for field in schema:
            if field.name == "is_listened":
                column = pa.array(rows["listened"] == 1, mask=rows["listened"] < 0)
            elif field.name not in found:
                column = plays.column(field.name)
            elif pa.types.is_floating(field.type):
                column = pa.array(found[field.name].astype(np.float32), from_pandas=True)
            else:
                kind = np.int32 if pa.types.is_int32(field.type) else np.int64
                column = pa.array(found[field.name].astype(kind)).cast(field.type)
            columns.append(column.take(order))
        return pa.table(columns, names=schema.names)

    return finished


def put_away(
    work: Callable[[pa.Table, pa.Table], pa.Table], root: str, stage: str
) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """`work`, its rows written by day where they are made (jobs/platform/lake.py, replace_days); what comes back is how many.

    A hundred columns of every play through Java and back would take longer than all that is computed of them.
    """

    def written(plays: pa.Table, before: pa.Table) -> pa.Table:
        if plays.num_rows:
            table, lake = work(plays, before), Lake(root)
            day = table.column("ts").cast(pa.int64()).to_numpy() // 86_400_000_000
            edges = np.concatenate([[0], np.flatnonzero(np.diff(day)) + 1, [len(day)]])
            name = f"part-{plays.column('_group')[0].as_py():05d}"
            for start, end in pairwise(edges.tolist()):
                lake.stage_day(
                    TABLE, stage, str(np.datetime64(int(day[start]), "D")), name, table.slice(start, end - start)
                )
        return pa.table({"rows": pa.array([plays.num_rows], pa.int64())})

    return written


def left_behind(kinds: tuple[str, ...], last_day: int, gap_s: int) -> Callable[[pa.Table, pa.Table], pa.Table]:
    """Plays of some artists, or users, and their state: their state at the end of last_day."""

    def carried_on(plays: pa.Table, before: pa.Table) -> pa.Table:
        rows = arrays(plays, (name for name in plays.column_names if name != "_group"))
        return state_table(counter_state.after(rows, carried_rows(before), kinds, last_day, gap_s))

    return carried_on


def together(
    plays: DataFrame,
    before: DataFrame,
    key: str,
    kinds: tuple[str, ...],
    n_groups: int,
    work: Callable[[pa.Table, pa.Table], pa.Table],
    schema: str,
) -> DataFrame:
    """Run `work` on each of n_groups groups: the plays of a share of all keys, and these keys' state."""

    def group(name: str) -> Any:
        return F.pmod(F.xxhash64(name), F.lit(n_groups)).cast("int").alias("_group")

    left = plays.select("*", group(key)).groupBy("_group")
    right = before.where(F.col("kind").isin(*kinds)).select("*", group("key")).groupBy("_group")
    return left.cogroup(right).applyInArrow(work, schema)
