"""Co-occurrence counts of tracks in collections, and their pointwise mutual information.

Shapes   N tracks; a collection is a list of distinct track indices
Source   Church and Hanks 1990 for PMI; Levy, Goldberg, Dagan 2015, section 3 for smoothing and shift
Differs  smoothing is applied to both sides of a pair and averaged, so that the matrix stays symmetric
"""

from __future__ import annotations

import numpy as np

from blockfactor.compiled import kernel


@kernel
def neighbours(
    track: int,
    holders: np.ndarray,
    offsets: np.ndarray,
    members: np.ndarray,
    counter: np.ndarray,
    touched: np.ndarray,
    minimum: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Tracks that share at least `minimum` collections with `track`: indices ascending (K,), counts (K,), int32.

    Args:
        track: the track asked about; it is no neighbour of itself.
        holders: positions of the collections that hold it.
        offsets: (C + 1,) where each collection's members start.
        members: track indices of all collections.
        counter: (N,) zeros, left as zeros.
        touched: (N,) room for work.
        minimum: least number of shared collections.
    """
    n = 0
    for h in holders:
        for e in range(offsets[h], offsets[h + 1]):
            other = members[e]
            if counter[other] == 0:
                touched[n] = other
                n += 1
            counter[other] += 1
    counter[track] = 0
    kept = 0
    for t in range(n):
        other = touched[t]
        if counter[other] >= minimum:
            touched[kept] = other
            kept += 1
        else:
            counter[other] = 0
    found = np.sort(touched[:kept])
    together = np.empty(kept, np.int32)
    for t in range(kept):
        together[t] = counter[found[t]]
        counter[found[t]] = 0
    return found, together


def cut(found: np.ndarray, together: np.ndarray, most: int) -> tuple[int, int]:
    """The weakest neighbour that stays when only `most` may: its (count, index); (0, largest int) when all stay.

    Strength is the count, ties go to the smaller index. A neighbour (c, j) stays if c > count, or c = count and
    j <= index.
    """
    if len(found) <= most:
        return 0, np.iinfo(np.int32).max
    order = np.lexsort((found, -together))
    last = order[most - 1]
    return int(together[last]), int(found[last])


def pmi(
    together: np.ndarray, n_i: np.ndarray, n_j: np.ndarray, total: int, smooth: np.ndarray, i: np.ndarray, j: np.ndarray
) -> np.ndarray:
    """PMI in nats of pairs (i, j): ln(total c / (n_i n_j)), with the mean of both smoothed directions.

    Args:
        together: (P,) collections that hold both.
        n_i: (P,) collections that hold i.
        n_j: (P,) collections that hold j.
        total: number of collections.
        smooth: (N,) from `smoothed`.
        i: (P,) indices.
        j: (P,) indices.
    """
    plain = np.log(total * together.astype(np.float64)) - np.log(n_i.astype(np.float64)) - np.log(n_j)
    correction: np.ndarray = plain - 0.5 * (smooth[i] + smooth[j])
    return correction


def smoothed(counts: np.ndarray, exponent: float) -> np.ndarray:
    """Log of (smoothed share / plain share) of each track (N,): 0 everywhere for exponent 1, larger for rare tracks."""
    counts = np.maximum(counts.astype(np.float64), 1.0)
    powered = counts**exponent
    shares: np.ndarray = np.log(powered / powered.sum()) - np.log(counts / counts.sum())
    return shares
