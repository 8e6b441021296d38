"""k-means clustering with swaps out of local minima.

Problem  Partition U vectors into K clusters so that the sum of squared distances to the cluster means (the inertia) is
         small.
Method   Lloyd's passes: assign each vector to the nearest centroid, then move each centroid to the mean of its members.
         The initial centroids are drawn by k-means++. Every third pass moves centroids from where they lower the
         inertia least to where they lower it most (see `_swap`), which leaves local minima that better seeds only make
         less likely.
Shapes   U vectors (users), K clusters, D columns, M candidates
Source   Lloyd 1982, Least Squares Quantization in PCM; Arthur, Vassilvitskii 2007, k-means++; swaps after Kaukoranta,
         Franti, Nevalainen 1998 (split and merge) and Fritzke 2020 (breathing k-means)
Differs  Seeds are drawn in batches and thinned (see `_seeds`): the same distribution as one at a time, with one matrix
         product per batch. If there are many vectors, a search among a quarter of them comes first, recursively. An
         empty cluster takes the vector that is farthest from its centroid
"""

from __future__ import annotations

import os
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from blockfactor.arrays import FloatMatrix, FloatVector, IntVector, LongVector, checked_matrix
from blockfactor.compiled import kernel
from blockfactor.errors import InvalidParameterError

_BLOCK = 256  # vectors per product: their K scores each stay in cache
_SEED_BATCH = 64
_SUM_BLOCK = 8192
_MIN_SAMPLE_PER_CLUSTER = 16  # a search among a quarter needs so many vectors per cluster
_SWAP_EVERY = 3  # passes
_SPLIT_STEPS = 4
_SPLIT_BLOCK = 64  # clusters
_TOLERANCE = 5e-4  # relative to the inertia
_ROUNDING = 1e-6  # squared distances below this share of the squared norms are rounding errors


@dataclass(frozen=True, eq=False)
class KMeans:
    """Result of `kmeans`. Every cluster has at least one member.

    Attributes:
        centroids: Mean of each cluster's members (K, D).
        labels: Cluster of each vector (U,). They are the labels that the centroids were computed from, so a few vectors
            may be nearer to another centroid, unless the last pass changed no label.
        inertia: Sum of squared distances of the vectors to the centroids of their clusters.
        n_iter: Number of passes over all vectors.
    """

    centroids: FloatMatrix
    labels: IntVector
    inertia: float
    n_iter: int


def kmeans(x: ArrayLike, k: int, seed: int = 0, max_iter: int = 20, n_init: int = 1) -> KMeans:
    """Partition vectors into `k` clusters.

    A run ends when a pass lowers the inertia by less than 0.05 %, or after `max_iter` passes. The result depends on
    `seed` only, not on the number of threads.

    Args:
        x: Vectors (U, D).
        k: Number of clusters, 1 to U.
        seed: Seed of the initial centroids.
        max_iter: Maximum number of passes.
        n_init: Number of runs with different initial centroids; the one with the lowest inertia is returned.

    Raises:
        InvalidParameterError: `k` is not in 1 to U, or `max_iter` or `n_init` is below 1.
        InvalidDataError: `x` is not a matrix, or contains NaN or infinity.
    """
    x_UD = checked_matrix("x", x)
    if not 1 <= k <= len(x_UD):
        raise InvalidParameterError(f"k: must be from 1 to the number of vectors ({len(x_UD)}), got {k}")
    for name, value in (("max_iter", max_iter), ("n_init", n_init)):
        if value < 1:
            raise InvalidParameterError(f"{name}: must be at least 1, got {value}")
    seeds = np.random.SeedSequence(seed).spawn(n_init)
    # The pool's threads work on separate blocks. Threads of BLAS would wait for each other in every product.
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
        runs = (_search(x_UD, k, np.random.default_rng(run_seed), max_iter, pool) for run_seed in seeds)
        return min(runs, key=lambda run: run.inertia)


def _search(x_UD: FloatMatrix, k: int, rng: np.random.Generator, max_iter: int, pool: Executor) -> KMeans:
    """Run once. The initial centroids come from a search among a quarter of the vectors, or from `_seeds` if few."""
    quarter = len(x_UD) // 4
    if quarter >= _MIN_SAMPLE_PER_CLUSTER * k:
        rows = np.sort(rng.permutation(len(x_UD))[:quarter])
        centroids = _search(x_UD[rows], k, rng, max_iter, pool).centroids
    else:
        centroids = _seeds(x_UD, np.vecdot(x_UD, x_UD), k, rng)
    return _lloyd(x_UD, centroids, max_iter, pool)


def _lloyd(x_UD: FloatMatrix, c_KD: FloatMatrix, max_iter: int, pool: Executor) -> KMeans:
    """Alternate assignment and means; swap after every third pass, except in the last two."""
    k, square_U = len(c_KD), np.vecdot(x_UD, x_UD)
    labels, previous_inertia = np.full(len(x_UD), -1, np.int32), np.inf
    for n_iter in range(1, max_iter + 1):
        previous_labels = labels
        labels, best_U, second_U = _assign(x_UD, c_KD, pool)
        distance_U = square_U - 2 * best_U
        inertia = float(distance_U.sum(dtype=np.float64))
        _fill_empty(labels, distance_U, k)
        c_KD = _means(x_UD, labels, k, pool)
        swapped = False
        if n_iter % _SWAP_EVERY == 0 and n_iter <= max_iter - 2:
            swapped = _swap(x_UD, labels, c_KD, 2 * (best_U - second_U), _TOLERANCE * inertia, pool)
        decrease = previous_inertia - inertia
        if not swapped and (0 <= decrease <= _TOLERANCE * inertia or np.array_equal(labels, previous_labels)):
            break
        previous_inertia = inertia
    return KMeans(c_KD, labels, _inertia(x_UD, labels, c_KD), n_iter)


def _swap(
    x_UD: FloatMatrix, labels: IntVector, c_KD: FloatMatrix, saving_U: FloatVector, min_gain: float, pool: Executor
) -> bool:
    """Move centroids, in place, from where they lower the inertia least to where they lower it most.

    Removing a centroid costs what its members would add at their second nearest centroid (`saving_U`). An additional
    centroid in a cluster gains what 2-means of its members lowers. The lowest costs are paired with the highest gains
    while the gain of a pair exceeds its cost. The cluster nearest to a removed centroid receives members, so it
    is in no other pair.

    Args:
        x_UD: vectors.
        labels: Cluster of each vector.
        c_KD: Centroids, changed in place.
        saving_U: Difference of the squared distances to the second nearest and the nearest centroid.
        min_gain: Nothing changes unless all pairs together lower the inertia by more.
        pool: threads.

    Returns:
        Whether centroids were moved.
    """
    k = len(c_KD)
    membership = _membership(labels, k)
    halves_K2D, gain_K = np.empty((k, 2, c_KD.shape[1]), np.float32), np.zeros(k, np.float32)

    def split(part: slice) -> None:
        bounds = membership.indptr[part.start : part.stop + 1]
        _split(x_UD, membership.indices, bounds, c_KD[part], halves_K2D[part], gain_K[part])

    list(pool.map(split, (slice(j, j + _SPLIT_BLOCK) for j in range(0, k, _SPLIT_BLOCK))))
    cost_K = np.bincount(labels, weights=saving_U, minlength=k)
    near_KK = c_KD @ c_KD.T
    near_KK -= np.diagonal(near_KK) / 2
    np.fill_diagonal(near_KK, -np.inf)
    next_K = near_KK.argmax(axis=1)
    is_used, pairs = np.zeros(k, bool), []
    targets = iter(np.argsort(-gain_K, kind="stable"))
    for source in np.argsort(cost_K, kind="stable"):
        affected = [source, next_K[source]]
        if is_used[affected].any():
            continue
        target = next((j for j in targets if not is_used[j] and j not in affected), None)
        if target is None or gain_K[target] <= cost_K[source]:
            break
        pairs.append((source, target))
        is_used[[*affected, target]] = True
    if sum(gain_K[target] - cost_K[source] for source, target in pairs) <= min_gain:
        return False
    for pair in pairs:
        c_KD[list(pair)] = halves_K2D[pair[1]]
    return True


@kernel
def _split(
    x_UD: FloatMatrix,
    order_U: IntVector,
    bounds: IntVector,
    c_KD: FloatMatrix,
    halves_K2D: FloatMatrix,
    gain_K: FloatVector,
) -> None:
    """Compute 2-means within each cluster, from its farthest member and the point opposite.

    Args:
        x_UD: vectors.
        order_U: Vectors sorted by cluster.
        bounds: Start of each cluster in `order_U`, and the end of the last one.
        c_KD: Means of the clusters.
        halves_K2D: Receives the means of both halves.
        gain_K: Receives the decrease of the inertia; 0 if a cluster cannot be split.
    """
    d = x_UD.shape[1]
    total = np.empty(d, np.float32)
    for cluster in range(len(c_KD)):
        members = order_U[bounds[cluster] : bounds[cluster + 1]]
        n, centre, first, second = len(members), c_KD[cluster], halves_K2D[cluster, 0], halves_K2D[cluster, 1]
        farthest = np.float32(-1)
        for u in members:
            distance = np.float32(0)
            for i in range(d):
                distance += (x_UD[u, i] - centre[i]) ** 2
            if distance > farthest:
                farthest = distance
                first[:] = x_UD[u]
        second[:] = 2 * centre - first
        for _ in range(_SPLIT_STEPS):
            midpoint = np.float32(0)
            for i in range(d):
                midpoint += (first[i] - second[i]) * (first[i] + second[i]) / 2
            n_first = 0
            total[:] = 0
            for u in members:
                projection = np.float32(0)
                for i in range(d):
                    projection += (first[i] - second[i]) * x_UD[u, i]
                if projection > midpoint:
                    n_first += 1
                    for i in range(d):
                        total[i] += x_UD[u, i]
            if n_first == 0 or n_first == n:
                gain_K[cluster] = 0
                break
            gap = np.float32(0)
            for i in range(d):
                first[i] = total[i] / n_first
                second[i] = (n * centre[i] - total[i]) / (n - n_first)
                gap += (first[i] - second[i]) ** 2
            gain_K[cluster] = gap * n_first * (n - n_first) / n


def _seeds(x_UD: FloatMatrix, square_U: FloatVector, k: int, rng: np.random.Generator) -> FloatMatrix:
    """Draw `k` initial centroids by k-means++.

    Each next seed is a vector drawn with probability proportional to D², its squared distance to the nearest seed so
    far. A batch of candidates is drawn from the D² at the batch's start. D² only decreases, so accepting a candidate
    with probability (current D² / D² at the start) gives a draw from the current D². A batch is at most a quarter of
    the number of seeds so far.
    """
    n = len(x_UD)
    chosen = np.empty(k, np.int64)
    chosen[0] = rng.integers(n)
    distance_U = _distances(x_UD, square_U, chosen[:1])[:, 0]
    count = 1
    while count < k:
        total = np.cumsum(distance_U, dtype=np.float64)
        if total[-1] <= 0:  # fewer distinct vectors than k: any other vector serves
            rest = np.setdiff1d(np.arange(n), chosen[:count])
            chosen[count:] = rng.choice(rest, k - count, replace=False)
            break
        m = min(_SEED_BATCH, k - count, max(1, count // 4))
        candidates = np.minimum(np.searchsorted(total, rng.random(m) * total[-1], side="right"), n - 1)
        distance_UM = _distances(x_UD, square_U, candidates)
        between_MM = distance_UM[candidates]
        current_M = distance_U[candidates]
        initial_M = current_M.copy()
        accepted = []
        for j, threshold in enumerate(rng.random(m)):
            if threshold * initial_M[j] < current_M[j]:
                accepted.append(j)
                current_M = np.minimum(current_M, between_MM[:, j])
        chosen[count : count + len(accepted)] = candidates[accepted]
        count += len(accepted)
        np.minimum(distance_U, distance_UM[:, accepted].min(axis=1), out=distance_U)
    return x_UD[chosen]


def _distances(x_UD: FloatMatrix, square_U: FloatVector, which: LongVector) -> FloatMatrix:
    """Return the squared distances (U, M) to some of the vectors, 0 where they are below the rounding error."""
    distance: FloatMatrix = x_UD @ x_UD[which].T
    distance *= -2
    scale = square_U[:, None] + square_U[which]
    distance += scale
    scale *= _ROUNDING
    distance[distance <= scale] = 0
    return distance


def _assign(x_UD: FloatMatrix, c_KD: FloatMatrix, pool: Executor) -> tuple[IntVector, FloatVector, FloatVector]:
    """Return the nearest centroid of each vector (ties: lower index) and its two highest scores x.c - |c|²/2."""
    half_K, c_DK = np.vecdot(c_KD, c_KD) / 2, np.ascontiguousarray(c_KD.T)
    labels = np.empty(len(x_UD), np.int32)
    best_U, second_U = np.empty(len(x_UD), np.float32), np.empty(len(x_UD), np.float32)

    def assign_block(start: int) -> None:
        rows = slice(start, start + _BLOCK)
        scores = x_UD[rows] @ c_DK
        scores -= half_K
        nearest = scores.argmax(axis=1)
        cells = np.arange(len(scores)), nearest
        labels[rows], best_U[rows] = nearest, scores[cells]
        scores[cells] = -np.inf
        second_U[rows] = scores.max(axis=1)

    list(pool.map(assign_block, range(0, len(x_UD), _BLOCK)))
    return labels, best_U, second_U


def _fill_empty(labels: IntVector, distance_U: FloatVector, k: int) -> None:
    """Move, in place, the farthest vector whose own cluster keeps a member to each empty cluster."""
    sizes = np.bincount(labels, minlength=k)
    empty = np.flatnonzero(sizes == 0)
    if not empty.size:
        return
    farthest = iter(np.argsort(-distance_U, kind="stable"))
    for cluster in empty:
        moved = next(u for u in farthest if sizes[labels[u]] > 1)
        sizes[labels[moved]] -= 1
        sizes[cluster] = 1
        labels[moved] = cluster


def _membership(labels: IntVector, k: int) -> csr_array:
    """Return the members of each cluster as a binary matrix (K, U)."""
    bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(labels, minlength=k))])
    return csr_array((np.ones(labels.size, np.float32), np.argsort(labels, kind="stable"), bounds), (k, labels.size))


def _means(x_UD: FloatMatrix, labels: IntVector, k: int, pool: Executor) -> FloatMatrix:
    """Return the mean of each cluster (K, D), summed in float32 within a block and in float64 over blocks."""

    def block_sums(start: int) -> FloatMatrix:
        sums: FloatMatrix = _membership(labels[start : start + _SUM_BLOCK], k) @ x_UD[start : start + _SUM_BLOCK]
        return sums

    total = np.zeros((k, x_UD.shape[1]))
    for sums in pool.map(block_sums, range(0, len(x_UD), _SUM_BLOCK)):
        total += sums
    means: FloatMatrix = (total / np.bincount(labels, minlength=k)[:, None]).astype(np.float32)
    return means


def _inertia(x_UD: FloatMatrix, labels: IntVector, c_KD: FloatMatrix) -> float:
    total = 0.0
    for start in range(0, len(x_UD), _SUM_BLOCK):
        gap = x_UD[start : start + _SUM_BLOCK] - c_KD[labels[start : start + _SUM_BLOCK]]
        total += float(np.vecdot(gap, gap).sum(dtype=np.float64))
    return total
