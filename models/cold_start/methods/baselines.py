"""Methods without training: the most popular tracks, and the tracks nearest to those streamed on the first day.

Source   Briand et al. 2021, section 4.1.3 (Popularity, Registration Day Streams)
Differs  a listener without a known stream gets the most popular tracks, as the paper describes. The authors' code has
         no such fallback: all scores are then zero, and the order of the list is arbitrary. With fallback=False the
         query of such a listener is the mean of all track vectors: the same rule for everybody, without ties
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import IntMatrix
from models.cold_start.input_vector import FirstDays, Layout
from models.cold_start.methods.base import Needs, as_input_rows, check_k
from models.cold_start.top_k import Similarity, as_float_matrix, top_k


class Popularity:
    """Recommends the most popular tracks to everybody; track_idx is the popularity rank."""

    name = "popularity"
    needs = Needs()

    def __init__(self, n_tracks: int) -> None:
        """Store the size of the catalogue; ValueError below 1."""
        if n_tracks < 1:
            raise ValueError(f"popularity: n_tracks must be at least 1, got {n_tracks}")
        self.n_tracks = n_tracks

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        x = as_input_rows(self.name, x_BF)
        check_k(self.name, k, self.max_k, "the number of tracks")
        return np.tile(np.arange(k, dtype=np.int32), (len(x), 1))


class RegistrationDayStreams:
    """Recommends the tracks nearest to the mean vector of the tracks streamed on the first day."""

    name = "registration_day_streams"
    needs = Needs(cold_users=False, signals=("streamed_songs",), parts=("track_vectors",))

    def __init__(self, track_vectors: ArrayLike, similarity: Similarity, fallback: bool = True) -> None:
        """Store the track vectors.

        Args:
            track_vectors: (N, D) by track_idx.
            similarity: "cosine" or "dot".
            fallback: whether a listener without a known stream gets the most popular tracks; if not, the tracks nearest
                to the mean of all track vectors.
        """
        if not fallback:
            self.name = "registration_day_streams_no_fallback"
        self.track_vectors = as_float_matrix(f"{self.name}: track_vectors", track_vectors)
        self.similarity = similarity
        self.layout = Layout(self.track_vectors.shape[1])
        # No stream is a zero block. top_k ranks a zero query by index, which is by popularity.
        self.default_D = np.zeros(self.layout.d, np.float32) if fallback else self.track_vectors.mean(axis=0)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.track_vectors)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        x = as_input_rows(self.name, x_BF, self.layout.size)
        streams = x[:, self.layout.block("streamed_songs")]
        has_streams = streams.any(axis=1, keepdims=True)
        return top_k(np.where(has_streams, streams, self.default_D), self.track_vectors, k, self.similarity)
