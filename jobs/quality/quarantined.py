"""Rows of a raw table that ingestion put into the quarantine, by reason."""

from __future__ import annotations

import pyarrow as pa

from jobs.platform.lake import Lake
from jobs.quality.results import QuarantinedRows

TABLE = "quarantine"


def quarantined_rows(lake: Lake, table: str, partitions: list[dict[str, str]]) -> list[QuarantinedRows]:
    """Return the numbers of quarantined rows by reason, the largest first.

    Args:
        lake: The lake.
        table: Name of a raw table.
        partitions: The partitions of the table that are checked. Of a table with days, the files of these days count;
            of another table, those of the newest day.
    """
    days = sorted(p["day"] for p in lake.partitions(TABLE) if p["raw_table"] == table)
    checked = {p["day"] for p in partitions if "day" in p}
    days = [day for day in days if day in checked] if checked else days[-1:]
    if not days:
        return []
    parts = [lake.read(TABLE, columns=["reason", "n_rows"], raw_table=table, day=day) for day in days]
    counts = pa.concat_tables(parts).group_by("reason").aggregate([("n_rows", "sum")]).to_pylist()
    return [
        {"reason": row["reason"], "n_rows": row["n_rows_sum"]}
        for row in sorted(counts, key=lambda row: (-row["n_rows_sum"], row["reason"]))
    ]
