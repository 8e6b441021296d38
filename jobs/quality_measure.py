"""Measure what a contract promises: first the files, from their footers, then every row, in one pass of Spark.

All expectations about rows are counted in a single aggregate; only uniqueness and references need a shuffle, each of
one narrow column. A measure that cannot be taken is named in `blocked` with the reason, never left out in silence.
Examples of bad rows are fetched afterwards, and only for promises that were broken.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from contracts import Contract
from contracts.expectations import FILE_RULES, Expectation
from contracts.loader import ARROW
from jobs.lake import Lake, spark_schema
from jobs.weeks import Week

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

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
        """Whether the files are such that Spark can read the rows."""
        broken = {e.measure for e in self.expectations if e.rule in ("readable", "type")}
        return bool(self.partitions) and self.n_files > 0 and not broken & set(self.examples)

    @property
    def units(self) -> list[str]:
        """The partition keys whose values are judged apart: all but the time."""
        return [key for key in self.contract.partition if key not in ("day", "week")]

    def rows_rules(self) -> list[Expectation]:
        """The expectations that need the rows."""
        return [e for e in self.expectations if e.rule not in (*FILE_RULES, "rows_vs_last_week")]


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
            sum(n for p in found.partitions if end - timedelta(days=7) <= date.fromisoformat(p["day"]) < end
                for n in [rows[str(p)]])
            for end in ends
        )  # fmt: skip
    elif "week" in contract.partition:
        previous = [p for p in lake.partitions(contract.table) if p["week"] == week.previous.name]
        now, before = found.n_rows, sum(lake.rows(contract.table, **p) for p in previous)
    else:
        return None
    return now / before - 1 if before else None


# -- rows --------------------------------------------------------------------------------------------------------


def frame(session: SparkSession, lake: Lake, found: Measured) -> DataFrame:
    """The partitions as one frame: the declared columns, then the partition's keys (`day` as a date)."""
    from pyspark.sql.types import DateType, StringType, StructType

    table = found.contract.table
    schema = StructType(list(spark_schema(table).fields))
    for key in found.contract.partition:
        schema = schema.add(key, DateType() if key == "day" else StringType())
    paths = [lake.path(table, **p) for p in found.partitions]
    return session.read.schema(schema).option("basePath", f"{lake.root}/{table}").parquet(*paths)


def start(
    session: SparkSession, lake: Lake, found: Measured, keys: dict[str, Measured], pool: ThreadPoolExecutor
) -> list[Future[None]]:
    """Start every query that the rows need; each fills `measures` and `columns` in place.

    Args:
        session: Spark.
        lake: where the tables are.
        found: what the files told; readable.
        keys: the tables that others refer to, as far as they can be read.
        pool: runs the queries side by side.
    """
    data = frame(session, lake, found)
    tasks = [pool.submit(_one_pass, data, found)]
    for expectation in found.rows_rules():
        if expectation.rule == "unique":
            tasks.append(pool.submit(_duplicates, data, found, expectation))
        elif "table" in expectation.args:
            key = keys.get(expectation.args["table"])
            if key is None or not key.readable:
                reason = f"cannot be checked: {expectation.args['table']} is not in the lake or cannot be read"
                found.blocked[expectation.measure] = reason
            else:
                orphans = unknown(session, lake, data, found, expectation, key)
                tasks.append(pool.submit(_orphans, orphans, found, expectation))
    return tasks


def finish(found: Measured) -> None:
    """Give every unit the measures of the files, and a zero where a query had nothing to say."""
    shared = found.measures[""]
    for unit in found.measures.values():
        for expectation in found.expectations:
            if "table" in expectation.args and expectation.measure not in found.blocked:
                unit.setdefault(expectation.measure, 0.0)
        for measure, value in shared.items():
            unit.setdefault(measure, value)
    if len(found.measures) > 1:
        found.measures.pop("")


def _one_pass(data: DataFrame, found: Measured) -> None:
    from pyspark.sql import functions as F

    rules = [e for e in found.rows_rules() if e.violation]
    columns = list(found.contract.columns.values())
    aggregates: list[Column] = [F.count(F.lit(1)).alias("n")]
    aggregates += [F.count_if(F.expr(str(e.violation))).alias(f"bad{i}") for i, e in enumerate(rules)]
    for i, column in enumerate(columns):
        value = F.size(F.col(column.name)) if column.type.startswith("list<") else F.col(column.name)
        aggregates.append(F.count_if(F.col(column.name).isNull()).alias(f"null{i}"))
        for name, extreme in (("min", F.min(value)), ("max", F.max(value))):
            aggregates.append((extreme.cast("string") if _is_time(column.type) else extreme).alias(f"{name}{i}"))
    for row in data.groupBy(*found.units).agg(*aggregates).collect():
        measures = found.measures.setdefault(_unit(row, found.units), {})
        measures["rows"] = row["n"]
        for i, expectation in enumerate(rules):
            measures[expectation.measure] = row[f"bad{i}"]
        spans = {c.name: (row[f"null{i}"], row[f"min{i}"], row[f"max{i}"]) for i, c in enumerate(columns)}
        for expectation in found.rows_rules():
            if expectation.column and expectation.rule in ("dense", "width", "null_share"):
                measures[expectation.measure] = _of_span(expectation.rule, row["n"], *spans[expectation.column])
        for name, (n_null, low, high) in spans.items():
            seen = found.columns.setdefault(name, {"nulls": 0, "min": None, "max": None})
            seen["nulls"] += n_null
            seen["min"] = min((v for v in (seen["min"], low) if v is not None), default=None)
            seen["max"] = max((v for v in (seen["max"], high) if v is not None), default=None)


def _of_span(rule: str, n_rows: int, n_null: int, low: Any, high: Any) -> float:
    """What follows from a column's nulls, smallest and largest value."""
    if n_rows == 0 or (low is None and rule != "null_share"):
        return 0.0
    if rule == "null_share":
        return float(n_null / n_rows)
    # with `unique` beside it: no index is missing exactly when they start at 0 and end at n - 1
    return float(high - low) if rule == "width" else float(abs(low) + abs(high + 1 - n_rows))


def _is_time(kind: str) -> bool:
    return kind in ("timestamp", "date")


def _duplicates(data: DataFrame, found: Measured, expectation: Expectation) -> None:
    """Rows beyond the first of their key. Hashes first, 8 bytes a row; only if two agree are the keys compared."""
    from pyspark.sql import functions as F

    units, keys = found.units, [F.col(c) for c in expectation.columns]
    hashed = data.select(*units, F.xxhash64(*keys).alias("h")).groupBy(*units)
    counts = hashed.agg(F.count("h").alias("n"), F.count_distinct("h").alias("n_distinct")).collect()
    suspect = any(row["n"] != row["n_distinct"] for row in counts)
    for row in counts:
        found.measures.setdefault(_unit(row, units), {})[expectation.measure] = 0.0
    if suspect:
        repeated = repeats(data, units, expectation).groupBy(*units).agg(F.sum("n_times") - F.count(F.lit(1)))
        for row in repeated.collect():
            found.measures[_unit(row, units)][expectation.measure] = float(row[-1] or 0)


def repeats(data: DataFrame, units: list[str], expectation: Expectation) -> DataFrame:
    """Keys that occur more than once, with `n_times`."""
    from pyspark.sql import functions as F

    return data.groupBy(*units, *expectation.columns).agg(F.count(F.lit(1)).alias("n_times")).where("n_times > 1")


def _orphans(orphans: DataFrame, found: Measured, expectation: Expectation) -> None:
    from pyspark.sql import functions as F

    for row in orphans.groupBy(*found.units).agg(F.sum("n_rows").alias("n")).collect():
        found.measures.setdefault(_unit(row, found.units), {})[expectation.measure] = float(row["n"] or 0)


def unknown(
    session: SparkSession, lake: Lake, data: DataFrame, found: Measured, expectation: Expectation, key: Measured
) -> DataFrame:
    """Values that the referenced table does not know, with `n_rows`; nulls are another rule's business."""
    from pyspark.sql import functions as F

    name = expectation.columns[0]
    rows = data.where(expectation.args["where"]) if expectation.args["where"] else data
    values = rows.where(F.col(name).isNotNull()).groupBy(*found.units, name).agg(F.count(F.lit(1)).alias("n_rows"))
    known = frame(session, lake, key).select(F.col(expectation.args["key"]).alias(name)).distinct()
    return values.join(known, name, "left_anti")


def find_examples(
    session: SparkSession, lake: Lake, found: Measured, keys: dict[str, Measured], broken: list[Expectation]
) -> None:
    """Fetch up to `N_EXAMPLES` bad rows for each broken promise, always the same ones; one small query each."""
    from pyspark.sql import functions as F

    data, units = frame(session, lake, found), found.units
    times = {c.name for c in found.contract.columns.values() if _is_time(c.type)}
    for expectation in broken:
        if expectation.violation:
            shown = list(dict.fromkeys([*units, *found.contract.grain, *expectation.columns]))
            rows = data.where(expectation.violation).select(*shown, F.col("_metadata.file_path").alias("file"))
        elif expectation.rule == "unique":
            shown = [*units, *expectation.columns, "n_times"]
            rows = repeats(data, units, expectation)
        elif "table" in expectation.args and expectation.measure not in found.blocked:
            shown = [*units, expectation.columns[0], "n_rows"]
            rows = unknown(session, lake, data, found, expectation, keys[expectation.args["table"]])
        else:
            continue
        few = rows.orderBy(*shown).limit(N_EXAMPLES)
        few = few.select(*(F.col(c).cast("string").alias(c) if c in times else c for c in few.columns))  # in UTC
        examples = [row.asDict() for row in few.collect()]
        for example in examples:
            if "file" in example:
                example["file"] = short(example["file"], lake, found.contract.table)
        found.examples[expectation.measure] = [{k: _plain(v) for k, v in e.items()} for e in examples]


def _unit(row: Any, units: list[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in units)


def _plain(value: Any) -> Any:
    """A value short enough to show."""
    return [*value[:8], "..."] if isinstance(value, list) and len(value) > 8 else value


def read_through(lake: Lake, found: Measured) -> None:
    """Read every file to its end, column by column, to name the one that Spark stumbled over."""
    for partition in found.partitions:
        path = lake.path(found.contract.table, **partition)
        system, folder = fs.FileSystem.from_uri(path) if lake.uri else (lake.fs, path)
        for info in system.get_file_info(fs.FileSelector(folder, recursive=True)):
            if not info.path.endswith(".parquet"):
                continue
            name = short(info.path, lake, found.contract.table)
            with system.open_input_file(info.path) as source:
                file = pq.ParquetFile(source)
                for column in found.contract.columns:
                    try:
                        file.read(columns=[column])
                    except (pa.ArrowException, OSError) as error:
                        problem = f"column '{column}' cannot be read: {str(error).splitlines()[0]}"
                        found.examples.setdefault("readable", []).append({"file": name, "problem": problem})
    found.measures[""]["readable"] = float(len(found.examples.get("readable", [])))
