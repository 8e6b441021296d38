"""Ties in the rankings of segments: how many members have each listed track, and how long a list must be to cut no tie.

Shapes   U users, N tracks, K segments, L places of a ranking
Source   the authors' code scores a segment's tracks by their share of listeners and has scikit-learn average over ties
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array


def length_with_ties(counts_KN: csr_array, place: int) -> int:
    """Length that lists need so that no segment's tie with `place` (counted from 1) is cut; at most N.

    Raises:
        ValueError: when place is not in 1..N.
    """
    n = int(counts_KN.shape[1])
    if not 1 <= place <= n:
        raise ValueError(f"ties: place must be from 1 to the number of tracks ({n}), got {place}")
    longest = place
    for segment in range(counts_KN.shape[0]):
        count = counts_KN.data[counts_KN.indptr[segment] : counts_KN.indptr[segment + 1]]
        if count.size < place:  # what nobody has ties with everything that nobody has
            return n
        at_place = np.partition(count, count.size - place)[count.size - place]
        longest = max(longest, int((count >= at_place).sum()))
    return longest


def tie_levels(counts_KN: csr_array, rankings_KL: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return how many members have each listed track, (K, L): the `levels` of `score` with ties="average"."""
    found = np.empty(rankings_KL.shape, np.int32)
    for segment, tracks in enumerate(rankings_KL):
        row = np.zeros(counts_KN.shape[1], np.int32)
        here = slice(counts_KN.indptr[segment], counts_KN.indptr[segment + 1])
        row[counts_KN.indices[here]] = counts_KN.data[here]
        found[segment] = row[tracks]
    return found
