"""Standardisation of input vectors for networks: counts and years are on another scale than vectors of unit length.

Shapes   U rows to fit on, B rows to scale, F values of a row, C selected columns
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.arrays import FloatMatrix, FloatVector

_CHUNK = 4096  # rows read at once: the matrix may be memory-mapped


@dataclass(frozen=True, eq=False)
class Scaler:
    """Selects columns of a row and scales them to mean 0 and standard deviation 1, clipped to +-clip.

    A column that is constant in the rows of `fit` becomes 0, because no weight was trained on it.
    """

    columns_C: NDArray[np.intp]
    mean_C: FloatVector
    scale_C: FloatVector
    clip: float = 5.0

    @classmethod
    def fit(cls, name: str, x_UF: FloatMatrix, columns: ArrayLike | None = None, clip: float = 5.0) -> Scaler:
        """Compute means and deviations of the selected columns, a chunk of rows at a time.

        Args:
            name: prefix of errors.
            x_UF: rows to fit on.
            columns: columns to select; None selects all.
            clip: bound of scaled values.

        Raises:
            ValueError: there is no row, or a column contains NaN or infinity.
        """
        if x_UF.ndim != 2 or not len(x_UF):
            raise ValueError(f"{name}: must be (U, F) with at least one row, got {x_UF.shape}")
        columns_C = np.arange(x_UF.shape[1]) if columns is None else np.asarray(columns, np.intp)
        total_C, square_C = np.zeros(len(columns_C)), np.zeros(len(columns_C))
        shift_C = np.asarray(x_UF[0], np.float64)[columns_C]  # keeps the squares small relative to the variance
        for start in range(0, len(x_UF), _CHUNK):
            chunk = np.asarray(x_UF[start : start + _CHUNK])[:, columns_C] - shift_C
            total_C += chunk.sum(axis=0)
            square_C += np.square(chunk).sum(axis=0)
        if not (finite := np.isfinite(square_C)).all():
            raise ValueError(f"{name}: column {int(columns_C[np.argmin(finite)])} contains NaN or infinity")
        mean_C = total_C / len(x_UF)
        deviation_C = np.sqrt(np.maximum(square_C / len(x_UF) - mean_C**2, 0))
        varies = deviation_C > 1e-6 * np.maximum(np.abs(mean_C + shift_C), 1e-6)
        scale_C = np.divide(1, deviation_C, out=np.zeros_like(deviation_C), where=varies)
        return cls(columns_C, (mean_C + shift_C).astype(np.float32), scale_C.astype(np.float32), clip)

    def __call__(self, x_BF: FloatMatrix) -> FloatMatrix:
        """Return the scaled columns, (B, C) float32; a row's values do not depend on the other rows."""
        out: FloatMatrix = x_BF[:, self.columns_C] - self.mean_C
        out *= self.scale_C
        return np.clip(out, -self.clip, self.clip, out=out)
