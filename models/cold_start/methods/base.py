"""What every method is: fitted on warm users, it answers cold listeners with lists of tracks.

Shapes   B listeners, U warm users, F values of an input vector, N tracks, D width, K segments, L places of a ranking

A list has no track twice, row b is about listener b, asking again gives the same answer, and a listener about whom a
method knows nothing gets the most popular tracks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.vocabulary import Catalogue
from models.cold_start.top_k import exclude_items, top_k_of_scores

_CHUNK = 256  # listeners
Predict = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Needs:
    """What a method must have, and whom it can serve."""

    history: bool = False  # a listener must be in the training data
    cold_users: bool = True  # has an answer of its own for a listener with no interaction at all
    signals: tuple[str, ...] = ()  # blocks of the input vector that it reads; "all" = the whole row
    parts: tuple[str, ...] = ()  # of a release: track_vectors, network, centroids, rankings
    days: bool = False  # what was done on the first day, by id; mean vectors alone will not do


@dataclass(frozen=True, eq=False)
class WarmListeners:
    """What methods learn from: one row a warm user in the order of user_idx, one a track in the order of track_idx.

    x_UF holds the first day's input vectors, and may be memory-mapped; user_UD is zero where a user has no vector;
    heard_UN holds a one for each track that a user has streamed; labels_U, centroids_KD and rankings_KL are the
    segments of the users. Where ids are known, `catalogue` has those of the tracks and `days` the users' first days;
    the paper's public files have neither.
    """

    x_UF: NDArray[np.float32]
    user_UD: NDArray[np.float32]
    track_ND: NDArray[np.float32]
    heard_UN: csr_array
    labels_U: NDArray[np.int32]
    centroids_KD: NDArray[np.float32]
    rankings_KL: NDArray[np.int32]
    catalogue: Catalogue | None = None
    days: FirstDays | None = None


class Method(Protocol):
    """A way to recommend to B listeners from their input vectors."""

    @property
    def name(self) -> str:
        """As in the evaluation table."""

    @property
    def needs(self) -> Needs:
        """What it must have."""

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k).

        `days` tells what was done on the first day by id; a method that needs.days refuses to go without, the others
        do not look at it.
        """


class Scorer(Protocol):
    """What can be blended: a score for every track, comparable within a listener."""

    @property
    def n_tracks(self) -> int:
        """N, the catalogue's size."""

    def scores(self, days: FirstDays) -> NDArray[np.float32]:
        """(B, N), 0 to 1, highest best."""


def recommend_lists(
    method: Method, x_BF: NDArray[np.float32], k: int, days: FirstDays, taken_BN: csr_array | None = None
) -> NDArray[np.int32]:
    """What a method recommends, (B, k); without each listener's taken tracks, where any are given."""
    if taken_BN is None:
        return method.recommend(x_BF, k, days)
    longest = int(np.diff(taken_BN.indptr).max(initial=0))
    return exclude_items(method.recommend(x_BF, min(k + longest, taken_BN.shape[1]), days), taken_BN, k)


def as_input_rows(name: str, x_BF: ArrayLike, width: int | None = None) -> NDArray[np.float32]:
    """`x_BF` as float32 (B, width); ValueError names the method."""
    x = np.asarray(x_BF, np.float32)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        raise ValueError(f"{name}: x must be (B, {width or 'F'}), got {x.shape}")
    return x


def predict_vectors(name: str, predict: Predict, x_BF: NDArray[np.float32], d: int) -> NDArray[np.float32]:
    """What `predict` says about x_BF, checked to be (B, d)."""
    vectors = np.asarray(predict(x_BF))
    if vectors.shape != (len(x_BF), d):
        raise ValueError(f"{name}: predict must give {(len(x_BF), d)}, got {vectors.shape}")
    return vectors


def check_k(name: str, k: int, most: int, of: str) -> None:
    """ValueError unless 1 <= k <= most."""
    if not 1 <= k <= most:
        raise ValueError(f"{name}: k must be from 1 to {of} ({most}), got {k}")


def require_ids(name: str, warm: WarmListeners) -> tuple[Catalogue, FirstDays]:
    """The ids that a method learns from; ValueError where the data has none."""
    if warm.catalogue is None or warm.days is None:
        raise ValueError(f"{name}: learns from ids of tracks, artists and albums, and this data has vectors alone")
    return warm.catalogue, warm.days


def require_first_days(name: str, x_BF: ArrayLike, days: FirstDays | None) -> FirstDays:
    """The first days of the listeners of x_BF; ValueError without them or about other listeners."""
    if days is None or len(days) != len(as_input_rows(name, x_BF)):
        given = "none" if days is None else f"those of {len(days)} listeners"
        raise ValueError(f"{name}: needs the first day of each of the {len(np.asarray(x_BF))} listeners, got {given}")
    return days


def top_k_in_chunks(scores: Callable[[FirstDays], NDArray[np.float32]], days: FirstDays, k: int) -> NDArray[np.int32]:
    """The k tracks of the highest scores (b, N) of each listener, (B, k); memory is bounded whatever B is."""
    out = np.empty((len(days), k), np.int32)
    for start in range(0, len(days), _CHUNK):
        out[start : start + _CHUNK] = top_k_of_scores(scores(days.rows(start, min(start + _CHUNK, len(days)))), k)
    return out
