"""What is known of a listener at the end of the registration day, and the cohort's ground truth.

Input   events, users, tracks, catalog, warm_users
Output  first_day, partitions split=train (warm users), validation, test (cohort); cohort (truth)
Grain   one row a user
Time    registration day: registered_at <= ts < the next midnight (UTC). A warm user who registered before the log's
        first day gets the first day on which the log shows them, whole.
        truth: the thirty days from that midnight on (days 1 to 30), half-open

The cohort registered in [cohort_start, cohort_end) and heard at least `min_truth_tracks` distinct catalogue tracks on
days 1 to 30. validation : test = 2 : 1 by md5 of the user id, so that a user never changes sides.
Streams, skips and bans of a track that the tracks table does not know are left out at all three levels.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from contracts.errors import CheckFailed
from jobs.matrix.catalog import moment
from jobs.platform.week import TRUTH_DAYS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context

LEVELS = {"songs": "entity_id", "artists": "artist_id", "albums": "album_id"}
ON_TRACKS = {"skip": "skipped", "stream": "streamed", "ban": "banned"}
DIRECT = {
    "favorite_songs": ("favorite", "track"),
    "favorite_artists": ("favorite", "artist"),
    "favorite_albums": ("favorite", "album"),
    "favorite_playlists": ("favorite", "playlist"),
    "onboarding_like_artists": ("onboarding", "artist"),
    "search_songs": ("search", "track"),
    "search_artists": ("search", "artist"),
    "search_albums": ("search", "album"),
    "search_playlists": ("search", "playlist"),
}


def registration_days(users: DataFrame) -> DataFrame:
    """(user_id, country, age, start, end): from the moment of registration to the next midnight UTC."""
    midnight = F.date_trunc("day", "registered_at") + F.expr("interval 1 day")
    return users.select("user_id", "country", "age", F.col("registered_at").alias("start"), midnight.alias("end"))


def first_seen_days(days: DataFrame, events: DataFrame, log_start: date) -> DataFrame:
    """`days` with the first day seen in `events` for users who registered before the log's first day.

    A user whom the log never shows keeps the registration day, and so has no interaction.
    """
    early = F.col("end") <= F.lit(log_start.isoformat()).cast("timestamp")
    seen = events.join(days.where(early).select("user_id"), "user_id", "left_semi")
    first = seen.groupBy("user_id").agg(F.date_trunc("day", F.min("ts")).alias("first"))
    moved = days.join(first, "user_id", "left")
    return moved.select(
        "user_id",
        "country",
        "age",
        F.coalesce("first", "start").alias("start"),
        F.coalesce(F.col("first") + F.expr("interval 1 day"), F.col("end")).alias("end"),
    )


def first_days(days: DataFrame, events: DataFrame, tracks: DataFrame) -> DataFrame:
    """One row a user of `days`: 18 lists of entity ids in the order of (ts, entity_id), repeats kept."""
    spans = days.select("user_id", "start", "end")
    inside = events.join(spans, "user_id").where((F.col("ts") >= F.col("start")) & (F.col("ts") < F.col("end")))
    known = tracks.select("track_id", "artist_id", "album_id")
    heard = F.col("kind").isin(*ON_TRACKS) & (F.col("entity") == "track")
    direct = inside.where(~F.col("kind").isin(*ON_TRACKS)).select(
        "user_id",
        "ts",
        "kind",
        "entity",
        "entity_id",
        F.lit(None).cast("long").alias("artist_id"),
        F.lit(None).cast("long").alias("album_id"),
    )
    via = inside.where(heard).join(known, F.col("entity_id") == F.col("track_id"))
    both = via.select(direct.columns).unionByName(direct)

    def ordered(kind: str, entity: str) -> Column:
        event = F.struct("ts", "entity_id", "artist_id", "album_id")
        wanted = (F.col("kind") == kind) & (F.col("entity") == entity)
        return F.sort_array(F.collect_list(F.when(wanted, event)))

    raw = [ordered(*what).alias(block) for block, what in DIRECT.items()]
    raw += [ordered(kind, "track").alias(kind) for kind in ON_TRACKS]
    lists = both.groupBy("user_id").agg(*raw)
    columns = {block: F.col(block)["entity_id"] for block in DIRECT}
    for kind, word in ON_TRACKS.items():
        for level, field in LEVELS.items():
            columns[f"{word}_{level}"] = F.col(kind)[field]
    lists = lists.select("user_id", *[values.alias(block) for block, values in columns.items()])
    empty = F.array().cast("array<bigint>")
    return days.join(lists, "user_id", "left").select(
        "user_id", "country", "age", *[F.coalesce(block, empty).alias(block) for block in columns]
    )


def truth(days: DataFrame, events: DataFrame, catalog: DataFrame, min_tracks: int) -> DataFrame:
    """(user_id, split, truth): distinct track_idx streamed on days 1 to 30, ascending, where there are enough."""
    spans = days.select("user_id", F.col("end").alias("from"))
    streams = events.where((F.col("kind") == "stream") & (F.col("entity") == "track"))
    until = F.col("from") + F.expr(f"interval {TRUTH_DAYS} days")
    inside = streams.join(spans, "user_id").where((F.col("ts") >= F.col("from")) & (F.col("ts") < until))
    known = F.broadcast(catalog.select("track_id", "track_idx"))
    heard = inside.join(known, F.col("entity_id") == F.col("track_id"))
    lists = heard.groupBy("user_id").agg(F.sort_array(F.collect_set("track_idx")).alias("truth"))
    return lists.where(F.size("truth") >= min_tracks).select("user_id", split_of("user_id").alias("split"), "truth")


def split_of(column: str) -> Column:
    """Validation to test is 2 to 1: the first eight hex digits of md5 of the decimal id, modulo 3, below 2."""
    digits = F.conv(F.substring(F.md5(F.col(column).cast("string").cast("binary")), 1, 8), 16, 10).cast("long")
    return F.when(digits % 3 < 2, "validation").otherwise("test")


def run(context: Context) -> dict[str, object]:
    """Write cohort and the three splits of first_day."""
    lake, week, matrix, spark = context.lake, context.week, context.settings.matrix, context.spark
    users, tracks = lake.spark(spark, "users"), lake.spark(spark, "tracks")
    catalog = lake.spark(spark, "catalog", week=week.name)
    recent = (F.col("registered_at") >= moment(week.cohort_start)) & (F.col("registered_at") < moment(week.cohort_end))
    days = registration_days(users.where(recent))
    later = lake.events(spark, week.cohort_start, week.truth_end)
    cohort = truth(days, later, catalog, matrix.min_truth_tracks).persist()
    rows: dict[str, int] = {}
    paths: dict[str, str] = {}
    commit: dict[str, Any] = {"commit": context.commit}
    try:
        n_cohort, n_recent = cohort.count(), days.count()
        if not n_cohort:
            raise CheckFailed(
                f"cohort: of {n_recent} users registered in [{week.cohort_start:%Y-%m-%d}, "
                f"{week.cohort_end:%Y-%m-%d}) nobody streamed {matrix.min_truth_tracks} distinct catalogue tracks on "
                f"days 1 to 30 (events before {week.truth_end:%Y-%m-%d}); ingest those days or lower "
                "matrix.min_truth_tracks"
            )
        dropped = {f"fewer than {matrix.min_truth_tracks} catalogue tracks on days 1 to 30": n_recent - n_cohort}
        report = {"rows_in": n_recent, "rows_out": n_cohort, "dropped": dropped, **commit}
        done = lake.write("cohort", cohort, report=report, week=week.name)
        rows["cohort"], paths["cohort"] = done.rows, done.path
        log_start = date.fromisoformat(min(p["day"] for p in lake.partitions("events")))
        log = lake.events(spark, datetime.combine(log_start, time(), UTC), max(week.as_of, week.cohort_end))
        warm = users.join(lake.spark(spark, "warm_users", week=week.name).select("user_id"), "user_id", "left_semi")
        seen = first_seen_days(registration_days(warm), log.where(F.col("ts") < moment(week.as_of)), log_start)
        everyone = seen.withColumn("split", F.lit("train")).unionByName(
            days.join(cohort.select("user_id", "split"), "user_id")
        )
        # One plan for all three: each user's own span bounds what is seen of that user.
        found = first_days(everyone, log, tracks).join(everyone.select("user_id", "split"), "user_id").persist()
        n_warm = lake.rows("warm_users", week=week.name)
        of_warm = {"rows_in": n_warm, "rows_out": n_warm, "dropped": {}, "log_start": str(log_start), **commit}
        for split in ("train", "validation", "test"):
            part = found.where(F.col("split") == split)
            kept = of_warm if split == "train" else report
            done = lake.write("first_day", part, report=kept, week=week.name, split=split)
            rows[split], paths[split] = done.rows, done.path
        found.unpersist()
    finally:
        cohort.unpersist()
    return {"rows": rows, "paths": paths, "cohort": {"registered": n_recent, "kept": n_cohort}}
