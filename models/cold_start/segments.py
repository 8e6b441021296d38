"""What the members of each segment stream: counts and rankings of tracks.

Shapes   U users, K segments, N tracks, L places of a ranking
Source   Briand et al. 2021, section 3.2.3
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from models.arrays import IntMatrix, LongVector


def segment_members(labels: NDArray[np.integer], k: int) -> csr_array:
    """Return the members of each segment, as ones of a sparse (K, U).

    Args:
        labels: segment of each user, (U,).
        k: K, the number of segments.
    """
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(labels, minlength=k))])
    return csr_array((np.ones(labels.size, np.float32), np.argsort(labels, kind="stable"), bounds), (k, labels.size))


def listener_counts(labels: NDArray[np.integer], user_tracks: Any, k: int) -> csr_array:
    """Return how many members of each segment have each track, sparse (K, N) int64.

    Args:
        labels: segment of each user, (U,).
        user_tracks: sparse (U, N) of ones.
        k: K, the number of segments.
    """
    # Exact in float32 below 2^24 users, and without a copy of the matrix.
    return csr_array((segment_members(labels, k) @ csr_array(user_tracks)).astype(np.int64))


def rankings(labels: ArrayLike, user_tracks: Any, k: int, length: int) -> IntMatrix:
    """Return the tracks that most members of each segment have, (K, L) int32 track_idx.

    Tracks are ordered by the number of members who have them, then by popularity, which is the index. If a segment has
    fewer than L tracks, the most popular other tracks fill its list.

    Args:
        labels: segment of each user, (U,).
        user_tracks: sparse (U, N) of ones.
        k: K, the number of segments.
        length: L, the length of a ranking.

    Raises:
        ValueError: labels are not in 0..k - 1, the matrix is not binary, or length is not in 1..N.
    """
    label_U = np.asarray(labels)
    if not issparse(user_tracks) or label_U.shape != user_tracks.shape[:1] or label_U.dtype.kind not in "iu":
        raise ValueError(
            f"rankings: labels must be (U,) integers and user_tracks sparse (U, N), "
            f"got {label_U.shape} and {getattr(user_tracks, 'shape', type(user_tracks).__name__)}"
        )
    n = int(user_tracks.shape[1])
    if not 1 <= length <= n:
        raise ValueError(f"segments.ranking_length: must be from 1 to the number of tracks ({n}), got {length}")
    if label_U.size and not 0 <= label_U.min() <= label_U.max() < k:
        raise ValueError(f"rankings: labels must be from 0 to {k - 1}, got {label_U.min()} to {label_U.max()}")
    tracks = csr_array(user_tracks)
    if not tracks.has_canonical_format:  # unsorted columns are accepted; duplicates add up to 2 and are refused below
        tracks = tracks.copy()
        tracks.sum_duplicates()
    if (tracks.data != 1).any():
        raise ValueError("rankings: user_tracks must contain each (user, track) once, with value 1")
    counts = listener_counts(label_U, tracks, k)
    out = np.empty((k, length), np.int32)
    for segment in range(k):
        row = slice(counts.indptr[segment], counts.indptr[segment + 1])
        out[segment] = _top_tracks(counts.indices[row].astype(np.int64), counts.data[row].astype(np.int64), n, length)
    return out


def _top_tracks(heard: LongVector, count: LongVector, n: int, length: int) -> LongVector:
    """Return the tracks by count, highest first, then by index; tracks without a count follow by index."""
    key = count * n - heard  # distinct; higher comes first
    top_keys = np.partition(key, heard.size - length)[heard.size - length :] if heard.size > length else key
    top: LongVector = np.sort(-top_keys) % n
    if heard.size < length:
        rest = np.setdiff1d(np.arange(length), heard)[: length - heard.size]
        top = np.concatenate([top, rest])
    return top
