"""Segments: k-means clusters of warm users, the nearest segment of a vector, and what a segment listens to.

Shapes   U users, B vectors, K segments, D width, N tracks, L places of a ranking
Source   Briand et al. 2021, section 3.2.3; Lloyd 1982; k-means++ seeding by Arthur and Vassilvitskii 2007; the swaps
         after Kaukoranta, Fränti, Nevalainen 1998 (split and merge) and Fritzke 2020 (breathing k-means)
Differs  seeds are drawn in batches and thinned (see `_seeds`): the same distribution as one at a time, one matrix
         product for a batch. Where users are many, a search among a quarter of them comes first, and so on down. Every
         third pass moves centroids from where they save least to where they save most (see `_swap`): out of local
         minima, which better seeds only make rarer. An empty segment takes the user farthest from their centroid
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, issparse
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from blockfactor.compiled import kernel
from models.cold_start.top_k import as_float_matrix

Floats = NDArray[np.float32]
Labels = NDArray[np.int32]

_BLOCK = 256  # users a product: K scores each stay in cache
_SEED_BATCH = 64
_SUM_BLOCK = 8192
_FEWEST = 16  # users a segment to search among
_SWAP_EVERY = 3  # passes
_SPLIT_STEPS = 4
_TOLERANCE = 5e-4  # of the inertia


@dataclass(frozen=True, eq=False)
class KMeans:
    """centroids (K, D) float32, the plain mean of their members; labels (U,) int32; inertia, sum of squared distances.

    Every segment has a member. Labels are those the centroids were made from: a few users may be nearer to another
    centroid by now, unless the last pass changed no label. n_iter counts the passes over all users.
    """

    centroids: Floats
    labels: Labels
    inertia: float
    n_iter: int


def kmeans(x: ArrayLike, k: int, seed: int = 0, max_iter: int = 20, n_init: int = 1) -> KMeans:
    """Cluster x (U, D) into k segments; the best of n_init starts by inertia. Same seed, same answer.

    A search ends when a pass lowers the inertia by less than 0.05 %, or after max_iter passes.

    Raises:
        ValueError: when k is not in 1..U, max_iter or n_init is below 1, or x holds NaN or infinity.
    """
    x_UD = as_float_matrix("kmeans: x", x)
    if not 1 <= k <= len(x_UD):
        raise ValueError(f"segments.k: must be from 1 to the number of users ({len(x_UD)}), got {k}")
    if max_iter < 1 or n_init < 1:
        raise ValueError(f"segments: max_iter and n_init must be at least 1, got {max_iter} and {n_init}")
    starts = np.random.SeedSequence(seed).spawn(n_init)
    # Our threads, each with blocks of its own, not those of BLAS, which wait for each other in every product.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = (_search(x_UD, k, np.random.default_rng(start), max_iter, pool) for start in starts)
        return min(runs, key=lambda run: run.inertia)


def _search(x_UD: Floats, k: int, rng: np.random.Generator, max_iter: int, pool: Executor) -> KMeans:
    """From what a search among a quarter of the users found; from seeds where a quarter would be too few."""
    quarter = len(x_UD) // 4
    if quarter >= _FEWEST * k:
        rows = np.sort(rng.permutation(len(x_UD))[:quarter])
        centroids = _search(x_UD[rows], k, rng, max_iter, pool).centroids
    else:
        centroids = _seeds(x_UD, np.vecdot(x_UD, x_UD), k, rng)
    return _lloyd(x_UD, centroids, max_iter, pool)


def _lloyd(x_UD: Floats, c_KD: Floats, max_iter: int, pool: Executor) -> KMeans:
    """Passes over all users: the nearest centroids, then the means; swaps after every third but the last two."""
    k, square_U = len(c_KD), np.vecdot(x_UD, x_UD)
    labels, before = np.full(len(x_UD), -1, np.int32), np.inf
    for n_iter in range(1, max_iter + 1):
        old = labels
        labels, best_U, second_U = _assign(x_UD, c_KD, pool)
        distance_U = square_U - 2 * best_U
        inertia = float(distance_U.sum(dtype=np.float64))
        _fill_empty(labels, distance_U, k)
        c_KD = _means(x_UD, labels, k, pool)
        swapped = False
        if n_iter % _SWAP_EVERY == 0 and n_iter <= max_iter - 2:
            swapped = _swap(x_UD, labels, c_KD, 2 * (best_U - second_U), _TOLERANCE * inertia, pool)
        if not swapped and (0 <= before - inertia <= _TOLERANCE * inertia or np.array_equal(labels, old)):
            break
        before = inertia
    return KMeans(c_KD, labels, _inertia(x_UD, labels, c_KD), n_iter)


def _swap(x_UD: Floats, labels: Labels, c_KD: Floats, saved_U: Floats, worth: float, pool: Executor) -> bool:
    """Take centroids from where they save least to where they save most, in place; whether any moved.

    A centroid saves what its members would pay at their second nearest (saved_U). One more in a segment would save what
    2-means of its members saves. The two are paired, the least with the most, while that lowers the inertia; nothing
    moves unless all pairs lower it by more than `worth`. The segment next to one given up gets members: it sits out.
    """
    k = len(c_KD)
    inside = members(labels, k)
    halves_K2D, gain_K = np.empty((k, 2, c_KD.shape[1]), np.float32), np.zeros(k, np.float32)

    def split(here: slice) -> None:
        bounds = inside.indptr[here.start : here.stop + 1]
        _split(x_UD, inside.indices, bounds, c_KD[here], halves_K2D[here], gain_K[here])

    list(pool.map(split, (slice(j, j + 64) for j in range(0, k, 64))))
    cost_K = np.bincount(labels, weights=saved_U, minlength=k)
    near_KK = c_KD @ c_KD.T
    near_KK -= np.diagonal(near_KK) / 2
    np.fill_diagonal(near_KK, -np.inf)
    next_K = near_KK.argmax(axis=1)
    busy, pairs = np.zeros(k, bool), []
    targets = iter(np.argsort(-gain_K, kind="stable"))
    for source in np.argsort(cost_K, kind="stable"):
        around = [source, next_K[source]]
        if busy[around].any():
            continue
        target = next((j for j in targets if not busy[j] and j not in around), None)
        if target is None or gain_K[target] <= cost_K[source]:
            break
        pairs.append((source, target))
        busy[[*around, target]] = True
    if sum(gain_K[target] - cost_K[source] for source, target in pairs) <= worth:
        return False
    for pair in pairs:
        c_KD[list(pair)] = halves_K2D[pair[1]]
    return True


@kernel
def _split(x_UD: Floats, order_U: Labels, bounds: Labels, c_KD: Floats, halves_K2D: Floats, gain_K: Floats) -> None:
    """2-means within each segment, from its farthest member and the point opposite.

    order_U holds the users by segment, bounds where each segment starts and the last one ends, c_KD the means.
    halves_K2D gets the means of both halves and gain_K by how much they lower the inertia: 0 where there is no split.
    """
    d = x_UD.shape[1]
    total = np.empty(d, np.float32)
    for segment in range(len(c_KD)):
        members = order_U[bounds[segment] : bounds[segment + 1]]
        n, centre, one, other = len(members), c_KD[segment], halves_K2D[segment, 0], halves_K2D[segment, 1]
        farthest = np.float32(-1)
        for u in members:
            distance = np.float32(0)
            for i in range(d):
                distance += (x_UD[u, i] - centre[i]) ** 2
            if distance > farthest:
                farthest = distance
                one[:] = x_UD[u]
        other[:] = 2 * centre - one
        for _ in range(_SPLIT_STEPS):
            middle = np.float32(0)
            for i in range(d):
                middle += (one[i] - other[i]) * (one[i] + other[i]) / 2
            n_one = 0
            total[:] = 0
            for u in members:
                along = np.float32(0)
                for i in range(d):
                    along += (one[i] - other[i]) * x_UD[u, i]
                if along > middle:
                    n_one += 1
                    for i in range(d):
                        total[i] += x_UD[u, i]
            if n_one == 0 or n_one == n:
                gain_K[segment] = 0
                break
            gap = np.float32(0)
            for i in range(d):
                one[i] = total[i] / n_one
                other[i] = (n * centre[i] - total[i]) / (n - n_one)
                gap += (one[i] - other[i]) ** 2
            gain_K[segment] = gap * n_one * (n - n_one) / n


def _seeds(x_UD: Floats, square_U: Floats, k: int, rng: np.random.Generator) -> Floats:
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


def _distances(x_UD: Floats, square_U: Floats, which: NDArray[np.int64]) -> Floats:
    """Squared distances (U, M) to some of the users; below the rounding error they are 0."""
    distance: Floats = x_UD @ x_UD[which].T
    distance *= -2
    scale = square_U[:, None] + square_U[which]
    distance += scale
    scale *= 1e-6
    distance[distance <= scale] = 0
    return distance


def _assign(x_UD: Floats, c_KD: Floats, pool: Executor) -> tuple[Labels, Floats, Floats]:
    """Nearest centroid of each user and the two highest scores x.c - ||c||²/2; a tie goes to the lower index."""
    half_K, c_DK = np.vecdot(c_KD, c_KD) / 2, np.ascontiguousarray(c_KD.T)
    labels = np.empty(len(x_UD), np.int32)
    best_U, second_U = np.empty(len(x_UD), np.float32), np.empty(len(x_UD), np.float32)

    def work(start: int) -> None:
        here = slice(start, start + _BLOCK)
        scores = x_UD[here] @ c_DK
        scores -= half_K
        found = scores.argmax(axis=1)
        at = np.arange(len(scores)), found
        labels[here], best_U[here] = found, scores[at]
        scores[at] = -np.inf
        second_U[here] = scores.max(axis=1)

    list(pool.map(work, range(0, len(x_UD), _BLOCK)))
    return labels, best_U, second_U


def _fill_empty(labels: Labels, distance_U: Floats, k: int) -> None:
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


def members(labels: NDArray[np.integer], k: int) -> csr_array:
    """Who is in which segment: (k, U) of ones."""
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(labels, minlength=k))])
    return csr_array((np.ones(labels.size, np.float32), np.argsort(labels, kind="stable"), bounds), (k, labels.size))


def listener_counts(labels: NDArray[np.integer], user_tracks: Any, k: int) -> csr_array:
    """How many members of each segment have each track: labels (U,), sparse (U, N) of ones -> (k, N) int64."""
    # Exact in float32 below 2^24 users, and without a copy of the matrix.
    return csr_array((members(labels, k) @ csr_array(user_tracks)).astype(np.int64))


def _means(x_UD: Floats, labels: Labels, k: int, pool: Executor) -> Floats:
    """Plain means by segment; float32 within a block, float64 over blocks."""

    def part(start: int) -> Floats:
        sums: Floats = members(labels[start : start + _SUM_BLOCK], k) @ x_UD[start : start + _SUM_BLOCK]
        return sums

    total = np.zeros((k, x_UD.shape[1]))
    for sums in pool.map(part, range(0, len(x_UD), _SUM_BLOCK)):
        total += sums
    means: Floats = (total / np.bincount(labels, minlength=k)[:, None]).astype(np.float32)
    return means


def _inertia(x_UD: Floats, labels: Labels, c_KD: Floats) -> float:
    total = 0.0
    for start in range(0, len(x_UD), _SUM_BLOCK):
        gap = x_UD[start : start + _SUM_BLOCK] - c_KD[labels[start : start + _SUM_BLOCK]]
        total += float(np.vecdot(gap, gap).sum(dtype=np.float64))
    return total


def rankings(labels: ArrayLike, user_tracks: Any, k: int, length: int) -> Labels:
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
