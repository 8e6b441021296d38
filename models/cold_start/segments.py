"""Segments: the tracks that the members of each k-means cluster of warm users listen to.

Shapes   U users, K segments, N tracks, L places of a ranking
Source   Briand et al. 2021, section 3.2.3
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from models.arrays import IntMatrix


def members(labels: NDArray[np.integer], k: int) -> csr_array:
    """Who is in which segment: (k, U) of ones."""
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(labels, minlength=k))])
    return csr_array((np.ones(labels.size, np.float32), np.argsort(labels, kind="stable"), bounds), (k, labels.size))


def listener_counts(labels: NDArray[np.integer], user_tracks: Any, k: int) -> csr_array:
    """How many members of each segment have each track: labels (U,), sparse (U, N) of ones -> (k, N) int64."""
    # Exact in float32 below 2^24 users, and without a copy of the matrix.
    return csr_array((members(labels, k) @ csr_array(user_tracks)).astype(np.int64))


def rankings(labels: ArrayLike, user_tracks: Any, k: int, length: int) -> IntMatrix:
    """Most listened tracks of each segment: labels (U,), sparse (U, N) of ones -> (k, length) int32 track_idx.

    In order of how many members have the track, then of popularity, which is the index. A segment that knows fewer
    tracks goes on with the most popular others, so every list is full.

    Raises:
        ValueError: for labels out of 0..k - 1, a matrix that is not binary, length out of 1..N.
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
    if not tracks.has_canonical_format:  # unsorted is fine, twice is not: sums of 2 are caught below
        tracks = tracks.copy()
        tracks.sum_duplicates()
    if (tracks.data != 1).any():
        raise ValueError("rankings: user_tracks must hold each (user, track) once, with value 1")
    counts = listener_counts(label_U, tracks, k)
    out = np.empty((k, length), np.int32)
    for segment in range(k):
        here = slice(counts.indptr[segment], counts.indptr[segment + 1])
        out[segment] = _most(counts.indices[here].astype(np.int64), counts.data[here].astype(np.int64), n, length)
    return out


def _most(heard: NDArray[np.int64], count: NDArray[np.int64], n: int, length: int) -> NDArray[np.int64]:
    """Tracks by count, highest first, then by index; those with no count follow in order of index."""
    key = count * n - heard  # distinct; higher is better
    best = np.partition(key, heard.size - length)[heard.size - length :] if heard.size > length else key
    top: NDArray[np.int64] = np.sort(-best) % n
    if heard.size < length:
        rest = np.setdiff1d(np.arange(length), heard)[: length - heard.size]
        top = np.concatenate([top, rest])
    return top
