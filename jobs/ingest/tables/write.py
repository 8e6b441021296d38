"""Write what a run has checked: static tables, the days that changed, derived tables, and the quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import reduce
from typing import TYPE_CHECKING, Any

import contracts
from contracts.loader import Contract
from jobs.ingest.repeats import one_row_per_key
from jobs.ingest.tables import changes
from jobs.ingest.tables.changes import IngestedDay
from jobs.ingest.tables.checked import STATIC_TABLES, Checked
from jobs.ingest.tables.derive import all_events, playlists_from_sessions, users_from_events
from jobs.ingest.tables.frames import FILE, good_rows
from jobs.ingest.tables.inputs import path_column
from jobs.ingest.tables.mapping import BAD, ROW, USER
from jobs.quality.quarantined import QUARANTINE
from jobs.settings.tables import DAY_TABLES

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context

NO_ROWS = "0-0"  # the digest of a day without rows


def write(context: Context, checked: Checked) -> dict[str, Any]:
    """Write the checked tables, then the derived ones; return the report of the command."""
    newest = str(checked.newest) if checked.newest else None
    report = {"source": "tables", "commit": context.commit, "ids": checked.forms, "day": newest}
    rows: dict[str, int] = {}
    unchanged: list[str] = []
    days: dict[str, dict[str, Any]] = {}
    notes: list[str] = []

    def write_static(table: str, frame: DataFrame) -> None:
        rows[table], is_new = _write_static(context, table, frame, report)
        if not is_new:
            unchanged.append(table)

    for table in STATIC_TABLES:
        if table in checked.mapped:
            write_static(table, good_rows(checked.mapped[table], contracts.load(table)).dropDuplicates())
    for table in DAY_TABLES:
        if table in checked.mapped:
            days[table] = _write_days(context, checked, table, report)
            rows[table] = days[table].pop("rows")
        elif table in checked.unchanged:
            days[table] = {"written": 0, "unchanged": len(checked.unchanged[table]), "removed": []}
    if "events" in context.settings.source.tables and not {"users", "playlists"} <= set(context.settings.source.tables):
        if "events" in checked.mapped:
            events, log_start = all_events(context.spark, context.lake)
            if "users" not in context.settings.source.tables:
                write_static("users", users_from_events(events, log_start, external_ids(context, checked)))
            if "playlists" not in context.settings.source.tables:
                write_static("playlists", playlists_from_sessions(events))
        if "users" not in context.settings.source.tables:
            notes.append("users: derived from events; registration unknown for listeners of the first 30 days")
        if "playlists" not in context.settings.source.tables:
            notes.append("playlists: listening sessions stand for them")
    quarantined = {table: write_quarantine(context, checked, table, report) for table in checked.mapped}
    for mapped in checked.mapped.values():
        mapped.frame.unpersist()
    return {
        "source": "tables",
        "rows": rows,
        "unchanged": unchanged,
        "tables": {table: counts.report() for table, counts in checked.counts.items()},
        "days": days,
        "missing_days": [str(day) for day in checked.plan.gaps] if checked.plan else [],
        "quarantined": quarantined,
        "ids": checked.forms,
        "absent_columns": {table: mapped.absent for table, mapped in checked.mapped.items() if mapped.absent},
        "ignored_columns": {table: mapped.ignored for table, mapped in checked.mapped.items() if mapped.ignored},
        "notes": notes,
    }


def _write_static(context: Context, table: str, frame: DataFrame, report: dict[str, Any]) -> tuple[int, bool]:
    """Write a table without days if its rows changed; return its number of rows, and whether it was written."""
    lake = context.lake
    columns = list(contracts.load(table).columns)
    present = [c for c in columns if c in frame.columns]
    digest = frame.agg(changes.rows_digest(present).alias("digest")).collect()[0]["digest"]
    basis = {"rows_digest": digest, "columns": present, "contract": contracts.load(table).version}
    if lake.exists(table):
        stored = lake.report(table)
        if all(stored.get(key) == value for key, value in basis.items()) and stored.get("ids") == report["ids"]:
            return lake.rows(table), False
    return lake.write(table, frame, report=report | basis).rows, True


def _write_days(context: Context, checked: Checked, table: str, report: dict[str, Any]) -> dict[str, Any]:
    """Write the days of a table whose rows changed; return rows and days."""
    from pyspark.sql import functions as F

    lake, contract = context.lake, contracts.load(table)
    columns = list(contract.columns)
    frame = good_rows(checked.mapped[table], contract, "_day").withColumnRenamed("_day", "day")
    n_read = sum(checked.counts[table].by_day.values())
    for day in _days_to_keep(context, checked, table):
        n_read += lake.rows(table, day=day)
        kept = lake.spark(context.spark, table, day=day).withColumn("day", F.lit(day).cast("date"))
        frame = frame.unionByName(kept)
    frame = _without_duplicates(frame, contract, context.settings.source.duplicate_s)
    days_read = {date.fromisoformat(day) for day in checked.counts[table].by_day}
    known = changes.ingested_days(lake, table)
    again = sorted(days_read & set(known))
    same: set[date] = set()
    if again:
        digests = changes.digest_by_day(frame.where(F.col("day").isin(again)), columns, F.col("day"))
        same = {day for day in again if digests.get(day, ("", 0))[0] == known[day].rows_digest}
    new = sorted(days_read - same)
    if new:
        subset = frame.where(F.col("day").isin(new)) if same else frame
        lake.write_days(table, subset, report=report)
    removed = sorted(str(d) for d in _covered_days(checked, table, lake.partitions(table)) - days_read)
    for removed_day in removed:
        lake.drop(table, day=removed_day)
    _remember(context, checked, table, days_read, known, report)
    n_rows = sum(lake.rows(table, day=str(day)) for day in days_read)
    return {
        "rows": n_rows,
        "repeated": n_read - n_rows,
        "written": len(new),
        "unchanged": len(same) + len(checked.unchanged.get(table, [])),
        "removed": removed,
        "first": str(min(days_read)) if days_read else None,
        "last": str(max(days_read)) if days_read else None,
    }


def _remember(
    context: Context, checked: Checked, table: str, days_read: set[date], known: dict[date, IngestedDay], report: Any
) -> None:
    """Store the digests of the days of this run beside those of earlier ones."""
    from pyspark.sql import functions as F

    lake, columns = context.lake, list(contracts.load(table).columns)
    versions = changes.day_versions(lake, table)
    to_read = [{"day": str(day)} for day in days_read if day not in known or known[day].version != versions[day]]
    digests: dict[date, tuple[str, int]] = {}
    if to_read:
        reader = context.spark.read.schema(lake.spark(context.spark, table, **to_read[0]).schema)
        digests = changes.digest_by_day(reader.parquet(*lake.spark_paths(table, to_read)), columns, F.to_date("ts"))
    days = {day: i for day, i in known.items() if i.version is None or day in versions}
    for day in set(checked.plan.days) & set(checked.plan.read) - days_read if checked.plan else ():
        days[day] = IngestedDay(0, checked.digests[table][day], NO_ROWS, None)
    for day in days_read:
        rows_digest, n_rows = digests.get(day) or (known[day].rows_digest, known[day].n_rows)
        days[day] = IngestedDay(n_rows, checked.digests.get(table, {}).get(day), rows_digest, versions[day])
    if days != known:
        changes.remember(lake, table, days, report)


def _without_duplicates(frame: DataFrame, contract: Contract, seconds: int) -> DataFrame:
    """Return one row per key: of several the one with the greatest values, so that the order of files is irrelevant.

    With `seconds`, streams and skips of one track by one listener that begin at most so many seconds after the one
    before, on the same day, are left out too.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    rows = one_row_per_key(frame, contract.grain)
    if not seconds or contract.table != "events":
        return rows
    order = Window.partitionBy("day", "user_id", "entity_id").orderBy("ts", "kind")
    is_play = F.col("kind").isin("stream", "skip") & (F.col("entity") == "track")
    plays = rows.where(is_play).withColumn("_gap", F.col("ts").cast("double") - F.lag("ts").over(order).cast("double"))
    return (
        plays.where(F.col("_gap").isNull() | (F.col("_gap") > seconds)).drop("_gap").unionByName(rows.where(~is_play))
    )


def _days_to_keep(context: Context, checked: Checked, table: str) -> list[str]:
    """Return days whose rows in the lake are kept beside new ones: late rows arrive, but the day's files are gone."""
    if checked.plan is None:
        return []
    own_files = {str(day) for day in checked.plan.read}
    days = checked.counts[table].by_day
    return [day for day in days if day not in own_files and context.lake.exists(table, day=day)]


def _covered_days(checked: Checked, table: str, partitions: Sequence[dict[str, str]]) -> set[date]:
    """Return the days in the lake whose rows this run has read completely."""
    in_lake = {date.fromisoformat(p["day"]) for p in partitions}
    if checked.plan is not None:
        return in_lake & set(checked.plan.days) & set(checked.plan.read)
    selection = checked.selection
    return {day for day in in_lake if selection.contains(day)}


def external_ids(context: Context, checked: Checked) -> DataFrame | None:
    """Return user_id and external_id of the listeners of this run and of earlier ones; None for integer ids."""
    if checked.forms.get("user") != "text":
        return None
    events = checked.mapped["events"].frame.where(f"{BAD} IS NULL")
    pairs = events.selectExpr("user_id", f"{USER} AS external_id")
    if context.lake.exists("users"):
        pairs = pairs.unionByName(context.lake.spark(context.spark, "users").select("user_id", "external_id"))
    return pairs.where("external_id IS NOT NULL").groupBy("user_id").agg({"external_id": "min"}).toDF(*pairs.columns)


def write_quarantine(context: Context, checked: Checked, table: str, report: dict[str, Any]) -> int:
    """Write the bad rows and unreadable records of a table by the day of their file; return their number."""
    from pyspark.sql import functions as F

    lake, newest = context.lake, checked.newest or checked.today
    frames: list[DataFrame] = []
    if checked.counts[table].bad:
        bad = checked.mapped[table].frame
        day = F.coalesce("_file_day", F.lit(newest)) if "_file_day" in bad.columns else F.lit(newest)
        file = F.when(F.col(FILE) != "", path_column(FILE))
        frames.append(
            bad.where(F.col(BAD).isNotNull()).select(
                F.col(BAD).alias("reason"), F.col(ROW).alias("row"), file.alias("source_file"), day.alias("day")
            )
        )
        frames += [
            frame.withColumn("day", F.coalesce("day", F.lit(newest))) for frame in checked.corrupt.get(table, [])
        ]
    concerned = {str(d) for d in checked.plan.days} if checked.plan and table in DAY_TABLES else {str(newest)}
    bad_days: set[str] = set()
    if frames:
        rows = reduce(lambda a, b: a.unionByName(b), frames)
        grouped = rows.groupBy("reason", "row", "source_file", "day").agg(F.count(F.lit(1)).alias("n_rows"))
        columns = list(contracts.load(QUARANTINE).columns)
        digests = {str(d): text for d, (text, _) in changes.digest_by_day(grouped, columns, F.col("day")).items()}
        bad_days = set(digests)
        new = [day for day, digest in digests.items() if _stored_digest(context, table, day) != digest]
        if new:
            subset = grouped.where(F.col("day").cast("string").isin(new))
            reports = {day: report | {"rows_digest": digests[day]} for day in new}
            lake.write_days(QUARANTINE, subset, report=lambda day: reports[day], raw_table=table)
    stored = {p["day"] for p in lake.partitions(QUARANTINE) if p["raw_table"] == table}
    for old in (stored & concerned) - bad_days:
        lake.drop(QUARANTINE, raw_table=table, day=old)
    return sum(checked.counts[table].bad.values())


def _stored_digest(context: Context, table: str, day: str) -> str | None:
    if not context.lake.exists(QUARANTINE, raw_table=table, day=day):
        return None
    digest: str | None = context.lake.report(QUARANTINE, raw_table=table, day=day).get("rows_digest")
    return digest
