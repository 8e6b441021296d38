"""Matching of this week's segments to last week's, one to one, by the listeners that they share.

Shapes   U listeners of both weeks, A segments before, K segments after, M matched pairs
Source   assignment of largest total overlap (Kuhn 1955), by scipy; overlap after Jaccard 1912
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array

from models.arrays import DoubleVector, IntVector


@dataclass(frozen=True, eq=False)
class SegmentMatch:
    """Matching of segments.

    Attributes:
        before_K: for each segment after, the segment before that it continues; -1 for none.
        jaccard_K: Jaccard overlap with that segment, 0 to 1.
        same_share: share of listeners whose segment after continues their segment before.
    """

    before_K: IntVector
    jaccard_K: DoubleVector
    same_share: float


def match_segments(before: ArrayLike, after: ArrayLike, n_before: int, n_after: int) -> SegmentMatch:
    """Match the segments of two weeks by the same U listeners.

    Args:
        before: segment of each listener in the week before, (U,).
        after: segment of each listener in the week after, (U,).
        n_before: A, the number of segments before.
        n_after: K, the number of segments after.

    Raises:
        ValueError: the labels differ in length or are out of range.
    """
    before_U, after_U = np.asarray(before), np.asarray(after)
    if before_U.shape != after_U.shape or before_U.ndim != 1:
        raise ValueError(f"match: labels must be (U,) of the same listeners, got {before_U.shape} and {after_U.shape}")
    for name, labels, n in (("before", before_U, n_before), ("after", after_U, n_after)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n:
            raise ValueError(f"match: {name} must be from 0 to {n - 1}, got {labels.min()} to {labels.max()}")
    ones = np.ones(before_U.size, np.int64)
    shared_AK = coo_array((ones, (before_U, after_U)), shape=(n_before, n_after)).toarray()
    before_M, after_M = linear_sum_assignment(shared_AK, maximize=True)
    overlaps_M = shared_AK[before_M, after_M] > 0
    before_M, after_M = before_M[overlaps_M], after_M[overlaps_M]
    both_M = shared_AK[before_M, after_M]
    union_M = shared_AK.sum(1)[before_M] + shared_AK.sum(0)[after_M] - both_M
    before_K, jaccard_K = np.full(n_after, -1, np.int32), np.zeros(n_after)
    before_K[after_M], jaccard_K[after_M] = before_M, both_M / union_M
    return SegmentMatch(before_K, jaccard_K, float(both_M.sum() / max(before_U.size, 1)))
