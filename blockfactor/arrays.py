"""Array types of the library and the check of its input matrices."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from blockfactor.errors import InvalidDataError

FloatMatrix: TypeAlias = NDArray[np.float32]
FloatVector: TypeAlias = NDArray[np.float32]
DoubleMatrix: TypeAlias = NDArray[np.float64]
DoubleVector: TypeAlias = NDArray[np.float64]
IntVector: TypeAlias = NDArray[np.int32]
LongVector: TypeAlias = NDArray[np.int64]


def checked_matrix(name: str, x: ArrayLike) -> FloatMatrix:
    """Return `x` as a C-contiguous float32 matrix with finite rows.

    Args:
        name: Name of the input for error messages.
        x: Array-like of shape (rows, columns).

    Raises:
        InvalidDataError: `x` does not have two dimensions, or a row contains NaN, infinity or values whose squared
            norm overflows float32.
    """
    rows = np.ascontiguousarray(x, np.float32)
    if rows.ndim != 2:
        raise InvalidDataError(f"{name}: must be a matrix, got shape {rows.shape}")
    is_finite = np.isfinite(np.vecdot(rows, rows))
    if not is_finite.all():
        raise InvalidDataError(
            f"{name}: row {int(np.argmin(is_finite))} contains NaN, infinity or values too large to square"
        )
    return rows


def unit_rows(x: FloatMatrix) -> FloatMatrix:
    """Return the rows of `x` (n, d) scaled to length 1; a zero row stays zero."""
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    scaled: FloatMatrix = (x / np.where(length > 0, length, 1.0)[:, None]).astype(np.float32)
    return scaled
