"""Maintenance of the lake: what it contains, its history, small files, old files, and lakes of older versions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyarrow import fs

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.platform.delta_log import Key, facts_by_partition
from jobs.platform.lake import OLD_POINTER, Lake
from jobs.platform.progress import progress
from jobs.platform.table_schema import conform

SMALL_FILE = 32 * 2**20
BATCH_ROWS = 1 << 17


@dataclass(frozen=True)
class TableSummary:
    """What the newest version of a table contains.

    Attributes:
        table: Name of the table.
        version: Newest version.
        partitions: Number of partitions.
        files: Number of files.
        n_bytes: Bytes of these files.
        rows: Number of rows.
        written_at: Time of the newest commit, UTC.
    """

    table: str
    version: int
    partitions: int
    files: int
    n_bytes: int
    rows: int
    written_at: datetime


def summaries(lake: Lake) -> list[TableSummary]:
    """Return a summary of each table that the lake contains, by name."""
    tables = []
    for table in contracts.names():
        partitions = lake.log(table).partitions()
        delta = lake.log(table).start().table
        if delta is None:
            continue
        files = [file for group in partitions.values() for file in group]
        rows = sum(state.rows for state in lake.states(table))
        newest = datetime.fromtimestamp(delta.history(1)[0]["timestamp"] / 1000, UTC)
        summary = TableSummary(
            table, delta.version(), len(partitions), len(files), sum(f.size for f in files), rows, newest
        )
        tables.append(summary)
    return tables


def history(lake: Lake, table: str, limit: int) -> list[dict[str, Any]]:
    """Return the newest commits of a table, newest first: version, time, operation, partition and report.

    A commit of many partitions has the first and the last of them, their number, and the report of the last.

    Raises:
        CheckFailed: The lake does not contain the table.
    """
    rows = []
    for entry in _delta(lake, table).history(limit):
        facts = facts_by_partition(entry)
        names = sorted(facts)
        rows.append(
            {
                "version": entry["version"],
                "at": f"{datetime.fromtimestamp(entry['timestamp'] / 1000, UTC):%Y-%m-%d %H:%M:%S}",
                "operation": entry.get("operation", ""),
                "partition": f"{names[0]} to {names[-1]} ({len(names)})" if len(names) > 1 else "".join(names),
                "report": facts[names[-1]].get("report", {}) if names else {},
            }
        )
    return rows


def vacuum(lake: Lake, table: str, keep_days: float, dry_run: bool) -> tuple[int, int]:
    """Remove files that no version of the last days needs, and files of writes that failed before that time.

    Args:
        lake: The lake.
        table: Name of the table.
        keep_days: Age in days; older versions than this can no longer be read.
        dry_run: Only count.

    Returns:
        Number and bytes of the files.
    """
    log = lake.log(table)
    arguments: dict[str, Any] = {"retention_hours": int(keep_days * 24), "enforce_retention_duration": False}
    delta = _delta(lake, table)
    doomed = delta.vacuum(dry_run=True, full=True, **arguments)
    infos = lake.fs.get_file_info([f"{log.base}/{name}" for name in doomed])
    size = sum(info.size or 0 for info in infos if info.type == fs.FileType.File)
    if doomed and not dry_run:
        delta.vacuum(dry_run=False, full=True, **arguments)
        _remove_empty_folders(lake, sorted({info.path.rsplit("/", 1)[0] for info in infos}, reverse=True), log.base)
    return len(doomed), size


def compact(lake: Lake, table: str, dry_run: bool) -> dict[str, int]:
    """Join the small files of each partition into one file. Rows, reports and the partition's version stay.

    Args:
        lake: The lake.
        table: Name of the table.
        dry_run: Only return what would be done.

    Returns:
        Number of files that were joined, by partition.
    """
    log, joined = lake.log(table), {}
    crowded: list[tuple[Key, int]] = [
        (key, len(files))
        for key, files in log.partitions().items()
        if len(files) > 1 and sum(file.size for file in files) < SMALL_FILE * len(files)
    ]
    for key, n_files in progress(crowded, len(crowded), f"compact {table}"):
        partition = dict(zip(log.keys, key, strict=True))
        joined["/".join(f"{k}={v}" for k, v in partition.items()) or "(whole table)"] = n_files
        if not dry_run:
            version, report = lake.version(table, **partition), lake.report(table, **partition)
            batches = (batch for part in lake.batches(table, BATCH_ROWS, **partition) for batch in part.to_batches())
            lake.write(table, batches, report=report, rows_of=version, **partition)
    return joined


def old_partitions(lake: Lake) -> Iterator[tuple[str, dict[str, str], str]]:
    """Yield table, partition and folder of each partition that an older version of Overture wrote.

    The first partition of a table, by which `Lake` recognises an old table, comes last.
    """
    for table in contracts.names():
        folders = [f"{lake.storage.base}/{table}"]
        for _ in contracts.load(table).partition:
            folders = [
                info.path
                for folder in folders
                for info in lake.storage.entries(folder)
                if info.type == fs.FileType.Directory and "=" in info.base_name
            ]
        for folder in sorted(folders, reverse=True):
            if lake.fs.get_file_info(f"{folder}/{OLD_POINTER}").type == fs.FileType.File:
                parts = folder.removeprefix(f"{lake.storage.base}/{table}").strip("/")
                yield table, dict(part.split("=", 1) for part in parts.split("/") if part), folder


def migrate(root: str, dry_run: bool) -> dict[str, int]:
    """Turn partitions that an older version of Overture wrote into partitions of Delta tables.

    Each partition is written and committed before its old files are removed, so a run that was killed can be repeated.

    Args:
        root: Folder or URI of the lake.
        dry_run: Only count.

    Returns:
        Number of rows by table.

    Raises:
        CheckFailed: A file is damaged, or lacks a column that its contract now requires.
    """
    rows: dict[str, int] = {}
    lake = Lake(root, accept_old=True)
    old = list(old_partitions(lake))
    for table, partition, folder in progress(old, len(old), "partitions"):
        with lake.fs.open_input_stream(f"{folder}/{OLD_POINTER}") as source:
            pointer = json.loads(source.read())
        rows[table] = rows.get(table, 0) + int(pointer["rows"])
        if dry_run:
            continue
        batches = _old_batches(lake, table, f"{folder}/{pointer['version']}")
        lake.write(table, batches, report=pointer["report"], **partition)
        lake.fs.delete_file(f"{folder}/{OLD_POINTER}")
        for info in lake.storage.entries(folder):
            if info.type == fs.FileType.Directory and info.base_name.startswith("v-"):
                lake.fs.delete_dir(info.path)
    return rows


def _old_batches(lake: Lake, table: str, folder: str) -> Iterator[pa.RecordBatch]:
    schema = arrow_schema(contracts.load(table))
    for info in sorted(lake.storage.entries(folder, recursive=True), key=lambda i: i.path):
        if info.type != fs.FileType.File or not info.path.endswith(".parquet"):
            continue
        try:
            with lake.fs.open_input_file(info.path) as source:
                for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS):
                    yield from conform(table, pa.Table.from_batches([batch]), schema).to_batches()
        except (pa.ArrowException, OSError) as error:
            raise CheckFailed(f"{table}: file {info.path} cannot be read as Parquet: {error}") from None


def _delta(lake: Lake, table: str) -> DeltaTable:
    delta = lake.log(table).start().table
    if delta is None:
        raise CheckFailed(f"{table}: {lake.root} does not contain this table; `overture lake tables` lists what it has")
    return delta


def _remove_empty_folders(lake: Lake, folders: list[str], top: str) -> None:
    for folder in folders:
        while folder != top and not lake.storage.entries(folder):
            if lake.fs.get_file_info(folder).type == fs.FileType.Directory:
                lake.fs.delete_dir(folder)
            folder = folder.rsplit("/", 1)[0]
