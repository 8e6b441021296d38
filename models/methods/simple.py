"""Methods without learning of their own: the most popular tracks, and what is near the tracks of the first day.

Source   Briand et al. 2021, section 4.1.3 (Popularity, Registration Day Streams)
Differs  a listener without a known stream gets the most popular tracks, as the paper says; the authors' code ranks by
         index for want of anything else, which is the same on their tracks in order of popularity
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from models.input_vector import Layout
from models.methods.interface import Needs, check_k, input_rows
from models.recommend import Similarity, matrix, top_k


class Popularity:
    """The most popular tracks for everybody: track_idx is the popularity rank."""

    name = "popularity"
    needs = Needs()

    def __init__(self, n_tracks: int) -> None:
        """For a catalogue of n_tracks."""
        if n_tracks < 1:
            raise ValueError(f"popularity: n_tracks must be at least 1, got {n_tracks}")
        self.n_tracks = n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, heard_BN: csr_array | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = input_rows(self.name, x_BF)
        check_k(self.name, k, self.n_tracks, "the number of tracks")
        return np.tile(np.arange(k, dtype=np.int32), (len(x), 1))


class RegistrationDayStreams:
    """Tracks nearest to the mean vector of the tracks streamed; without a known stream, the most popular tracks."""

    name = "registration_day_streams"
    needs = Needs(cold_users=False, signals=("streamed_songs",), parts=("track_vectors",))

    def __init__(self, track_vectors: ArrayLike, similarity: Similarity = "cosine") -> None:
        """Needs track_vectors (N, D) by track_idx."""
        self.track_vectors = matrix(f"{self.name}: track_vectors", track_vectors)
        self.similarity = similarity
        self.layout = Layout(self.track_vectors.shape[1])

    def recommend(self, x_BF: ArrayLike, k: int, heard_BN: csr_array | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = input_rows(self.name, x_BF, self.layout.size)
        # No stream is a zero block, and top_k answers a zero query by index: by popularity.
        return top_k(x[:, self.layout.block("streamed_songs")], self.track_vectors, k, self.similarity)
