"""Co-occurrence of tracks in collections (playlists) and their positive PMI.

Input   playlists, users, catalog        Output  collections and track_pairs, partition week=<week>
Grain   one row per position in a collection; one row per pair i < j
Time    rows with added_at < as_of, of collections without owner or with an owner registered before the cohort window

1. A collection is its distinct catalogue tracks in the order of position, truncated to the first
   `max_collection_length`. Counting costs the sum of squared lengths, so one very long collection would cost more than
   all others together. The report contains the number of truncated collections and of dropped positions.
2. Tracks are assigned to tasks by track_idx modulo the number of tasks. A task receives the collections that contain
   one of its tracks and counts the neighbours of one track at a time. Pairs are never shuffled.
3. A pair is selected if it shares at least `min_cooccurrences` collections and each of the two tracks is among the
   `max_neighbours` strongest neighbours of the other (by count, ties to the smaller track_idx).
4. PMI = ln(N c / (n_i n_j)) with the smoothing and shift of the settings; pairs with positive PMI are written.
Only arrays of the catalogue's size (a count and a cut per track) pass through the driver.

Private playlists are counted too: a pair does not identify its collections. Only public ones get a vector
(jobs/cold_start/features.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from blockfactor import pmi
from contracts.errors import CheckFailed
from jobs.matrix.catalog import timestamp_literal
from models.arrays import IntVector, LongVector

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context

Batches: TypeAlias = Iterator[pa.RecordBatch]
NEIGHBOUR_SCHEMA = "track_idx int, neighbours array<int>, counts array<int>, cut_count int, cut_idx int"
PAIR_SCHEMA = "track_idx_i int, track_idx_j int, n_together int, pmi float"
TRACKS_PER_BATCH = 512


@dataclass(frozen=True)
class TrackNeighbours:
    """Neighbours of one track with a larger track_idx.

    Attributes:
        track_idx: The track.
        neighbours: The track_idx of the neighbours (K,).
        counts: Number of common collections (K,).
        cut_count: Count of the weakest of its strongest neighbours; 0 if all its neighbours are selected.
        cut_idx: The track_idx of that neighbour.
    """

    track_idx: int
    neighbours: IntVector
    counts: IntVector
    cut_count: int
    cut_idx: int


def select_visible_rows(playlists: DataFrame, users: DataFrame, as_of: datetime, cohort_start: datetime) -> DataFrame:
    """Return the rows added before `as_of` whose owner is null or registered before `cohort_start`."""
    known_users = users.where(F.col("registered_at") < timestamp_literal(cohort_start)).select("user_id")
    rows = playlists.where(F.col("added_at") < timestamp_literal(as_of))
    owned = rows.where(F.col("user_id").isNotNull()).join(known_users, "user_id", "left_semi")
    return rows.where(F.col("user_id").isNull()).unionByName(owned)


def select_catalogue_rows(rows: DataFrame, catalog: DataFrame) -> DataFrame:
    """Return (playlist_id, position, track_idx, public) of the positions that contain a catalogue track.

    A playlist without an owner is public; one with an owner only if its column `public` is true.
    """
    indices = F.broadcast(catalog.select("track_id", "track_idx"))
    public = (F.col("user_id").isNull() | F.coalesce("public", F.lit(False))).alias("public")
    return rows.join(indices, "track_id").select("playlist_id", "position", "track_idx", public)


def build_collections(positions: DataFrame, max_length: int) -> DataFrame:
    """Return one row per collection: its first distinct tracks in the order of position, and how many were dropped.

    Args:
        positions: (playlist_id, position, track_idx).
        max_length: Maximum number of tracks per collection.

    Returns:
        Columns tracks (array<int>) and n_dropped (int).
    """
    by_collection = positions.groupBy("playlist_id")
    sorted_rows = F.sort_array(F.collect_list(F.struct("position", "track_idx")))
    ordered = by_collection.agg(sorted_rows.alias("positions"))
    distinct = ordered.select(F.array_distinct(F.col("positions")["track_idx"]).alias("all_tracks"))
    n_dropped = F.greatest(F.size("all_tracks") - max_length, F.lit(0)).alias("n_dropped")
    return distinct.select(F.slice("all_tracks", 1, max_length).alias("tracks"), n_dropped)


def count_truncated(collections: DataFrame) -> tuple[int, int, int]:
    """Return the number of truncated collections, of dropped positions, and the sum of squared lengths after that."""
    squares = F.sum(F.size("tracks").cast("long") * F.size("tracks"))
    is_truncated = F.when(F.col("n_dropped") > 0, 1)
    row = collections.agg(F.count(is_truncated), F.sum("n_dropped"), squares).first() or (0, 0, 0)
    return row[0], row[1] or 0, row[2] or 0


def count_collections(collections: DataFrame, n_tracks: int) -> tuple[LongVector, int]:
    """Return the number of collections that contain each track (N,), and the number of collections."""
    table = collections.select(F.explode("tracks").alias("t")).groupBy("t").count().toArrow()
    counts = np.zeros(n_tracks, np.int64)
    counts[table.column("t").to_numpy()] = table.column("count").to_numpy()
    return counts, collections.count()


def count_neighbours(
    collections: DataFrame, n_tracks: int, min_count: int, max_neighbours: int, n_tasks: int
) -> DataFrame:
    """Return the neighbours j > i of each track i that are among its strongest, with their counts.

    Args:
        collections: Result of `build_collections`.
        n_tracks: Size of the catalogue.
        min_count: Minimum number of common collections.
        max_neighbours: Number of strongest neighbours per track.
        n_tasks: Number of Spark tasks.

    Returns:
        One row per track in the columns of `NEIGHBOUR_SCHEMA`.
    """
    tasks = F.explode(F.array_distinct(F.transform("tracks", lambda t: t % n_tasks))).alias("task")
    by_task = collections.select("tracks", tasks).repartitionById(n_tasks, "task")
    return by_task.mapInArrow(_neighbour_counter(n_tracks, min_count, max_neighbours, n_tasks), NEIGHBOUR_SCHEMA)


def _neighbour_counter(
    n_tracks: int, min_count: int, max_neighbours: int, n_tasks: int
) -> Callable[[Batches], Batches]:
    def count(batches: Batches) -> Batches:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        table = pa.Table.from_batches(parts)
        members = np.concatenate([c.flatten().to_numpy() for c in table.column("tracks").chunks]).astype(np.int32)
        lengths = np.concatenate([np.diff(c.offsets.to_numpy()) for c in table.column("tracks").chunks])
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        task = int(table.column("task")[0].as_py())
        collection_of_member = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        is_own = members % n_tasks == task
        by_track = np.argsort(members[is_own], kind="stable")
        collections, tracks = collection_of_member[is_own][by_track], members[is_own][by_track]
        starts = np.flatnonzero(np.diff(tracks, prepend=-1))
        ends = np.append(starts[1:], len(tracks))
        counter, touched = np.zeros(n_tracks, np.int32), np.empty(n_tracks, np.int32)
        rows: list[TrackNeighbours] = []
        for start, end in zip(starts, ends, strict=True):
            track = int(tracks[start])
            neighbours, counts = pmi.count_neighbours(
                track, collections[start:end], offsets, members, counter, touched, min_count
            )
            cut_count, cut_idx = pmi.weakest_of_strongest(neighbours, counts, max_neighbours)
            is_strong = (counts > cut_count) | ((counts == cut_count) & (neighbours <= cut_idx))
            selected = (neighbours > track) & is_strong
            rows.append(TrackNeighbours(track, neighbours[selected], counts[selected], cut_count, cut_idx))
            if len(rows) == TRACKS_PER_BATCH:
                yield _neighbour_batch(rows)
                rows = []
        if rows:
            yield _neighbour_batch(rows)

    return count


def _neighbour_batch(rows: list[TrackNeighbours]) -> pa.RecordBatch:
    offsets = np.concatenate(([0], np.cumsum([len(row.neighbours) for row in rows]))).astype(np.int32)
    columns = {
        "track_idx": pa.array(np.array([row.track_idx for row in rows], np.int32)),
        "neighbours": pa.ListArray.from_arrays(offsets, np.concatenate([row.neighbours for row in rows])),
        "counts": pa.ListArray.from_arrays(offsets, np.concatenate([row.counts for row in rows])),
        "cut_count": pa.array(np.array([row.cut_count for row in rows], np.int32)),
        "cut_idx": pa.array(np.array([row.cut_idx for row in rows], np.int32)),
    }
    return pa.RecordBatch.from_arrays(list(columns.values()), list(columns))


def compute_pairs(
    neighbours: DataFrame, counts: LongVector, n_collections: int, smoothing: float, shift: float
) -> DataFrame:
    """Return the pairs of mutual neighbours with positive PMI, in the columns of `PAIR_SCHEMA`.

    Args:
        neighbours: Result of `count_neighbours`, persisted; it is read twice.
        counts: Number of collections that contain each track (N,).
        n_collections: Number of collections.
        smoothing: Exponent of the counts, 1 for none.
        shift: Subtracted from the PMI.
    """
    cuts = neighbours.where(F.col("cut_count") > 0).select("track_idx", "cut_count", "cut_idx").toArrow()
    cut_count = np.zeros(len(counts), np.int32)
    cut_idx = np.full(len(counts), pmi.MAX_INDEX, np.int32)
    cut_count[cuts.column("track_idx").to_numpy()] = cuts.column("cut_count").to_numpy()
    cut_idx[cuts.column("track_idx").to_numpy()] = cuts.column("cut_idx").to_numpy()
    smoothing_terms = pmi.smoothing_terms(counts, smoothing)

    def score(batches: Batches) -> Batches:
        for batch in batches:
            lists = batch.column("neighbours")
            i = np.repeat(batch.column("track_idx").to_numpy(), np.diff(lists.offsets.to_numpy()))
            j, c = lists.flatten().to_numpy(), batch.column("counts").flatten().to_numpy()
            value = pmi.pmi(c, counts[i], counts[j], n_collections, smoothing_terms, i, j)
            shifted = (value - shift).astype(np.float32)
            is_mutual = (c > cut_count[j]) | ((c == cut_count[j]) & (i <= cut_idx[j]))
            selected = is_mutual & (shifted > 0)
            columns = [pa.array(x[selected].astype(np.int32)) for x in (i, j, c)]
            names = ["track_idx_i", "track_idx_j", "n_together", "pmi"]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(shifted[selected])], names)

    return neighbours.mapInArrow(score, PAIR_SCHEMA)


def run(context: Context) -> dict[str, object]:
    """Write collections and track_pairs.

    Raises:
        CheckFailed: No collection is visible, or no pair has positive PMI.
    """
    lake, week, matrix, spark = context.lake, context.week, context.settings.matrix, context.spark
    n_tracks = lake.rows("catalog", week=week.name)
    rows = select_visible_rows(
        lake.spark(spark, "playlists"), lake.spark(spark, "users"), week.as_of, week.cohort_start
    )
    positions = select_catalogue_rows(rows, lake.spark(spark, "catalog", week=week.name))
    written_positions = lake.write("collections", positions, report={"commit": context.commit}, week=week.name)
    stored_positions = lake.spark(spark, "collections", week=week.name)
    collections = build_collections(stored_positions, matrix.max_collection_length).persist()
    neighbours = count_neighbours(
        collections, n_tracks, matrix.min_cooccurrences, matrix.max_neighbours, context.settings.spark.partitions
    ).persist()
    try:
        counts, n_collections = count_collections(collections, n_tracks)
        if not n_collections:
            raise CheckFailed(
                f"playlists: no collection added before {week.as_of:%Y-%m-%d}, without owner or with an owner "
                f"registered before {week.cohort_start:%Y-%m-%d}, contains a track of catalog week={week.name}"
            )
        n_truncated, n_dropped, squares = count_truncated(collections)
        n_entries = int(counts.sum())
        pairs = compute_pairs(neighbours, counts, n_collections, matrix.smoothing, matrix.shift).persist()
        n_read = lake.rows("playlists")
        report = {
            "inputs": {"playlists": n_read, "catalog": n_tracks},
            "rows_in": n_entries,
            "collections": n_collections,
            "collections_truncated": n_truncated,
            "sum_of_squared_lengths": squares,
            "tracks_without_a_collection": int((counts == 0).sum()),
            "dropped": {
                "added at as_of or later, owner registered later, or track outside the catalogue": n_read
                - written_positions.rows,
                "repetition in its collection": written_positions.rows - n_dropped - n_entries,
                f"after the first {matrix.max_collection_length} tracks of its collection": n_dropped,
            },
            "rule": f"c >= {matrix.min_cooccurrences}, {matrix.max_neighbours} strongest on both sides, "
            f"PMI smoothed by {matrix.smoothing} less {matrix.shift} > 0",
            "commit": context.commit,
        }
        if not pairs.count():  # isEmpty would stop Python workers while they write, and they log long tracebacks
            raise CheckFailed(
                f"track_pairs: none of {n_collections} collections contains a pair with PMI above 0; "
                "lower matrix.min_cooccurrences or matrix.shift"
            )
        written = lake.write("track_pairs", pairs, report=report, week=week.name)
        pairs.unpersist()
    finally:
        neighbours.unpersist()
        collections.unpersist()
    return {
        "rows": {"collections": written_positions.rows, "track_pairs": written.rows},
        "paths": {"collections": written_positions.path, "track_pairs": written.path},
        "n_collections": n_collections,
        "n_collections_truncated": n_truncated,
    }
