"""Conversion between list columns of Arrow tables and NumPy matrices."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from contracts.errors import CheckFailed
from models.arrays import AnyMatrix, FloatMatrix


def to_matrix(table: pa.Table, column: str = "vector") -> FloatMatrix:
    """Return a list<float> column as a matrix (n, d) float32; (0, 0) if the table has no rows.

    Raises:
        CheckFailed: The lists have different lengths.
    """
    lists = table.column(column).combine_chunks()
    if len(lists) == 0:
        return np.zeros((0, 0), np.float32)
    offsets = lists.offsets.to_numpy()
    widths = np.diff(offsets)
    if (widths != widths[0]).any():
        raise CheckFailed(f"column '{column}': vectors of different lengths, {widths.min()} to {widths.max()}")
    return np.asarray(lists.flatten().to_numpy(zero_copy_only=False), np.float32).reshape(len(lists), -1)


def to_list_column(values: AnyMatrix) -> pa.Array:
    """Return a matrix (n, d) float32 or int32 as a list column. The values of a contiguous matrix are not copied."""
    n, d = values.shape
    offsets = np.arange(0, (n + 1) * d, d, dtype=np.int32) if d else np.zeros(n + 1, np.int32)
    return pa.ListArray.from_arrays(offsets, np.ascontiguousarray(values).reshape(-1))
