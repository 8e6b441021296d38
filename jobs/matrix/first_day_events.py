"""The events of all first days, kept by day, so that a week reads only the days of the log that changed.

Input   events, and the spans of the first days (jobs/matrix/first_day.py)
Output  active_users, first_day_events, partitions day=<day>
Grain   active_users: one row per user of the day. first_day_events: one row per event
Time    UTC days before the run's last moment. The tables do not depend on the week

first_day applied to `first_day_events` equals first_day applied to the whole log, for three reasons:

1. It uses two kinds of events. Those in the registration day of a user, and, of a user who registered before the log
   and has none of the former, those of the first day with an event. Each is inside a span of that user: the spans are
   the registration days of all users, and the first day with an event of all users who registered before the log.
   Events of a span that turns out not to be the first day are stored, too, and are left out where first_day selects.
2. The first day with an event is the minimum of a user's times in `active_users` from the log's first day on. The
   minimum of each day depends only on the events of that day. So no state is carried from one day to the next, and a
   change of an old day, or of the log's first day, needs no other day again.
3. The day D of `first_day_events` depends only on the events of day D and on the spans, cut at the midnights of D. Each
   partition's report contains the version of the one and a digest of the other. It is written again if one of them
   differs. The version is read before the events: rows that change in between are read again by the next run.

Everything else is read anew each week: users, tracks, and the catalogue and warm users of the week. So a track that is
added, changed or removed changes first_day without a day being written again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

import contracts
from contracts.arrow import arrow_schema
from jobs.matrix.catalog import timestamp_literal
from jobs.platform.table_schema import spark_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context

ACTIVE_USERS, FIRST_DAY_EVENTS = "active_users", "first_day_events"
NO_SPANS = "none"


def update_active_users(context: Context, until: datetime) -> tuple[DataFrame, list[str]]:
    """Update `active_users`; return its rows before `until`, and the days of the log that were read."""
    inputs = {day: {"events": version} for day, version in _versions(context, until).items()}

    def build(events: DataFrame) -> DataFrame:
        return events.groupBy("user_id", F.to_date("ts").alias("day")).agg(F.min("ts").alias("ts"))

    days = _update(context, ACTIVE_USERS, inputs, build)
    return _read(context, ACTIVE_USERS, list(inputs)).where(F.col("ts") < timestamp_literal(until)), days


def update_first_day_events(context: Context, spans: DataFrame, until: datetime) -> tuple[DataFrame, list[str]]:
    """Update `first_day_events`; return its rows before `until`, and the days of the log that were read.

    Args:
        context: The run.
        spans: user_id, start and end (excluded) of the first days of all users; a user may have several.
        until: End of the events, excluded.
    """
    versions = _versions(context, until)
    by_day = split_by_day(spans).persist()
    try:
        digests = digest_by_day(by_day)
        inputs = {day: {"events": v, "spans": digests.get(day, NO_SPANS)} for day, v in versions.items()}

        def build(events: DataFrame) -> DataFrame:
            dated = events.withColumn("day", F.to_date("ts"))
            in_span = (F.col("ts") >= F.col("start")) & (F.col("ts") < F.col("end"))
            same = (F.col("e.user_id") == F.col("s.user_id")) & (F.col("e.day") == F.col("s.day"))
            return dated.alias("e").join(by_day.alias("s"), same & in_span, "left_semi")

        days = _update(context, FIRST_DAY_EVENTS, inputs, build)
    finally:
        by_day.unpersist()
    return _read(context, FIRST_DAY_EVENTS, list(inputs)).where(F.col("ts") < timestamp_literal(until)), days


def split_by_day(spans: DataFrame) -> DataFrame:
    """Return (user_id, day, start, end): the spans cut at midnights (UTC), without repetitions."""
    last = F.to_date(F.col("end") - F.expr("interval 1 microsecond"))
    days = F.explode(F.sequence(F.to_date("start"), last)).alias("day")
    midnight = F.col("day").cast("timestamp")
    return (
        spans.where(F.col("start") < F.col("end"))
        .select("user_id", "start", "end", days)
        .select(
            "user_id",
            "day",
            F.greatest("start", midnight).alias("start"),
            F.least("end", midnight + F.expr("interval 1 day")).alias("end"),
        )
        .distinct()
    )


def digest_by_day(spans: DataFrame) -> dict[str, str]:
    """Return a digest of each day's rows of `split_by_day` that does not depend on their order: count and 128 bits."""
    columns = ("user_id", "start", "end")
    hashes = [F.hex(F.bit_xor(F.xxhash64(F.lit(seed), *columns))) for seed in (1, 2)]
    digest = F.concat_ws("-", F.count("*"), *hashes)
    rows = spans.groupBy(F.col("day").cast("string").alias("day")).agg(digest.alias("digest")).collect()
    return {row["day"]: row["digest"] for row in rows}


def _versions(context: Context, until: datetime) -> dict[str, str]:
    """Return the version of each day of the log before `until`."""
    last = str((until - timedelta(microseconds=1)).date())
    states = context.lake.states("events")
    return {state.partition["day"]: state.version for state in states if state.partition["day"] <= last}


def _update(
    context: Context, table: str, inputs: Mapping[str, Mapping[str, str]], build: Callable[[DataFrame], DataFrame]
) -> list[str]:
    """Write the days again whose inputs are not those of the partition's report, and drop days that left the log.

    Args:
        context: The run.
        table: Name of the table, partitioned by day.
        inputs: What each day of the log depends on, by day.
        build: Returns the table's rows, with the column `day`, of the events of some days.

    Returns:
        The days of the log that were read.
    """
    lake = context.lake
    known = {state.partition["day"]: state.report.get("inputs") for state in lake.states(table)}
    for day in sorted(known.keys() - {p["day"] for p in lake.partitions("events")}):
        lake.drop(table, day=day)
    changed = [day for day, given in inputs.items() if known.get(day) != given]
    if not changed:
        return []

    def report(day: str) -> dict[str, object]:
        return {"inputs": dict(inputs[day]), "commit": context.commit}

    frame = build(_read(context, "events", changed)).repartition("day")  # one file per day
    written = lake.write_days(table, frame, report=report)
    for day in (day for day in changed if day not in written):
        lake.write(table, arrow_schema(contracts.load(table)).empty_table(), report=report(day), day=day)
    return changed


def _read(context: Context, table: str, days: list[str]) -> DataFrame:
    paths = context.lake.spark_paths(table, [{"day": day} for day in days])
    return context.spark.read.schema(spark_schema(table)).parquet(*paths)
