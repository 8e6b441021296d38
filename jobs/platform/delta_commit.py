"""Commits partitions of Delta tables through delta-rs and lists the files of a table version.

The caller writes Parquet files to a folder of their own inside the table; they are invisible until `commit_partition`.
Every commit overwrites one partition and carries an application transaction named after the partition: without it, two
first writers of one partition would both succeed, and the partition would contain the rows of both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import AddAction

from contracts import atomic_files
from contracts.errors import OvertureError


@dataclass(frozen=True)
class DataFile:
    """A Parquet file of a commit: path relative to the table, size in bytes, number of rows."""

    path: str
    size: int
    rows: int


def open_or_create(
    uri: str, schema: pa.Schema, keys: Sequence[str], options: dict[str, str] | None = None
) -> DeltaTable:
    """Return the newest version of a table, which is created if it is missing.

    Args:
        uri: Folder or URI of the table.
        schema: The contract's columns, without partition keys.
        keys: Partition keys, outer first.
        options: Storage options of delta-rs.
    """
    full = schema
    for key in keys:
        full = full.append(pa.field(key, pa.string(), nullable=False))
    if not DeltaTable.is_deltatable(uri, options):
        DeltaTable.create(uri, full, mode="ignore", partition_by=list(keys), storage_options=options)
    return DeltaTable(uri, storage_options=options)


def commit_partition(
    table: DeltaTable, partition: Mapping[str, str], files: Sequence[DataFile], report: Mapping[str, Any]
) -> int:
    """Overwrite one partition with files that exist, in one commit, and return the new version of the table.

    Args:
        table: The version on which the write is based. A later commit to the same partition is a conflict.
        partition: Value of each partition key; empty for a table without keys.
        files: The new files of the partition.
        report: Report of the job, stored in the commit's metadata.

    Raises:
        OvertureError: Another writer committed this partition. A retry may succeed.
    """
    name = "/".join(f"{key}={value}" for key, value in partition.items()) or "(whole table)"
    now = int(time.time() * 1000)
    actions = [AddAction(f.path, f.size, dict(partition), now, True, json.dumps({"numRecords": f.rows})) for f in files]
    properties = CommitProperties(
        custom_metadata={"partition": name, "report": json.dumps(dict(report), sort_keys=True)},
        app_transactions=[Transaction(app_id=name, version=(table.transaction_version(name) or 0) + 1)],
    )
    try:
        table.create_write_transaction(
            actions,
            "overwrite",
            table.schema(),
            partition_by=list(partition),
            partition_filters=[(key, "=", value) for key, value in partition.items()] or None,
            commit_properties=properties,
        )
    except CommitFailedError as error:
        raise OvertureError(
            f"{table.table_uri}: another writer committed {name} at the same time; this write was not committed and "
            f"the table contains the other writer's rows; run the task again ({error})"
        ) from error
    table.update_incremental()
    return table.version()


def partition_files(table: DeltaTable, partition: Mapping[str, str]) -> list[str]:
    """Return the sorted paths or URIs of the files of one partition in this version of the table."""
    filters: list[tuple[str, str, Any]] = [(key, "=", value) for key, value in partition.items()]
    return sorted(table.file_uris(filters or None))


def sync_files(root: Path, files: Sequence[DataFile]) -> None:
    """Flush the files of a local table, and all folders from them up to the table, to the disk."""
    folders: set[Path] = set()
    for file in files:
        atomic_files.sync(root / file.path)
        folder = (root / file.path).parent
        while folder not in folders and folder.is_relative_to(root):
            folders.add(folder)
            folder = folder.parent
    for folder in sorted(folders, reverse=True):
        atomic_files.sync(folder)
