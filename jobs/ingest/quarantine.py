"""The quarantine of a source that is loaded at once: one partition per raw table, at the newest day of the log.

The source `tables` stores bad rows by the day of their file (jobs/ingest/tables/write.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import contracts
from jobs.quality.quarantined import QUARANTINE, WHOLE_LOG

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

    from jobs.platform.lake import Lake

LONGEST_ROW = 10_000  # characters of a row that are stored


def row_json(columns: Sequence[str | Column]) -> Column:
    """Return columns of a frame as one JSON object, nulls included."""
    from pyspark.sql import functions as F

    return F.to_json(F.struct(*columns), {"ignoreNullFields": "false"})


def quarantine_rows(frame: DataFrame, row: Column, file: str) -> DataFrame:
    """Return the columns of the table `quarantine`.

    Args:
        frame: Rows with `reason`; null for good rows, which are left out.
        row: Column with the row as text.
        file: Name of the file that contained the rows.
    """
    from pyspark.sql import functions as F

    bad = frame.where("reason IS NOT NULL").select("reason", F.substring(row, 1, LONGEST_ROW).alias("row"))
    counted = bad.groupBy("reason", "row").agg(F.count(F.lit(1)).alias("n_rows"))
    return counted.withColumn("source_file", F.lit(file)).select(*contracts.load(QUARANTINE).columns)


def replace_quarantine(
    lake: Lake, rows: Mapping[str, pa.Table | DataFrame], day: str, report: dict[str, Any]
) -> dict[str, int]:
    """Replace all rows of the quarantine.

    Args:
        lake: The lake.
        rows: The quarantine's columns by raw table, of tables that have bad rows.
        day: Newest day of the log.
        report: Report of the job.

    Returns:
        The number of stored rows by raw table; equal rows of a file are one.
    """
    report = report | {WHOLE_LOG: True}
    stored = {
        table: lake.write(QUARANTINE, frame, report=report, raw_table=table, day=day).rows
        for table, frame in rows.items()
    }
    for partition in lake.partitions(QUARANTINE):
        if partition["raw_table"] not in stored or partition["day"] != day:
            lake.drop(QUARANTINE, **partition)
    return stored
