"""Ties in the rankings of segments: tracks that as many members have.

Shapes   U users, N tracks, K segments, L places of a ranking
Source   the authors' code scores a segment's tracks by their share of listeners, and scikit-learn averages over ties
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from models.arrays import IntMatrix


def length_with_ties(counts_KN: csr_array, place: int) -> int:
    """Return the length of lists at which no segment's tie with `place` is cut; at most N.

    Args:
        counts_KN: members of each segment who have each track, sparse.
        place: place counted from 1.

    Raises:
        ValueError: place is not in 1..N.
    """
    n = int(counts_KN.shape[1])
    if not 1 <= place <= n:
        raise ValueError(f"ties: place must be from 1 to the number of tracks ({n}), got {place}")
    longest = place
    for segment in range(counts_KN.shape[0]):
        count = counts_KN.data[counts_KN.indptr[segment] : counts_KN.indptr[segment + 1]]
        if count.size < place:  # tracks that no member has tie with all other such tracks
            return n
        at_place = np.partition(count, count.size - place)[count.size - place]
        longest = max(longest, int((count >= at_place).sum()))
    return longest


def tie_levels(counts_KN: csr_array, rankings_KL: IntMatrix) -> IntMatrix:
    """Return how many members have each listed track, (K, L): `levels` of `score` for ties="average".

    Args:
        counts_KN: members of each segment who have each track, sparse.
        rankings_KL: track_idx of the listed tracks.
    """
    level_KL = np.empty(rankings_KL.shape, np.int32)
    for segment, tracks in enumerate(rankings_KL):
        row = np.zeros(counts_KN.shape[1], np.int32)
        span = slice(counts_KN.indptr[segment], counts_KN.indptr[segment + 1])
        row[counts_KN.indices[span]] = counts_KN.data[span]
        level_KL[segment] = row[tracks]
    return level_KL
