"""Which plays learn, tune and judge: by time, by user, at random, or as the competition had it.

Shapes   N labelled plays in time order; an answer is int8 (N,): TRAIN, VALIDATION, TEST, or LEFT_OUT
Source   the report's section 2.2; the competition's test rows are each user's last Flow play

Only `by_time` asks what a service asks: to judge days that nothing was learned from. The others hold plays of one
moment back while others of the same moment are learned from; they exist to be compared with, beside it.
"""

from __future__ import annotations

import numpy as np

TRAIN, VALIDATION, TEST, LEFT_OUT = 0, 1, 2, -1


def by_time(ts: np.ndarray, train: float, validation: float) -> np.ndarray:
    """The earliest share learns, the latest judges; plays of one second stay together, on the later side."""
    n = len(ts)
    found = np.full(n, TEST, np.int8)
    if n:
        edges = [ts[min(int(n * share), n - 1)] for share in (train, train + validation)]
        found[ts < edges[1]] = VALIDATION
        found[ts < edges[0]] = TRAIN
    return found


def at_random(n: int, train: float, validation: float, seed: int) -> np.ndarray:
    """Shares of a seeded permutation."""
    order = np.random.default_rng(seed).permutation(n)
    found = np.full(n, TEST, np.int8)
    found[order[: int(n * (train + validation))]] = VALIDATION
    found[order[: int(n * train)]] = TRAIN
    return found


def by_user(user: np.ndarray, ts: np.ndarray, last: int) -> np.ndarray:
    """The last plays of a user judge, as many before them tune; a user without more plays than that only learns."""
    order = np.lexsort((np.arange(len(ts)), ts, user))
    back, total = from_the_end(user[order])
    found = np.full(len(ts), TRAIN, np.int8)
    enough = total > 2 * last
    found[order[enough & (back < 2 * last)]] = VALIDATION
    found[order[enough & (back < last)]] = TEST
    return found


def competition(user: np.ndarray, ts: np.ndarray, is_flow: np.ndarray) -> np.ndarray:
    """Each user's last Flow play judges, the Flow play before it tunes; what the user played since is left out.

    Since means in the second of the first of the two, or later: the competition's users have no plays after theirs.
    A user with one Flow play tunes nothing; a user without any only learns.
    """
    order = np.lexsort((np.arange(len(ts)), ts, user))
    flow = order[is_flow[order]]
    back, _ = from_the_end(user[flow])
    found = np.full(len(ts), TRAIN, np.int8)
    held = flow[back < 2]
    ids, first = np.unique(user[held], return_index=True)  # sorted by user and time: the earlier of the two
    if len(ids):
        at = np.searchsorted(ids, user).clip(max=len(ids) - 1)
        since = (ids[at] == user) & (ts >= ts[held[first]][at])
        found[since] = LEFT_OUT
    found[flow[back == 1]] = VALIDATION
    found[flow[back == 0]] = TEST
    return found


def from_the_end(user: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows sorted by user: how many of the user's follow, and how many the user has."""
    _, place, total = np.unique(user, return_inverse=True, return_counts=True)
    ends = np.cumsum(total)
    return np.asarray(ends[place] - 1 - np.arange(len(user))), np.asarray(total[place])
