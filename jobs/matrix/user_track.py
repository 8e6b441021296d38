"""Affinity of each warm user for each catalogue track.

Input   events, catalog, warm_users      Output  user_track, partition week=<week>
Grain   exactly one row per (user_idx, track_idx)
Time    as_of - window_days <= ts < as_of (UTC, half-open)

affinity = stream * n_streams + skip * n_skips + ban * n_bans
         + favorite_track + favorite_album + favorite_artist, each once when the user marked it at least once.
A favourite album or artist adds to the tracks of it that the user has streamed, skipped, banned or marked; it makes
no new rows, so a favourite of a large artist costs nothing. Searches and onboarding say what a user looked for, not
what was liked after hearing it: they are left to the first-day features. Rows that end at zero or below are dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context
    from jobs.settings.matrix import AffinityWeights


def signals(events: DataFrame, catalog: DataFrame, warm: DataFrame) -> DataFrame:
    """Counts per (user_idx, track_idx): n_streams, n_skips, n_bans and three flags of favourites."""
    mine = events.where(F.col("kind").isin("stream", "skip", "ban", "favorite"))
    mine = mine.join(warm.select("user_id", "user_idx"), "user_id").select("user_idx", "kind", "entity", "entity_id")
    tracks = F.broadcast(catalog.select("track_idx", "track_id", "album_id", "artist_id"))
    on_tracks = mine.where(F.col("entity") == "track").join(tracks, F.col("entity_id") == F.col("track_id"))

    def times(kind: str) -> Column:
        return F.count(F.when(F.col("kind") == kind, 1)).cast("int")

    counted = on_tracks.groupBy("user_idx", "track_idx", "album_id", "artist_id").agg(
        times("stream").alias("n_streams"),
        times("skip").alias("n_skips"),
        times("ban").alias("n_bans"),
        (times("favorite") > 0).cast("int").alias("likes_track"),
    )
    marked = mine.where((F.col("kind") == "favorite") & F.col("entity").isin("album", "artist"))
    liked = marked.groupBy("user_idx").agg(
        F.collect_set(F.when(F.col("entity") == "album", F.col("entity_id"))).alias("albums"),
        F.collect_set(F.when(F.col("entity") == "artist", F.col("entity_id"))).alias("artists"),
    )

    def marked_too(ids: str, key: str) -> Column:
        return F.coalesce(F.array_contains(ids, F.col(key)), F.lit(False)).cast("int")

    return counted.join(liked, "user_idx", "left").select(
        "user_idx",
        "track_idx",
        "n_streams",
        "n_skips",
        "n_bans",
        "likes_track",
        marked_too("albums", "album_id").alias("likes_album"),
        marked_too("artists", "artist_id").alias("likes_artist"),
    )


def affinity(counts: DataFrame, weights: AffinityWeights) -> DataFrame:
    """Counts to (user_idx, track_idx, affinity, n_streams); nothing is dropped yet. Sums of counts, so exact."""
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
    """Write the week's matrix, sorted by user within each file."""
    lake, week, settings = context.lake, context.week, context.settings
    name = week.name
    start = week.window_start(settings.matrix.window_days)
    events = lake.events(context.spark, start, week.as_of)
    catalog = lake.spark(context.spark, "catalog", week=name)
    warm = lake.spark(context.spark, "warm_users", week=name)
    scored = affinity(signals(events, catalog, warm), settings.matrix.weights).persist()
    try:
        positive = F.col("affinity") > 0
        n_in, n_out = scored.agg(F.count(F.lit(1)), F.count(F.when(positive, 1))).first() or (0, 0)
        if not n_out:
            raise CheckFailed(
                f"user_track: no positive affinity with {start:%Y-%m-%d} <= ts < {week.as_of:%Y-%m-%d}; "
                "check matrix.weights in the settings"
            )
        kept = scored.where(positive)
        kept = kept.repartitionByRange(settings.spark.partitions, "user_idx")
        report = {
            "inputs": {"catalog": lake.rows("catalog", week=name), "warm_users": lake.rows("warm_users", week=name)},
            "rows_in": n_in,
            "rows_out": n_out,
            "dropped": {"affinity zero or below (skips and bans outweigh)": n_in - n_out},
            "commit": context.commit,
        }
        written = lake.write("user_track", kept.sortWithinPartitions("user_idx", "track_idx"), report=report, week=name)
    finally:
        scored.unpersist()
    return {"rows": {"user_track": written.rows}, "paths": {"user_track": written.path}, "dropped": n_in - n_out}
