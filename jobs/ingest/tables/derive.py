"""Tables that a source does not have, derived from the events in the lake.

playlists   sessions of two or more distinct streamed tracks without a gap above 30 minutes, owned by their listener and
            private; each track is dated when it was first streamed in the session
users       a listener's first event is the registration. Listeners first seen in the first 30 days of the log, whose
            start jobs/platform/log_start.py finds, may have registered long before it: their registration is unknown,
            which is stored as 1970-01-01, before every cohort. Country and age are unknown
Time        all days of the lake are read, so that a session across midnight and an older day that arrives later give
            the same rows as one load at once
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

from jobs.ingest.ids import MADE
from jobs.platform.log_start import log_start

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from jobs.platform.lake import Lake

UNKNOWN_REGISTRATION = datetime(1970, 1, 1, tzinfo=UTC)
UNKNOWN_DAYS = 30
SESSION_GAP_S = 30 * 60


def all_events(spark: SparkSession, lake: Lake) -> tuple[DataFrame, datetime]:
    """Return the events of all days in the lake, and the start of the log's first day."""
    days = [partition["day"] for partition in lake.partitions("events")]
    first, last = (datetime.fromisoformat(day).replace(tzinfo=UTC) for day in (days[0], days[-1]))
    return lake.events(spark, first, last + timedelta(days=1)), datetime.combine(log_start(lake), time(), UTC)


def users_from_events(events: DataFrame, log_start: datetime, external: DataFrame | None = None) -> DataFrame:
    """Return the table `users`: one row per listener of the events.

    Args:
        events: Rows of table `events`.
        log_start: Start of the first day of the log.
        external: user_id and external_id of the listeners, one row each; None where ids are integers.
    """
    from pyspark.sql import functions as F

    known_after = F.lit((log_start + timedelta(days=UNKNOWN_DAYS)).isoformat()).cast("timestamp")
    unknown = F.lit(UNKNOWN_REGISTRATION.isoformat()).cast("timestamp")
    first = events.groupBy("user_id").agg(F.min("ts").alias("first"))
    if external is None:
        first = first.withColumn("external_id", F.lit(None).cast("string"))
    else:
        first = first.join(external, "user_id", "left")
    return first.select(
        "user_id",
        "external_id",
        F.lit(None).cast("string").alias("country"),
        F.lit(None).cast("int").alias("age"),
        F.when(F.col("first") >= known_after, F.col("first")).otherwise(unknown).alias("registered_at"),
    )


def playlists_from_sessions(events: DataFrame) -> DataFrame:
    """Return the table `playlists`: one playlist per session."""
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    by_user = Window.partitionBy("user_id").orderBy("ts", "entity_id")
    seconds = F.col("ts").cast("double")
    streams = events.where("kind = 'stream' AND entity = 'track'").select("user_id", "ts", "entity_id")
    gap = seconds - F.lag(seconds).over(by_user)
    numbered = streams.withColumn("starts", F.when(gap.isNull() | (gap > SESSION_GAP_S), 1).otherwise(0))
    numbered = numbered.withColumn("session", F.sum("starts").over(by_user))
    tracks = numbered.groupBy("user_id", "session", "entity_id").agg(F.min("ts").alias("added_at"))
    in_session = Window.partitionBy("user_id", "session")
    # 62 bits of a hash of listener and start, above the ids of playlists that a source names.
    start = F.unix_micros(F.min("added_at").over(in_session))
    made = F.shiftrightunsigned(F.xxhash64(F.col("user_id"), start), 2) + F.lit(MADE)
    ordered = Window.partitionBy("user_id", "session").orderBy("added_at", "entity_id")
    return (
        tracks.withColumn("n", F.count("*").over(in_session))
        .withColumn("playlist_id", made)
        .withColumn("position", (F.row_number().over(ordered) - 1).cast("int"))
        .where("n >= 2")
        .select(
            "playlist_id",
            "position",
            F.col("entity_id").alias("track_id"),
            "user_id",
            "added_at",
            F.lit(False).alias("public"),
        )
    )
