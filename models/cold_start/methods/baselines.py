"""Methods without learning of their own: the most popular tracks, and what is near the tracks of the first day.

Source   Briand et al. 2021, section 4.1.3 (Popularity, Registration Day Streams)
Differs  a listener without a known stream gets the most popular tracks, as the paper says. The authors' code has no
         such fallback: it ranks by scores that are all zero, whatever order that gives. Without fallback, here, such a
         listener stands at the mean of all track vectors: the same rule for everybody, and no tie among all tracks
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.cold_start.input_vector import FirstDays, Layout
from models.cold_start.methods.base import Needs, as_input_rows, check_k
from models.cold_start.top_k import Similarity, as_float_matrix, top_k


class Popularity:
    """The most popular tracks for everybody: track_idx is the popularity rank."""

    name = "popularity"
    needs = Needs()

    def __init__(self, n_tracks: int) -> None:
        """For a catalogue of n_tracks."""
        if n_tracks < 1:
            raise ValueError(f"popularity: n_tracks must be at least 1, got {n_tracks}")
        self.n_tracks = n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = as_input_rows(self.name, x_BF)
        check_k(self.name, k, self.n_tracks, "the number of tracks")
        return np.tile(np.arange(k, dtype=np.int32), (len(x), 1))


class RegistrationDayStreams:
    """Tracks nearest to the mean vector of the tracks streamed.

    Without a known stream: the most popular tracks; without `fallback`, the tracks nearest to the mean of all tracks.
    """

    name = "registration_day_streams"
    needs = Needs(cold_users=False, signals=("streamed_songs",), parts=("track_vectors",))

    def __init__(self, track_vectors: ArrayLike, similarity: Similarity = "cosine", fallback: bool = True) -> None:
        """Needs track_vectors (N, D) by track_idx."""
        if not fallback:
            self.name = "registration_day_streams_no_fallback"
        self.track_vectors = as_float_matrix(f"{self.name}: track_vectors", track_vectors)
        self.similarity = similarity
        self.layout = Layout(self.track_vectors.shape[1])
        # No stream is a zero block, and top_k answers a zero query by index: by popularity.
        self.without_D = np.zeros(self.layout.d, np.float32) if fallback else self.track_vectors.mean(axis=0)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = as_input_rows(self.name, x_BF, self.layout.size)
        streams = x[:, self.layout.block("streamed_songs")]
        known = streams.any(axis=1, keepdims=True)
        return top_k(np.where(known, streams, self.without_D), self.track_vectors, k, self.similarity)
