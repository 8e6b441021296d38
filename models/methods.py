"""The methods that answer a cold listener. Each turns input vectors into lists of tracks.

Shapes   B listeners, F values of an input vector, N tracks, D width, K segments, k places
Source   Briand et al. 2021, sections 3.2.3 (Full-Pers, Semi-Pers) and 4.1.3 (Popularity, Registration Day Streams)
Differs  a listener about whom a method knows nothing (a zero query) gets the most popular tracks

A list has no track twice, row b is about listener b, and asking again gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.input_vector import Layout
from models.recommend import Similarity, matrix, normalise, top_k
from models.segments import nearest

Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Needs:
    """What a method must have, and whom it can serve."""

    history: bool = False  # a listener must be in the training data
    cold_users: bool = True  # has an answer of its own for a listener with no interaction at all
    signals: tuple[str, ...] = ()  # blocks of the input vector that it reads; "all" = the whole row
    parts: tuple[str, ...] = ()  # of a release: track_vectors, network, centroids, rankings


class Method(Protocol):
    """A way to recommend to B listeners from their input vectors."""

    @property
    def name(self) -> str:
        """As in the evaluation table."""

    @property
    def needs(self) -> Needs:
        """What it must have."""

    def recommend(self, x_BF: ArrayLike, k: int) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""


def _rows(name: str, x_BF: ArrayLike, width: int | None = None) -> NDArray[np.float32]:
    x = np.asarray(x_BF, np.float32)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        raise ValueError(f"{name}: x must be (B, {width or 'F'}), got {x.shape}")
    return x


def _predicted(name: str, predict: Predict, x_BF: NDArray[np.float32], d: int) -> NDArray[np.float32]:
    vectors = np.asarray(predict(x_BF))
    if vectors.shape != (len(x_BF), d):
        raise ValueError(f"{name}: predict must give {(len(x_BF), d)}, got {vectors.shape}")
    return vectors


def _check_k(name: str, k: int, most: int, of: str) -> None:
    if not 1 <= k <= most:
        raise ValueError(f"{name}: k must be from 1 to {of} ({most}), got {k}")


class Popularity:
    """The most popular tracks for everybody: track_idx is the popularity rank."""

    name = "popularity"
    needs = Needs()

    def __init__(self, n_tracks: int) -> None:
        """For a catalogue of n_tracks."""
        if n_tracks < 1:
            raise ValueError(f"popularity: n_tracks must be at least 1, got {n_tracks}")
        self.n_tracks = n_tracks

    def recommend(self, x_BF: ArrayLike, k: int) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = _rows(self.name, x_BF)
        _check_k(self.name, k, self.n_tracks, "the number of tracks")
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

    def recommend(self, x_BF: ArrayLike, k: int) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = _rows(self.name, x_BF, self.layout.size)
        # No stream is a zero block, and top_k answers a zero query by index: by popularity.
        return top_k(x[:, self.layout.block("streamed_songs")], self.track_vectors, k, self.similarity)


class FullPers:
    """Tracks nearest to the predicted vector."""

    name = "full_pers"
    needs = Needs(signals=("all",), parts=("network", "track_vectors"))

    def __init__(self, predict: Predict, track_vectors: ArrayLike, similarity: Similarity = "cosine") -> None:
        """Needs `predict` (B, F) -> (B, D) and track_vectors (N, D) by track_idx; the authors' code uses dot."""
        self.predict = predict
        self.track_vectors = matrix(f"{self.name}: track_vectors", track_vectors)
        self.similarity = similarity

    def recommend(self, x_BF: ArrayLike, k: int) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        vectors = _predicted(self.name, self.predict, _rows(self.name, x_BF), self.track_vectors.shape[1])
        return top_k(vectors, self.track_vectors, k, self.similarity)


class SemiPers:
    """The ranking of the segment nearest to the predicted vector."""

    name = "semi_pers"
    needs = Needs(signals=("all",), parts=("network", "centroids", "rankings"))

    def __init__(self, predict: Predict, centroids: ArrayLike, rankings: Any) -> None:
        """Needs `predict` (B, F) -> (B, D), centroids (K, D) and rankings (K, L) of track_idx, distinct in a row."""
        self.predict = predict
        self.centroids = matrix(f"{self.name}: centroids", centroids)
        self.rankings = np.ascontiguousarray(rankings, np.int32)
        if self.rankings.ndim != 2 or len(self.rankings) != len(self.centroids):
            raise ValueError(
                f"{self.name}: rankings must have a row for each of {len(self.centroids)} centroids, "
                f"got {self.rankings.shape}"
            )

    def segments(self, x_BF: ArrayLike) -> NDArray[np.int32]:
        """Segment of each listener, (B,): nearest centroid to the prediction at unit length, by Euclidean distance."""
        vectors = _predicted(self.name, self.predict, _rows(self.name, x_BF), self.centroids.shape[1])
        return nearest(normalise(vectors), self.centroids)

    def recommend(self, x_BF: ArrayLike, k: int) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        _check_k(self.name, k, self.rankings.shape[1], "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
