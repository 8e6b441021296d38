"""Measure the rows of a table with Spark: one aggregate for all rules, for tables that outgrow one machine.

Only uniqueness and references need a shuffle, each of one narrow column. Examples of bad rows are fetched afterwards,
and only for promises that were broken. `quality_arrow` takes the same measures where the table is small.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from contracts.expectations import Expectation
from jobs.platform.lake import Lake
from jobs.platform.table_schema import spark_schema
from jobs.quality.measures import N_EXAMPLES, Measured, plain, short

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

N_THREADS = 4


def measure(session: SparkSession, lake: Lake, found: Measured, keys: dict[str, Measured]) -> None:
    """Take every measure that needs the rows, and examples of what is broken; fills `found` in place.

    Args:
        session: Spark.
        lake: where the tables are.
        found: what the files told; readable.
        keys: the tables that this one refers to.
    """
    with ThreadPoolExecutor(N_THREADS) as pool:
        for task in start(session, lake, found, keys, pool):
            task.result()
    found.finish()
    find_examples(session, lake, found, keys)


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
            orphans = unknown(session, lake, data, found, expectation, keys[expectation.args["table"]])
            tasks.append(pool.submit(_orphans, orphans, found, expectation))
    return tasks


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
        unit = _unit(row, found.units)
        spans = {c.name: (row[f"null{i}"], row[f"min{i}"], row[f"max{i}"]) for i, c in enumerate(columns)}
        found.add_spans(unit, row["n"], spans)
        for i, expectation in enumerate(rules):
            found.measures[unit][expectation.measure] = row[f"bad{i}"]


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
    where = expectation.args["where"]
    rows = data.where(F.col(where[0]) == where[1]) if where else data
    values = rows.where(F.col(name).isNotNull()).groupBy(*found.units, name).agg(F.count(F.lit(1)).alias("n_rows"))
    known = frame(session, lake, key).select(F.col(expectation.args["key"]).alias(name)).distinct()
    return values.join(known, name, "left_anti")


def find_examples(session: SparkSession, lake: Lake, found: Measured, keys: dict[str, Measured]) -> None:
    """Fetch up to `N_EXAMPLES` bad rows for each broken promise, always the same ones; one small query each."""
    from pyspark.sql import functions as F

    data, units = frame(session, lake, found), found.units
    times = {c.name for c in found.contract.columns.values() if _is_time(c.type)}
    for expectation in found.broken():
        if expectation.violation:
            shown = list(dict.fromkeys([*units, *found.contract.grain, *expectation.columns]))
            rows = data.where(expectation.violation).select(*shown, F.col("_metadata.file_path").alias("file"))
        elif expectation.rule == "unique":
            shown = [*units, *expectation.columns, "n_times"]
            rows = repeats(data, units, expectation)
        elif "table" in expectation.args:
            shown = list(dict.fromkeys([*units, *found.contract.grain, *expectation.columns]))
            orphans = unknown(session, lake, data, found, expectation, keys[expectation.args["table"]])
            name, where = expectation.columns[0], expectation.args["where"]
            rows = data.where(F.col(where[0]) == where[1]) if where else data
            rows = rows.select(*shown, F.col("_metadata.file_path").alias("file"))
            rows = rows.join(F.broadcast(orphans.orderBy(name).limit(N_EXAMPLES)), name, "left_semi").select(
                *shown, "file"
            )
        else:
            continue
        few = rows.orderBy(*shown).limit(N_EXAMPLES)
        few = few.select(*(F.col(c).cast("string").alias(c) if c in times else c for c in few.columns))  # in UTC
        examples = [row.asDict() for row in few.collect()]
        for example in examples:
            if "file" in example:
                example["file"] = short(example["file"], lake, found.contract.table)
        found.examples[expectation.measure] = [{k: plain(v) for k, v in e.items()} for e in examples]


def _unit(row: Any, units: list[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in units)
