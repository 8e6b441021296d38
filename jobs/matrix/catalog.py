"""Who is learned from and which tracks are in: the week's warm users and catalogue, with their dense indices.

Input   events, users, tracks          Output  catalog and warm_users, partition week=<week>
Grain   one row a track_idx; one row a user_idx
Time    as_of - window_days <= ts < as_of (UTC, half-open); users registered before the cohort window

A catalogue track is ranked by its distinct listeners, ties by the smaller track_id. A warm user streamed at least
`min_tracks` distinct catalogue tracks; user_idx follows user_id. Neither depends on how the data is partitioned.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from pyspark.sql import Window
from pyspark.sql import functions as F

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context

BUCKETS = 64


def moment(when: datetime) -> Column:
    """A UTC instant as a Spark literal, whatever the session's time zone."""
    return F.lit(when.isoformat()).cast("timestamp")


def heard(events: DataFrame, users: DataFrame, cohort_start: datetime) -> DataFrame:
    """Distinct (user_id, track_id) streamed by users registered before the cohort window."""
    known = users.where(F.col("registered_at") < moment(cohort_start)).select("user_id")
    streams = events.where((F.col("kind") == "stream") & (F.col("entity") == "track"))
    pairs = streams.select("user_id", F.col("entity_id").alias("track_id")).distinct()
    return pairs.join(known, "user_id", "left_semi")


def catalogue(pairs: DataFrame, tracks: DataFrame, n_catalog: int) -> DataFrame:
    """The `n_catalog` tracks with most listeners; track_idx is the rank. Tracks absent from `tracks` are left out."""
    counted = pairs.groupBy("track_id").agg(F.count(F.lit(1)).alias("n_listeners"))
    order = (F.col("n_listeners").desc(), F.col("track_id").asc())
    top = counted.join(tracks.select("track_id", "artist_id", "album_id"), "track_id").orderBy(*order).limit(n_catalog)
    rank = F.row_number().over(Window.partitionBy(F.lit(0)).orderBy(*order)) - 1
    return top.select(rank.cast("int").alias("track_idx"), "track_id", "artist_id", "album_id", "n_listeners")


def warm_users(pairs: DataFrame, catalog: DataFrame, min_tracks: int) -> DataFrame:
    """(user_idx, user_id, n_tracks) of users with at least `min_tracks` distinct catalogue tracks."""
    inside = pairs.join(F.broadcast(catalog.select("track_id")), "track_id", "left_semi")
    counted = inside.groupBy("user_id").agg(F.count(F.lit(1)).cast("int").alias("n_tracks"))
    enough = counted.where(F.col("n_tracks") >= min_tracks)
    return dense_index(enough, "user_id", "user_idx").select("user_idx", "user_id", "n_tracks")


def dense_index(frame: DataFrame, key: str, name: str, buckets: int = BUCKETS) -> DataFrame:
    """Add `name` = 0, 1, 2... in the order of the unique integer `key`.

    Rows are numbered inside equal ranges of the key; only the size of each range, `buckets` numbers, is collected.
    """
    frame = frame.persist()
    low, high = frame.agg(F.min(key), F.max(key)).first() or (None, None)
    if low is None:
        return frame.withColumn(name, F.lit(0).cast("int"))
    width = (high - low) // buckets + 1
    bucket = F.expr(f"cast((`{key}` - {low}) div {width} as int)")
    ranged = frame.withColumn("_bucket", bucket)
    sizes = {row["_bucket"]: row["count"] for row in ranged.groupBy("_bucket").count().collect()}
    before = [sum(sizes.get(b, 0) for b in range(a)) for a in range(buckets)]
    offset = F.element_at(F.array(*[F.lit(n) for n in before]), F.col("_bucket") + 1)
    place = F.row_number().over(Window.partitionBy("_bucket").orderBy(key)) - 1
    return ranged.withColumn(name, (place + offset).cast("int")).drop("_bucket")


def run(context: Context) -> dict[str, object]:
    """Write both tables; a week about nobody fails with the table and the window named."""
    lake, week, matrix = context.lake, context.week, context.settings.matrix
    start = week.window_start(matrix.window_days)
    window = f"{start:%Y-%m-%d} <= ts < {week.as_of:%Y-%m-%d}"
    days = [p["day"] for p in lake.partitions("events") if f"{start:%Y-%m-%d}" <= p["day"] < f"{week.as_of:%Y-%m-%d}"]
    if not days:
        raise CheckFailed(f"events: no day of week {week} has been written ({window}); run `overture ingest` first")
    events = lake.events(context.spark, start, week.as_of)
    tracks = lake.spark(context.spark, "tracks")
    pairs = heard(events, lake.spark(context.spark, "users"), week.cohort_start).persist()
    try:
        n_pairs, n_listeners, n_heard = pairs.agg(
            F.count(F.lit(1)), F.countDistinct("user_id"), F.countDistinct("track_id")
        ).first() or (0, 0, 0)
        if not n_pairs:
            raise CheckFailed(
                f"events: week {week} is empty: no stream of a track with {window} by a user registered before "
                f"{week.cohort_start:%Y-%m-%d}; check that this week was ingested"
            )
        top = catalogue(pairs, tracks, matrix.n_catalog).toArrow()
        report: dict[str, Any] = {
            "inputs": {"events": sum(lake.rows("events", day=day) for day in days), "tracks": lake.rows("tracks")},
            "window": window,
            "rows_in": n_heard,
            "rows_out": top.num_rows,
            "dropped": {"less popular than the catalogue's last track, or unknown to tracks": n_heard - top.num_rows},
            "commit": context.commit,
        }
        catalog = lake.write("catalog", top, report=report, week=week.name)
        warm = warm_users(pairs, lake.spark(context.spark, "catalog", week=week.name), matrix.min_tracks).persist()
        n_warm = warm.count()
        if not n_warm:
            raise CheckFailed(
                f"warm_users: nobody streamed {matrix.min_tracks} distinct catalogue tracks with {window}; "
                "lower matrix.min_tracks or widen matrix.window_days"
            )
        report = {
            "inputs": {"user-track pairs": n_pairs},
            "window": window,
            "rows_in": n_listeners,
            "rows_out": n_warm,
            "dropped": {f"fewer than {matrix.min_tracks} distinct catalogue tracks": n_listeners - n_warm},
            "commit": context.commit,
        }
        users = lake.write("warm_users", warm, report=report, week=week.name)
        warm.unpersist()
    finally:
        pairs.unpersist()
    return {
        "rows": {"catalog": catalog.rows, "warm_users": users.rows},
        "paths": {"catalog": catalog.path, "warm_users": users.path},
    }
