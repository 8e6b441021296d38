"""Rows of the table `quarantine`, for comparison."""

from __future__ import annotations

from jobs.platform.lake import Lake


def quarantined(lake: Lake) -> dict[str, list[tuple[str, str, str, int]]]:
    """Return reason, row, file and number of equal rows by raw table, ordered."""
    rows: dict[str, list[tuple[str, str, str, int]]] = {}
    for partition in lake.partitions("quarantine"):
        columns = lake.read("quarantine", **partition).to_pydict()
        order = (columns[name] for name in ("reason", "row", "source_file", "n_rows"))
        rows.setdefault(partition["raw_table"], []).extend(zip(*order, strict=True))
    return {table: sorted(of_table) for table, of_table in rows.items()}
