"""Rows of a raw table that ingestion put into the quarantine, by reason."""

from __future__ import annotations

import pyarrow as pa

from jobs.platform.lake import Lake
from jobs.quality.results import QuarantinedRows

QUARANTINE = "quarantine"
WHOLE_LOG = "whole_log"  # key of a commit's report: the source is loaded at once, and the rows are of all days


def quarantined_rows(lake: Lake, table: str, partitions: list[dict[str, str]]) -> list[QuarantinedRows]:
    """Return the numbers of quarantined rows by reason, the largest first.

    Args:
        lake: The lake.
        table: Name of a raw table.
        partitions: The partitions of the table that are checked. Of a table with days, the files of these days count;
            of another table, those of the newest day. A source that is loaded at once has one day for all files.
    """
    states = [state for state in lake.states(QUARANTINE) if state.partition["raw_table"] == table]
    reports = {state.partition["day"]: state.report for state in states}
    checked = {p["day"] for p in partitions if "day" in p}
    newest = max(reports, default=None)
    days = [
        day
        for day, report in reports.items()
        if (day in checked if checked else day == newest) or report.get(WHOLE_LOG)
    ]
    if not days:
        return []
    parts = [lake.read(QUARANTINE, columns=["reason", "n_rows"], raw_table=table, day=day) for day in days]
    counts = pa.concat_tables(parts).group_by("reason").aggregate([("n_rows", "sum")]).to_pylist()
    return [
        {"reason": row["reason"], "n_rows": row["n_rows_sum"]}
        for row in sorted(counts, key=lambda row: (-row["n_rows_sum"], row["reason"]))
    ]
