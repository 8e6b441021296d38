"""The nearest centroid of a vector, without the dependencies of k-means.

Shapes   B vectors, K centroids, D width
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import IntVector
from models.cold_start.top_k import as_float_matrix

_BLOCK = 256  # vectors per product: their K scores fit in cache


class Centroids:
    """Centroids (K, D) prepared once for many queries."""

    def __init__(self, centroids: ArrayLike) -> None:
        """Validate the centroids; contiguous float32 is not copied.

        Raises:
            ValueError: there is no centroid, or one contains NaN or infinity.
        """
        self.c_KD = as_float_matrix("nearest: centroids", centroids)
        if not len(self.c_KD):
            raise ValueError(f"nearest: there must be at least one centroid, got {self.c_KD.shape}")
        self.half_K = np.vecdot(self.c_KD, self.c_KD) / 2
        self.longest = np.float32(np.sqrt(2 * self.half_K.max()))

    def nearest(self, x: ArrayLike) -> IntVector:
        """Return the index of the nearest centroid of each vector, by Euclidean distance, ties to the lower index.

        Args:
            x: vectors (B, D).

        Returns:
            (B,) int32. It does not depend on the batch: near ties are decided by distances of one pair at a time.

        Raises:
            ValueError: widths differ, or x contains NaN or infinity.
        """
        x_BD, c_KD = as_float_matrix("nearest: x", x), self.c_KD
        if x_BD.shape[1] != c_KD.shape[1]:
            raise ValueError(f"nearest: x (B, D) and centroids (K, D) must share D, got {x_BD.shape} and {c_KD.shape}")
        # Twice the largest rounding error of a score, on both sides, as in models/cold_start/top_k.py.
        length_B = np.sqrt(np.vecdot(x_BD, x_BD)) + self.longest
        margin_B = np.float32(4 * (x_BD.shape[1] + 2) * 2.0**-24) * self.longest * length_B
        labels = np.empty(len(x_BD), np.int32)
        for start in range(0, len(x_BD), _BLOCK):
            score_BK = x_BD[start : start + _BLOCK] @ c_KD.T
            score_BK -= self.half_K
            is_near_BK = score_BK >= (score_BK.max(axis=1) - margin_B[start : start + _BLOCK])[:, None]
            labels[start : start + _BLOCK] = is_near_BK.argmax(axis=1)
            for b in np.flatnonzero(is_near_BK.sum(axis=1) > 1):
                near_M = np.flatnonzero(is_near_BK[b])
                gap_MD = x_BD[start + b] - c_KD[near_M]
                labels[start + b] = near_M[np.vecdot(gap_MD, gap_MD).argmin()]
        return labels


def nearest_centroids(x: ArrayLike, centroids: ArrayLike) -> IntVector:
    """Return `Centroids(centroids).nearest(x)`, for a single query."""
    return Centroids(centroids).nearest(x)
