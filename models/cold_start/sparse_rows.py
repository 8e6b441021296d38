"""Operations on sparse matrices whose rows are listeners or tracks."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from models.arrays import LongVector


def binarise(matrix: Any) -> csr_array:
    """Return a new float32 matrix with a one in place of each nonzero entry, repeats counted once."""
    binary = csr_array(matrix, dtype=np.float32, copy=True)
    binary.sum_duplicates()
    binary.eliminate_zeros()
    binary.data[:] = 1
    return binary


def draw_from_rows(matrix_BN: csr_array, n_B: LongVector, rng: np.random.Generator) -> csr_array:
    """Return random entries of each row as ones, without replacement, (B, N) float32.

    Args:
        matrix_BN: sparse; each stored entry can be drawn.
        n_B: number of entries to draw of each row, at most those that it has.
        rng: generator of the draws.
    """
    lengths = np.diff(matrix_BN.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((rng.random(len(row)), row))
    rank = np.arange(len(row)) - np.repeat(matrix_BN.indptr[:-1], lengths)
    chosen = order[rank < np.repeat(n_B, lengths)]
    offsets = np.concatenate([[0], np.cumsum(n_B)])
    ones = np.ones(len(chosen), np.float32)
    return csr_array((ones, matrix_BN.indices[chosen], offsets), shape=matrix_BN.shape)
