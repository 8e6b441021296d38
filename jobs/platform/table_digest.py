"""A digest of a table's rows that does not depend on part files or on the order of rows.

A partition's digest is the SHA-256 over the contract's columns, after the rows are sorted by the table's grain (ties by
the other columns that can be sorted). A table's digest is the SHA-256 over its partitions' names and digests. Only the
rows of one partition are in memory at a time.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

import contracts
from contracts.arrow import arrow_schema
from jobs.platform.progress import progress
from jobs.platform.table_schema import conform

if TYPE_CHECKING:
    from jobs.platform.lake import Lake


@dataclass(frozen=True)
class TableDigest:
    """The digest of one table: hexadecimal SHA-256, number of partitions and of rows."""

    table: str
    sha256: str
    partitions: int
    rows: int


def digest_rows(table: str, rows: pa.Table) -> str:
    """Return the SHA-256 of rows as hexadecimal text.

    Args:
        table: Name of the contract. Its columns are hashed in the contract's order, with their names and types.
        rows: Data with these columns.
    """
    contract = contracts.load(table)
    schema = arrow_schema(contract)
    rows = conform(table, rows, schema)
    sortable = [field.name for field in schema if not pa.types.is_list(field.type)]
    keys = [*contract.grain, *(name for name in sortable if name not in contract.grain)]
    ordered = rows.take(pc.sort_indices(rows, [(name, "ascending") for name in keys if name in sortable]))
    digest = hashlib.sha256()
    for field in schema:
        digest.update(f"{field.name} {field.type} {len(ordered)}\n".encode())
        _update(digest, ordered.column(field.name).combine_chunks().cast(field.type))
    return digest.hexdigest()


def digest_table(lake: Lake, table: str, week: str = "") -> TableDigest | None:
    """Return the digest of the table's partitions, or None if the lake has none of them.

    Args:
        lake: The lake that contains the table.
        table: Name of the contract.
        week: Name of a week: only its partitions, or partitions of days before it, are digested. A table without the
            keys `week` and `day` is digested as a whole. Empty: all partitions.
    """
    partitions = [keys for keys in lake.partitions(table) if not week or _is_of_week(keys, week)]
    if not partitions:
        return None
    digest, n_rows = hashlib.sha256(), 0
    for partition in progress(partitions, len(partitions), f"digest of {table}"):
        rows = lake.read(table, columns=None, **partition)
        n_rows += rows.num_rows
        name = " ".join(f"{key}={value}" for key, value in partition.items())
        digest.update(f"{name} {digest_rows(table, rows)}\n".encode())
    return TableDigest(table, digest.hexdigest(), len(partitions), n_rows)


def _is_of_week(partition: dict[str, str], week: str) -> bool:
    """Return whether the partition is of this week or of a day before it."""
    if "week" in partition:
        return partition["week"] == week
    return partition.get("day", "") < week[:10]


def _update(digest: hashlib._Hash, column: pa.Array) -> None:
    """Add the values of a column to the digest, independent of chunks and of buffer contents below nulls."""
    digest.update(pc.is_valid(column).cast(pa.int8()).to_numpy(zero_copy_only=False).tobytes())
    if pa.types.is_list(column.type):
        lengths = pc.fill_null(pc.list_value_length(column), 0)
        digest.update(lengths.to_numpy(zero_copy_only=False).tobytes())
        _update(digest, column.flatten())
    elif pa.types.is_string(column.type):
        texts = pc.fill_null(column, "")
        digest.update(pc.binary_length(texts).to_numpy(zero_copy_only=False).tobytes())
        digest.update("".join(texts.to_pylist()).encode())
    elif pa.types.is_boolean(column.type):
        digest.update(pc.fill_null(column, False).cast(pa.int8()).to_numpy(zero_copy_only=False).tobytes())
    else:
        if pa.types.is_temporal(column.type):
            column = column.cast(pa.int32() if pa.types.is_date(column.type) else pa.int64())
        digest.update(pc.fill_null(column, 0).to_numpy(zero_copy_only=False).tobytes())
