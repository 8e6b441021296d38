"""Co-occurrence counts of tracks in collections and their pointwise mutual information (PMI).

Shapes   N tracks, C collections, P pairs, K neighbours; a collection is a list of distinct track indices
Source   Church and Hanks 1990 for PMI; Levy, Goldberg, Dagan 2015, section 3, for smoothing and shift
Differs  Smoothing is applied to both sides of a pair and averaged, so that the matrix stays symmetric
"""

from __future__ import annotations

import numpy as np

from blockfactor.arrays import DoubleVector, IntVector, LongVector
from blockfactor.compiled import kernel

MAX_INDEX = int(np.iinfo(np.int32).max)


@kernel
def count_neighbours(
    track: int,
    collections: IntVector,
    offsets: LongVector,
    members: IntVector,
    counter: IntVector,
    touched: IntVector,
    min_count: int,
) -> tuple[IntVector, IntVector]:
    """Count in how many collections each other track occurs together with `track`.

    Args:
        track: Index of the track; it is not its own neighbour.
        collections: Positions of the collections that contain it.
        offsets: Start of each collection's members, (C + 1,).
        members: Track indices of all collections.
        counter: Working memory (N,), zeros before and after the call.
        touched: Working memory (N,).
        min_count: Minimum number of common collections.

    Returns:
        Indices of the neighbours in ascending order (K,), and their counts (K,).
    """
    n = 0
    for c in collections:
        for e in range(offsets[c], offsets[c + 1]):
            other = members[e]
            if counter[other] == 0:
                touched[n] = other
                n += 1
            counter[other] += 1
    counter[track] = 0
    n_neighbours = 0
    for t in range(n):
        other = touched[t]
        if counter[other] >= min_count:
            touched[n_neighbours] = other
            n_neighbours += 1
        else:
            counter[other] = 0
    neighbours = np.sort(touched[:n_neighbours])
    counts = np.empty(n_neighbours, np.int32)
    for t in range(n_neighbours):
        counts[t] = counter[neighbours[t]]
        counter[neighbours[t]] = 0
    return neighbours, counts


def weakest_of_strongest(neighbours: IntVector, counts: IntVector, max_neighbours: int) -> tuple[int, int]:
    """Return count and index of the weakest of the `max_neighbours` strongest neighbours.

    Strength is the count; ties go to the smaller index. A neighbour (c, j) is among the strongest if c > count, or
    c = count and j <= index.

    Returns:
        (count, index); (0, largest int32) if there are no more than `max_neighbours`.
    """
    if len(neighbours) <= max_neighbours:
        return 0, MAX_INDEX
    order = np.lexsort((neighbours, -counts))
    last = order[max_neighbours - 1]
    return int(counts[last]), int(neighbours[last])


def pmi(
    n_both: IntVector,
    n_i: LongVector,
    n_j: LongVector,
    n_collections: int,
    smoothing: DoubleVector,
    i: IntVector,
    j: IntVector,
) -> DoubleVector:
    """Return the PMI of pairs (i, j) in nats: ln(n_collections n_both / (n_i n_j)), minus the mean smoothing of both.

    Args:
        n_both: Number of collections that contain both tracks (P,).
        n_i: Number of collections that contain i (P,).
        n_j: Number of collections that contain j (P,).
        n_collections: Number of collections.
        smoothing: Result of `smoothing_terms` (N,).
        i: Track indices (P,).
        j: Track indices (P,).
    """
    plain = np.log(n_collections * n_both.astype(np.float64)) - np.log(n_i.astype(np.float64)) - np.log(n_j)
    smoothed: DoubleVector = plain - 0.5 * (smoothing[i] + smoothing[j])
    return smoothed


def smoothing_terms(counts: LongVector, exponent: float) -> DoubleVector:
    """Return ln(smoothed share / plain share) of each track (N,): 0 for exponent 1, larger for rarer tracks below 1.

    Args:
        counts: Number of collections that contain each track (N,).
        exponent: Exponent of the counts in the smoothed shares.
    """
    counts = np.maximum(counts.astype(np.float64), 1.0)
    powered = counts**exponent
    terms: DoubleVector = np.log(powered / powered.sum()) - np.log(counts / counts.sum())
    return terms
