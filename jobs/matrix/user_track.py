"""Affinity of each warm user to each catalogue track.

Input   events, catalog, warm_users      Output  user_track, partition week=<week>
Grain   exactly one row per (user_idx, track_idx)
Time    as_of - window_days <= ts < as_of (UTC, half-open)

affinity = stream * n_streams + skip * n_skips + ban * n_bans
         + favorite_track + favorite_album + favorite_artist, each once if the user marked it at least once.
A favourite album or artist adds to those of its tracks that the user has streamed, skipped, banned or marked. It adds
no rows, so a favourite artist with many tracks does not increase the matrix. Searches and onboarding are excluded: they
are choices before listening, and only first-day features use them. Rows with an affinity of zero or below are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context
    from jobs.settings.matrix import AffinityWeights


def count_signals(events: DataFrame, catalog: DataFrame, warm: DataFrame) -> DataFrame:
    """Return, per (user_idx, track_idx), n_streams, n_skips, n_bans and three favourite flags (0 or 1).

    Args:
        events: Events of the window.
        catalog: Tracks that count.
        warm: The warm_users table.
    """
    warm_events = events.where(F.col("kind").isin("stream", "skip", "ban", "favorite"))
    warm_events = warm_events.join(warm.select("user_id", "user_idx"), "user_id").select(
        "user_idx", "kind", "entity", "entity_id"
    )
    tracks = F.broadcast(catalog.select("track_idx", "track_id", "album_id", "artist_id"))
    track_events = warm_events.where(F.col("entity") == "track").join(tracks, F.col("entity_id") == F.col("track_id"))

    def count_kind(kind: str) -> Column:
        return F.count(F.when(F.col("kind") == kind, 1)).cast("int")

    counts = track_events.groupBy("user_idx", "track_idx", "album_id", "artist_id").agg(
        count_kind("stream").alias("n_streams"),
        count_kind("skip").alias("n_skips"),
        count_kind("ban").alias("n_bans"),
        (count_kind("favorite") > 0).cast("int").alias("likes_track"),
    )
    favorites = warm_events.where((F.col("kind") == "favorite") & F.col("entity").isin("album", "artist"))
    favorite_ids = favorites.groupBy("user_idx").agg(
        F.collect_set(F.when(F.col("entity") == "album", F.col("entity_id"))).alias("albums"),
        F.collect_set(F.when(F.col("entity") == "artist", F.col("entity_id"))).alias("artists"),
    )

    def is_favorite(ids: str, key: str) -> Column:
        return F.coalesce(F.array_contains(ids, F.col(key)), F.lit(False)).cast("int")

    return counts.join(favorite_ids, "user_idx", "left").select(
        "user_idx",
        "track_idx",
        "n_streams",
        "n_skips",
        "n_bans",
        "likes_track",
        is_favorite("albums", "album_id").alias("likes_album"),
        is_favorite("artists", "artist_id").alias("likes_artist"),
    )


def compute_affinity(counts: DataFrame, weights: AffinityWeights) -> DataFrame:
    """Return (user_idx, track_idx, affinity, n_streams) for every row of `counts`.

    Args:
        counts: Result of `count_signals`.
        weights: Weight of each signal.
    """
    value = (
        F.col("n_streams") * F.lit(weights.stream)
        + F.col("n_skips") * F.lit(weights.skip)
        + F.col("n_bans") * F.lit(weights.ban)
        + F.col("likes_track") * F.lit(weights.favorite_track)
        + F.col("likes_album") * F.lit(weights.favorite_album)
        + F.col("likes_artist") * F.lit(weights.favorite_artist)
    )
    return counts.select("user_idx", "track_idx", value.cast("float").alias("affinity"), "n_streams")


def run(context: Context) -> dict[str, object]:
    """Write user_track, sorted by user within each file.

    Raises:
        CheckFailed: No affinity is positive.
    """
    lake, week, settings = context.lake, context.week, context.settings
    name = week.name
    start = week.window_start(settings.matrix.window_days)
    events = lake.events(context.spark, start, week.as_of)
    catalog = lake.spark(context.spark, "catalog", week=name)
    warm = lake.spark(context.spark, "warm_users", week=name)
    scored = compute_affinity(count_signals(events, catalog, warm), settings.matrix.weights).persist()
    try:
        is_positive = F.col("affinity") > 0
        n_pairs, n_positive = scored.agg(F.count(F.lit(1)), F.count(F.when(is_positive, 1))).first() or (0, 0)
        if not n_positive:
            raise CheckFailed(
                f"user_track: no positive affinity with {start:%Y-%m-%d} <= ts < {week.as_of:%Y-%m-%d}; "
                "check matrix.weights in the settings"
            )
        entries = scored.where(is_positive).repartitionByRange(settings.spark.partitions, "user_idx")
        report = {
            "inputs": {"catalog": lake.rows("catalog", week=name), "warm_users": lake.rows("warm_users", week=name)},
            "rows_in": n_pairs,
            "rows_out": n_positive,
            "dropped": {"affinity of zero or below": n_pairs - n_positive},
            "commit": context.commit,
        }
        written = lake.write(
            "user_track", entries.sortWithinPartitions("user_idx", "track_idx"), report=report, week=name
        )
    finally:
        scored.unpersist()
    return {
        "rows": {"user_track": written.rows},
        "paths": {"user_track": written.path},
        "dropped": n_pairs - n_positive,
    }
