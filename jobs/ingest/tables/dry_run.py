"""`overture ingest tables --dry-run`: check the mapping on a sample and print what an ingestion would do.

Prints   for each table the columns found against the contract, null shares, ranges and ids; bad rows by reason with
         examples; days found and rows per day; and what would be written. Nothing is written
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.expectations import allowed_values
from jobs.ingest.tables.adapter import check, check_arguments
from jobs.ingest.tables.checked import Checked
from jobs.ingest.tables.checks import TableCounts
from jobs.ingest.tables.days import Selection
from jobs.ingest.tables.derive import UNKNOWN_DAYS
from jobs.ingest.tables.entity_ids import is_id, kinds_of
from jobs.ingest.tables.inputs import Inputs, spark_errors
from jobs.ingest.tables.mapping import external_columns
from jobs.ingest.tables.size_estimate import rows_by_day
from jobs.platform.tables import escape_markup, make_table, wide_console
from jobs.settings.tables import DAY_TABLES, RAW_TABLES, placeholders

if TYPE_CHECKING:
    from jobs.platform.context import Context

SAMPLE_ROWS = 20_000
SAMPLE_DAYS = 2
BAR_WIDTH = 40
SHOWN_DAYS = 31
SHADES = "▏▎▍▌▋▊▉█"


@dataclass(frozen=True)
class ColumnProfile:
    """One column of the sample.

    Attributes:
        null_share: Share of nulls among the good rows.
        smallest: Smallest value as text; None if all are null.
        largest: Largest value as text.
    """

    null_share: float
    smallest: str | None
    largest: str | None


def dry_run(context: Context, data: Path, selection: Selection) -> dict[str, Any]:
    """Check the mapping on a sample, print the report to stderr, and return its numbers; nothing is written.

    Args:
        context: Settings, lake and Spark session.
        data: The folder that `{data}` stands for.
        selection: The days to ingest.
    """
    check_arguments(context, data)
    inputs = Inputs(context.spark, context.settings.source.inputs, data)
    console = wide_console(stderr=True)
    with spark_errors("source", inputs.secrets):
        checked = check(context, inputs, data, selection, datetime.now(UTC), SAMPLE_ROWS, SAMPLE_DAYS)
        for table in [t for t in RAW_TABLES if t in checked.mapped]:
            profiles = profile(checked, table)
            console.print(columns_table(checked, table, profiles))
            console.print(bad_rows_table(table, checked.counts[table], context.settings.source.max_bad_share))
    estimates = estimated_days(inputs, checked)
    for name, (rows, exact) in estimates.items():
        console.print(day_chart(name, rows, exact, checked.plan.gaps if checked.plan else ()))
    lines = what_would_be_written(context, checked, selection)
    for line in lines:
        console.print(escape_markup(line), soft_wrap=True)
    return {
        "source": "tables",
        "dry_run": True,
        "sample": {table: counts.report() for table, counts in checked.counts.items()},
        "ids": checked.forms,
        "days_found": {
            name: {"n": len(rows), "first": min(rows), "last": max(rows)} for name, (rows, _) in estimates.items()
        },
        "missing_days": [str(day) for day in checked.plan.gaps] if checked.plan else [],
        "would_write": lines,
    }


def profile(checked: Checked, table: str) -> dict[str, ColumnProfile]:
    """Return the null share and the range of each column of the SQL's result that the contract declares."""
    from pyspark.sql import functions as F

    result = checked.results[table]
    columns = list(result.matched)
    measures = []
    for column in columns:
        measures += [F.count(column), F.min(column), F.max(column)]
    frame = checked.mapped[table].frame.where("_bad IS NULL")
    row = frame.agg(F.count("*"), *measures).collect()[0]
    total = row[0]
    profiles = {}
    for n, column in enumerate(columns):
        known, low, high = row[1 + 3 * n : 4 + 3 * n]
        share = 1 - known / total if total else 0.0
        profiles[column] = ColumnProfile(share, _text(low), _text(high))
    return profiles


def columns_table(checked: Checked, table: str, profiles: Mapping[str, ColumnProfile]) -> Any:
    """Return the table of a raw table's columns: found against the contract."""
    contract, types = checked.results[table].contract, checked.mapped[table].types
    grid = make_table(
        f"{table}: {checked.counts[table].rows} sampled rows", "column", "found", "contract", "nulls", "range", "note",
        right=("nulls",),
    )  # fmt: skip
    derived = external_columns(contract)
    for column in contract.columns.values():
        seen, profiled = types.get(column.name), profiles.get(column.name)
        note = "" if seen else ("absent: unknown in every row" if column.nullable else "generated")
        if column.name in derived:
            note = f"filled from {derived[column.name]} where ids are text"
        if is_id(column) and seen:
            forms = {kind: checked.forms.get(kind) for kind in kinds_of(column)}
            note = "ids: " + ", ".join(sorted({form for form in forms.values() if form}) or ["none"])
        span = ""
        if profiled and profiled.smallest is not None and not is_id(column):
            span = f"{profiled.smallest} to {profiled.largest}"
        allowed = "" if is_id(column) else allowed_values(column)
        declared = ", ".join(part for part in (column.type, "" if column.nullable else "never null", allowed) if part)
        grid.add_row(
            column.name,
            seen or "-",
            declared,
            f"{profiled.null_share:.1%}" if profiled else "",
            escape_markup(span),
            note,
        )
    for name in checked.mapped[table].ignored:
        grid.add_row(escape_markup(name), "", "", "", "", "ignored: not in the contract")
    return grid


def bad_rows_table(table: str, counts: TableCounts, max_bad_share: float) -> Any:
    """Return the table of bad rows by reason, with examples."""
    grid = make_table(f"{table}: bad rows of the sample", "reason", "rows", "share", "example", right=("rows", "share"))
    for reason, n in sorted(counts.bad.items(), key=lambda item: -item[1]):
        share = n / counts.rows
        colour = "bold red" if share > max_bad_share else "yellow"
        example = "\n".join(counts.examples.get(reason, []))
        grid.add_row(f"[{colour}]{escape_markup(reason)}[/]", str(n), f"{share:.2%}", escape_markup(example))
    if not counts.bad:
        grid.add_row("none", "0", "", "")
    return grid


def estimated_days(inputs: Inputs, checked: Checked) -> dict[str, tuple[dict[str, int], bool]]:
    """Return rows by day of each input with `{day}` in its path, and whether the numbers are exact."""
    result = {}
    for table in DAY_TABLES:
        if table not in checked.results:
            continue
        for name, settings in inputs.inputs.items():
            if "day" in placeholders(settings.path) and inputs.days(name):
                result[name] = rows_by_day(inputs.days(name), settings.format)
    return result


def day_chart(name: str, rows: Mapping[str, int], exact: bool, gaps: tuple[date, ...]) -> Any:
    """Return a bar chart of the rows per day, the newest days; days without files are marked."""
    every = {**{str(day): 0 for day in gaps}, **rows}
    shown = sorted(every)[-SHOWN_DAYS:]
    largest = max([every[day] for day in shown] + [1])
    title = f"input {name}: {len(rows)} days, {min(rows)} to {max(rows)}"
    grid = make_table(title, "day", "rows" if exact else "rows, about", "", right=("rows", "rows, about"))
    for day in shown:
        grid.add_row(day, str(every[day]), bar(every[day] / largest) if day in rows else "[bold red]no file[/]")
    return grid


def bar(share: float) -> str:
    """Return a bar of up to `BAR_WIDTH` characters, in steps of an eighth."""
    eighths = round(min(max(share, 0.0), 1.0) * BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (SHADES[rest - 1] if rest else "")


def what_would_be_written(context: Context, checked: Checked, selection: Selection) -> list[str]:
    """Return the sentences at the end of the report."""
    lines = [f"would replace {table}" for table in ("tracks", "users", "playlists") if table in checked.mapped]
    for table in (t for t in DAY_TABLES if t in checked.mapped):
        if checked.plan:
            first, last = checked.plan.days[0], checked.plan.days[-1]
            lines.append(
                f"would write {table} of {first} to {last}: files of {len(checked.plan.selected)} days, and late rows "
                f"of up to {context.settings.source.late_days} days before"
            )
        else:
            bounds = f" from {selection.first or 'the first day'} to {selection.last or 'the last day'}"
            lines.append(f"would write all days of {table} in the inputs" + ("" if selection.is_all else bounds))
    if "events" in checked.mapped and "users" not in checked.mapped:
        lines.append(
            "would derive users from events: the first event is the registration; listeners first seen in the first "
            f"{UNKNOWN_DAYS} days have an unknown registration and are in no cohort"
        )
    if "events" in checked.mapped and "playlists" not in checked.mapped:
        lines.append("would derive playlists: listening sessions of two or more tracks stand for them")
    if checked.plan and checked.plan.gaps:
        days = ", ".join(str(day) for day in checked.plan.gaps[:5])
        lines.append(f"warning: no files of {len(checked.plan.gaps)} days: {days}")
    lines.append("nothing was written (--dry-run)")
    return lines


def _text(value: Any) -> str | None:
    if value is None:
        return None
    text = value.isoformat(sep=" ", timespec="seconds") if isinstance(value, datetime) else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
