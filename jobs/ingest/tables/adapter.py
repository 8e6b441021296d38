"""A service's own data: inputs in any usual format, mapped to the raw tables by Spark SQL.

Input    source.inputs, read by Spark; DATA stands for {data} in their paths
Output   tracks, users, playlists, events; or plays. Events and plays: one partition per day
Time     {day} is the day of the files in the SQL of events and plays, else the newest day ingested so far
Order    everything is read and checked before anything is written; then tracks, users and playlists are written, then
         the days of the run, then the quarantine

Rules
- A row that breaks a rule of its contract goes to `quarantine` and is counted by reason. More than
  `source.max_bad_share` of a table's rows for one reason stop the run before anything is written.
- A run reads and writes only days whose files are new or changed, and writes only tables and days whose rows changed.
- An event belongs to its own day if its file is at most `source.late_days` days younger; other rows are bad.
- Events of users or tracks that do not exist (yet) are kept: `check` counts them.
- Events with equal keys are one event. Two users, tracks or positions of a playlist with equal keys and different
  values stop the run, as do two ids of a source with one hash.
- Without a table of playlists, listening sessions stand for them; without users, they are derived from events.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contracts
from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.tables import changes
from jobs.ingest.tables.checked import STATIC_TABLES, Checked
from jobs.ingest.tables.checks import collisions, count, enforce, repeated_keys
from jobs.ingest.tables.days import DayPlan, Selection, plan_days
from jobs.ingest.tables.entity_ids import Form
from jobs.ingest.tables.frames import TableReader, row_rules
from jobs.ingest.tables.inputs import Inputs, spark_errors
from jobs.ingest.tables.mapping import BAD, RowRules
from jobs.ingest.tables.write import write
from jobs.settings.tables import DAY_TABLES, inputs_of, placeholders

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context


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
        for table, mapped in checked.mapped.items():
            collided = collisions(contracts.load(table), mapped.frame)
            if collided:
                raise CheckFailed(f"source.tables.{table}: {collided}; nothing was written")
        for table in STATIC_TABLES:
            if table in checked.mapped:
                contract = contracts.load(table)
                repeated = repeated_keys(contract, checked.mapped[table].frame)
                if repeated:
                    raise CheckFailed(
                        f"source.tables.{table}: {', '.join(contract.grain)} occurs more than once with different "
                        f"values; nothing was written. Choose one row in SQL\n  " + "\n  ".join(repeated)
                    )
        return write(context, checked)


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
    in_lake = [date.fromisoformat(p["day"]) for name in DAY_TABLES for p in context.lake.partitions(name)]
    plan = day_plan(inputs, source.tables, selection, source.late_days, min(in_lake, default=None))
    newest = max(in_lake + ([plan.selected[-1]] if plan and plan.selected else []), default=None)
    checked = Checked(selection, plan, newest, now.date(), stored_forms(context))
    if plan is not None and sample_rows is None:
        plan = checked.plan = leave_out_unchanged_days(context, inputs, checked, plan)
    read = (plan.read[-sample_days:] if sample_days else plan.read) if plan else ()
    reader, rules = TableReader(inputs, source, data, plan.floor if plan else None), row_rules(source, now)
    day_tables = [t for t in DAY_TABLES if t in source.tables and (plan is None or plan.read)]
    order = [*day_tables, *(t for t in STATIC_TABLES if t in source.tables)]
    for table in order:
        if table in STATIC_TABLES and checked.newest is None:
            checked.newest = newest_day(reader, checked, rules)
        result = reader.result(table, read, checked.newest)
        if sample_rows:
            result.frame = result.frame.limit(sample_rows)
        checked.results[table] = result
    checked.forms = reader.forms(list(checked.results.values()), checked.forms)
    for table in order:
        mapped = reader.mapped(checked.results[table], checked.forms, rules)
        mapped.frame = selected_rows(mapped.frame, plan, selection).persist(_disk())
        checked.mapped[table] = mapped
        with spark_errors(f"source.tables.{table}", inputs.secrets):
            checked.counts[table] = count(mapped.frame)
        for name in inputs_of(source.tables[table], source.inputs):
            reason = f"a record of input {name} cannot be read"
            days = set(plan.days) if plan and table in DAY_TABLES else None
            n, examples, records = inputs.corrupt_records(name, days)
            checked.counts[table].add_unreadable(reason, n, examples)
            if n and records is not None:
                checked.corrupt.setdefault(table, []).append(
                    records.selectExpr(f"'{reason}' AS reason", "record AS row", "source_file", "day")
                )
    return checked


def leave_out_unchanged_days(context: Context, inputs: Inputs, checked: Checked, plan: DayPlan) -> DayPlan:
    """Return the plan without days whose files and mapping are those of an earlier run; note them in `checked`.

    Events and plays of one run share the plan: a day is read if it changed for one of them.
    """
    source, changed = context.settings.source, set()
    for table in [t for t in DAY_TABLES if t in source.tables]:
        digests = {day: changes.inputs_digest(inputs, source, table, day) for day in plan.days}
        different = set(changes.changed_days(context.lake, digests, table))
        # A day without files of its own, and without rows in the lake, is no news.
        changed |= {day for day in different if day in plan.read or context.lake.exists(table, day=str(day))}
        checked.digests[table] = digests
    for table in checked.digests:
        checked.unchanged[table] = sorted(set(plan.days) - changed)
    days = tuple(day for day in plan.days if day in changed)
    late = timedelta(source.late_days)
    read = tuple(f for f in plan.read if any(day <= f <= day + late for day in days))
    return replace(plan, days=days, read=read, selected=tuple(d for d in plan.selected if d in read))


def day_plan(
    inputs: Inputs, tables: dict[str, str], selection: Selection, late_days: int, first_in_lake: date | None
) -> DayPlan | None:
    """Return the days of the run; None if no input of events or plays has files by day.

    Raises:
        BadArgument: Only JDBC inputs have `{day}`, and the command names no days.
    """
    days_of_input: dict[str, list[str]] = {}
    jdbc = []
    for table in DAY_TABLES:
        for name in inputs_of(tables.get(table, ""), inputs.inputs):
            if "day" in placeholders(inputs.inputs[name].path):
                days_of_input[name] = list(inputs.days(name))
            elif inputs.inputs[name].has_day:
                jdbc.append(name)
    if not days_of_input and jdbc:
        if selection.first is None or selection.last is None:
            raise BadArgument(
                f"--day: input {jdbc[0]} of a database has {{day}}; name the days with --day or --from --to"
            )
        span = (selection.last - selection.first).days + 1
        start = selection.first - timedelta(late_days)
        days_of_input = {jdbc[0]: [str(start + timedelta(n)) for n in range(span + 2 * late_days)]}
    return plan_days(days_of_input, selection, late_days, first_in_lake) if days_of_input else None


def newest_day(reader: TableReader, checked: Checked, rules: RowRules) -> date | None:
    """Return the newest day of the events or plays of this run, which have no files by day."""
    from pyspark.sql import functions as F

    for result in checked.results.values():
        frame = reader.mapped(result, {}, rules).frame
        day = frame.where(F.col(BAD).isNull()).agg(F.max("_day").alias("day")).collect()[0]["day"]
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
    # Good rows belong to their own day, bad ones to the day of their file.
    days = list(plan.days)
    is_of_file = F.coalesce(F.col("_file_day").isin(days), F.lit(True))
    return frame.where((F.col("_bad").isNull() & day.isin(days)) | (F.col("_bad").isNotNull() & is_of_file))


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
