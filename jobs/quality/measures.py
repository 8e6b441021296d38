"""The measures of a table, and the measures of its files, from the Parquet footers.

A truncated file, a missing column or another type is reported before rows are read. arrow.py measures the rows on one
machine, spark.py on many. A measure that cannot be computed is listed in `blocked` with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from contracts import Contract
from contracts.arrow import ARROW
from contracts.expectations import FILE_RULES, REFERENCE_RULES, Expectation
from jobs.platform.lake import Lake
from jobs.platform.week import Week

N_EXAMPLES = 5
Example = dict[str, Any]


@dataclass
class TableMeasures:
    """All measures of one table.

    Attributes:
        contract: Contract of the table.
        expectations: Expectations that are checked; none for a table that is only referenced.
        scope: The partitions that are checked, in words.
        partitions: The partitions whose rows are measured.
        n_files: Number of files.
        n_bytes: Size of the files in bytes.
        n_rows: Number of rows of `partitions`.
        measures: Unit (a space, a split; one unit for most tables) -> measure -> value.
        blocked: Measure -> reason why it cannot be computed.
        examples: Measure -> up to `N_EXAMPLES` rows or files that violate the expectation.
        columns: Column -> nulls, minimum and maximum (of the lengths, for a list), for the report.
    """

    contract: Contract
    expectations: list[Expectation]
    scope: str = ""
    partitions: list[dict[str, str]] = field(default_factory=list)
    n_files: int = 0
    n_bytes: int = 0
    n_rows: int = 0
    measures: dict[str, dict[str, float]] = field(default_factory=dict)
    blocked: dict[str, str] = field(default_factory=dict)
    examples: dict[str, list[Example]] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def readable(self) -> bool:
        """True if the files are valid, so that the rows can be read."""
        broken = any(name == "readable" or name.endswith(" type") for name in self.examples)
        return bool(self.partitions) and self.n_files > 0 and not broken

    @property
    def units(self) -> list[str]:
        """The partition keys whose values are evaluated separately: all except the time."""
        return [key for key in self.contract.partition if key not in ("day", "week")]

    def row_expectations(self) -> list[Expectation]:
        """Return the expectations that need the rows and can be measured."""
        known = (*FILE_RULES, "rows_vs_last_week", "complete_days")
        return [e for e in self.expectations if e.rule not in known and e.measure not in self.blocked]

    def broken_expectations(self) -> list[Expectation]:
        """Return the expectations about rows that are violated in some unit."""
        values = {
            e.measure: [unit.get(e.measure, 0.0) for unit in self.measures.values()] for e in self.row_expectations()
        }
        return [e for e in self.row_expectations() if not all(e.is_met(value) for value in values[e.measure])]

    def add_columns(self, spans: dict[str, tuple[int, Any, Any]]) -> None:
        """Merge nulls, minimum and maximum of each column into `columns`."""
        for name, (n_null, low, high) in spans.items():
            span = self.columns.setdefault(name, {"nulls": 0, "min": None, "max": None})
            span["nulls"] += n_null
            span["min"] = min((v for v in (span["min"], low) if v is not None), default=None)
            span["max"] = max((v for v in (span["max"], high) if v is not None), default=None)

    def add_spans(self, unit: str, n_rows: int, spans: dict[str, tuple[int, Any, Any]]) -> None:
        """Compute the measures that follow from a column's nulls, minimum and maximum in one unit."""
        measures = self.measures.setdefault(unit, {})
        measures["rows"] = n_rows
        for e in self.row_expectations():
            if e.column and e.rule in ("dense", "width", "null_share"):
                measures[e.measure] = _of_span(e.rule, n_rows, *spans[e.column])
        self.add_columns(spans)

    def fill_missing(self) -> None:
        """Add the measures of the files to every unit, and a zero where no violation was counted."""
        shared = self.measures[""]
        for unit in self.measures.values():
            for e in self.row_expectations():
                if e.violation or e.rule in ("unique", *REFERENCE_RULES):
                    unit.setdefault(e.measure, 0.0)
            for e in self.row_expectations():
                if e.rule == "missing_share":  # so far the number of rows that refer to another table
                    unit[e.measure] = unit[e.args["count"]] / max(unit.get(e.measure, 0.0), 1.0)
            for measure, value in shared.items():
                unit.setdefault(measure, value)
        if len(self.measures) > 1:
            self.measures.pop("")


def _of_span(rule: str, n_rows: int, n_null: int, low: Any, high: Any) -> float:
    if n_rows == 0 or (low is None and rule != "null_share"):
        return 0.0
    if rule == "null_share":
        return float(n_null / n_rows)
    # together with `unique`: no index is missing exactly when the indexes start at 0 and end at n - 1
    return float(high - low) if rule == "width" else float(abs(low) + abs(high + 1 - n_rows))


# -- files -------------------------------------------------------------------------------------------------------


def inspect_files(
    lake: Lake, contract: Contract, expected: list[Expectation], week: Week, window_days: int
) -> TableMeasures:
    """Read every footer and report what is missing, truncated or of another type, by file and column.

    Args:
        lake: Lake with the table.
        contract: Contract of the table.
        expected: Expectations of the contract.
        week: Week of the check.
        window_days: Length of the event window in days.
    """
    measured = TableMeasures(contract, expected)
    stored = lake.partitions(contract.table)
    opened = stored
    if "week" in contract.partition:
        opened = measured.partitions = [p for p in stored if p["week"] == week.name]
        measured.scope = f"week {week.name}"
    elif "day" in contract.partition:
        start, last = week.event_days(window_days)
        measured.partitions = [p for p in stored if str(start) <= p["day"] <= str(last)]
        opened = [
            p for p in stored if p["day"] <= str(last)
        ]  # first days may precede the window: at least their files must be valid
        measured.scope = f"days {start} to {last}"
        if not measured.partitions:
            days = f"; the log has {stored[0]['day']} to {stored[-1]['day']}" if stored else ""
            measured.blocked["present"] = f"no {contract.table} from {start} to {last}{days}"
    else:
        measured.scope, measured.partitions = "whole table", stored
    if not measured.partitions:
        measured.blocked.setdefault("present", f"nothing in {lake.root}/{contract.table} for {measured.scope}")
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(lambda p: _footers(lake, contract, p), opened))
    for problem in (file_problem for footer in footers for file_problem in footer.problems):
        measured.examples.setdefault(problem.pop("measure"), []).append(problem)
    measures = {e.measure: float(len(measured.examples.get(e.measure, []))) for e in expected if e.rule in FILE_RULES}
    measures["present"] = float(len(measured.partitions))
    rows = {str(p): footer.n_rows for p, footer in zip(opened, footers, strict=True)}
    measured.n_rows = sum(rows[str(p)] for p in measured.partitions)
    measured.n_files = sum(footer.n_files for footer in footers)
    measured.n_bytes = sum(footer.n_bytes for footer in footers)
    change = _row_change(lake, contract, week, measured, rows)
    if change is not None:
        measures["rows_vs_last_week"] = change
    else:
        measured.blocked["rows_vs_last_week"] = "no week before to compare with"
    measured.measures[""] = measures
    return measured


@dataclass
class _Footers:
    """What the Parquet footers of one partition contain, and their problems."""

    n_files: int = 0
    n_bytes: int = 0
    n_rows: int = 0
    problems: list[Example] = field(default_factory=list)


def _footers(lake: Lake, contract: Contract, partition: dict[str, str]) -> _Footers:
    footers = _Footers()
    for info in lake.fs.get_file_info(lake.files(contract.table, **partition)):
        name = short_name(info.path, lake, contract.table)
        footers.n_files += 1
        if info.type != fs.FileType.File:
            problem = "is missing: the file was lost or removed by hand"
            footers.problems.append({"measure": "readable", "file": name, "problem": problem})
            continue
        footers.n_bytes += info.size
        try:
            with lake.fs.open_input_file(info.path) as source:
                file = pq.ParquetFile(source)
                schema, n_rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            problem = f"is not a complete Parquet file ({info.size} bytes): {str(error).splitlines()[0]}"
            footers.problems.append({"measure": "readable", "file": name, "problem": problem})
            continue
        footers.n_rows += n_rows
        for column in contract.columns.values():
            index = schema.get_field_index(column.name)
            if index < 0:
                problem = f"column '{column.name}' is missing; the file has {', '.join(schema.names)}"
            elif not same_type(schema.field(index).type, ARROW[column.type]):
                problem = f"column '{column.name}' is {schema.field(index).type}, not {ARROW[column.type]}"
            else:
                continue
            footers.problems.append({"measure": f"{column.name} type", "file": name, "problem": problem})
    n_written = lake.rows(contract.table, **partition)
    if not footers.problems and footers.n_rows != n_written:
        problem = (
            f"{n_written} rows were written, but the files contain {footers.n_rows}: a file was lost or added by hand"
        )
        footers.problems.append(
            {
                "measure": "whole",
                "file": f"{contract.table}/{'/'.join(f'{k}={v}' for k, v in partition.items())}",
                "problem": problem,
            }
        )
    return footers


def same_type(actual: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether two types are equal, except for the name of a list's element and the spelling of UTC."""
    if pa.types.is_timestamp(actual) and pa.types.is_timestamp(expected):
        return bool(actual.unit == expected.unit and actual.tz is not None)
    if pa.types.is_list(actual) and pa.types.is_list(expected):
        return bool(actual.value_type == expected.value_type)
    return bool(actual == expected)


def short_name(path: str, lake: Lake, table: str) -> str:
    """Return a file's name below the root of the lake, for messages."""
    _, _, tail = path.rpartition(f"/{table}/")
    return f"{table}/{tail}" if tail else path.removeprefix(lake.root)


def _row_change(
    lake: Lake, contract: Contract, week: Week, measured: TableMeasures, rows: dict[str, int]
) -> float | None:
    """Return rows of this week / rows of the previous week - 1, or None without a previous week."""
    if contract.partition == ("day",):
        ends = [week.as_of.date() - timedelta(days=7 * n) for n in (0, 1)]
        now, before = (
            sum(
                n
                for p in measured.partitions
                if end - timedelta(days=7) <= date.fromisoformat(p["day"]) < end
                for n in [rows[str(p)]]
            )
            for end in ends
        )
    elif "week" in contract.partition:
        previous = [p for p in lake.partitions(contract.table) if p["week"] == week.previous.name]
        now, before = measured.n_rows, sum(lake.rows(contract.table, **p) for p in previous)
    else:
        return None
    return now / before - 1 if before else None


def block_references(measured: TableMeasures, referenced: dict[str, TableMeasures]) -> None:
    """Mark references as blocked if the referenced table is missing or cannot be read."""
    for e in measured.row_expectations():
        table = e.args.get("table")
        if table and not (table in referenced and referenced[table].readable):
            measured.blocked[e.measure] = f"cannot be checked: {table} is not in the lake or cannot be read"


def data_files(lake: Lake, measured: TableMeasures) -> Iterator[tuple[dict[str, str], fs.FileSystem, str]]:
    """Yield partition, file system and path of each file whose rows are measured, always in the same order."""
    for partition in measured.partitions:
        for file in lake.files(measured.contract.table, **partition):
            yield partition, lake.fs, file


def to_json_value(value: Any) -> Any:
    """Return a value that JSON can contain, in readable form; timestamps in UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    return [*value[:8], "..."] if isinstance(value, list) and len(value) > 8 else value


def find_unreadable_files(lake: Lake, measured: TableMeasures) -> None:
    """Read every file to its end, column by column, and report the files that cannot be read."""
    for _, system, path in data_files(lake, measured):
        name = short_name(path, lake, measured.contract.table)
        with system.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            for column in measured.contract.columns:
                try:
                    file.read(columns=[column])
                except (pa.ArrowException, OSError) as error:
                    problem = f"column '{column}' cannot be read: {str(error).splitlines()[0]}"
                    measured.examples.setdefault("readable", []).append({"file": name, "problem": problem})
    measured.measures = {"": {**measured.measures[""], "readable": float(len(measured.examples.get("readable", [])))}}
    if "readable" in measured.examples:
        for e in measured.row_expectations():
            measured.measures[""].pop(e.measure, None)
