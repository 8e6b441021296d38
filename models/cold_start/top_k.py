"""The k best tracks for each listener by dot product or cosine, exact and repeatable.

Shapes   B queries, N items, d width, k places
Ties     to the lower index; as track_idx is the popularity rank, the more popular track wins

A matrix product rounds differently with the number of rows in it. So it only picks candidates, with a margin wider than
its rounding error; their order comes from dot products of one pair at a time. A row's list is the same in any batch.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

Similarity = Literal["dot", "cosine"]
_BLOCK_SCORES = 3_200_000  # scores a block: 13 MB, twice, a core
_BLOCK_PAIRS = 1 << 18


def as_float_matrix(name: str, x: ArrayLike) -> NDArray[np.float32]:
    """`x` as contiguous float32 (rows, columns); ValueError naming the first row that has no finite length."""
    rows = np.ascontiguousarray(x, np.float32)
    if rows.ndim != 2:
        raise ValueError(f"{name}: must be a matrix, got shape {rows.shape}")
    if not (fine := np.isfinite(np.vecdot(rows, rows))).all():
        raise ValueError(f"{name}: row {int(np.argmin(fine))} holds NaN, infinity or values too large to square")
    return rows


def normalise(x_BD: ArrayLike) -> NDArray[np.float32]:
    """Rows at unit length, float32; a zero row stays zero. A row's result does not depend on its batch."""
    x = np.asarray(x_BD, np.float32)
    norms = np.sqrt(np.vecdot(x, x))
    norms[norms == 0] = 1
    unit: NDArray[np.float32] = x / norms[:, None]
    return unit


class ItemIndex:
    """Items to be ranked (N, d), checked and brought to length once: for a service that asks many times.

    Raises:
        ValueError: an unknown similarity, no item, NaN or infinity.
    """

    def __init__(self, items: ArrayLike, similarity: Similarity = "cosine") -> None:
        """Items at unit length give the same answer with "dot", without the cost of normalising them."""
        if similarity not in ("dot", "cosine"):
            raise ValueError(f"top_k: similarity must be 'dot' or 'cosine', got {similarity!r}")
        items_ND = as_float_matrix("top_k: items", items)
        self.similarity, self.items_ND = similarity, normalise(items_ND) if similarity == "cosine" else items_ND
        self.longest = float(np.sqrt(np.vecdot(self.items_ND, self.items_ND).max(initial=0)))

    def top_k(self, queries: ArrayLike, k: int) -> NDArray[np.int32]:
        """As the function of this name: queries (B, d) -> (B, k) int32."""
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
        # A block a core: selecting, which takes more than half the time, has no threads of its own.
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(os.cpu_count()) as pool:
            list(pool.map(fill, range(0, len(q_BD), step)))
        return out


def top_k(queries: ArrayLike, items: ArrayLike, k: int, similarity: Similarity = "cosine") -> NDArray[np.int32]:
    """Indices of the k items with the highest score, best first: queries (B, d), items (N, d) -> (B, k) int32.

    A query of zeros scores every item 0 and gets 0, 1 ... k - 1; so does, for cosine, an item of zeros.

    Raises:
        ValueError: for shapes that do not match, k outside 1..N, an unknown similarity, NaN or infinity.
    """
    return ItemIndex(items, similarity).top_k(queries, k)


def _top_k_block(
    q_BD: NDArray[np.float32], items_ND: NDArray[np.float32], k: int, longest: float
) -> NDArray[np.intp] | NDArray[np.int32]:
    n, d = items_ND.shape
    scores_BN = q_BD @ items_ND.T
    kth_B = np.partition(scores_BN, n - k, axis=1)[:, n - k]
    # |rounding error| of a float32 dot product is at most d 2^-24 |q| |v|, for either way of summing; both, both sides.
    length_B = np.sqrt(np.vecdot(q_BD, q_BD))
    margin_B = np.float32(4 * d * 2.0**-24 * longest) * length_B
    # Only zeros tie everywhere: their answer is known, and they would make every item a candidate.
    some = length_B > 0
    floor_B = np.where(some, kth_B - margin_B, np.float32(np.inf))
    candidates = np.flatnonzero(scores_BN >= floor_B[:, None])
    row, item = candidates // n, candidates % n
    exact = np.empty(candidates.size, np.float32)
    for start in range(0, candidates.size, _BLOCK_PAIRS):
        part = slice(start, start + _BLOCK_PAIRS)
        exact[part] = np.vecdot(q_BD[row[part]], items_ND[item[part]])
    order = np.lexsort((item, -exact, row))
    first_B = np.searchsorted(row, np.flatnonzero(some))
    best = np.tile(np.arange(k, dtype=np.intp), (len(q_BD), 1))
    best[some] = item[order[first_B[:, None] + np.arange(k)]]
    return best


def top_k_of_scores(scores_BN: NDArray[np.float32], k: int) -> NDArray[np.int32]:
    """Indices of the k highest scores of each row, best first, ties to the lower index: (B, N) -> (B, k) int32."""
    n = scores_BN.shape[1]
    if not 1 <= k <= n:
        raise ValueError(f"best: k must be from 1 to the number of items ({n}), got {k}")
    out = np.empty((len(scores_BN), k), np.int32)
    for row, scores_N in enumerate(scores_BN):
        floor = np.partition(scores_N, n - k)[n - k]
        above, equal = np.flatnonzero(scores_N > floor), np.flatnonzero(scores_N == floor)
        chosen = np.concatenate([above, equal[: k - len(above)]])
        out[row] = chosen[np.lexsort((chosen, -scores_N[chosen]))]
    return out


def exclude_items(lists_BL: NDArray[np.int32], taken_BN: csr_array, k: int) -> NDArray[np.int32]:
    """The first k of each list that are not among the row's taken tracks: (B, L) -> (B, k).

    Raises:
        ValueError: a list is too short to spare its taken tracks.
    """
    n = taken_BN.shape[1]
    row = np.repeat(np.arange(len(lists_BL), dtype=np.int64), np.diff(taken_BN.indptr))
    key_BL = np.arange(len(lists_BL), dtype=np.int64)[:, None] * n + lists_BL
    free_BL = ~np.isin(key_BL, row * n + taken_BN.indices)
    if len(lists_BL) and (short := free_BL.sum(axis=1)).min() < k:
        raise ValueError(f"without: row {int(short.argmin())} has {int(short.min())} tracks left of {k}")
    order = np.argsort(~free_BL, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(lists_BL, order, axis=1)
