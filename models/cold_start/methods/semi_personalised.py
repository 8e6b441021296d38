"""The paper's own methods over the network's prediction: fully and semi-personalised.

Shapes   as in models/cold_start/methods/base.py
Source   Briand et al. 2021, section 3.2.3; the network is in models/cold_start/network.py
Differs  a listener about whom the network says nothing (a zero vector) gets the most popular tracks
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, Predict, as_input_rows, check_k, predict_vectors
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.top_k import ItemIndex, Similarity, as_float_matrix, normalise


class FullPers:
    """Tracks nearest to the predicted vector."""

    name = "full_pers"
    needs = Needs(signals=("all",), parts=("network", "track_vectors"))

    def __init__(self, predict: Predict, track_vectors: ArrayLike, similarity: Similarity = "cosine") -> None:
        """Needs `predict` (B, F) -> (B, D) and track_vectors (N, D) by track_idx; the authors' code uses dot."""
        self.predict = predict
        self.tracks = ItemIndex(as_float_matrix(f"{self.name}: track_vectors", track_vectors), similarity)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        vectors = predict_vectors(
            self.name, self.predict, as_input_rows(self.name, x_BF), self.tracks.items_ND.shape[1]
        )
        return self.tracks.top_k(vectors, k)


class SemiPers:
    """The ranking of the segment nearest to the predicted vector."""

    name = "semi_pers"
    needs = Needs(signals=("all",), parts=("network", "centroids", "rankings"))

    def __init__(self, predict: Predict, centroids: ArrayLike, rankings: Any) -> None:
        """Needs `predict` (B, F) -> (B, D), centroids (K, D) and rankings (K, L) of track_idx, distinct in a row."""
        self.predict = predict
        self.centroids = as_float_matrix(f"{self.name}: centroids", centroids)
        self.rankings = np.ascontiguousarray(rankings, np.int32)
        if self.rankings.ndim != 2 or len(self.rankings) != len(self.centroids):
            raise ValueError(
                f"{self.name}: rankings must have a row for each of {len(self.centroids)} centroids, "
                f"got {self.rankings.shape}"
            )

    def segments(self, x_BF: ArrayLike) -> NDArray[np.int32]:
        """Segment of each listener, (B,): nearest centroid to the prediction at unit length, by Euclidean distance."""
        vectors = predict_vectors(self.name, self.predict, as_input_rows(self.name, x_BF), self.centroids.shape[1])
        return nearest_centroids(normalise(vectors), self.centroids)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        check_k(self.name, k, self.rankings.shape[1], "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
