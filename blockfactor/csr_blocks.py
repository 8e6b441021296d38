"""Sparse rows kept as files: what both factorisations share.

A matrix is packed once into blocks of consecutive rows: three npy files a block (CSR), written by the task that holds
the rows and memory-mapped by every later task. Factors are files too, so a task is handed names and numbers only,
nothing is pickled twice, and a task that is run again writes the same bytes. All files live in one scratch folder
under OVERTURE_HOME: on one machine that is enough, on a cluster OVERTURE_HOME must lie on a file system that the
driver and every executor mount at the same path, with the packages installed on each.
"""

from __future__ import annotations

import math
import os
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark.sql import functions as F

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


PACKED = "block int, n_entries long, total double, squares double, problem string"


@dataclass(frozen=True)
class Block:
    """Rows start <= row < stop of a matrix, and the number of entries in them."""

    index: int
    start: int
    stop: int
    n_entries: int


@dataclass(frozen=True)
class Matrix:
    """A sparse matrix in files: `<name>-<block>-{offsets,columns,values}.npy` below `folder`.

    strides: row r lies at place r * strides[0] mod n_rows, and so for columns; 1 leaves them in their order.
    """

    folder: str
    name: str
    n_rows: int
    n_columns: int
    blocks: tuple[Block, ...]
    total: float
    squares: float
    strides: tuple[int, int] = (1, 1)

    def row_places(self) -> np.ndarray:
        """Where each row lies (n_rows,)."""
        return np.arange(self.n_rows) * self.strides[0] % self.n_rows

    @property
    def n_entries(self) -> int:
        """Entries in all blocks."""
        return sum(block.n_entries for block in self.blocks)

    def csr(self, block: Block) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Offsets (rows + 1,) int64, columns (nnz,) int32, values (nnz,) float32, memory-mapped."""
        stem = f"{self.folder}/{self.name}-{block.index:05d}"
        return load(f"{stem}-offsets.npy"), load(f"{stem}-columns.npy"), load(f"{stem}-values.npy")


def ranges(n_rows: int, n_blocks: int) -> tuple[int, int]:
    """Rows a block and the number of blocks that they make: at most `n_blocks`, none empty."""
    size = max(1, -(-n_rows // max(1, n_blocks)))
    return size, max(1, -(-n_rows // size))


def spans(n_rows: int, n_blocks: int) -> list[tuple[int, int]]:
    """Consecutive (start, stop) that cover n_rows."""
    size, n = ranges(n_rows, n_blocks)
    return [(b * size, min(n_rows, (b + 1) * size)) for b in range(n)]


def stride(n: int) -> int:
    """A step that visits 0 to n - 1 once each, modulo n, and puts neighbours far apart (the golden ratio's share)."""
    return next(step for step in range(max(1, round(0.618 * n)), n + 2) if math.gcd(step, n) == 1)


def pack(
    frame: DataFrame,
    name: str,
    shape: tuple[int, int],
    n_blocks: int,
    folder: Path,
    *,
    positive: bool = False,
    spread: bool = False,
) -> Matrix:
    """Deal the entries (row int, column int, value float) to their blocks, one shuffle, and write the files.

    Args:
        frame: the entries.
        name: of the table, for messages and files.
        shape: rows and columns.
        n_blocks: at most so many blocks of consecutive rows.
        folder: shared by the driver and all executors.
        positive: values must be above 0.
        spread: put neighbouring rows (and columns) far apart. Tracks come in the order of their popularity: without,
            the first block would hold most of the entries.

    Raises:
        CheckFailed: an index outside `shape`, a value that is not finite (or not above 0 where `positive`), or an
            entry that comes twice; names the table, the entry and what is allowed.
    """
    n_rows, n_columns = shape
    size, n = ranges(n_rows, n_blocks)
    strides = (stride(n_rows), stride(n_columns)) if spread else (1, 1)
    place = F.col("row").cast("long") * strides[0] % n_rows
    block = F.when((F.col("row") < 0) | (F.col("row") >= n_rows), 0).otherwise(F.floor(place / size))
    dealt = frame.select(block.cast("int").alias("block"), "row", "column", "value").repartitionById(n, "block")
    done = dealt.mapInArrow(_packer(str(folder), name, shape, size, positive, strides), PACKED).collect()
    for row in done:
        if row["problem"]:
            raise CheckFailed(f"{name}: {row['problem']}")
    entries = {row["block"]: int(row["n_entries"]) for row in done}
    blocks = [Block(b, start, stop, entries.get(b, 0)) for b, (start, stop) in enumerate(spans(n_rows, n))]
    for empty in (b for b in blocks if b.index not in entries):
        none = np.zeros(0, np.int32)
        _write_block(
            str(folder),
            name,
            empty.index,
            np.zeros(empty.stop - empty.start + 1, np.int64),
            none,
            none.astype(np.float32),
        )
    total, squares = (float(sum(row[k] for row in done)) for k in ("total", "squares"))
    return Matrix(str(folder), name, n_rows, n_columns, tuple(blocks), total, squares, strides)


def _packer(
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
        problem = trouble(row, column, value, shape, positive)
        if problem is None:
            start, stop = index * size, min(shape[0], (index + 1) * size)
            row_place, column_place = row * strides[0] % shape[0] - start, column * strides[1] % shape[1]
            key = row_place * shape[1] + column_place
            order = np.argsort(key, kind="stable")
            key = key[order]
            twice = np.flatnonzero(key[1:] == key[:-1])
            if len(twice):
                e = order[twice[0]]
                problem = f"entry (row {row[e]}, column {column[e]}) comes twice; add its values up first"
            else:
                lengths = np.bincount(row_place, minlength=stop - start)
                offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)
                _write_block(folder, name, index, offsets, column_place[order].astype(np.int32), value[order])
        exact = value.astype(np.float64)
        found = (index, len(value), float(exact.sum()), float((exact * exact).sum()), problem)
        types = (pa.int32(), pa.int64(), pa.float64(), pa.float64(), pa.string())
        names = ["block", "n_entries", "total", "squares", "problem"]
        yield pa.RecordBatch.from_arrays([pa.array([v], t) for v, t in zip(found, types, strict=True)], names)

    return pack_block


def trouble(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, shape: tuple[int, int], positive: bool
) -> str | None:
    """What is wrong with the first bad entry, for people; None when all is well."""
    for indices, limit, what in ((row, shape[0], "row"), (column, shape[1], "column")):
        bad = np.flatnonzero((indices < 0) | (indices >= limit))
        if len(bad):
            return f"{what} index {indices[bad[0]]} is out of range; allowed are 0 to {limit - 1}"
    bad = np.flatnonzero(~np.isfinite(value) | (value <= 0 if positive else False))
    if len(bad):
        allowed = "finite and above 0" if positive else "finite"
        return f"entry (row {row[bad[0]]}, column {column[bad[0]]}) is {value[bad[0]]}; it must be {allowed}"
    return None


def _write_block(
    folder: str, name: str, index: int, offsets: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> None:
    for part, array in (("offsets", offsets), ("columns", columns), ("values", values)):
        save(f"{folder}/{name}-{index:05d}-{part}.npy", array)


# -- files ---------------------------------------------------------------------------------------------------------


def load(path: str) -> np.ndarray:
    """Memory-mapped, copy on write: the file never changes, and kernels see one kind of array."""
    array: np.ndarray = np.asarray(np.load(path, mmap_mode="c"))
    return array


def save(path: str, array: np.ndarray) -> None:
    """Write beside and rename: a task that dies leaves nothing half written under the name."""
    temporary = f"{path}.{uuid.uuid4().hex[:8]}"
    with open(temporary, "wb") as sink:
        np.save(sink, array)
    Path(path).unlink(missing_ok=True)  # a rename over a file makes some file systems wait for the disk
    os.replace(temporary, path)


def make_rows(path: str, n_rows: int, d: int) -> str:
    """An npy file (n_rows, d) float32 of zeros that tasks fill by rows."""
    np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n_rows, d))
    return path


def write_rows(path: str, start: int, rows: np.ndarray) -> None:
    """Put rows at their place in a file of `make_rows`; plain writes, so a shared file system sees them at close."""
    header = np.load(path, mmap_mode="r").offset
    with open(path, "r+b") as sink:
        sink.seek(header + start * rows.shape[1] * 4)
        sink.write(np.ascontiguousarray(rows, np.float32).data)


# -- small things --------------------------------------------------------------------------------------------------


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32; a zero row stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    scaled: np.ndarray = (x / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
    return scaled
