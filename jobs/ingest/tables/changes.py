"""Find which days are new or changed, so that a run reads and writes nothing else.

Files    a day is not read again if the files that can contain its rows have the same names, sizes and times, and the
         SQL and its settings are the same
Rows     a day that was read is not written again if the digest of its rows is the same
Memory   table `ingested_days`: both digests of each day, and the version of its partition. A partition that something
         else has written or dropped in the meantime counts as changed
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import contracts
from contracts.arrow import arrow_schema
from jobs.ingest.tables.inputs import Inputs
from jobs.ingest.tables.paths import files_below, resolve
from jobs.platform.lake import Lake
from jobs.settings.source import SourceSettings
from jobs.settings.tables import inputs_of, placeholders

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

MEMORY = "ingested_days"


@dataclass(frozen=True)
class IngestedDay:
    """What a run knows about a day that an earlier one ingested: a row of table `ingested_days`."""

    n_rows: int
    inputs_digest: str | None
    rows_digest: str
    version: str | None


def ingested_days(lake: Lake, table: str) -> dict[date, IngestedDay]:
    """Return the ingested days of a raw table whose partitions are those that the ingestion wrote.

    A day whose files contain no good row has no partition.
    """
    if not lake.exists(MEMORY, raw_table=table):
        return {}
    versions = day_versions(lake, table)
    days = {}
    for row in lake.read(MEMORY, raw_table=table).to_pylist():
        day = row.pop("day")
        if versions.get(day) == row["version"]:
            days[day] = IngestedDay(**row)
    return days


def day_versions(lake: Lake, table: str) -> dict[date, str]:
    """Return the version of each day of a table in the lake."""
    return {date.fromisoformat(state.partition["day"]): state.version for state in lake.states(table)}


def remember(lake: Lake, table: str, days: Mapping[date, IngestedDay], report: dict[str, Any]) -> None:
    """Replace the ingested days of a raw table."""
    rows = [{"day": day, **vars(ingested)} for day, ingested in sorted(days.items())]
    schema = arrow_schema(contracts.load(MEMORY))
    lake.write(MEMORY, pa.Table.from_pylist(rows, schema), report=report, raw_table=table)


def inputs_digest(inputs: Inputs, source: SourceSettings, table: str, day: date) -> str | None:
    """Return the digest of everything that determines the rows of a day; None if an input is not made of files.

    Args:
        inputs: The inputs of the run.
        source: The mapping and its settings.
        table: Name of the raw table.
        day: The day.
    """
    sql = source.tables[table]
    names = inputs_of(sql, source.inputs)
    files: dict[str, list[tuple[str, int, int]]] = {}
    for name in names:
        settings = source.inputs[name]
        if settings.format == "jdbc":
            return None
        if "day" in placeholders(settings.path):
            days = [day + timedelta(n) for n in range(source.late_days + 1)]
            matches = [match for d in days for match in inputs.days(name).get(str(d), [])]
        else:
            matches = resolve(settings.path, inputs.data, day)
        input_files = [file for match in matches for file in files_below(match)]
        files[name] = sorted((file.path, file.size, file.modified) for file in input_files)
    basis = {
        "sql": sql,
        "inputs": {name: source.inputs[name].model_dump(mode="json") for name in names},
        "rules": [source.late_days, str(source.earliest_day), source.max_id_bytes, source.duplicate_s],
        "files": files,
    }
    return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()


def changed_days(lake: Lake, digests: Mapping[date, str | None], table: str) -> list[date]:
    """Return the days whose inputs differ from those of the last ingestion."""
    known = ingested_days(lake, table)
    return [
        day
        for day, digest in digests.items()
        if digest is None or day not in known or known[day].inputs_digest != digest
    ]


def rows_digest(columns: list[str]) -> Column:
    """Return an aggregate over rows that does not depend on their order: `<number>-<sum of hashes>`."""
    from pyspark.sql import functions as F

    total = F.sum(F.xxhash64(*columns).cast("decimal(38,0)"))
    return F.concat_ws("-", F.count(F.lit(1)).cast("string"), F.coalesce(total, F.lit(0)).cast("string"))


def digest_by_day(frame: DataFrame, columns: list[str], day: Column) -> dict[date, tuple[str, int]]:
    """Return digest and number of rows of each day."""
    from pyspark.sql import functions as F

    rows = frame.groupBy(day.alias("day")).agg(rows_digest(columns).alias("digest"), F.count(F.lit(1)).alias("n"))
    return {row["day"]: (row["digest"], row["n"]) for row in rows.collect()}
