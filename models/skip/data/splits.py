"""Splits of plays into training, validation and test: by time, by user, at random, or as in the competition.

Shapes   N labelled plays in time order; a split is int8 (N,): TRAIN, VALIDATION, TEST or EXCLUDED
Source   the report's section 2.2; the competition's test rows are each user's last Flow play

Only `by_time` matches the conditions of a service: the test days come after all training days. The other splits train
on plays of the same period as the test plays; they exist for comparison.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from models.arrays import BoolVector, IdVector, LongVector

# int8 (N,): the part of each play, TRAIN, VALIDATION, TEST or EXCLUDED.
SplitVector = NDArray[np.int8]

TRAIN, VALIDATION, TEST, EXCLUDED = 0, 1, 2, -1


def by_time(ts: LongVector, train: float, validation: float) -> SplitVector:
    """Split by time: the earliest share is training, the latest test; plays of one second are in the later part.

    Args:
        ts: Times of the plays in time order.
        train: Share of the training plays.
        validation: Share of the validation plays.
    """
    n = len(ts)
    split_N = np.full(n, TEST, np.int8)
    if n:
        edges = [ts[min(int(n * share), n - 1)] for share in (train, train + validation)]
        split_N[ts < edges[1]] = VALIDATION
        split_N[ts < edges[0]] = TRAIN
    return split_N


def at_random(n: int, train: float, validation: float, seed: int) -> SplitVector:
    """Split at random into shares of a seeded permutation."""
    order = np.random.default_rng(seed).permutation(n)
    split_N = np.full(n, TEST, np.int8)
    split_N[order[: int(n * (train + validation))]] = VALIDATION
    split_N[order[: int(n * train)]] = TRAIN
    return split_N


def by_user(user: IdVector, ts: LongVector, last_plays: int) -> SplitVector:
    """Split each user's plays: the last `last_plays` are test, as many before them validation.

    All plays of a user with at most 2 * last_plays plays are training plays.
    """
    order = np.lexsort((np.arange(len(ts)), ts, user))
    n_later, n_plays = rows_after(user[order])
    split_N = np.full(len(ts), TRAIN, np.int8)
    enough = n_plays > 2 * last_plays
    split_N[order[enough & (n_later < 2 * last_plays)]] = VALIDATION
    split_N[order[enough & (n_later < last_plays)]] = TEST
    return split_N


def competition(user: IdVector, ts: LongVector, is_flow: BoolVector) -> SplitVector:
    """Split as in the competition: each user's last Flow play is test, the Flow play before it validation.

    A user's other plays from the second of the earlier of the two onwards are excluded, because the competition's users
    have no plays after their test play. A user with one Flow play has no validation play; all plays of a user without
    Flow plays are training plays.
    """
    order = np.lexsort((np.arange(len(ts)), ts, user))
    flow = order[is_flow[order]]
    n_later, _ = rows_after(user[flow])
    split_N = np.full(len(ts), TRAIN, np.int8)
    last_two = flow[n_later < 2]
    # Rows are sorted by user and time, so the first row of a user is the earlier of the two.
    ids, first = np.unique(user[last_two], return_index=True)
    if len(ids):
        at = np.searchsorted(ids, user).clip(max=len(ids) - 1)
        excluded = (ids[at] == user) & (ts >= ts[last_two[first]][at])
        split_N[excluded] = EXCLUDED
    split_N[flow[n_later == 1]] = VALIDATION
    split_N[flow[n_later == 0]] = TEST
    return split_N


def rows_after(user: IdVector) -> tuple[LongVector, LongVector]:
    """Return, for rows sorted by user, the number of later rows of the same user and the user's number of rows."""
    _, code, n_rows = np.unique(user, return_inverse=True, return_counts=True)
    ends = np.cumsum(n_rows)
    return np.asarray(ends[code] - 1 - np.arange(len(user))), np.asarray(n_rows[code])
