"""Which tracks are put together by people: co-occurrence in collections and its positive PMI.

Input   playlists, users, catalog        Output  collections and track_pairs, partition week=<week>
Grain   one row per place in a collection; one row per pair i < j
Time    rows with added_at < as_of, of collections owned by nobody or by a user registered before the cohort window

1. A collection is its distinct catalogue tracks in the order of position, cut to the first `max_collection_length`: counting
   costs the sum of squared lengths, and one collection of everything would cost more than all others. The report says
   how many collections were cut and how many places that left out.
2. Tracks are dealt to tasks by track_idx modulo the number of tasks; a task is sent the collections that hold one of
   its tracks and counts the neighbours of one track at a time. Pairs themselves are never shuffled.
3. A pair stays if it shares at least `min_cooccurrences` collections and each of the two is among the `max_neighbours`
   strongest of the other (by count, ties to the smaller track_idx).
4. PMI = ln(N c / (n_i n_j)), smoothed and shifted as the settings say; positive ones are kept.
Only numbers of the catalogue's size (a count and a cut a track) pass through the driver.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from blockfactor import pmi
from contracts.errors import CheckFailed
from jobs.matrix.catalog import moment

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context

Batches = Iterator[pa.RecordBatch]
NEIGHBOURS = "track_idx int, others array<int>, together array<int>, cut_count int, cut_idx int"
PAIRS = "track_idx_i int, track_idx_j int, n_together int, pmi float"
TRACKS_A_BATCH = 512


def visible(playlists: DataFrame, users: DataFrame, as_of: datetime, cohort_start: datetime) -> DataFrame:
    """Rows that may be learned from: added before as_of, owner null or registered before the cohort window."""
    known = users.where(F.col("registered_at") < moment(cohort_start)).select("user_id")
    rows = playlists.where(F.col("added_at") < moment(as_of))
    owned = rows.where(F.col("user_id").isNotNull()).join(known, "user_id", "left_semi")
    return rows.where(F.col("user_id").isNull()).unionByName(owned)


def inside(rows: DataFrame, catalog: DataFrame) -> DataFrame:
    """(playlist_id, position, track_idx): the places that hold a catalogue track."""
    known = F.broadcast(catalog.select("track_id", "track_idx"))
    return rows.join(known, "track_id").select("playlist_id", "position", "track_idx")


def collections(places: DataFrame, longest: int) -> DataFrame:
    """Each collection's distinct catalogue tracks by position, the first `longest`, and how many more it had.

    Columns: tracks array<int>, n_past int.
    """
    placed = places.groupBy("playlist_id")
    ordered = placed.agg(F.sort_array(F.collect_list(F.struct("position", "track_idx"))).alias("places"))
    whole = ordered.select(F.array_distinct(F.col("places")["track_idx"]).alias("whole"))
    past = F.greatest(F.size("whole") - longest, F.lit(0)).alias("n_past")
    return whole.select(F.slice("whole", 1, longest).alias("tracks"), past)


def cuts(lists: DataFrame) -> tuple[int, int, int]:
    """How many collections were cut, how many places that left out, and the sum of squared lengths after it."""
    squares = F.sum(F.size("tracks").cast("long") * F.size("tracks"))
    found = lists.agg(F.count(F.when(F.col("n_past") > 0, 1)), F.sum("n_past"), squares).first() or (0, 0, 0)
    return found[0], found[1] or 0, found[2] or 0


def counts(lists: DataFrame, n_tracks: int) -> tuple[np.ndarray, int]:
    """In how many collections each track is (N,) int64, and how many collections there are."""
    found = lists.select(F.explode("tracks").alias("t")).groupBy("t").count().toArrow()
    held = np.zeros(n_tracks, np.int64)
    held[found.column("t").to_numpy()] = found.column("count").to_numpy()
    return held, lists.count()


def neighbours(lists: DataFrame, n_tracks: int, minimum: int, most: int, tasks: int) -> DataFrame:
    """Of each track: the others j > i with their counts among its `most` strongest, and where its own list was cut."""
    task = F.explode(F.array_distinct(F.transform("tracks", lambda t: t % tasks))).alias("task")
    dealt = lists.select("tracks", task).repartitionById(tasks, "task")
    return dealt.mapInArrow(_counter(n_tracks, minimum, most, tasks), NEIGHBOURS)


def _counter(n_tracks: int, minimum: int, most: int, tasks: int) -> Callable[[Batches], Batches]:
    def count(batches: Batches) -> Batches:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        table = pa.Table.from_batches(parts)
        members = np.concatenate([c.flatten().to_numpy() for c in table.column("tracks").chunks]).astype(np.int32)
        lengths = np.concatenate([np.diff(c.offsets.to_numpy()) for c in table.column("tracks").chunks])
        offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
        task = int(table.column("task")[0].as_py())
        holder = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        mine = members % tasks == task
        by_track = np.argsort(members[mine], kind="stable")
        holders, tracks = holder[mine][by_track], members[mine][by_track]
        starts = np.flatnonzero(np.diff(tracks, prepend=-1))
        ends = np.append(starts[1:], len(tracks))
        counter, touched = np.zeros(n_tracks, np.int32), np.empty(n_tracks, np.int32)
        out: list[tuple[int, np.ndarray, np.ndarray, int, int]] = []
        for start, end in zip(starts, ends, strict=True):
            track = int(tracks[start])
            found, together = pmi.count_neighbours(
                track, holders[start:end], offsets, members, counter, touched, minimum
            )
            count_, index = pmi.weakest_of_strongest(found, together, most)
            stays = (found > track) & ((together > count_) | ((together == count_) & (found <= index)))
            out.append((track, found[stays], together[stays], count_, index))
            if len(out) == TRACKS_A_BATCH:
                yield _neighbour_batch(out)
                out = []
        if out:
            yield _neighbour_batch(out)

    return count


def _neighbour_batch(rows: list[tuple[int, np.ndarray, np.ndarray, int, int]]) -> pa.RecordBatch:
    offsets = np.concatenate(([0], np.cumsum([len(row[1]) for row in rows]))).astype(np.int32)
    lists = [pa.ListArray.from_arrays(offsets, np.concatenate([row[k] for row in rows])) for k in (1, 2)]
    plain = [pa.array(np.array([row[k] for row in rows], np.int32)) for k in (0, 3, 4)]
    names = ["track_idx", "others", "together", "cut_count", "cut_idx"]
    return pa.RecordBatch.from_arrays([plain[0], *lists, plain[1], plain[2]], names)


def pairs(found: DataFrame, held: np.ndarray, total: int, smoothing: float, shift: float) -> DataFrame:
    """Mutual neighbours with positive PMI; `found` is read twice, so persist it."""
    was_cut = found.where(F.col("cut_count") > 0).select("track_idx", "cut_count", "cut_idx").toArrow()
    cut_count = np.zeros(len(held), np.int32)
    cut_idx = np.full(len(held), np.iinfo(np.int32).max, np.int32)
    cut_count[was_cut.column("track_idx").to_numpy()] = was_cut.column("cut_count").to_numpy()
    cut_idx[was_cut.column("track_idx").to_numpy()] = was_cut.column("cut_idx").to_numpy()
    smooth = pmi.smoothing_terms(held, smoothing)

    def score(batches: Batches) -> Batches:
        for batch in batches:
            others = batch.column("others")
            i = np.repeat(batch.column("track_idx").to_numpy(), np.diff(others.offsets.to_numpy()))
            j, c = others.flatten().to_numpy(), batch.column("together").flatten().to_numpy()
            value = (pmi.pmi(c, held[i], held[j], total, smooth, i, j) - shift).astype(np.float32)
            mutual = (c > cut_count[j]) | ((c == cut_count[j]) & (i <= cut_idx[j]))
            stays = mutual & (value > 0)
            columns = [pa.array(x[stays].astype(np.int32)) for x in (i, j, c)]
            names = ["track_idx_i", "track_idx_j", "n_together", "pmi"]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(value[stays])], names)

    return found.mapInArrow(score, PAIRS)


def run(context: Context) -> dict[str, object]:
    """Write the week's pairs."""
    lake, week, matrix, spark = context.lake, context.week, context.settings.matrix, context.spark
    n_tracks = lake.rows("catalog", week=week.name)
    rows = visible(lake.spark(spark, "playlists"), lake.spark(spark, "users"), week.as_of, week.cohort_start)
    places = inside(rows, lake.spark(spark, "catalog", week=week.name))
    kept = lake.write("collections", places, report={"commit": context.commit}, week=week.name)
    lists = collections(lake.spark(spark, "collections", week=week.name), matrix.max_collection_length).persist()
    tasks = context.settings.spark.partitions
    found = neighbours(lists, n_tracks, matrix.min_cooccurrences, matrix.max_neighbours, tasks).persist()
    try:
        held, total = counts(lists, n_tracks)
        if not total:
            raise CheckFailed(
                f"playlists: no collection added before {week.as_of:%Y-%m-%d}, owned by nobody or by a user "
                f"registered before {week.cohort_start:%Y-%m-%d}, holds a track of catalog week={week.name}"
            )
        n_cut, n_past, squares = cuts(lists)
        n_held = int(held.sum())
        frame = pairs(found, held, total, matrix.smoothing, matrix.shift).persist()
        report = {
            "inputs": {"playlists": lake.rows("playlists"), "catalog": n_tracks},
            "rows_in": n_held,
            "collections": total,
            "collections_cut": n_cut,
            "sum_of_squared_lengths": squares,
            "tracks_without_a_collection": int((held == 0).sum()),
            "dropped": {
                "later than as_of, owner not yet known, or track outside the catalogue": lake.rows("playlists")
                - kept.rows,
                "twice in its collection": kept.rows - n_past - n_held,
                f"past the first {matrix.max_collection_length} of its collection": n_past,
            },
            "rule": f"c >= {matrix.min_cooccurrences}, {matrix.max_neighbours} strongest on both sides, "
            f"PMI smoothed by {matrix.smoothing} less {matrix.shift} > 0",
            "commit": context.commit,
        }
        if not frame.count():  # isEmpty would stop Python workers in the middle of a line, and they say so at length
            raise CheckFailed(
                f"track_pairs: none of {total} collections leaves a pair with PMI above 0; "
                "lower matrix.min_cooccurrences or matrix.shift"
            )
        written = lake.write("track_pairs", frame, report=report, week=week.name)
        frame.unpersist()
    finally:
        found.unpersist()
        lists.unpersist()
    return {
        "rows": {"collections": kept.rows, "track_pairs": written.rows},
        "paths": {"collections": kept.path, "track_pairs": written.path},
        "n_collections": total,
        "n_collections_cut": n_cut,
    }
