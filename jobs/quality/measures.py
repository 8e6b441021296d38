"""What was measured about a table, and its first part: the files, from their footers.

A file that is cut short, lacks a column or stores another type is named here, before anything reads rows. The rows
are measured by `quality_arrow` on one machine or by `quality_spark` on many. A measure that cannot be taken is named
in `blocked` with the reason, never left out in silence.
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
from contracts.expectations import FILE_RULES, Expectation
from jobs.platform.lake import Lake
from jobs.platform.week import Week

N_EXAMPLES = 5
Example = dict[str, Any]


@dataclass
class Measured:
    """What was found out about one table.

    Attributes:
        scope: which partitions were looked at, in words.
        partitions: those whose rows are measured.
        measures: for each unit (a space, a split; one unit for most tables) a number for each measure.
        blocked: measures that could not be taken, and why.
        examples: for a measure, up to `N_EXAMPLES` places where the promise is broken.
        columns: for each column its nulls and its smallest and largest value (or length of list), for people.
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
        """Whether the files are such that the rows can be read."""
        broken = any(name == "readable" or name.endswith(" type") for name in self.examples)
        return bool(self.partitions) and self.n_files > 0 and not broken

    @property
    def units(self) -> list[str]:
        """The partition keys whose values are judged apart: all but the time."""
        return [key for key in self.contract.partition if key not in ("day", "week")]

    def rows_rules(self) -> list[Expectation]:
        """The expectations that need the rows and can be measured."""
        known = (*FILE_RULES, "rows_vs_last_week")
        return [e for e in self.expectations if e.rule not in known and e.measure not in self.blocked]

    def broken(self) -> list[Expectation]:
        """The expectations about rows whose measure is out of bounds in some unit."""
        seen = {e.measure: [unit.get(e.measure, 0.0) for unit in self.measures.values()] for e in self.rows_rules()}
        return [e for e in self.rows_rules() if not all(e.is_met(value) for value in seen[e.measure])]

    def add_columns(self, spans: dict[str, tuple[int, Any, Any]]) -> None:
        """Merge nulls, smallest and largest value of each column into what people are shown."""
        for name, (n_null, low, high) in spans.items():
            seen = self.columns.setdefault(name, {"nulls": 0, "min": None, "max": None})
            seen["nulls"] += n_null
            seen["min"] = min((v for v in (seen["min"], low) if v is not None), default=None)
            seen["max"] = max((v for v in (seen["max"], high) if v is not None), default=None)

    def add_spans(self, unit: str, n_rows: int, spans: dict[str, tuple[int, Any, Any]]) -> None:
        """Take the measures that follow from a column's nulls, smallest and largest value in one unit."""
        measures = self.measures.setdefault(unit, {})
        measures["rows"] = n_rows
        for e in self.rows_rules():
            if e.column and e.rule in ("dense", "width", "null_share"):
                measures[e.measure] = _of_span(e.rule, n_rows, *spans[e.column])
        self.add_columns(spans)

    def finish(self) -> None:
        """Give every unit the measures of the files, and a zero where nothing bad was counted."""
        shared = self.measures[""]
        for unit in self.measures.values():
            for e in self.rows_rules():
                if e.violation or e.rule in ("unique", "references", "track_exists"):
                    unit.setdefault(e.measure, 0.0)
            for measure, value in shared.items():
                unit.setdefault(measure, value)
        if len(self.measures) > 1:
            self.measures.pop("")


def _of_span(rule: str, n_rows: int, n_null: int, low: Any, high: Any) -> float:
    if n_rows == 0 or (low is None and rule != "null_share"):
        return 0.0
    if rule == "null_share":
        return float(n_null / n_rows)
    # with `unique` beside it: no index is missing exactly when they start at 0 and end at n - 1
    return float(high - low) if rule == "width" else float(abs(low) + abs(high + 1 - n_rows))


# -- files -------------------------------------------------------------------------------------------------------


def inspect_files(
    lake: Lake, contract: Contract, expected: list[Expectation], week: Week, window_days: int
) -> Measured:
    """Open every footer; find what is missing, cut short or of another type, by file and column."""
    found = Measured(contract, expected)
    every = lake.partitions(contract.table)
    opened = every
    if "week" in contract.partition:
        opened = found.partitions = [p for p in every if p["week"] == week.name]
        found.scope = f"week {week.name}"
    elif "day" in contract.partition:
        end = max(week.as_of, week.truth_end).date()
        start = week.window_start(window_days).date()
        found.partitions = [p for p in every if str(start) <= p["day"] < str(end)]
        opened = [p for p in every if p["day"] < str(end)]  # first days may lie before the window: whole files at least
        found.scope = f"days {start} to {end - timedelta(days=1)}"
        if not found.partitions:
            days = f"; the log has {every[0]['day']} to {every[-1]['day']}" if every else ""
            found.blocked["present"] = f"no {contract.table} from {start} to {end - timedelta(days=1)}{days}"
    else:
        found.scope, found.partitions = "whole table", every
    if not found.partitions:
        found.blocked.setdefault("present", f"nothing in {lake.root}/{contract.table} for {found.scope}")
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(lambda p: _footers(lake, contract, p), opened))
    for broken in (found_ for footer in footers for found_ in footer.broken):
        found.examples.setdefault(broken.pop("measure"), []).append(broken)
    measures = {e.measure: float(len(found.examples.get(e.measure, []))) for e in expected if e.rule in FILE_RULES}
    measures["present"] = float(len(found.partitions))
    rows = {str(p): footer.n_rows for p, footer in zip(opened, footers, strict=True)}
    found.n_rows = sum(rows[str(p)] for p in found.partitions)
    found.n_files = sum(footer.n_files for footer in footers)
    found.n_bytes = sum(footer.n_bytes for footer in footers)
    change = _change(lake, contract, week, found, rows)
    if change is not None:
        measures["rows_vs_last_week"] = change
    else:
        found.blocked["rows_vs_last_week"] = "no week before to compare with"
    found.measures[""] = measures
    return found


@dataclass
class _Footers:
    n_files: int = 0
    n_bytes: int = 0
    n_rows: int = 0
    broken: list[Example] = field(default_factory=list)


def _footers(lake: Lake, contract: Contract, partition: dict[str, str]) -> _Footers:
    found = _Footers()
    path = lake.path(contract.table, **partition)
    system, folder = fs.FileSystem.from_uri(path) if lake.uri else (lake.fs, path)
    infos = system.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    for info in sorted((i for i in infos if i.path.endswith(".parquet")), key=lambda i: i.path):
        name = short(info.path, lake, contract.table)
        found.n_files += 1
        found.n_bytes += info.size
        try:
            with system.open_input_file(info.path) as source:
                file = pq.ParquetFile(source)
                schema, n_rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError) as error:
            problem = f"is no whole Parquet file ({info.size} bytes): {str(error).splitlines()[0]}"
            found.broken.append({"measure": "readable", "file": name, "problem": problem})
            continue
        found.n_rows += n_rows
        for column in contract.columns.values():
            index = schema.get_field_index(column.name)
            if index < 0:
                problem = f"column '{column.name}' is missing; the file has {', '.join(schema.names)}"
            elif not same_type(schema.field(index).type, ARROW[column.type]):
                problem = f"column '{column.name}' is {schema.field(index).type}, not {ARROW[column.type]}"
            else:
                continue
            found.broken.append({"measure": f"{column.name} type", "file": name, "problem": problem})
    promised = lake.rows(contract.table, **partition)
    if not found.broken and found.n_rows != promised:
        problem = f"{promised} rows were written, {found.n_rows} are there: a file was lost or put in by hand"
        found.broken.append({"measure": "whole", "file": short(folder, lake, contract.table), "problem": problem})
    return found


def same_type(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Equal, but for the name of a list's element and the way that UTC is written."""
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(wanted):
        return bool(found.unit == wanted.unit and found.tz is not None)
    if pa.types.is_list(found) and pa.types.is_list(wanted):
        return bool(found.value_type == wanted.value_type)
    return bool(found == wanted)


def short(path: str, lake: Lake, table: str) -> str:
    """A file's name below the root of the lake, for messages."""
    _, _, tail = path.rpartition(f"/{table}/")
    return f"{table}/{tail}" if tail else path.removeprefix(lake.root)


def _change(lake: Lake, contract: Contract, week: Week, found: Measured, rows: dict[str, int]) -> float | None:
    """Rows of the week over rows of the week before, less one; None without a week before."""
    if contract.partition == ("day",):
        ends = [week.as_of.date() - timedelta(days=7 * n) for n in (0, 1)]
        now, before = (
            sum(
                n
                for p in found.partitions
                if end - timedelta(days=7) <= date.fromisoformat(p["day"]) < end
                for n in [rows[str(p)]]
            )
            for end in ends
        )
    elif "week" in contract.partition:
        previous = [p for p in lake.partitions(contract.table) if p["week"] == week.previous.name]
        now, before = found.n_rows, sum(lake.rows(contract.table, **p) for p in previous)
    else:
        return None
    return now / before - 1 if before else None


def block(found: Measured, keys: dict[str, Measured]) -> None:
    """Note the references that cannot be followed, because the other table is away or cannot be read."""
    for e in found.rows_rules():
        table = e.args.get("table")
        if table and not (table in keys and keys[table].readable):
            found.blocked[e.measure] = f"cannot be checked: {table} is not in the lake or cannot be read"


def files(lake: Lake, found: Measured) -> Iterator[tuple[dict[str, str], fs.FileSystem, str]]:
    """The files whose rows are measured: partition, file system, path; always in the same order."""
    for partition in found.partitions:
        path = lake.path(found.contract.table, **partition)
        system, folder = fs.FileSystem.from_uri(path) if lake.uri else (lake.fs, path)
        infos = system.get_file_info(fs.FileSelector(folder, recursive=True))
        for file in sorted(info.path for info in infos if info.path.endswith(".parquet")):
            yield partition, system, file


def plain(value: Any) -> Any:
    """A value as JSON can hold it and people can read it; moments in UTC."""
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(sep=" ")
    if isinstance(value, date):
        return value.isoformat()
    return [*value[:8], "..."] if isinstance(value, list) and len(value) > 8 else value


def read_through(lake: Lake, found: Measured) -> None:
    """Read every file to its end, column by column, to name the one that cannot be read."""
    for _, system, path in files(lake, found):
        name = short(path, lake, found.contract.table)
        with system.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            for column in found.contract.columns:
                try:
                    file.read(columns=[column])
                except (pa.ArrowException, OSError) as error:
                    problem = f"column '{column}' cannot be read: {str(error).splitlines()[0]}"
                    found.examples.setdefault("readable", []).append({"file": name, "problem": problem})
    found.measures = {"": {**found.measures[""], "readable": float(len(found.examples.get("readable", [])))}}
    if "readable" in found.examples:
        for e in found.rows_rules():
            found.measures[""].pop(e.measure, None)
