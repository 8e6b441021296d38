"""Inputs at one scale for networks that learn by gradient steps: counts and years stand beside parts of unit vectors.

Shapes   U rows to learn from, B rows to scale, F values of a row, C values kept of it
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float32]

_CHUNK = 4096  # rows held at once: the matrix may be memory-mapped


@dataclass(frozen=True, eq=False)
class Scaler:
    """Some columns of a row, brought to mean 0 and standard deviation 1 and clipped to +-clip.

    A column that never changed among the rows learned from is 0: no weight was trained on it.
    """

    columns_C: NDArray[np.intp]
    mean_C: Floats
    scale_C: Floats
    clip: float = 5.0

    @classmethod
    def fit(cls, name: str, x_UF: NDArray[np.float32], columns: ArrayLike | None = None, clip: float = 5.0) -> Scaler:
        """Means and deviations of the chosen columns (all, if none are named) of x_UF, read a chunk of rows at a time.

        Raises:
            ValueError: no row; a column with NaN or infinity. It starts with `name`.
        """
        if x_UF.ndim != 2 or not len(x_UF):
            raise ValueError(f"{name}: must be (U, F) with at least one row, got {x_UF.shape}")
        columns_C = np.arange(x_UF.shape[1]) if columns is None else np.asarray(columns, np.intp)
        total_C, square_C = np.zeros(len(columns_C)), np.zeros(len(columns_C))
        shift_C = np.asarray(x_UF[0], np.float64)[columns_C]  # keeps the squares small beside what they are taken from
        for start in range(0, len(x_UF), _CHUNK):
            part = np.asarray(x_UF[start : start + _CHUNK])[:, columns_C] - shift_C
            total_C += part.sum(axis=0)
            square_C += np.square(part).sum(axis=0)
        if not (fine := np.isfinite(square_C)).all():
            raise ValueError(f"{name}: column {int(columns_C[np.argmin(fine)])} holds NaN or infinity")
        mean_C = total_C / len(x_UF)
        deviation_C = np.sqrt(np.maximum(square_C / len(x_UF) - mean_C**2, 0))
        changes = deviation_C > 1e-6 * np.maximum(np.abs(mean_C + shift_C), 1e-6)
        scale_C = np.divide(1, deviation_C, out=np.zeros_like(deviation_C), where=changes)
        return cls(columns_C, (mean_C + shift_C).astype(np.float32), scale_C.astype(np.float32), clip)

    def __call__(self, x_BF: NDArray[np.float32]) -> Floats:
        """(B, C) float32; a row's values do not depend on the rows beside it."""
        out: Floats = x_BF[:, self.columns_C] - self.mean_C
        out *= self.scale_C
        return np.clip(out, -self.clip, self.clip, out=out)
