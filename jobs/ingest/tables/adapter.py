"""A service's own data: inputs in any usual format, mapped to the raw tables by Spark SQL.

Input    source.inputs, read by Spark; DATA stands for {data} in their paths
Output   tracks, users, playlists, events; or plays. Events and plays: one partition per day
Time     {day} is the day of the files in the SQL of events and plays, else the newest day ingested so far
Order    everything is read and checked before anything is written; then tracks, users and playlists are replaced, then
         the days of the run. Other days of the lake are unchanged

Rules
- A row that breaks a rule of its contract is left out and counted by reason. More than `source.max_bad_share` of a
  table's rows for one reason stop the run before anything is written.
- An event belongs to its own day if its file is at most `source.late_days` days younger; other rows are bad.
- Events with equal keys are one event. Two users, tracks or positions of a playlist with equal keys and different
  values stop the run.
- Without a table of playlists, listening sessions stand for them; without users, they are derived from events.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.tables.checks import TableCounts, check_references, count, enforce, repeated_keys
from jobs.ingest.tables.days import DayPlan, Selection, plan_days
from jobs.ingest.tables.derive import all_events, playlists_from_sessions, users_from_events
from jobs.ingest.tables.entity_ids import Form
from jobs.ingest.tables.frames import USER, Result, TableReader, good_rows, row_rules
from jobs.ingest.tables.inputs import Inputs, spark_errors
from jobs.ingest.tables.mapping import BAD, Mapped, RowRules
from jobs.settings.tables import DAY_TABLES, inputs_of, placeholders

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context

STATIC_TABLES = ("tracks", "users", "playlists")


@dataclass
class Checked:
    """The checked tables of one run.

    Attributes:
        plan: The days of the run; None if no input has files by day.
        newest: The newest day ingested, this run included; None if it is unknown.
        forms: Form of each kind of id.
        results: Results of the SQL by table.
        mapped: Rows with `_bad` by table.
        counts: Numbers by table.
    """

    plan: DayPlan | None
    newest: date | None
    forms: dict[str, Form]
    results: dict[str, Result] = field(default_factory=dict)
    mapped: dict[str, Mapped] = field(default_factory=dict)
    counts: dict[str, TableCounts] = field(default_factory=dict)


def run(context: Context, data: Path | None, selection: Selection | None = None) -> dict[str, Any]:
    """Write the tables of the mapping; return rows, days, and what was left out and why.

    Args:
        context: Settings, lake and Spark session.
        data: The folder that `{data}` stands for.
        selection: The days to ingest; None: all days found.
    """
    selection = selection or Selection()
    data = check_arguments(context, data)
    inputs = Inputs(context.spark, context.settings.source.inputs, data)
    with spark_errors("source", inputs.secrets):
        checked = check(context, inputs, data, selection, datetime.now(UTC))
        for table, counts in checked.counts.items():
            enforce(table, counts, context.settings.source.max_bad_share)
        for table in STATIC_TABLES:
            if table in checked.mapped:
                contract = contracts.load(table)
                repeated = repeated_keys(contract, checked.mapped[table].frame)
                if repeated:
                    raise CheckFailed(
                        f"source.tables.{table}: {', '.join(contract.grain)} occurs more than once with different "
                        f"values; nothing was written. Choose one row in SQL\n  " + "\n  ".join(repeated)
                    )
        return write(context, checked, selection)


def check_arguments(context: Context, data: Path | None) -> Path:
    """Return the folder of the files.

    Raises:
        BadArgument: There is no folder, or the settings are of another source.
    """
    if data is None or not data.is_dir():
        raise BadArgument(f"--data: tables needs the folder of the files, got {data}")
    if context.settings.source.kind != "tables":
        raise BadArgument("source.kind: `ingest tables` needs a settings file with source.kind: tables (--config)")
    return data


def check(
    context: Context,
    inputs: Inputs,
    data: Path,
    selection: Selection,
    now: datetime,
    sample_rows: int | None = None,
    sample_days: int | None = None,
) -> Checked:
    """Run the SQL of all tables and check the rows; nothing is written.

    Args:
        context: Settings, lake and Spark session.
        inputs: The inputs of the run.
        data: The folder that `{data}` stands for.
        selection: The days to ingest.
        now: The time of the run; events more than a day after it are bad.
        sample_rows: Rows of each table to read; None: all.
        sample_days: Days of files to read, the newest ones; None: all of the plan.
    """
    source = context.settings.source
    plan = day_plan(inputs, source.tables, selection, source.late_days)
    in_lake = [p["day"] for name in DAY_TABLES for p in context.lake.partitions(name)]
    newest = max([date.fromisoformat(day) for day in in_lake] + ([plan.selected[-1]] if plan else []), default=None)
    read = (plan.read[-sample_days:] if sample_days else plan.read) if plan else ()
    reader, rules = TableReader(inputs, source, data), row_rules(source, now)
    checked = Checked(plan, newest, stored_forms(context))
    order = [t for t in (*DAY_TABLES, *STATIC_TABLES) if t in source.tables]
    for table in order:
        if table in STATIC_TABLES and checked.newest is None:
            checked.newest = newest_day(reader, checked, rules)
        result = reader.result(table, read, checked.newest)
        if sample_rows:
            result.frame = result.frame.limit(sample_rows)
        checked.results[table] = result
    checked.forms = reader.forms(list(checked.results.values()), checked.forms)
    for table in reversed(order):  # tracks and users before the events that refer to them
        mapped = reader.mapped(checked.results[table], checked.forms, rules)
        contract = contracts.load(table)
        if sample_rows is None:
            ids = {
                name: good_rows(m, contracts.load(name)) for name, m in checked.mapped.items() if name in STATIC_TABLES
            }
            mapped.frame = check_references(contract, mapped.frame, ids)
        mapped.frame = selected_rows(mapped.frame, plan, selection).persist(_disk())
        checked.mapped[table] = mapped
        with spark_errors(f"source.tables.{table}", inputs.secrets):
            checked.counts[table] = count(mapped.frame)
        for name in inputs_of(source.tables[table], source.inputs):
            n, examples = inputs.corrupt_records(name)
            checked.counts[table].add_unreadable(f"a record of input {name} cannot be read", n, examples)
    return checked


def day_plan(inputs: Inputs, tables: dict[str, str], selection: Selection, late_days: int) -> DayPlan | None:
    """Return the days of the run; None if no input of events or plays has files by day.

    Raises:
        BadArgument: Only JDBC inputs have `{day}`, and the command names no days.
    """
    found: dict[str, list[str]] = {}
    jdbc = []
    for table in DAY_TABLES:
        for name in inputs_of(tables.get(table, ""), inputs.inputs):
            if "day" in placeholders(inputs.inputs[name].path):
                found[name] = list(inputs.days(name))
            elif inputs.inputs[name].has_day:
                jdbc.append(name)
    if not found and jdbc:
        if selection.first is None or selection.last is None:
            raise BadArgument(
                f"--day: input {jdbc[0]} of a database has {{day}}; name the days with --day or --from --to"
            )
        span = (selection.last - selection.first).days + 1
        start = selection.first - timedelta(late_days)
        found = {jdbc[0]: [str(start + timedelta(n)) for n in range(span + 2 * late_days)]}
    return plan_days(found, selection, late_days) if found else None


def newest_day(reader: TableReader, checked: Checked, rules: RowRules) -> date | None:
    """Return the newest day of the events or plays of this run, which have no files by day."""
    from pyspark.sql import functions as F

    for result in checked.results.values():
        frame = reader.mapped(result, {}, rules).frame
        day = frame.agg(F.max("_day").alias("day")).collect()[0]["day"]
        if day is not None:
            return date.fromisoformat(str(day))
    return None


def selected_rows(frame: DataFrame, plan: DayPlan | None, selection: Selection) -> DataFrame:
    """Return the rows of a table with days that belong to the days that the run writes; rows without a day stay."""
    from pyspark.sql import functions as F

    if "_day" not in frame.columns:
        return frame
    day = F.col("_day")
    if plan is None:
        first, last = selection.first, selection.last
        lower = day >= F.lit(str(first)).cast("date") if first else F.lit(True)
        upper = day <= F.lit(str(last)).cast("date") if last else F.lit(True)
        return frame.where(day.isNull() | (lower & upper))
    lowest, highest = (F.lit(str(bound)).cast("date") for bound in plan.written)
    selected = [str(day) for day in plan.selected]
    # Bad rows are counted with the file that brought them, once.
    return frame.where(
        (F.col("_bad").isNull() & day.between(lowest, highest))
        | (F.col("_bad").isNotNull() & F.coalesce(F.col("_file_day").cast("string").isin(selected), F.lit(True)))
    )


def write(context: Context, checked: Checked, selection: Selection) -> dict[str, Any]:
    """Write the checked tables, then the derived ones; return the report of the command."""
    lake, spark = context.lake, context.spark
    newest = str(checked.newest) if checked.newest else None
    report = {"source": "tables", "commit": context.commit, "ids": checked.forms, "day": newest}
    rows, days_written, notes = {}, {}, []
    for table in STATIC_TABLES:
        if table in checked.mapped:
            frame = good_rows(checked.mapped[table], contracts.load(table)).dropDuplicates()
            rows[table] = lake.write(table, frame, report=report).rows
    for table in DAY_TABLES:
        if table in checked.mapped:
            contract = contracts.load(table)
            frame = good_rows(checked.mapped[table], contract, "_day").withColumnRenamed("_day", "day")
            for day in days_to_keep(context, checked, table):
                from pyspark.sql import functions as F

                kept = lake.spark(spark, table, day=day).withColumn("day", F.lit(day).cast("date"))
                frame = frame.unionByName(kept)
            frame = frame.dropDuplicates(["day", *contract.grain])
            written = lake.write_days(table, frame, report=report)
            rows[table] = sum(w.rows for w in written.values())
            days_written[table] = sorted(written)
    if "events" in checked.mapped and not {"users", "playlists"} <= set(checked.mapped):
        events, log_start = all_events(spark, lake)
        if "users" not in checked.mapped:
            users = users_from_events(events, log_start, external_ids(context, checked))
            rows["users"] = lake.write("users", users, report=report).rows
            notes.append("users: derived from events; registration unknown for listeners of the first 30 days")
        if "playlists" not in checked.mapped:
            rows["playlists"] = lake.write("playlists", playlists_from_sessions(events), report=report).rows
            notes.append("playlists: listening sessions stand for them")
    for mapped in checked.mapped.values():
        mapped.frame.unpersist()
    return {
        "source": "tables",
        "rows": rows,
        "tables": {table: counts.report() for table, counts in checked.counts.items()},
        "days": {
            table: {"written": len(days), "first": days[0] if days else None, "last": days[-1] if days else None}
            for table, days in days_written.items()
        },
        "missing_days": [str(day) for day in checked.plan.gaps] if checked.plan else [],
        "ids": checked.forms,
        "absent_columns": {table: mapped.absent for table, mapped in checked.mapped.items() if mapped.absent},
        "ignored_columns": {table: mapped.ignored for table, mapped in checked.mapped.items() if mapped.ignored},
        "notes": notes,
    }


def external_ids(context: Context, checked: Checked) -> DataFrame | None:
    """Return user_id and external_id of the listeners of this run and of earlier ones; None for integer ids."""
    if checked.forms.get("user") != "text":
        return None
    events = checked.mapped["events"].frame.where(f"{BAD} IS NULL")
    pairs = events.selectExpr("user_id", f"{USER} AS external_id")
    if context.lake.exists("users"):
        pairs = pairs.unionByName(context.lake.spark(context.spark, "users").select("user_id", "external_id"))
    return pairs.where("external_id IS NOT NULL").groupBy("user_id").agg({"external_id": "min"}).toDF(*pairs.columns)


def days_to_keep(context: Context, checked: Checked, table: str) -> list[str]:
    """Return days whose rows in the lake are kept beside new ones: late rows arrive, but the day's files are gone."""
    if checked.plan is None:
        return []
    own_files = {str(day) for day in checked.plan.read}
    days = checked.counts[table].by_day
    return [day for day in days if day not in own_files and context.lake.exists(table, day=day)]


def stored_forms(context: Context) -> dict[str, Form]:
    """Return the form of each kind of id that an earlier ingestion decided."""
    forms: dict[str, Form] = {}
    if context.lake.exists("tracks"):
        forms |= context.lake.report("tracks").get("ids", {})
    for partition in context.lake.partitions("plays")[-1:]:
        forms |= context.lake.report("plays", **partition).get("ids", {})
    return forms


def _disk() -> Any:
    from pyspark import StorageLevel

    return StorageLevel.DISK_ONLY
