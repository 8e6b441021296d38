"""Measure the rows of a table with Spark: one aggregate for all rules, for tables that do not fit one machine.

Only uniqueness and references need a shuffle, each of one narrow column. Examples of violations are fetched
afterwards, and only for violated expectations. arrow.py computes the same measures for small tables.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from contracts.expectations import REFERENCE_RULES, Expectation
from jobs.platform.lake import Lake
from jobs.platform.table_schema import spark_schema
from jobs.quality.measures import N_EXAMPLES, TableMeasures, short_name, to_json_value

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame, SparkSession

N_THREADS = 4


def measure(session: SparkSession, lake: Lake, measured: TableMeasures, referenced: dict[str, TableMeasures]) -> None:
    """Compute all measures of the rows, and examples of violations. Changes `measured` in place.

    Args:
        session: Spark session.
        lake: Lake with the tables.
        measured: Measures of the table's files; it must be readable.
        referenced: Measures of the tables that this table refers to, by name.
    """
    with ThreadPoolExecutor(N_THREADS) as pool:
        for task in start_queries(session, lake, measured, referenced, pool):
            task.result()
    measured.fill_missing()
    find_examples(session, lake, measured, referenced)


def read_frame(session: SparkSession, lake: Lake, measured: TableMeasures) -> DataFrame:
    """Return the partitions as one data frame: declared columns, then partition keys (`day` as a date)."""
    from pyspark.sql import functions as F

    table = measured.contract.table
    frame = session.read.schema(spark_schema(table)).parquet(*lake.spark_paths(table, measured.partitions))
    for key in measured.contract.partition:  # from the file's path, because folders of commits lie between the keys
        value = F.regexp_extract("_metadata.file_path", f".*/{key}=([^/]+)/", 1)
        frame = frame.withColumn(key, value.cast("date") if key == "day" else value)
    return frame


def start_queries(
    session: SparkSession,
    lake: Lake,
    measured: TableMeasures,
    referenced: dict[str, TableMeasures],
    pool: ThreadPoolExecutor,
) -> list[Future[None]]:
    """Start all queries; each fills `measures` and `columns` of `measured` in place.

    Args:
        session: Spark session.
        lake: Lake with the tables.
        measured: Measures of the table's files; it must be readable.
        referenced: Measures of the tables that this table refers to, by name.
        pool: Threads that run the queries concurrently.
    """
    data = read_frame(session, lake, measured)
    tasks = [pool.submit(_aggregate, data, measured)]
    for expectation in measured.row_expectations():
        if expectation.rule == "unique":
            tasks.append(pool.submit(_count_duplicates, data, measured, expectation))
        elif expectation.rule in REFERENCE_RULES:
            orphans = orphan_values(session, lake, data, measured, expectation, referenced[expectation.args["table"]])
            tasks.append(pool.submit(_count_orphans, orphans, measured, expectation))
    return tasks


def _aggregate(data: DataFrame, measured: TableMeasures) -> None:
    from pyspark.sql import functions as F

    rules = [e for e in measured.row_expectations() if e.violation]
    columns = list(measured.contract.columns.values())
    aggregates: list[Column] = [F.count(F.lit(1)).alias("n")]
    aggregates += [F.count_if(F.expr(str(e.violation))).alias(f"bad{i}") for i, e in enumerate(rules)]
    shares = [e for e in measured.row_expectations() if e.rule == "missing_share"]
    aggregates += [F.count_if(_is_concerned(e)).alias(f"concerned{i}") for i, e in enumerate(shares)]
    for i, column in enumerate(columns):
        value = F.size(F.col(column.name)) if column.type.startswith("list<") else F.col(column.name)
        aggregates.append(F.count_if(F.col(column.name).isNull()).alias(f"null{i}"))
        for name, extreme in (("min", F.min(value)), ("max", F.max(value))):
            aggregates.append((extreme.cast("string") if _is_time(column.type) else extreme).alias(f"{name}{i}"))
    for row in data.groupBy(*measured.units).agg(*aggregates).collect():
        unit = _unit(row, measured.units)
        spans = {c.name: (row[f"null{i}"], row[f"min{i}"], row[f"max{i}"]) for i, c in enumerate(columns)}
        measured.add_spans(unit, row["n"], spans)
        for i, expectation in enumerate(rules):
            measured.measures[unit][expectation.measure] = row[f"bad{i}"]
        for i, expectation in enumerate(shares):
            measured.measures[unit][expectation.measure] = row[f"concerned{i}"]


def _is_concerned(expectation: Expectation) -> Column:
    """Return whether a row refers to another table."""
    from pyspark.sql import functions as F

    valid, where = F.col(expectation.columns[0]).isNotNull(), expectation.args["where"]
    return valid & (F.col(where[0]) == where[1]) if where else valid


def _is_time(kind: str) -> bool:
    return kind in ("timestamp", "date")


def _count_duplicates(data: DataFrame, measured: TableMeasures, expectation: Expectation) -> None:
    """Count the rows beyond the first of each key. Only if two hashes agree are the keys themselves compared."""
    from pyspark.sql import functions as F

    units, keys = measured.units, [F.col(c) for c in expectation.columns]
    hashed = data.select(*units, F.xxhash64(*keys).alias("h")).groupBy(*units)
    counts = hashed.agg(F.count("h").alias("n"), F.count_distinct("h").alias("n_distinct")).collect()
    suspect = any(row["n"] != row["n_distinct"] for row in counts)
    for row in counts:
        measured.measures.setdefault(_unit(row, units), {})[expectation.measure] = 0.0
    if suspect:
        repeated = duplicate_keys(data, units, expectation).groupBy(*units).agg(F.sum("n_times") - F.count(F.lit(1)))
        for row in repeated.collect():
            measured.measures[_unit(row, units)][expectation.measure] = float(row[-1] or 0)


def duplicate_keys(data: DataFrame, units: list[str], expectation: Expectation) -> DataFrame:
    """Return keys that occur more than once, with `n_times`."""
    from pyspark.sql import functions as F

    return data.groupBy(*units, *expectation.columns).agg(F.count(F.lit(1)).alias("n_times")).where("n_times > 1")


def _count_orphans(orphans: DataFrame, measured: TableMeasures, expectation: Expectation) -> None:
    from pyspark.sql import functions as F

    for row in orphans.groupBy(*measured.units).agg(F.sum("n_rows").alias("n")).collect():
        measured.measures.setdefault(_unit(row, measured.units), {})[expectation.measure] = float(row["n"] or 0)


def orphan_values(
    session: SparkSession,
    lake: Lake,
    data: DataFrame,
    measured: TableMeasures,
    expectation: Expectation,
    referenced_table: TableMeasures,
) -> DataFrame:
    """Return values that the referenced table does not contain, with `n_rows`. Nulls are excluded."""
    from pyspark.sql import functions as F

    name = expectation.columns[0]
    values = (
        data.where(_is_concerned(expectation)).groupBy(*measured.units, name).agg(F.count(F.lit(1)).alias("n_rows"))
    )
    known = read_frame(session, lake, referenced_table).select(F.col(expectation.args["key"]).alias(name)).distinct()
    return values.join(known, name, "left_anti")


def find_examples(
    session: SparkSession, lake: Lake, measured: TableMeasures, referenced: dict[str, TableMeasures]
) -> None:
    """Fetch up to `N_EXAMPLES` rows for each violated expectation, in a fixed order, with one small query each."""
    from pyspark.sql import functions as F

    data, units = read_frame(session, lake, measured), measured.units
    times = {c.name for c in measured.contract.columns.values() if _is_time(c.type)}
    for expectation in measured.broken_expectations():
        if expectation.violation:
            shown = list(dict.fromkeys([*units, *measured.contract.grain, *expectation.columns]))
            rows = data.where(expectation.violation).select(*shown, F.col("_metadata.file_path").alias("file"))
        elif expectation.rule == "unique":
            shown = [*units, *expectation.columns, "n_times"]
            rows = duplicate_keys(data, units, expectation)
        elif expectation.rule in REFERENCE_RULES:
            shown = list(dict.fromkeys([*units, *measured.contract.grain, *expectation.columns]))
            orphans = orphan_values(session, lake, data, measured, expectation, referenced[expectation.args["table"]])
            name = expectation.columns[0]
            rows = data.where(_is_concerned(expectation)).select(*shown, F.col("_metadata.file_path").alias("file"))
            rows = rows.join(F.broadcast(orphans.orderBy(name).limit(N_EXAMPLES)), name, "left_semi").select(
                *shown, "file"
            )
        else:
            continue
        sample = rows.orderBy(*shown).limit(N_EXAMPLES)
        sample = sample.select(
            *(F.col(c).cast("string").alias(c) if c in times else c for c in sample.columns)
        )  # in UTC
        examples = [row.asDict() for row in sample.collect()]
        for example in examples:
            if "file" in example:
                example["file"] = short_name(example["file"], lake, measured.contract.table)
        measured.examples[expectation.measure] = [{k: to_json_value(v) for k, v in e.items()} for e in examples]


def _unit(row: Any, units: list[str]) -> str:
    return ", ".join(f"{key} {row[key]}" for key in units)
