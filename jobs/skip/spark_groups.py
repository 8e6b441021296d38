"""Converts between Spark groups and the NumPy arrays of models/skip, and computes features and state of one group.

Spark shuffles plays and state by artist, then by user, into groups of bounded size. A group function takes the plays of
some artists (or users) and the state of the same keys as Arrow tables, and returns an Arrow table; inside a group all
computation is in NumPy. `cogroup` applies a group function to every group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

import contracts
from contracts.arrow import arrow_schema
from jobs.platform.lake import Lake
from models.arrays import AnyVector
from models.skip.features import counter_state, track, user
from models.skip.features.columns import feature_columns
from models.skip.features.counters import TOTALS, USER_NUMBERS, Columns
from models.skip.features.shared import DailyCounts, shared_counts

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FEATURES_TABLE = "skip_features"
PLAY_COLUMNS = (  # of the plays that a group receives, with their Spark types
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
TRACK_INPUTS = ("ts", "track_id", "artist_id", "album_id", "is_flow", "listened")
USER_INPUTS = (*TRACK_INPUTS, "user_id", "genre_id", "context_type", "platform_name", "platform_family", "daypart")
STATE_COLUMNS = ("kind", "key", "other", *TOTALS, "last_ts", *USER_NUMBERS)
TRACK_COUNTS = (  # columns that add_track_counts appends, int32
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
SHARED_INPUTS = ("user_gender", "user_age", "platform_flow")

PriorByDay = dict[int, float]  # share of plays that were listened to before each day since 1970
GroupFunction = Callable[[pa.Table, pa.Table], pa.Table]  # (plays, state) of one group to its result


@dataclass(frozen=True)
class FeatureSettings:
    """Settings of the feature computation.

    Attributes:
        gap_s: a pause of at least so many seconds begins a new session.
        smoothing: weight of the prior in a rate, in plays.
        leaky: count over the whole table, the play itself included.
    """

    gap_s: int
    smoothing: float
    leaky: bool = False


def to_arrays(table: pa.Table, names: Iterable[str]) -> dict[str, AnyVector]:
    """Return columns as NumPy arrays, by name; nulls of floats are NaN."""
    return {name: np.asarray(table.column(name).to_numpy()) for name in names}


def to_state_rows(table: pa.Table) -> counter_state.Rows:
    """Return rows of skip_state as arrays; numbers that a kind does not have are -1 instead of null."""
    columns = {name: table.column(name).fill_null(-1).to_numpy() for name in STATE_COLUMNS[1:]}
    columns["kind"] = np.asarray(table.column("kind").to_numpy().astype(object))
    days, plays = (table.column(name).combine_chunks() for name in ("days", "plays"))
    lengths = days.value_lengths().fill_null(0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return counter_state.Rows(columns, offsets, days.flatten().to_numpy(), plays.flatten().to_numpy())


def to_state_table(parts: Sequence[counter_state.Rows]) -> pa.Table:
    """Return state rows as a table with the columns of skip_state."""
    tables = []
    for part in parts:
        columns: dict[str, pa.Array] = {"kind": pa.array(part.columns["kind"].astype(object), pa.string())}
        for name in STATE_COLUMNS[1:]:
            values = part.columns[name]
            columns[name] = pa.array(values, pa.int64(), mask=values < 0 if name in USER_NUMBERS else None)
        offsets = pa.array(part.offsets, pa.int32())
        for name, values in (("days", part.days), ("plays", part.plays)):
            columns[name] = pa.ListArray.from_arrays(offsets, pa.array(values, pa.int32()))
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def add_track_counts(plays: pa.Table, state: pa.Table, *, leaky: bool) -> pa.Table:
    """Group function: return the plays of some artists with TRACK_COUNTS appended.

    Args:
        plays: columns PLAY_COLUMNS, all plays of the artists.
        state: rows of skip_state of the artists, their albums and tracks.
        leaky: count over the whole table, the play itself included.
    """
    before = to_state_rows(state)
    by_kind = {kind: counter_state.from_rows(before, kind) for kind in track.KINDS}
    counts = track.track_counts(to_arrays(plays, TRACK_INPUTS), by_kind, leaky=leaky)
    columns = [plays.column(name) for name, _ in PLAY_COLUMNS]
    columns += [pa.array(counts[name].astype(np.int32)) for name in TRACK_COUNTS]
    return pa.table(columns, names=[*(name for name, _ in PLAY_COLUMNS), *TRACK_COUNTS])


def compute_features(
    plays: pa.Table, state: pa.Table, *, prior: PriorByDay, shared: dict[str, DailyCounts], settings: FeatureSettings
) -> pa.Table:
    """Group function: return rows of skip_features for the plays of some users, by (ts, play_id).

    Args:
        plays: columns PLAY_COLUMNS and TRACK_COUNTS, all plays of the users.
        state: rows of skip_state of the users.
        prior: share of plays that were listened to before each day.
        shared: counts of keys that many listeners share, by kind.
        settings: settings of the features.
    """
    rows, before = to_arrays(plays, USER_INPUTS), to_state_rows(state)
    by_kind = {kind: counter_state.from_rows(before, kind) for kind in user.KINDS}
    counts = user.user_counts(rows, by_kind, settings.gap_s, leaky=settings.leaky) | to_arrays(plays, TRACK_COUNTS)
    day_N = rows["ts"] // 86_400
    counts |= shared_counts(rows | to_arrays(plays, SHARED_INPUTS), day_N, shared, leaky=settings.leaky)
    days, place_N = np.unique(day_N, return_inverse=True)
    prior_N = np.array([prior[int(day)] for day in days], np.float64)[place_N] if len(days) else np.zeros(0)
    attributes = to_arrays(plays, ("release_day", "duration_s", "user_gender"))
    features = feature_columns(rows | attributes, counts, prior_N, settings.gap_s, settings.smoothing)
    features["ts"] = rows["ts"] * 1_000_000
    return _feature_table(plays, rows, features)


def _feature_table(plays: pa.Table, rows: Columns, features: Columns) -> pa.Table:
    """Return computed features and copied columns in the types of the contract, by (ts, play_id)."""
    order = pa.array(np.lexsort((plays.column("play_id").to_numpy(), rows["ts"])))
    schema = arrow_schema(contracts.load(FEATURES_TABLE))
    columns = []
    for field in schema:
        if field.name == "is_listened":
            column = pa.array(rows["listened"] == 1, mask=rows["listened"] < 0)
        elif field.name not in features:
            column = plays.column(field.name)
        elif pa.types.is_floating(field.type):
            column = pa.array(features[field.name].astype(np.float32), from_pandas=True)
        else:
            dtype = np.int32 if pa.types.is_int32(field.type) else np.int64
            column = pa.array(features[field.name].astype(dtype)).cast(field.type)
        columns.append(column.take(order))
    return pa.table(columns, names=schema.names)


def write_partitions(plays: pa.Table, state: pa.Table, *, compute: GroupFunction, root: str, stage: str) -> pa.Table:
    """Group function: write the rows that `compute` returns, one file per day, and return their number.

    The task writes its rows itself (jobs/platform/lake.py, replace_days), because sending a hundred columns of every
    play through Java and back takes longer than computing them.

    Args:
        plays: the plays of a group.
        state: the state of a group.
        compute: group function that returns rows of skip_features.
        root: root of the lake.
        stage: the staging folder of replace_days.
    """
    if plays.num_rows:
        table, lake = compute(plays, state), Lake(root)
        day_N = table.column("ts").cast(pa.int64()).to_numpy() // 86_400_000_000
        edges = np.concatenate([[0], np.flatnonzero(np.diff(day_N)) + 1, [len(day_N)]])
        name = f"part-{plays.column('_group')[0].as_py():05d}"
        for start, end in pairwise(edges.tolist()):
            day = str(np.datetime64(int(day_N[start]), "D"))
            lake.stage_day(FEATURES_TABLE, stage, day, name, table.slice(start, end - start))
    return pa.table({"rows": pa.array([plays.num_rows], pa.int64())})


def state_at_end(plays: pa.Table, state: pa.Table, *, kinds: tuple[str, ...], last_day: int, gap_s: int) -> pa.Table:
    """Group function: return the state of some artists, or users, at the end of a day.

    Args:
        plays: all their plays up to the day.
        state: their state before these plays.
        kinds: the kinds of state rows to return.
        last_day: the day, in days since 1970.
        gap_s: a pause of at least so many seconds begins a new session.
    """
    rows = to_arrays(plays, (name for name in plays.column_names if name != "_group"))
    return to_state_table(counter_state.update_state(rows, to_state_rows(state), kinds, last_day, gap_s))


def cogroup(
    plays: DataFrame,
    state: DataFrame,
    key: str,
    kinds: tuple[str, ...],
    n_groups: int,
    function: GroupFunction | partial[pa.Table],
    schema: str,
) -> DataFrame:
    """Apply a group function to n_groups groups of keys.

    Args:
        plays: plays with the column `key`.
        state: rows of skip_state.
        key: `artist_id` or `user_id`; all plays of one key are in one group.
        kinds: the kinds of state rows that belong to these keys.
        n_groups: number of groups.
        function: takes the plays and the state of a group as Arrow tables.
        schema: Spark schema of the result.
    """

    def group_of(name: str) -> Column:
        return F.pmod(F.xxhash64(name), F.lit(n_groups)).cast("int").alias("_group")

    def apply(plays_of_group: pa.Table, state_of_group: pa.Table) -> pa.Table:
        return function(plays_of_group, state_of_group)

    left = plays.select("*", group_of(key)).groupBy("_group")
    right = state.where(F.col("kind").isin(*kinds)).select("*", group_of("key")).groupBy("_group")
    return left.cogroup(right).applyInArrow(apply, schema)
