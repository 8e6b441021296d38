"""Segments of users: merging of small ones, and what the members stream: counts and rankings of tracks.

Shapes   U users, K segments, N tracks, L places of a ranking, D width
Labels   the segment of each user; NO_SEGMENT for a user without a vector, who is a member of none
Source   Briand et al. 2021, section 3.2.3
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from models.arrays import FloatMatrix, IntMatrix, IntVector, LongVector
from models.cold_start.nearest_centroid import nearest_centroids

NO_SEGMENT = -1


def assign_segments(x_UD: FloatMatrix, centroids_KD: FloatMatrix) -> IntVector:
    """Return the segment of each user (U,): the nearest centroid, or NO_SEGMENT for a zero vector."""
    labels_U: IntVector = np.where(x_UD.any(axis=1), nearest_centroids(x_UD, centroids_KD), NO_SEGMENT)
    return labels_U.astype(np.int32)


def merge_small_segments(
    x_UD: FloatMatrix, labels: IntVector, centroids_KD: FloatMatrix, min_users: int
) -> tuple[IntVector, FloatMatrix]:
    """Merge the segments of fewer than `min_users` members into others, the smallest first.

    Each member joins the segment with the nearest of the other centroids, and the means of these segments are computed
    again. One segment always remains.

    Args:
        x_UD: vectors of the users.
        labels: segment of each user, (U,), without NO_SEGMENT.
        centroids_KD: mean of each segment's members.
        min_users: members that a segment needs.

    Returns:
        Labels and centroids of the remaining segments, in their old order; the arguments if none is small.
    """
    sizes = np.bincount(labels, minlength=len(centroids_KD))
    if sizes.min() >= min_users:
        return labels, centroids_KD
    labels, centroids_KD, kept = labels.copy(), centroids_KD.copy(), np.ones(len(sizes), bool)
    while kept.sum() > 1:
        smallest = int(np.where(kept, sizes, len(labels) + 1).argmin())
        if sizes[smallest] >= min_users:
            break
        kept[smallest] = False
        others, members = np.flatnonzero(kept), np.flatnonzero(labels == smallest)
        labels[members] = others[nearest_centroids(x_UD[members], centroids_KD[others])]
        sizes = np.bincount(labels, minlength=len(kept))
        for segment in np.unique(labels[members]):
            centroids_KD[segment] = x_UD[labels == segment].mean(axis=0, dtype=np.float64)
    new_label = np.cumsum(kept) - 1
    return new_label[labels].astype(np.int32), centroids_KD[kept]


def segment_members(labels: NDArray[np.integer], k: int) -> csr_array:
    """Return the members of each segment, as ones of a sparse (K, U).

    Args:
        labels: segment of each user, (U,).
        k: K, the number of segments.
    """
    sizes = np.bincount(labels[labels >= 0], minlength=k)
    members = np.argsort(labels, kind="stable")[labels.size - sizes.sum() :]
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    return csr_array((np.ones(members.size, np.float32), members, bounds), (k, labels.size))


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
        ValueError: labels are not in 0..k - 1 or NO_SEGMENT, the matrix is not binary, or length is not in 1..N.
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
    if label_U.size and not NO_SEGMENT <= label_U.min() <= label_U.max() < k:
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
