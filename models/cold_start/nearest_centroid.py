"""The nearest centroid of a vector: all that an answer needs of the segments, without what learns them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.cold_start.top_k import as_float_matrix

_BLOCK = 256  # vectors a product: K scores each stay in cache


class Centroids:
    """Centroids (K, D), checked and measured once: for a service that asks many times.

    Raises:
        ValueError: no centroid, NaN or infinity.
    """

    def __init__(self, centroids: ArrayLike) -> None:
        """Copies nothing that is contiguous float32 already."""
        self.c_KD = as_float_matrix("nearest: centroids", centroids)
        if not len(self.c_KD):
            raise ValueError(f"nearest: there must be a centroid, got {self.c_KD.shape}")
        self.half_K = np.vecdot(self.c_KD, self.c_KD) / 2
        self.longest = np.float32(np.sqrt(2 * self.half_K.max()))

    def nearest(self, x: ArrayLike) -> NDArray[np.int32]:
        """Centroid of each vector by Euclidean distance: x (B, D) -> (B,) int32; ties to the lower index.

        A row's answer does not depend on its batch: near ties are decided by distances of one pair at a time.
        """
        x_BD, c_KD = as_float_matrix("nearest: x", x), self.c_KD
        if x_BD.shape[1] != c_KD.shape[1]:
            raise ValueError(f"nearest: x (B, D) and centroids (K, D) must share D, got {x_BD.shape} and {c_KD.shape}")
        # Twice the largest rounding error of a score, on both sides, as in models/cold_start/top_k.py.
        length_B = np.sqrt(np.vecdot(x_BD, x_BD)) + self.longest
        margin_B = np.float32(4 * (x_BD.shape[1] + 2) * 2.0**-24) * self.longest * length_B
        labels = np.empty(len(x_BD), np.int32)
        for start in range(0, len(x_BD), _BLOCK):
            block = x_BD[start : start + _BLOCK] @ c_KD.T
            block -= self.half_K
            close = block >= (block.max(axis=1) - margin_B[start : start + _BLOCK])[:, None]
            labels[start : start + _BLOCK] = close.argmax(axis=1)
            for b in np.flatnonzero(close.sum(axis=1) > 1):
                among = np.flatnonzero(close[b])
                gap = x_BD[start + b] - c_KD[among]
                labels[start + b] = among[np.vecdot(gap, gap).argmin()]
        return labels


def nearest_centroids(x: ArrayLike, centroids: ArrayLike) -> NDArray[np.int32]:
    """`Centroids(centroids).nearest(x)`, for those who ask once."""
    return Centroids(centroids).nearest(x)
