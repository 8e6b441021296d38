"""How this week's segments continue last week's: matched one to one by the listeners whom they share.

Shapes   U listeners known in both weeks, A segments before, K segments after
Source   assignment of largest total overlap (Kuhn 1955), by scipy; overlap after Jaccard 1912
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array


@dataclass(frozen=True, eq=False)
class SegmentMatch:
    """For each segment after: the segment before that it continues, (K,), -1 = none; Jaccard overlap, (K,), 0 to 1.

    `same_share` is the share of common listeners whose segment continues the one that they were in.
    """

    before_K: NDArray[np.int32]
    jaccard_K: NDArray[np.float64]
    same_share: float


def match_segments(before: ArrayLike, after: ArrayLike, n_before: int, n_after: int) -> SegmentMatch:
    """Match segments of the same (U,) listeners in two weeks.

    Raises:
        ValueError: for labels of different listeners or out of range.
    """
    before_U, after_U = np.asarray(before), np.asarray(after)
    if before_U.shape != after_U.shape or before_U.ndim != 1:
        raise ValueError(f"match: labels must be (U,) of the same listeners, got {before_U.shape} and {after_U.shape}")
    for name, labels, n in (("before", before_U, n_before), ("after", after_U, n_after)):
        if labels.size and not 0 <= labels.min() <= labels.max() < n:
            raise ValueError(f"match: {name} must be from 0 to {n - 1}, got {labels.min()} to {labels.max()}")
    ones = np.ones(before_U.size, np.int64)
    shared_AK = coo_array((ones, (before_U, after_U)), shape=(n_before, n_after)).toarray()
    one, other = linear_sum_assignment(shared_AK, maximize=True)
    kept = shared_AK[one, other] > 0
    one, other = one[kept], other[kept]
    both = shared_AK[one, other]
    union = shared_AK.sum(1)[one] + shared_AK.sum(0)[other] - both
    before_K, jaccard_K = np.full(n_after, -1, np.int32), np.zeros(n_after)
    before_K[other], jaccard_K[other] = one, both / union
    return SegmentMatch(before_K, jaccard_K, float(both.sum() / max(before_U.size, 1)))
