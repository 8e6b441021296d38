"""Input Features Clustering: segments of the input vectors, the ablation without a network.

Shapes   as in models/cold_start/methods/base.py
Source   Briand et al. 2021, section 4.1.3; 100 clusters of rows at unit length as in the authors' code
Differs  k-means of blockfactor/kmeans.py instead of scikit-learn's: other seeds, swaps out of local minima
Memory   one copy of x_UF for the rows at unit length; the search among a quarter of them adds a third of that
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from blockfactor.kmeans import kmeans
from models.arrays import IntMatrix, IntVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, WarmListeners, as_input_rows, check_k
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import rankings
from models.cold_start.top_k import as_float_matrix, normalise

_CHUNK = 4096


class InputFeaturesClustering:
    """Recommends the ranking of the cluster of warm users whose input vectors are nearest by angle."""

    name = "input_features_clustering"
    needs = Needs(signals=("all",))

    def __init__(self, warm: WarmListeners, k: int = 100, seed: int = 0) -> None:
        """Cluster the input vectors of warm users.

        Args:
            warm: training data; the rankings are as long as those of its segments.
            k: number of clusters.
            seed: seed of k-means.

        Raises:
            ValueError: k is not in 1..U, or a row contains NaN or infinity.
        """
        x_UF = warm.x_UF
        if not 1 <= k <= len(x_UF):
            raise ValueError(f"{self.name}: k must be from 1 to the number of warm users ({len(x_UF)}), got {k}")
        unit_UF = np.empty(x_UF.shape, np.float32)
        for start in range(0, len(x_UF), _CHUNK):
            unit_UF[start : start + _CHUNK] = normalise(x_UF[start : start + _CHUNK])
        clusters = kmeans(unit_UF, k, seed)
        self.centroids, self.labels = clusters.centroids, clusters.labels
        self.rankings = rankings(clusters.labels, warm.heard_UN, k, warm.rankings_KL.shape[1])

    def segments(self, x_BF: ArrayLike) -> IntVector:
        """Return the cluster of each listener, (B,)."""
        x = as_input_rows(self.name, x_BF, self.centroids.shape[1])
        return nearest_centroids(normalise(as_float_matrix(f"{self.name}: x", x)), self.centroids)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return int(self.rankings.shape[1])

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        check_k(self.name, k, self.max_k, "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
