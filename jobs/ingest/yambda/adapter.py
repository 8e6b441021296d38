"""Convert the Yambda dataset (Yandex Music, 2025) to the tables of both engines.

Input    the files of jobs/ingest/yambda/files.py
Output   tracks, events, users, playlists for the cold-start engine; plays for the skip engine; quarantine. Days of the
         lake that are not in the files are dropped
Time     the dataset has seconds, in steps of 5, since a first event whose date is not published. The first event is
         placed at source.time_origin, 00:00 UTC: all dates and hours of the lake are synthetic, distances are real
Memory   Spark reads each file in blocks and sorts on disk; only counts are collected

Rules
- A listen of at least `source.min_played_pct` percent is a stream, a shorter one a skip. listened_s is the percentage
  of the track's length; it is above the length where parts were played again.
- A like is a favorite, a dislike a ban. One that is taken back by an unlike or undislike of the same listener and track
  by the end of its day (UTC) is no event.
- A listen, like or dislike with an equal listener, time, kind and track occurs once; of listens, the longest one.
- context is `organic` or `recommended`. Platform, country, age, genre, release date and names are unknown.
- tracks: the tracks of listens, likes and dislikes. Of several artists or albums of a track, the smallest id is used; a
  track without one gets an artist or album of its own. The length is the largest of its listens; a track that was only
  liked has none.
- users and playlists are derived from the events (jobs/ingest/tables/derive.py). The playlists are sessions, private.
- plays: genre, context, platform, gender and age have the code 0, which stands for unknown. Flow is "not organic".
- A row that cannot be used is counted under its first reason and put into the quarantine. The job fails if the share
  of such rows of a file exceeds source.max_bad_share.

Differs  A like that is taken back on a later day stays a favorite: the log has no event for it, and a day's events must
         not depend on later days. is_listened is the percentage rule, not the 30 seconds of DSG17. The publisher does
         not say whether a timestamp is the start or the end of a listen; it is used as the start.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import MADE
from jobs.ingest.quarantine import quarantine_rows, replace_quarantine, row_json
from jobs.ingest.repeats import one_row_per_key
from jobs.ingest.tables.derive import all_events, playlists_from_sessions, users_from_events
from jobs.ingest.yambda.files import COLUMNS, MAPPINGS, count_rows, find_files, played_s, read

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

    from jobs.platform.context import Context
    from jobs.settings.source import SourceSettings

EVENT_KEY = ("user_id", "ts", "kind", "entity", "entity_id")
UNKNOWN_CODES = ("genre_id", "context_type", "platform_name", "platform_family", "user_gender", "user_age")


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Write the five tables; return rows, days, and numbers of dropped rows by reason.

    Raises:
        BadArgument: No folder is given, or a file is missing.
        CheckFailed: A file breaks the format, or has too many bad rows.
    """
    if data is None:
        raise BadArgument("--data: yambda needs the folder of the dataset, with flat/SIZE and the two mappings")
    spark, lake, source = context.spark, context.lake, context.settings.source
    files = find_files(data)
    checked_files = {name: read(spark, file, name) for name, file in files.items()}
    facts = {name: count_rows(checked_files[name], file, source.max_bad_share) for name, file in files.items()}
    rows = {name: checked.where("reason IS NULL").drop("reason") for name, checked in checked_files.items()}
    if not facts["listens"]["kept"]:
        raise CheckFailed(f"{files['listens']}: no rows; nothing was written")
    favorites, bans = (
        not_taken_back(rows["likes"], rows["unlikes"]),
        not_taken_back(rows["dislikes"], rows["undislikes"]),
    )
    kept = {"likes": favorites.count(), "dislikes": bans.count()}
    report = {"source": "yambda", "commit": context.commit, "time_origin": str(source.time_origin)}
    bad = bad_rows(files, checked_files, facts)
    written = {"tracks": lake.write("tracks", tracks(rows), report=report).rows}
    events = one_row_per_key(event_frame(rows["listens"], favorites, bans, source), EVENT_KEY)
    # Plays with equal columns are one play.
    play_rows = play_frame(rows["listens"], lake.spark(spark, "tracks"), source)
    plays = one_row_per_key(play_rows, ["user_id", "ts", "play_id"])
    days = {}
    for table, frame in (("events", events), ("plays", plays)):
        days[table] = lake.write_days(table, frame, report=report)
        written[table] = sum(day.rows for day in days[table].values())
    dropped = {
        table: [p["day"] for p in lake.partitions(table) if p["day"] not in written_days]
        for table, written_days in days.items()
    }
    for table, old in dropped.items():
        for day in old:
            lake.drop(table, day=day)
    quarantined = replace_quarantine(lake, bad, max(days["events"]), report)
    log, log_start = all_events(spark, lake)
    written["users"] = lake.write("users", users_from_events(log, log_start), report=report).rows
    written["playlists"] = lake.write("playlists", playlists_from_sessions(log), report=report).rows
    made = lake.spark(spark, "tracks")
    return {
        "source": "yambda",
        "files": facts,
        "rows": written,
        "taken_back": {name: facts[name]["kept"] - n for name, n in kept.items()},
        "repeats": {
            "events": facts["listens"]["kept"] + sum(kept.values()) - written["events"],
            "plays": facts["listens"]["kept"] - written["plays"],
        },
        "tracks_without_artist": made.where(made["artist_id"] >= MADE).count(),
        "tracks_without_album": made.where(made["album_id"] >= MADE).count(),
        "days": {
            table: {"written": len(found), "first": min(found), "last": max(found)} for table, found in days.items()
        },
        "days_dropped": dropped,
        "quarantined": quarantined,
        "notes": [
            f"dates are synthetic: the dataset's first event is placed at {source.time_origin}T00:00:00Z",
            "users: derived from events; registration unknown for listeners of the first 30 days",
            "playlists: listening sessions stand for them",
        ],
    }


def bad_rows(files: dict[str, Path], checked: dict[str, DataFrame], facts: dict[str, Any]) -> dict[str, DataFrame]:
    """Return the columns of the table `quarantine` by raw table, of tables with bad rows.

    Args:
        files: The files by name.
        checked: Their rows, with `reason`.
        facts: Their counts.
    """
    frames: dict[str, DataFrame] = {}
    for name, file in files.items():
        if facts[name]["bad"]:
            table = "tracks" if name in MAPPINGS else "events"
            of_file = quarantine_rows(checked[name], row_json(COLUMNS[name]), file.name)
            frames[table] = frames[table].unionByName(of_file) if table in frames else of_file
    return frames


def not_taken_back(given: DataFrame, removed: DataFrame) -> DataFrame:
    """Return the likes or dislikes that are valid at the end of their day.

    Args:
        given: Rows of likes or dislikes.
        removed: Rows of unlikes or undislikes. One with an equal timestamp takes the like back too.
    """
    from pyspark.sql import functions as F

    # Days start at the time of the first event, which is 00:00 UTC of source.time_origin.
    given = given.withColumn("day_number", F.floor(F.col("timestamp") / 86_400))
    removed = removed.withColumn("day_number", F.floor(F.col("timestamp") / 86_400))
    key = ["uid", "item_id", "day_number"]
    last = removed.groupBy(*key).agg(F.max("timestamp").alias("taken_back"))
    joined = given.join(last, key, "left")
    return joined.where("taken_back IS NULL OR taken_back < timestamp").drop("day_number", "taken_back")


def tracks(rows: dict[str, DataFrame]) -> DataFrame:
    """Return the table `tracks` of the rows of all files, by file name."""
    from pyspark.sql import functions as F

    lengths = [
        rows["listens"].select("item_id", "track_length_seconds"),
        *(rows[name].select("item_id", F.lit(None).cast("bigint")) for name in ("likes", "dislikes")),
    ]
    items = reduce(lambda a, b: a.union(b), lengths).groupBy("item_id")
    known = items.agg(F.max("track_length_seconds").cast("int").alias("duration_s"))
    for kind in ("artist", "album"):
        smallest = rows[f"{kind}_item_mapping"].groupBy("item_id").agg(F.min(f"{kind}_id").alias("mapped"))
        own = F.col("item_id") + F.lit(MADE)
        known = known.join(smallest, "item_id", "left")
        known = known.withColumn(f"{kind}_id", F.coalesce("mapped", own)).drop("mapped")
    unknown = {"genre": "string", "release_date": "date", "title": "string", "artist_name": "string"}
    return known.select(
        F.col("item_id").alias("track_id"),
        "artist_id",
        "album_id",
        "duration_s",
        *(F.lit(None).cast(kind).alias(name) for name, kind in unknown.items()),
    )


def event_frame(listens: DataFrame, favorites: DataFrame, bans: DataFrame, source: SourceSettings) -> DataFrame:
    """Return the columns of the table `events`, with `day`; rows with equal keys are not merged."""
    from pyspark.sql import functions as F

    def columns(frame: DataFrame, kind: Column, seconds: Column) -> DataFrame:
        ts = event_time(source)
        return frame.select(
            F.col("uid").alias("user_id"),
            ts.alias("ts"),
            kind.alias("kind"),
            F.lit("track").alias("entity"),
            F.col("item_id").alias("entity_id"),
            seconds.cast("int").alias("listened_s"),
            F.when(F.col("is_organic") == 1, "organic").otherwise("recommended").alias("context"),
            F.to_date(ts).alias("day"),
        )

    kind = F.when(is_listened(source), "stream").otherwise("skip")
    parts = [columns(listens, kind, F.round(played_s()))]
    parts += [columns(favorites, F.lit("favorite"), F.lit(None)), columns(bans, F.lit("ban"), F.lit(None))]
    return reduce(lambda a, b: a.unionByName(b), parts)


def play_frame(listens: DataFrame, lake_tracks: DataFrame, source: SourceSettings) -> DataFrame:
    """Return the columns of the table `plays`, with `day`; equal plays are not merged."""
    from pyspark.sql import functions as F

    known = lake_tracks.select(F.col("track_id").alias("item_id"), "artist_id", "album_id")
    ts = event_time(source)
    return listens.join(known, "item_id").select(
        F.xxhash64(*listens.columns).bitwiseAND(F.lit(2**63 - 1)).alias("play_id"),
        F.lit(None).cast("bigint").alias("sample_id"),
        ts.alias("ts"),
        F.col("uid").alias("user_id"),
        F.col("item_id").alias("track_id"),
        "artist_id",
        "album_id",
        *(F.lit(0).cast("bigint" if name == "genre_id" else "int").alias(name) for name in UNKNOWN_CODES),
        F.col("track_length_seconds").cast("int").alias("duration_s"),
        F.lit(None).cast("date").alias("release_date"),
        (F.col("is_organic") == 0).alias("is_flow"),
        is_listened(source).alias("is_listened"),
        F.to_date(ts).alias("day"),
    )


def event_time(source: SourceSettings) -> Column:
    """Return the time of an event (UTC)."""
    from pyspark.sql import functions as F

    origin = int(datetime.combine(source.time_origin, datetime.min.time(), UTC).timestamp())
    return F.timestamp_seconds(F.col("timestamp") + F.lit(origin))


def is_listened(source: SourceSettings) -> Column:
    """Return whether enough of a track was played."""
    from pyspark.sql import functions as F

    return F.col("played_ratio_pct") >= source.min_played_pct
