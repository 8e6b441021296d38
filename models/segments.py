"""Segments: k-means clusters of warm users, the nearest segment of a vector, and what a segment listens to.

Shapes   U users, B vectors, K segments, D width, N tracks, L places of a ranking
Source   Briand et al. 2021, section 3.2.3; Lloyd 1982; k-means++ seeding by Arthur and Vassilvitskii 2007
Differs  seeds are drawn in batches and thinned (see `_seeds`): the same distribution as one at a time, one matrix
         product for a batch; an empty segment takes the user who is farthest from their centroid
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse

from models.recommend import matrix

_BLOCK = 1024  # users a product: K scores each stay in cache
_SEED_BATCH = 64
_SUM_BLOCK = 8192


@dataclass(frozen=True, eq=False)
class KMeans:
    """centroids (K, D) float32, the plain mean of their members; labels (U,) int32; inertia, sum of squared distances.

    Every segment has a member. Labels are those the centroids were made from: where `max_iter` ended the search, a few
    users may be nearer to another centroid by now.
    """

    centroids: NDArray[np.float32]
    labels: NDArray[np.int32]
    inertia: float
    n_iter: int


def kmeans(x: ArrayLike, k: int, seed: int = 0, max_iter: int = 20, n_init: int = 1) -> KMeans:
    """Cluster x (U, D) into k segments; the best of n_init starts by inertia. Same seed, same answer.

    Raises:
        ValueError: when k is not in 1..U, max_iter or n_init is below 1, or x holds NaN or infinity.
    """
    x_UD = matrix("kmeans: x", x)
    if not 1 <= k <= len(x_UD):
        raise ValueError(f"segments.k: must be from 1 to the number of users ({len(x_UD)}), got {k}")
    if max_iter < 1 or n_init < 1:
        raise ValueError(f"segments: max_iter and n_init must be at least 1, got {max_iter} and {n_init}")
    square_U = np.vecdot(x_UD, x_UD)
    starts = np.random.SeedSequence(seed).spawn(n_init)
    runs = (_lloyd(x_UD, square_U, k, np.random.default_rng(start), max_iter) for start in starts)
    return min(runs, key=lambda run: run.inertia)


def _lloyd(
    x_UD: NDArray[np.float32], square_U: NDArray[np.float32], k: int, rng: np.random.Generator, max_iter: int
) -> KMeans:
    centroids = _seeds(x_UD, square_U, k, rng)
    labels = np.full(len(x_UD), -1, np.int32)
    for n_iter in range(1, max_iter + 1):  # noqa: B007
        before = labels
        labels, score_U = _assign(x_UD, centroids)
        _fill_empty(labels, square_U - 2 * score_U, k)
        centroids = _means(x_UD, labels, k)
        if np.array_equal(labels, before):
            break
    return KMeans(centroids, labels, _inertia(x_UD, labels, centroids), n_iter)


def _seeds(
    x_UD: NDArray[np.float32], square_U: NDArray[np.float32], k: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """k-means++: each next seed is a user drawn with probability ~ D², squared distance to the nearest seed so far.

    A batch of candidates is drawn from the D² of the batch's start. D² only falls, so a candidate kept with probability
    D² now / D² then is a draw from D² now. The batch grows while it is short beside the number of seeds.
    """
    n = len(x_UD)
    chosen = np.empty(k, np.int64)
    chosen[0] = rng.integers(n)
    distance_U = _distances(x_UD, square_U, chosen[:1])[:, 0]
    count = 1
    while count < k:
        total = np.cumsum(distance_U, dtype=np.float64)
        if total[-1] <= 0:  # fewer distinct vectors than k: any other user will do
            rest = np.setdiff1d(np.arange(n), chosen[:count])
            chosen[count:] = rng.choice(rest, k - count, replace=False)
            break
        m = min(_SEED_BATCH, k - count, max(1, count // 4))
        candidates = np.minimum(np.searchsorted(total, rng.random(m) * total[-1], side="right"), n - 1)
        distance_UM = _distances(x_UD, square_U, candidates)
        between_MM = distance_UM[candidates]
        now_M = distance_U[candidates]
        then_M = now_M.copy()
        kept = []
        for j, luck in enumerate(rng.random(m)):
            if luck * then_M[j] < now_M[j]:
                kept.append(j)
                now_M = np.minimum(now_M, between_MM[:, j])
        chosen[count : count + len(kept)] = candidates[kept]
        count += len(kept)
        np.minimum(distance_U, distance_UM[:, kept].min(axis=1), out=distance_U)
    return x_UD[chosen]


def _distances(
    x_UD: NDArray[np.float32], square_U: NDArray[np.float32], which: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Squared distances (U, M) to some of the users; below the rounding error they are 0."""
    distance: NDArray[np.float32] = x_UD @ x_UD[which].T
    distance *= -2
    scale = square_U[:, None] + square_U[which]
    distance += scale
    scale *= 1e-6
    distance[distance <= scale] = 0
    return distance


def _assign(x_UD: NDArray[np.float32], c_KD: NDArray[np.float32]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Nearest centroid of each user and its score x.c - ||c||²/2, the highest; a tie goes to the lower index."""
    half_K = np.vecdot(c_KD, c_KD) / 2
    labels, best_U = np.empty(len(x_UD), np.int32), np.empty(len(x_UD), np.float32)
    scores = np.empty((min(_BLOCK, len(x_UD)), len(c_KD)), np.float32)
    for start in range(0, len(x_UD), _BLOCK):
        x = x_UD[start : start + _BLOCK]
        block = np.matmul(x, c_KD.T, out=scores[: len(x)])
        block -= half_K
        found = block.argmax(axis=1)
        labels[start : start + _BLOCK] = found
        best_U[start : start + _BLOCK] = block[np.arange(len(x)), found]
    return labels, best_U


def _fill_empty(labels: NDArray[np.int32], distance_U: NDArray[np.float32], k: int) -> None:
    """Give each empty segment the farthest user whose own segment keeps a member; in place."""
    sizes = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if not empty.size:
        return
    farthest = iter(np.argsort(-distance_U, kind="stable"))
    for segment in empty:
        user = next(u for u in farthest if sizes[labels[u]] > 1)
        sizes[labels[user]] -= 1
        sizes[segment] = 1
        labels[user] = segment


def _means(x_UD: NDArray[np.float32], labels: NDArray[np.int32], k: int) -> NDArray[np.float32]:
    """Plain means by segment; float32 within a block, float64 over blocks."""
    sums = np.zeros((k, x_UD.shape[1]))
    for start in range(0, len(x_UD), _SUM_BLOCK):
        part = labels[start : start + _SUM_BLOCK]
        order = np.argsort(part, kind="stable")
        bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(part, minlength=k))])
        members = csr_array((np.ones(part.size, np.float32), order, bounds), shape=(k, part.size))
        sums += members @ x_UD[start : start + _SUM_BLOCK]
    means: NDArray[np.float32] = (sums / np.bincount(labels, minlength=k)[:, None]).astype(np.float32)
    return means


def _inertia(x_UD: NDArray[np.float32], labels: NDArray[np.int32], c_KD: NDArray[np.float32]) -> float:
    total = 0.0
    for start in range(0, len(x_UD), _SUM_BLOCK):
        gap = x_UD[start : start + _SUM_BLOCK] - c_KD[labels[start : start + _SUM_BLOCK]]
        total += float(np.vecdot(gap, gap).sum(dtype=np.float64))
    return total


def nearest(x: ArrayLike, centroids: ArrayLike) -> NDArray[np.int32]:
    """Segment of each vector by Euclidean distance: x (B, D), centroids (K, D) -> (B,) int32; ties to the lower index.

    A row's answer does not depend on its batch: near ties are decided by distances of one pair at a time.
    """
    x_BD, c_KD = matrix("nearest: x", x), matrix("nearest: centroids", centroids)
    if not len(c_KD) or x_BD.shape[1] != c_KD.shape[1]:
        raise ValueError(f"nearest: x (B, D) and centroids (K, D) must share D, got {x_BD.shape} and {c_KD.shape}")
    half_K = np.vecdot(c_KD, c_KD) / 2
    # Twice the largest rounding error of a score, on both sides, as in models/recommend.py.
    longest = np.float32(np.sqrt(2 * half_K.max()))
    margin_B = np.float32(4 * (x_BD.shape[1] + 2) * 2.0**-24) * longest * (np.sqrt(np.vecdot(x_BD, x_BD)) + longest)
    labels = np.empty(len(x_BD), np.int32)
    for start in range(0, len(x_BD), _BLOCK):
        block = x_BD[start : start + _BLOCK] @ c_KD.T
        block -= half_K
        close = block >= (block.max(axis=1) - margin_B[start : start + _BLOCK])[:, None]
        labels[start : start + _BLOCK] = close.argmax(axis=1)
        for b in np.flatnonzero(close.sum(axis=1) > 1):
            among = np.flatnonzero(close[b])
            gap = x_BD[start + b] - c_KD[among]
            labels[start + b] = among[np.vecdot(gap, gap).argmin()]
    return labels


def rankings(labels: ArrayLike, user_tracks: Any, k: int, length: int) -> NDArray[np.int32]:
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
        raise ValueError(f"segments.ranking: must be from 1 to the number of tracks ({n}), got {length}")
    if label_U.size and not 0 <= label_U.min() <= label_U.max() < k:
        raise ValueError(f"rankings: labels must be from 0 to {k - 1}, got {label_U.min()} to {label_U.max()}")
    tracks = csr_array(user_tracks)
    if not tracks.has_canonical_format:  # unsorted is fine, twice is not: sums of 2 are caught below
        tracks = tracks.copy()
        tracks.sum_duplicates()
    if (tracks.data != 1).any():
        raise ValueError("rankings: user_tracks must hold each (user, track) once, with value 1")
    by_segment = tracks[np.argsort(label_U, kind="stable")]
    bounds = by_segment.indptr[np.concatenate([[0], np.cumsum(np.bincount(label_U, minlength=k))])]
    out = np.empty((k, length), np.int32)
    for segment in range(k):
        count_N = np.bincount(by_segment.indices[bounds[segment] : bounds[segment + 1]], minlength=n)
        out[segment] = _most(count_N, length)
    return out


def _most(count_N: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Tracks by count, highest first, then by index; those with no count follow in order of index."""
    n = len(count_N)
    heard = np.flatnonzero(count_N)
    key = count_N[heard] * n - heard  # distinct; higher is better
    best = np.partition(key, heard.size - length)[heard.size - length :] if heard.size > length else key
    top: NDArray[np.int64] = np.sort(-best) % n
    if heard.size < length:
        rest = np.flatnonzero(count_N[:length] == 0)[: length - heard.size]
        top = np.concatenate([top, rest])
    return top
