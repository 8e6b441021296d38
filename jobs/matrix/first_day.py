"""First-day signals of each listener, and the listening of the cohort on the days after (ground truth).

Input   users, tracks, catalog, warm_users; events of days 0 to 30 of the cohort, and of the days that changed since the
        last run (jobs/matrix/first_day_events.py)
Output  first_day, partitions split=train (warm users), validation, test (cohort); cohort (truth)
Grain   one row per user
Time    first day: registered_at <= ts < end of the registration day, the next midnight UTC or as matrix.first_day
        sets it (jobs/matrix/first_day_bounds.py). A warm user who registered before the event log
        (jobs/platform/log_start.py) gets the first day with an event of that user, from midnight to midnight or 24
        hours from that event.
        truth: the thirty days from the end of the first day (days 1 to 30), half-open. Users whose thirty days end
        after the cohort's last day (possible unless first days end at midnight UTC) are not in the cohort

The cohort consists of users who registered in [cohort_start, cohort_end) and streamed at least `min_truth_tracks`
distinct catalogue tracks on days 1 to 30. Validation and test are 2 : 1 by the MD5 of the user id, so a user is always
in the same split. Events of a track that is not in the tracks table are excluded. A warm user who has left the users
table since the task `catalog` has an empty first day.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from contracts.errors import CheckFailed
from jobs.matrix.catalog import timestamp_literal
from jobs.matrix.first_day_bounds import add_days, end_of_day, start_of_day
from jobs.matrix.first_day_events import update_active_users, update_first_day_events
from jobs.platform.log_start import log_start
from jobs.platform.week import TRUTH_DAYS

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context
    from jobs.settings.matrix import FirstDaySettings

DAY, SECONDS_PER_DAY = timedelta(days=1), 86_400
COLUMN_OF_LEVEL = {"songs": "entity_id", "artists": "artist_id", "albums": "album_id"}
WORD_OF_TRACK_EVENT = {"skip": "skipped", "stream": "streamed", "ban": "banned"}
EVENT_OF_BLOCK = {
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


def registration_days(users: DataFrame, first_day: FirstDaySettings) -> DataFrame:
    """Return (user_id, country, age, start, end), from the time of registration to the end of the registration day."""
    end = end_of_day(F.col("registered_at"), first_day)
    return users.select("user_id", "country", "age", F.col("registered_at").alias("start"), end.alias("end"))


def move_to_first_seen_day(days: DataFrame, events: DataFrame, start: date, first_day: FirstDaySettings) -> DataFrame:
    """Replace the day of users who registered before the event log by their first day with an event.

    Users without an event keep the registration day and so have no interactions. Users with an event on the
    registration day keep it too: the log's first days may be left out of `start` because they are small.

    Args:
        days: Result of `registration_days`.
        events: Events of the users, before as_of.
        start: First day of the event log.
        first_day: Length of the day.
    """
    log_start = F.lit(start.isoformat()).cast("timestamp")
    early = days.where(F.col("end") <= log_start).select("user_id", F.col("start").alias("from"), "end")
    ts, is_first_day = F.col("ts"), (F.col("ts") >= F.col("from")) & (F.col("ts") < F.col("end"))
    seen = (
        events.join(early, "user_id")
        .groupBy("user_id")
        .agg(F.min(F.when(ts >= log_start, ts)).alias("ts"), F.max(is_first_day).alias("has_first_day"))
    )
    first = seen.where(~F.col("has_first_day")).select("user_id", "ts")
    return days.join(first, "user_id", "left").select(
        "user_id",
        "country",
        "age",
        F.coalesce(start_of_day(ts, first_day), "start").alias("start"),
        F.coalesce(end_of_day(ts, first_day), "end").alias("end"),
    )


def collect_first_days(days: DataFrame, events: DataFrame, tracks: DataFrame) -> DataFrame:
    """Return one row per user with the entity ids of the first day, one list per block.

    A block is a kind of event on a kind of entity, such as `favorite_songs`. Lists are in the order of (ts, entity_id)
    and contain repetitions.

    Args:
        days: One row per user with start and end of the first day.
        events: Events in the contract's columns.
        tracks: Artists and albums of the tracks.
    """
    spans = days.select("user_id", "start", "end")
    first_day_events = events.join(spans, "user_id").where(
        (F.col("ts") >= F.col("start")) & (F.col("ts") < F.col("end"))
    )
    track_columns = tracks.select("track_id", "artist_id", "album_id")
    is_track_event = F.col("kind").isin(*WORD_OF_TRACK_EVENT) & (F.col("entity") == "track")
    choices = first_day_events.where(~F.col("kind").isin(*WORD_OF_TRACK_EVENT))
    known_tracks = tracks.select(F.col("track_id").alias("entity_id"))
    of_tracks = choices.where(F.col("entity") == "track").join(known_tracks, "entity_id", "left_semi")
    other_events = (
        choices.where(F.col("entity") != "track")
        .unionByName(of_tracks)
        .select(
            "user_id",
            "ts",
            "kind",
            "entity",
            "entity_id",
            F.lit(None).cast("long").alias("artist_id"),
            F.lit(None).cast("long").alias("album_id"),
        )
    )
    track_events = first_day_events.where(is_track_event).join(track_columns, F.col("entity_id") == F.col("track_id"))
    all_events = track_events.select(other_events.columns).unionByName(other_events)

    def ordered_events(kind: str, entity: str) -> Column:
        event = F.struct("ts", "entity_id", "artist_id", "album_id")
        matches = (F.col("kind") == kind) & (F.col("entity") == entity)
        return F.sort_array(F.collect_list(F.when(matches, event)))

    event_lists = [ordered_events(*event).alias(block) for block, event in EVENT_OF_BLOCK.items()]
    event_lists += [ordered_events(kind, "track").alias(kind) for kind in WORD_OF_TRACK_EVENT]
    lists = all_events.groupBy("user_id").agg(*event_lists)
    columns = {block: F.col(block)["entity_id"] for block in EVENT_OF_BLOCK}
    for kind, word in WORD_OF_TRACK_EVENT.items():
        for level, id_column in COLUMN_OF_LEVEL.items():
            columns[f"{word}_{level}"] = F.col(kind)[id_column]
    lists = lists.select("user_id", *[values.alias(block) for block, values in columns.items()])
    empty = F.array().cast("array<bigint>")
    return days.join(lists, "user_id", "left").select(
        "user_id", "country", "age", *[F.coalesce(block, empty).alias(block) for block in columns]
    )


def collect_truth(
    days: DataFrame,
    events: DataFrame,
    catalog: DataFrame,
    min_tracks: int,
    first_day: FirstDaySettings,
    n_days: int = TRUTH_DAYS,
) -> DataFrame:
    """Return (user_id, split, truth, truth_day): the distinct track_idx streamed on days 1 to n_days, ascending.

    `truth_day` is the UTC day of the first stream of each track, in days since 1970-01-01.

    Args:
        days: One row per user; day 1 starts at its end.
        events: Events of days 1 to n_days.
        catalog: Tracks that count.
        min_tracks: Users with fewer tracks are excluded.
        first_day: Length of the days.
        n_days: Number of days.
    """
    spans = days.select("user_id", F.col("end").alias("from"))
    streams = events.where((F.col("kind") == "stream") & (F.col("entity") == "track"))
    until = add_days(F.col("from"), n_days, first_day)
    later_streams = streams.join(spans, "user_id").where((F.col("ts") >= F.col("from")) & (F.col("ts") < until))
    catalogue_tracks = F.broadcast(catalog.select("track_id", "track_idx"))
    catalogue_streams = later_streams.join(catalogue_tracks, F.col("entity_id") == F.col("track_id"))
    day = F.floor(F.col("ts").cast("long") / SECONDS_PER_DAY).cast("int")
    tracks = catalogue_streams.groupBy("user_id", "track_idx").agg(F.min(day).alias("day"))
    lists = tracks.groupBy("user_id").agg(F.sort_array(F.collect_list(F.struct("track_idx", "day"))).alias("first"))
    return lists.where(F.size("first") >= min_tracks).select(
        "user_id",
        split_of("user_id").alias("split"),
        F.col("first")["track_idx"].alias("truth"),
        F.col("first")["day"].alias("truth_day"),
    )


def split_of(column: str) -> Column:
    """Return validation or test, 2 : 1, for a column of user ids.

    A user is in validation if the first eight hex digits of the MD5 of the decimal id, modulo 3, are below 2.
    """
    digits = F.conv(F.substring(F.md5(F.col(column).cast("string").cast("binary")), 1, 8), 16, 10).cast("long")
    return F.when(digits % 3 < 2, "validation").otherwise("test")


def run(context: Context) -> dict[str, object]:
    """Write cohort and the three splits of first_day.

    Raises:
        CheckFailed: The cohort is empty; the message contains its dates and the setting.
    """
    lake, week, matrix, spark = context.lake, context.week, context.settings.matrix, context.spark
    users, tracks = lake.spark(spark, "users"), lake.spark(spark, "tracks")
    catalog = lake.spark(spark, "catalog", week=week.name)
    is_cohort = (F.col("registered_at") >= timestamp_literal(week.cohort_start)) & (
        F.col("registered_at") < timestamp_literal(week.cohort_end)
    )
    registered = registration_days(users.where(is_cohort), matrix.first_day)
    truth_end = add_days(F.col("end"), TRUTH_DAYS, matrix.first_day)
    days = registered.where(truth_end <= timestamp_literal(week.truth_end))
    later_events = lake.events(spark, week.cohort_start, week.truth_end)
    cohort = collect_truth(days, later_events, catalog, matrix.min_truth_tracks, matrix.first_day).persist()
    rows: dict[str, int] = {}
    paths: dict[str, str] = {}
    commit: dict[str, str] = {"commit": context.commit}
    try:
        n_cohort, n_registered, n_complete = cohort.count(), registered.count(), days.count()
        if not n_cohort:
            raise CheckFailed(
                f"cohort: of {n_registered} users registered in [{week.cohort_start:%Y-%m-%d}, "
                f"{week.cohort_end:%Y-%m-%d}) none streamed {matrix.min_truth_tracks} distinct catalogue tracks on "
                f"days 1 to 30 (events before {week.truth_end:%Y-%m-%d}); ingest those days or lower "
                "matrix.min_truth_tracks"
            )
        dropped = {f"fewer than {matrix.min_truth_tracks} catalogue tracks on days 1 to 30": n_complete - n_cohort}
        if n_complete < n_registered:
            dropped[f"days 1 to 30 end after {week.truth_end:%Y-%m-%d}"] = n_registered - n_complete
        report = {"rows_in": n_registered, "rows_out": n_cohort, "dropped": dropped, **commit}
        written = lake.write("cohort", cohort, report=report, week=week.name)
        rows["cohort"], paths["cohort"] = written.rows, written.path
        start, until = log_start(lake), max(week.as_of, week.cohort_end + DAY)
        registered = registration_days(users, matrix.first_day)
        active_users, active_days = update_active_users(context, until)
        spans = registered.unionByName(move_to_first_seen_day(registered, active_users, start, matrix.first_day))
        events, event_days = update_first_day_events(context, spans, until)
        warm = lake.spark(spark, "warm_users", week=week.name).select("user_id").join(users, "user_id", "left")
        as_of = timestamp_literal(week.as_of)
        warm_days = move_to_first_seen_day(
            registration_days(warm, matrix.first_day), events.where(F.col("ts") < as_of), start, matrix.first_day
        ).withColumn("end", F.least("end", as_of))  # in a backtest, a first day may be cut short
        all_days = warm_days.withColumn("split", F.lit("train")).unionByName(
            days.join(cohort.select("user_id", "split"), "user_id")
        )
        # One plan for all three splits: each user's start and end select the events of that user.
        first_days = (
            collect_first_days(all_days, events, tracks).join(all_days.select("user_id", "split"), "user_id").persist()
        )
        n_warm = lake.rows("warm_users", week=week.name)
        warm_report = {"rows_in": n_warm, "rows_out": n_warm, "dropped": {}, "log_start": str(start), **commit}
        for split in ("train", "validation", "test"):
            part = first_days.where(F.col("split") == split)
            split_report = warm_report if split == "train" else report
            written = lake.write("first_day", part, report=split_report, week=week.name, split=split)
            rows[split], paths[split] = written.rows, written.path
        first_days.unpersist()
    finally:
        cohort.unpersist()
    return {
        "rows": rows,
        "paths": paths,
        "cohort": {"registered": n_registered, "selected": n_cohort},
        "days_read": {"active_users": len(active_days), "first_day_events": len(event_days)},
    }
