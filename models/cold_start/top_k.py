"""Exact top-k by dot product or cosine, independent of the batch.

Shapes   B queries, N items, d width, k places, L places of a longer list
Ties     to the lower index; as track_idx is the popularity rank, the more popular track comes first

The rounding of a matrix product depends on its number of rows. So the product only selects candidates, with a margin
wider than its rounding error, and their order comes from dot products of one pair at a time. A row's list is the same
in any batch.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from models.arrays import FloatMatrix, IntMatrix

Similarity = Literal["dot", "cosine"]
_BLOCK_SCORES = 3_200_000  # scores per block: 13 MB, twice, per core
_BLOCK_PAIRS = 1 << 18


def as_float_matrix(name: str, x: ArrayLike) -> FloatMatrix:
    """Return `x` as contiguous float32 (rows, columns).

    Raises:
        ValueError: x is no matrix, or a row has no finite length; the message starts with `name` and has the first such
            row.
    """
    rows = np.ascontiguousarray(x, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"{name}: must be a matrix, got shape {rows.shape}")
    if not (finite := np.isfinite(np.vecdot(rows, rows))).all():
        raise ValueError(f"{name}: row {int(np.argmin(finite))} contains NaN, infinity or values too large to square")
    return rows


def normalise(x_BD: ArrayLike) -> FloatMatrix:
    """Return rows (B, D) at unit length, float32. A row does not depend on its batch.

    A zero row stays as it is, and so does a row shorter than about 1e-22, whose squares are zero in float32.
    """
    x = np.asarray(x_BD, np.float32)
    norms = np.sqrt(np.vecdot(x, x))
    norms[norms == 0] = 1
    unit: FloatMatrix = x / norms[:, None]
    return unit


class ItemIndex:
    """Items (N, d) prepared once for many top-k queries."""

    def __init__(self, items: ArrayLike, similarity: Similarity) -> None:
        """Validate the items and, for cosine, normalise them.

        Args:
            items: (N, d).
            similarity: "dot" or "cosine". For items at unit length both rank alike, and "dot" skips the normalising.

        Raises:
            ValueError: the similarity is unknown, or an item contains NaN or infinity.
        """
        if similarity not in ("dot", "cosine"):
            raise ValueError(f"top_k: similarity must be 'dot' or 'cosine', got {similarity!r}")
        items_ND = as_float_matrix("top_k: items", items)
        self.similarity, self.items_ND = similarity, normalise(items_ND) if similarity == "cosine" else items_ND
        self.longest = float(np.sqrt(np.vecdot(self.items_ND, self.items_ND).max(initial=0)))

    def vectors(self, rows: Any) -> FloatMatrix:
        """Return the vectors of items as they are scored, (n, d): at unit length for cosine.

        Args:
            rows: indices (n,), or a slice.
        """
        rows_nD: FloatMatrix = self.items_ND[rows]
        return rows_nD

    def top_k(self, queries: ArrayLike, k: int) -> IntMatrix:
        """Return the indices of the k items with the highest score for each query, (B, k) int32; see `top_k`."""
        q_BD, items_ND = as_float_matrix("top_k: queries", queries), self.items_ND
        if q_BD.shape[1] != items_ND.shape[1]:
            shapes = f"{q_BD.shape} and {items_ND.shape}"
            raise ValueError(f"top_k: queries (B, d) and items (N, d) must share d, got {shapes}")
        if not 1 <= k <= len(items_ND):
            raise ValueError(f"top_k: k must be from 1 to the number of items ({len(items_ND)}), got {k}")
        if self.similarity == "cosine":
            q_BD = normalise(q_BD)
        out = np.empty((len(q_BD), k), np.int32)
        step = max(1, _BLOCK_SCORES // len(items_ND))

        def fill(start: int) -> None:
            out[start : start + step] = _top_k_block(q_BD[start : start + step], items_ND, k, self.longest)

        if len(q_BD) <= step:
            fill(0)
            return out
        # One block per core: selecting takes more than half of the time and is single-threaded.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, range(0, len(q_BD), step)))
        return out


def top_k(queries: ArrayLike, items: ArrayLike, k: int, similarity: Similarity) -> IntMatrix:
    """Return the indices of the k items with the highest score for each query, best first.

    Args:
        queries: (B, d). A query of zeros gives every item score 0, so its list is 0, 1 ... k - 1.
        items: (N, d). For cosine, an item of zeros has score 0.
        k: length of the lists, 1 to N.
        similarity: "dot" or "cosine".

    Returns:
        (B, k) int32.

    Raises:
        ValueError: shapes do not match, k is out of range, the similarity is unknown, or a value is NaN or infinity.
    """
    return ItemIndex(items, similarity).top_k(queries, k)


def _top_k_block(q_BD: FloatMatrix, items_ND: FloatMatrix, k: int, longest: float) -> NDArray[np.intp] | IntMatrix:
    n, d = items_ND.shape
    scores_BN = q_BD @ items_ND.T
    kth_B = np.partition(scores_BN, n - k, axis=1)[:, n - k]
    # |rounding error| of a float32 dot product is at most d 2^-24 |q| |v|, in any order of summing. The margin is
    # four times that: two scores are compared, and each has two values, in the product and in the dot product of a
    # pair.
    length_B = np.sqrt(np.vecdot(q_BD, q_BD))
    margin_B = np.float32(4 * d * 2.0**-24 * longest) * length_B
    # For a zero query all items tie. The list is known, and every item would be a candidate.
    nonzero_B = length_B > 0
    floor_B = np.where(nonzero_B, kth_B - margin_B, np.float32(np.inf))
    candidates = np.flatnonzero(scores_BN >= floor_B[:, None])
    row, item = candidates // n, candidates % n
    exact = np.empty(candidates.size, np.float32)
    for start in range(0, candidates.size, _BLOCK_PAIRS):
        part = slice(start, start + _BLOCK_PAIRS)
        exact[part] = np.vecdot(q_BD[row[part]], items_ND[item[part]])
    order = np.lexsort((item, -exact, row))
    first_B = np.searchsorted(row, np.flatnonzero(nonzero_B))
    best = np.tile(np.arange(k, dtype=np.intp), (len(q_BD), 1))
    best[nonzero_B] = item[order[first_B[:, None] + np.arange(k)]]
    return best


def top_k_of_scores(scores_BN: FloatMatrix, k: int) -> IntMatrix:
    """Return the indices of the k highest scores of each row, best first, ties to the lower index.

    Args:
        scores_BN: scores (B, N).
        k: length of the lists, 1 to N.

    Returns:
        (B, k) int32.

    Raises:
        ValueError: k is out of range.
    """
    n = scores_BN.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"top_k_of_scores: k must be from 1 to the number of items ({n}), got {k}")
    out = np.empty((len(scores_BN), k), np.int32)
    for row, scores_N in enumerate(scores_BN):
        floor = np.partition(scores_N, n - k)[n - k]
        above, equal = np.flatnonzero(scores_N > floor), np.flatnonzero(scores_N == floor)
        chosen = np.concatenate([above, equal[: k - len(above)]])
        out[row] = chosen[np.lexsort((chosen, -scores_N[chosen]))]
    return out


def exclude_items(lists_BL: IntMatrix, excluded_BN: csr_array, k: int) -> IntMatrix:
    """Return the first k items of each list that are not excluded for its row.

    Args:
        lists_BL: lists (B, L), distinct in a row.
        excluded_BN: sparse, nonzero for each item to exclude.
        k: length of the result.

    Returns:
        (B, k).

    Raises:
        ValueError: a list has fewer than k items that are not excluded.
    """
    n = excluded_BN.shape[1]
    row = np.repeat(np.arange(len(lists_BL), dtype=np.int64), np.diff(excluded_BN.indptr))
    key_BL = np.arange(len(lists_BL), dtype=np.int64)[:, None] * n + lists_BL
    free_BL = ~np.isin(key_BL, row * n + excluded_BN.indices)
    if len(lists_BL) and (n_left_B := free_BL.sum(axis=1)).min() < k:
        raise ValueError(f"exclude_items: row {int(n_left_B.argmin())} has {int(n_left_B.min())} items left of {k}")
    order = np.argsort(~free_BL, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists_BL, order, axis=1)
