"""The week's catalogue and warm users with their dense indices.

Input   events, users, tracks          Output  catalog and warm_users, partition week=<week>
Grain   one row per track_idx; one row per user_idx
Time    as_of - window_days <= ts < as_of (UTC, half-open); users registered before the cohort window

Tracks are ranked by their number of distinct listeners, ties by the smaller track_id; track_idx is the rank. A warm
user streamed at least `min_tracks` distinct catalogue tracks; user_idx follows the order of user_id. Neither index
depends on the partitioning of the data. With `new_releases.enabled`, tracks that were released shortly before the as-of
time follow the others, in the same order; the column `is_new` marks them.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pyspark.sql import Window
from pyspark.sql import functions as F

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context
    from jobs.settings.matrix import NewReleaseSettings

N_RANGES = 64


def timestamp_literal(when: datetime) -> Column:
    """Return a UTC time as a Spark literal that does not depend on the session's time zone."""
    return F.lit(when.isoformat()).cast("timestamp")


def distinct_streams(events: DataFrame, users: DataFrame, cohort_start: datetime) -> DataFrame:
    """Return the distinct (user_id, track_id) streamed by users who registered before `cohort_start`."""
    known_users = users.where(F.col("registered_at") < timestamp_literal(cohort_start)).select("user_id")
    streams = events.where((F.col("kind") == "stream") & (F.col("entity") == "track"))
    pairs = streams.select("user_id", F.col("entity_id").alias("track_id")).distinct()
    return pairs.join(known_users, "user_id", "left_semi")


def rank_tracks(streams: DataFrame, tracks: DataFrame, n_catalog: int) -> DataFrame:
    """Return the `n_catalog` tracks with the most listeners; track_idx is the rank from 0.

    Args:
        streams: Distinct (user_id, track_id).
        tracks: The tracks table; streamed tracks that it does not contain are excluded.
        n_catalog: Maximum number of tracks.
    """
    counts = streams.groupBy("track_id").agg(F.count(F.lit(1)).alias("n_listeners"))
    order = (F.col("n_listeners").desc(), F.col("track_id").asc())
    top = counts.join(tracks.select("track_id", "artist_id", "album_id"), "track_id").orderBy(*order).limit(n_catalog)
    rank = F.row_number().over(Window.partitionBy(F.lit(0)).orderBy(*order)) - 1
    return top.select(rank.cast("int").alias("track_idx"), "track_id", "artist_id", "album_id", "n_listeners")


def rank_with_new_releases(
    streams: DataFrame,
    tracks: DataFrame,
    n_catalog: int,
    settings: NewReleaseSettings,
    released_before: date,
    min_listeners: int,
) -> DataFrame:
    """Return the rows of `rank_tracks`, then the new releases with the most listeners, with the column is_new.

    Args:
        streams: Distinct (user_id, track_id).
        tracks: The tracks table.
        n_catalog: Maximum number of tracks that are no new releases.
        settings: Which tracks are new releases, and how many.
        released_before: Day after the last release day that counts.
        min_listeners: Listeners that a new release needs.
    """
    first_day = released_before - timedelta(days=settings.days)
    is_recent = (F.col("release_date") >= F.lit(first_day)) & (F.col("release_date") < F.lit(released_before))
    n_longest = n_catalog + settings.max_tracks
    top = rank_tracks(streams, tracks, n_catalog).drop("track_idx")
    recent = rank_tracks(streams, tracks.where(is_recent), n_longest).drop("track_idx")
    rows = top.unionByName(recent.where(F.col("n_listeners") >= min_listeners)).distinct()
    rank = F.row_number().over(Window.partitionBy(F.lit(0)).orderBy(F.col("n_listeners").desc(), "track_id")) - 1
    ranked = rows.select(rank.cast("int").alias("track_idx"), *rows.columns).where(F.col("track_idx") < n_longest)
    return ranked.withColumn("is_new", F.col("track_idx") >= n_catalog)


def select_warm_users(streams: DataFrame, catalog: DataFrame, min_tracks: int) -> DataFrame:
    """Return (user_idx, user_id, n_tracks) of users with at least `min_tracks` distinct catalogue tracks.

    Args:
        streams: Distinct (user_id, track_id).
        catalog: Tracks that count.
        min_tracks: Minimum number of tracks.
    """
    catalogue_streams = streams.join(F.broadcast(catalog.select("track_id")), "track_id", "left_semi")
    counts = catalogue_streams.groupBy("user_id").agg(F.count(F.lit(1)).cast("int").alias("n_tracks"))
    warm = counts.where(F.col("n_tracks") >= min_tracks)
    return add_dense_index(warm, "user_id", "user_idx").select("user_idx", "user_id", "n_tracks")


def add_dense_index(frame: DataFrame, key: str, name: str, n_ranges: int = N_RANGES) -> DataFrame:
    """Add a column with 0, 1, 2... in the order of a unique integer key.

    Rows are numbered within ranges of equal width of the key. Only the number of rows of each range is collected.

    Args:
        frame: Persisted by this function.
        key: Column with unique integers.
        name: Name of the new column.
        n_ranges: Number of ranges.
    """
    frame = frame.persist()
    low, high = frame.agg(F.min(key), F.max(key)).first() or (None, None)
    if low is None:
        return frame.withColumn(name, F.lit(0).cast("int"))
    width = (high - low) // n_ranges + 1
    range_of_row = F.expr(f"cast((`{key}` - {low}) div {width} as int)")
    ranged = frame.withColumn("_range", range_of_row)
    sizes = {row["_range"]: row["count"] for row in ranged.groupBy("_range").count().collect()}
    n_before = [sum(sizes.get(b, 0) for b in range(a)) for a in range(n_ranges)]
    offset = F.element_at(F.array(*[F.lit(n) for n in n_before]), F.col("_range") + 1)
    index_in_range = F.row_number().over(Window.partitionBy("_range").orderBy(key)) - 1
    return ranged.withColumn(name, (index_in_range + offset).cast("int")).drop("_range")


def run(context: Context) -> dict[str, object]:
    """Write catalog and warm_users.

    Raises:
        CheckFailed: The window has no events, or no user is warm; the message names the table and the window.
    """
    lake, week, matrix = context.lake, context.week, context.settings.matrix
    start = week.window_start(matrix.window_days)
    window = f"{start:%Y-%m-%d} <= ts < {week.as_of:%Y-%m-%d}"
    days = [p["day"] for p in lake.partitions("events") if f"{start:%Y-%m-%d}" <= p["day"] < f"{week.as_of:%Y-%m-%d}"]
    if not days:
        raise CheckFailed(f"events: no day of week {week} has been written ({window}); run `overture ingest` first")
    events = lake.events(context.spark, start, week.as_of)
    tracks = lake.spark(context.spark, "tracks")
    streams = distinct_streams(events, lake.spark(context.spark, "users"), week.cohort_start).persist()
    try:
        n_streams, n_listeners, n_tracks = streams.agg(
            F.count(F.lit(1)), F.countDistinct("user_id"), F.countDistinct("track_id")
        ).first() or (0, 0, 0)
        if not n_streams:
            raise CheckFailed(
                f"events: week {week} is empty: no stream of a track with {window} by a user registered before "
                f"{week.cohort_start:%Y-%m-%d}; check that this week was ingested"
            )
        new_releases, min_users = context.settings.new_releases, context.settings.groups.min_users
        if new_releases.enabled:
            ranked = rank_with_new_releases(
                streams, tracks, matrix.n_catalog, new_releases, week.as_of.date(), min_users
            )
        else:
            ranked = rank_tracks(streams, tracks, matrix.n_catalog)
        top = ranked.toArrow()
        report: dict[str, Any] = {
            "inputs": {"events": sum(lake.rows("events", day=day) for day in days), "tracks": lake.rows("tracks")},
            "window": window,
            "rows_in": n_tracks,
            "rows_out": top.num_rows,
            "dropped": {"less popular than the catalogue's last track, or not in tracks": n_tracks - top.num_rows},
            "commit": context.commit,
        }
        catalog = lake.write("catalog", top, report=report, week=week.name)
        catalog_frame = lake.spark(context.spark, "catalog", week=week.name)
        warm = select_warm_users(streams, catalog_frame, matrix.min_tracks).persist()
        n_warm = warm.count()
        if not n_warm:
            raise CheckFailed(
                f"warm_users: no user streamed {matrix.min_tracks} distinct catalogue tracks with {window}; "
                "lower matrix.min_tracks or increase matrix.window_days"
            )
        report = {
            "inputs": {"user-track pairs": n_streams},
            "window": window,
            "rows_in": n_listeners,
            "rows_out": n_warm,
            "dropped": {f"fewer than {matrix.min_tracks} distinct catalogue tracks": n_listeners - n_warm},
            "commit": context.commit,
        }
        users = lake.write("warm_users", warm, report=report, week=week.name)
        warm.unpersist()
    finally:
        streams.unpersist()
    return {
        "rows": {"catalog": catalog.rows, "warm_users": users.rows},
        "paths": {"catalog": catalog.path, "warm_users": users.path},
    }
