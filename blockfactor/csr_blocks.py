"""Sparse matrices stored on disk in blocks of rows: the storage of both factorisations.

A matrix is packed once into blocks of consecutive rows. The Spark task that receives the rows of a block writes them
as three npy files (CSR offsets, columns and values), and every later task memory-maps them. Dense factors are npy files
too, so a task receives file names and numbers only, and a repeated task writes the same bytes.

All files are in one folder. On one machine any folder works. On a cluster the folder must be on a file system that the
driver and every executor mount at the same path.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F

from blockfactor.arrays import FloatMatrix, FloatVector, IntVector, LongVector
from blockfactor.errors import InvalidDataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CsrArrays: TypeAlias = tuple[LongVector, IntVector, FloatVector]

PACK_RESULT_SCHEMA = "block int, n_entries long, total double, squares double, problem string"
GOLDEN_RATIO_SHARE = 0.618


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a matrix.

    Attributes:
        index: Number of the block, from 0.
        start: First row position of the block.
        stop: Row position after the last one.
        n_entries: Number of stored entries in the block.
    """

    index: int
    start: int
    stop: int
    n_entries: int


@dataclass(frozen=True)
class BlockMatrix:
    """A sparse matrix on disk, in the files `<name>-<block>-{offsets,columns,values}.npy` of `folder`.

    Attributes:
        folder: Folder of the files.
        name: Prefix of the file names.
        n_rows: Number of rows.
        n_columns: Number of columns.
        blocks: Blocks in the order of their rows.
        total: Sum of the values.
        squares: Sum of the squared values.
        strides: Row r is stored at position r * strides[0] mod n_rows, and columns likewise. A stride of 1 keeps the
            order.
    """

    folder: str
    name: str
    n_rows: int
    n_columns: int
    blocks: tuple[Block, ...]
    total: float
    squares: float
    strides: tuple[int, int] = (1, 1)

    def row_positions(self) -> LongVector:
        """Return the position at which each row is stored, shape (n_rows,)."""
        return np.arange(self.n_rows) * self.strides[0] % self.n_rows

    def nonempty_rows(self) -> NDArray[np.bool_]:
        """Return a mask of the rows with at least one entry, shape (n_rows,), in the order of the row index."""
        by_position = np.concatenate([np.diff(self.csr(block)[0]) > 0 for block in self.blocks])
        mask: NDArray[np.bool_] = by_position[self.row_positions()]
        return mask

    @property
    def n_entries(self) -> int:
        """Number of entries in all blocks."""
        return sum(block.n_entries for block in self.blocks)

    def csr(self, block: Block) -> CsrArrays:
        """Return the memory-mapped CSR arrays of a block.

        Returns:
            Offsets (rows + 1,) int64, columns (nnz,) int32 and values (nnz,) float32.
        """
        stem = f"{self.folder}/{self.name}-{block.index:05d}"
        return load_array(f"{stem}-offsets.npy"), load_array(f"{stem}-columns.npy"), load_array(f"{stem}-values.npy")


def block_layout(n_rows: int, n_blocks: int) -> tuple[int, int]:
    """Return the rows per block and the number of blocks: at most `n_blocks`, none of them empty."""
    size = max(1, -(-n_rows // max(1, n_blocks)))
    return size, max(1, -(-n_rows // size))


def row_ranges(n_rows: int, n_blocks: int) -> list[tuple[int, int]]:
    """Return consecutive ranges (start, stop) that cover `n_rows` rows, one per block."""
    size, n = block_layout(n_rows, n_blocks)
    return [(b * size, min(n_rows, (b + 1) * size)) for b in range(n)]


def permutation_stride(n: int) -> int:
    """Return a step that visits 0 to n - 1 once each, modulo n, and separates neighbours (golden ratio)."""
    first = max(1, round(GOLDEN_RATIO_SHARE * n))
    return next(step for step in range(first, n + 2) if math.gcd(step, n) == 1)


def pack(
    frame: DataFrame,
    name: str,
    shape: tuple[int, int],
    n_blocks: int,
    folder: Path,
    *,
    positive: bool = False,
    permute: bool = False,
) -> BlockMatrix:
    """Write a DataFrame of matrix entries to block files, with one shuffle.

    Args:
        frame: Entries with the columns row (int), column (int) and value (float), each (row, column) at most once.
        name: Name of the matrix in error messages and prefix of its files.
        shape: Number of rows and columns.
        n_blocks: Maximum number of blocks of consecutive rows.
        folder: Folder that the driver and all executors share.
        positive: Require values above 0.
        permute: Store neighbouring rows (and columns) far apart. If rows are sorted by popularity, the first block
            would otherwise contain most of the entries.

    Raises:
        InvalidDataError: An index is outside `shape`, a value is not finite (or not above 0 if `positive`), or an entry
            occurs twice. The message contains the name, the entry and the allowed range.
    """
    n_rows, n_columns = shape
    size, n = block_layout(n_rows, n_blocks)
    strides = (permutation_stride(n_rows), permutation_stride(n_columns)) if permute else (1, 1)
    position = F.col("row").cast("long") * strides[0] % n_rows
    block = F.when((F.col("row") < 0) | (F.col("row") >= n_rows), 0).otherwise(F.floor(position / size))
    by_block = frame.select(block.cast("int").alias("block"), "row", "column", "value").repartitionById(n, "block")
    packer = _block_packer(str(folder), name, shape, size, positive, strides)
    packed = by_block.mapInArrow(packer, PACK_RESULT_SCHEMA).collect()
    for row in packed:
        if row["problem"]:
            raise InvalidDataError(f"{name}: {row['problem']}")
    n_entries = {row["block"]: int(row["n_entries"]) for row in packed}
    blocks = [Block(b, start, stop, n_entries.get(b, 0)) for b, (start, stop) in enumerate(row_ranges(n_rows, n))]
    for empty in (b for b in blocks if b.index not in n_entries):
        offsets = np.zeros(empty.stop - empty.start + 1, np.int64)
        _write_block(str(folder), name, empty.index, (offsets, np.zeros(0, np.int32), np.zeros(0, np.float32)))
    total, squares = (float(sum(row[k] for row in packed)) for k in ("total", "squares"))
    return BlockMatrix(str(folder), name, n_rows, n_columns, tuple(blocks), total, squares, strides)


def _block_packer(
    folder: str, name: str, shape: tuple[int, int], size: int, positive: bool, strides: tuple[int, int]
) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    def pack_block(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        parts = [batch for batch in batches if batch.num_rows]
        if not parts:
            return
        table = pa.Table.from_batches(parts)
        index = int(table.column("block")[0].as_py())
        row, column = (table.column(c).to_numpy().astype(np.int64) for c in ("row", "column"))
        value = table.column("value").to_numpy().astype(np.float32)
        problem = first_problem(row, column, value, shape, positive)
        if problem is None:
            start, stop = index * size, min(shape[0], (index + 1) * size)
            row_position, column_position = row * strides[0] % shape[0] - start, column * strides[1] % shape[1]
            key = row_position * shape[1] + column_position
            order = np.argsort(key, kind="stable")
            key = key[order]
            duplicates = np.flatnonzero(key[1:] == key[:-1])
            if len(duplicates):
                e = order[duplicates[0]]
                problem = f"entry (row {row[e]}, column {column[e]}) occurs twice; sum its values first"
            else:
                lengths = np.bincount(row_position, minlength=stop - start)
                offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
                arrays = offsets, column_position[order].astype(np.int32), value[order]
                _write_block(folder, name, index, arrays)
        exact = value.astype(np.float64)
        result = (index, len(value), float(exact.sum()), float((exact * exact).sum()), problem)
        types = (pa.int32(), pa.int64(), pa.float64(), pa.float64(), pa.string())
        names = ["block", "n_entries", "total", "squares", "problem"]
        yield pa.RecordBatch.from_arrays([pa.array([v], t) for v, t in zip(result, types, strict=True)], names)

    return pack_block


def first_problem(
    row: LongVector, column: LongVector, value: FloatVector, shape: tuple[int, int], positive: bool
) -> str | None:
    """Return a description of the first invalid entry, or None if all entries are valid.

    Args:
        row: Row indices (n,).
        column: Column indices (n,).
        value: Values (n,).
        shape: Number of rows and columns.
        positive: Require values above 0.
    """
    for indices, limit, axis in ((row, shape[0], "row"), (column, shape[1], "column")):
        bad = np.flatnonzero((indices < 0) | (indices >= limit))
        if len(bad):
            return f"{axis} index {indices[bad[0]]} is out of range; allowed are 0 to {limit - 1}"
    bad = np.flatnonzero(~np.isfinite(value) | (value <= 0 if positive else False))
    if len(bad):
        allowed = "finite and above 0" if positive else "finite"
        return f"entry (row {row[bad[0]]}, column {column[bad[0]]}) is {value[bad[0]]}; it must be {allowed}"
    return None


def _write_block(folder: str, name: str, index: int, arrays: CsrArrays) -> None:
    offsets, columns, values = arrays
    stem = f"{folder}/{name}-{index:05d}"
    save_array(f"{stem}-offsets.npy", offsets)
    save_array(f"{stem}-columns.npy", columns)
    save_array(f"{stem}-values.npy", values)


# -- array files ---------------------------------------------------------------------------------------------------


def load_array(path: str) -> NDArray[Any]:
    """Return the array of an npy file, memory-mapped.

    The mode is copy-on-write, so the file is never changed, and compiled kernels receive one array type only.
    """
    array: NDArray[Any] = np.asarray(np.load(path, mmap_mode="c"))
    return array


def save_array(path: str, array: NDArray[Any]) -> None:
    """Write an npy file atomically: a task that dies leaves no partial file under `path`."""
    temporary = f"{path}.{uuid.uuid4().hex[:8]}"
    with open(temporary, "wb") as sink:
        np.save(sink, array)
    Path(path).unlink(missing_ok=True)  # a rename over an existing file makes some file systems wait for the disk
    os.replace(temporary, path)


def create_matrix_file(path: str, n_rows: int, n_columns: int) -> str:
    """Create an npy file of float32 zeros that tasks fill with `write_rows`, and return its path."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, n_columns))
    return path


def write_rows(path: str, start: int, rows: FloatMatrix) -> None:
    """Write rows into a file of `create_matrix_file`, from row `start`.

    Uses ordinary writes instead of a memory map, so that a shared file system publishes them when the file is closed.
    """
    header = np.load(path, mmap_mode="r").offset
    with open(path, "r+b") as sink:
        sink.seek(header + start * rows.shape[1] * 4)
        sink.write(np.ascontiguousarray(rows, np.float32).data)
