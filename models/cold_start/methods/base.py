"""The interface of recommendation methods, which are fitted on warm listeners and return lists for cold listeners.

Shapes   B listeners, U warm users, F values of an input vector, N tracks, D width of the space, K segments,
         L places of a ranking, k places of a list

A method learns in its constructor, from `WarmListeners` or from parts of a release, and is not changed afterwards.
Every method passes these laws (tests/models/cold_start/methods/test_registry.py):

- `recommend` returns (B, k) int32, and no list contains a track twice.
- A shorter list is the head of a longer one.
- Row b depends on listener b only: a batch equals single calls, in any order.
- The same call returns the same lists and changes neither the method nor its arguments.
- A second fit on the same data with the same seed returns the same lists, on the same CPU with the same number of
  threads.
- A listener without usable signals gets the most popular tracks, unless the method defines a fallback of its own.
- A k out of range, an x of the wrong shape, and first days that are missing although the method needs them raise
  ValueError with the name of the method.
- On data with two separate tastes, each listener gets tracks of the own taste.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from models.arrays import FloatMatrix, IntMatrix, IntVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.vocabulary import Catalogue
from models.cold_start.top_k import exclude_items, top_k_of_scores

_CHUNK = 256  # listeners
Predict = Callable[[FloatMatrix], FloatMatrix]
"""The cold-start network as a function: input vectors (B, F) -> predicted vectors (B, D)."""


@dataclass(frozen=True)
class Needs:
    """What a method requires, and which listeners it serves.

    Attributes:
        cold_users: whether it has lists of its own for a listener without any interaction.
        signals: blocks of the input vector that it reads; "all" is the whole row.
        parts: parts of a release that it reads: track_vectors, network, centroids, rankings.
        first_days: whether it reads the ids of the first day; the mean vectors in x_BF are then not enough.
    """

    cold_users: bool = True
    signals: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    first_days: bool = False


@dataclass(frozen=True, eq=False)
class WarmListeners:
    """The training data of methods: one row per warm user by user_idx, one column per track by track_idx.

    Attributes:
        x_UF: input vectors of the registration day; may be memory-mapped.
        user_UD: vectors of the users in the space; zero where a user has none.
        track_ND: vectors of the tracks in the space.
        heard_UN: a one for each track that a user has streamed.
        labels_U: the segment of each user, NO_SEGMENT (models/cold_start/segments.py) where a user has no vector.
        centroids_KD: the centroids of the segments.
        rankings_KL: the most streamed tracks of each segment, as track_idx.
        catalogue: ids of the tracks, None where ids are unknown (the paper's public files).
        first_days: first days of the users by id, None where ids are unknown.
    """

    x_UF: FloatMatrix
    user_UD: FloatMatrix
    track_ND: FloatMatrix
    heard_UN: csr_array
    labels_U: IntVector
    centroids_KD: FloatMatrix
    rankings_KL: IntMatrix
    catalogue: Catalogue | None = None
    first_days: FirstDays | None = None


class Method(Protocol):
    """A fitted recommendation method."""

    @property
    def name(self) -> str:
        """Name in the evaluation table, one of MethodName in jobs/settings/cold_start.py."""

    @property
    def needs(self) -> Needs:
        """What the method requires."""

    @property
    def max_k(self) -> int:
        """Length of the longest list."""

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Recommend k tracks to each of B listeners.

        Args:
            x_BF: input vectors (B, F), in the layout of models/cold_start/input_vector.py.
            k: length of the lists, from 1 to the most that the method can list.
            first_days: the same listeners' first days by id; required where needs.first_days is set, else ignored.

        Returns:
            track_idx (B, k), distinct in a row, best first.

        Raises:
            ValueError: k is out of range, x_BF has the wrong shape, or first_days is missing or of other listeners.
        """


class Scorer(Protocol):
    """A method that can be blended: it scores every track, comparably within a listener."""

    @property
    def n_tracks(self) -> int:
        """N, the number of tracks in the catalogue."""

    def scores(self, tokens_BV: csr_array) -> FloatMatrix:
        """Return scores (B, N) from 0 to 1, higher is better, for the tokens of first days (sparse, ones)."""


def recommend_lists(
    method: Method, x_BF: FloatMatrix, k: int, first_days: FirstDays, excluded_BN: csr_array | None = None
) -> IntMatrix:
    """Return the lists of a method (B, k), without the tracks that are excluded for each listener.

    Args:
        method: a fitted method.
        x_BF: input vectors (B, F).
        k: length of the lists.
        first_days: the same listeners' first days.
        excluded_BN: sparse, nonzero for each track that must not be in a listener's list; None excludes nothing.
    """
    if excluded_BN is None:
        return method.recommend(x_BF, k, first_days)
    max_excluded = int(np.diff(excluded_BN.indptr).max(initial=0))
    longer_BL = method.recommend(x_BF, min(k + max_excluded, excluded_BN.shape[1]), first_days)
    return exclude_items(longer_BL, excluded_BN, k)


def as_input_rows(name: str, x_BF: ArrayLike, width: int | None = None) -> FloatMatrix:
    """Return `x_BF` as float32 (B, width).

    Args:
        name: name of the method, for the error.
        x_BF: input vectors.
        width: required number of columns; None accepts any.

    Raises:
        ValueError: x_BF has another shape.
    """
    x = np.asarray(x_BF, np.float32)
    if x.ndim != 2 or (width is not None and x.shape[1] != width):
        raise ValueError(f"{name}: x must be (B, {width or 'F'}), got {x.shape}")
    return x


def predict_vectors(name: str, predict: Predict, x_BF: FloatMatrix, d: int) -> FloatMatrix:
    """Return the vectors (B, d) that `predict` computes from x_BF.

    Raises:
        ValueError: the vectors have another shape.
    """
    vectors = np.asarray(predict(x_BF))
    if vectors.shape != (len(x_BF), d):
        raise ValueError(f"{name}: predict must return {(len(x_BF), d)}, got {vectors.shape}")
    return vectors


def check_k(name: str, k: int, max_k: int, limit: str) -> None:
    """Raise ValueError unless 1 <= k <= max_k; `limit` states in the error what max_k is."""
    if not 1 <= k <= max_k:
        raise ValueError(f"{name}: k must be from 1 to {limit} ({max_k}), got {k}")


def require_ids(name: str, warm: WarmListeners) -> tuple[Catalogue, FirstDays]:
    """Return the catalogue and the first days of the training data.

    Raises:
        ValueError: the data has no ids.
    """
    if warm.catalogue is None or warm.first_days is None:
        raise ValueError(
            f"{name}: needs ids of tracks, artists and albums for training, and this data has vectors only"
        )
    return warm.catalogue, warm.first_days


def require_first_days(name: str, x_BF: ArrayLike, first_days: FirstDays | None) -> FirstDays:
    """Return the first days of the listeners of x_BF.

    Raises:
        ValueError: there are none, or their number differs from the rows of x_BF.
    """
    if first_days is None or len(first_days) != len(as_input_rows(name, x_BF)):
        given = "none" if first_days is None else f"those of {len(first_days)} listeners"
        raise ValueError(f"{name}: needs the first day of each of the {len(np.asarray(x_BF))} listeners, got {given}")
    return first_days


def with_popular_tracks(lists_BK: IntMatrix, tokens_BV: csr_array) -> IntMatrix:
    """Return the lists, with the k most popular tracks for a listener without a token, (B, k).

    A trained bias orders the tracks nearly by popularity, but not quite: such a list would be a little worse.

    Args:
        lists_BK: track_idx, which are in the order of popularity.
        tokens_BV: tokens of the listeners' first days.
    """
    is_unknown_B1 = (np.diff(tokens_BV.indptr) == 0)[:, None]
    return np.where(is_unknown_B1, np.arange(lists_BK.shape[1], dtype=lists_BK.dtype), lists_BK)


def top_k_in_chunks(scores: Callable[[FirstDays], FloatMatrix], first_days: FirstDays, k: int) -> IntMatrix:
    """Return the k tracks with the highest scores of each listener, (B, k), scoring a bounded number at a time.

    Args:
        scores: computes (b, N) for b listeners.
        first_days: first days of all B listeners.
        k: length of the lists.
    """
    out = np.empty((len(first_days), k), np.int32)
    for start in range(0, len(first_days), _CHUNK):
        chunk = first_days.rows(start, min(start + _CHUNK, len(first_days)))
        out[start : start + _CHUNK] = top_k_of_scores(scores(chunk), k)
    return out
