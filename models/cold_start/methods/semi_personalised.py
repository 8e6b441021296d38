"""The paper's own methods, fully and semi-personalised: lists from the vector that the network predicts.

Shapes   as in models/cold_start/methods/base.py
Source   Briand et al. 2021, section 3.2.3; the network is in models/cold_start/network.py
Differs  a listener with a zero prediction gets the most popular tracks
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import IntMatrix, IntVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, Predict, as_input_rows, check_k, predict_vectors
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.top_k import ItemIndex, Similarity, as_float_matrix, normalise
from models.cold_start.track_index import TrackIndex


class FullPers:
    """Recommends the tracks nearest to the predicted vector."""

    name = "full_pers"
    needs = Needs(signals=("all",), parts=("network", "track_vectors"))

    def __init__(
        self, predict: Predict, track_vectors: ArrayLike, similarity: Similarity, index: TrackIndex | None = None
    ) -> None:
        """Index the track vectors.

        Args:
            predict: input vectors (B, F) -> vectors (B, D).
            track_vectors: (N, D) by track_idx.
            similarity: "cosine" as in the paper, or "dot" as in the authors' code.
            index: an approximate index of these vectors, for a large catalogue; None: exact lists.
        """
        self.predict = predict
        self.tracks: ItemIndex | TrackIndex
        if index is None:
            self.tracks = ItemIndex(as_float_matrix(f"{self.name}: track_vectors", track_vectors), similarity)
        else:
            self.tracks = index

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.tracks.items_ND)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        width = self.tracks.items_ND.shape[1]
        vectors_BD = predict_vectors(self.name, self.predict, as_input_rows(self.name, x_BF), width)
        return self.tracks.top_k(vectors_BD, k)


class SemiPers:
    """Recommends the ranking of the segment nearest to the predicted vector."""

    name = "semi_pers"
    needs = Needs(signals=("all",), parts=("network", "centroids", "rankings"))

    def __init__(self, predict: Predict, centroids: ArrayLike, rankings: ArrayLike) -> None:
        """Store centroids and rankings.

        Args:
            predict: input vectors (B, F) -> vectors (B, D).
            centroids: (K, D).
            rankings: (K, L) track_idx, distinct in a row.

        Raises:
            ValueError: centroids contain NaN or infinity, or rankings has not one row per centroid.
        """
        self.predict = predict
        self.centroids = as_float_matrix(f"{self.name}: centroids", centroids)
        self.rankings = np.ascontiguousarray(rankings, np.int32)
        if self.rankings.ndim != 2 or len(self.rankings) != len(self.centroids):
            raise ValueError(
                f"{self.name}: rankings must have a row for each of {len(self.centroids)} centroids, "
                f"got {self.rankings.shape}"
            )

    def segments(self, x_BF: ArrayLike) -> IntVector:
        """Return the segment of each listener, (B,): the centroid nearest to the normalised prediction, Euclidean."""
        width = self.centroids.shape[1]
        vectors_BD = predict_vectors(self.name, self.predict, as_input_rows(self.name, x_BF), width)
        return nearest_centroids(normalise(vectors_BD), self.centroids)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return int(self.rankings.shape[1])

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        check_k(self.name, k, self.max_k, "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
