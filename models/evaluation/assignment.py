"""Assignment of listeners to the arms of an experiment, by a stable hash instead of a stored table.

Rule     digest = SHA-256 of the UTF-8 text "<experiment>/<salt>/<external id of the user>"; bucket = its first eight
         bytes as a big-endian unsigned integer, modulo 10 000; the arms own the buckets in their order, each as many as
         its share
Why      A text and a standard hash give the same arm in any language. Another name or salt shuffles all listeners
         again, so that experiments are independent (Kohavi, Tang, Xu 2020, chapter 14)
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence

BUCKETS = 10_000


def bucket_of(experiment: str, salt: str, user_id: str) -> int:
    """Return the bucket of a listener, 0 to 9 999.

    Args:
        experiment: name of the experiment.
        salt: salt of the experiment.
        user_id: external id of the listener; of an integer, its decimal text.
    """
    digest = hashlib.sha256(f"{experiment}/{salt}/{user_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % BUCKETS


def bucket_bounds(shares: Sequence[float]) -> list[int]:
    """Return for each arm the first bucket that it no longer owns, in the order of the arms.

    Args:
        shares: share of listeners of each arm.

    Raises:
        ValueError: a share is not positive or finer than 1 / 10 000, or the shares do not add up to 1.
    """
    parts = [round(share * BUCKETS) for share in shares]
    for share, part in zip(shares, parts, strict=True):
        if part <= 0 or abs(share * BUCKETS - part) > 1e-6:
            raise ValueError(f"shares: {share} must be positive and a multiple of {1 / BUCKETS}")
    if sum(parts) != BUCKETS:
        raise ValueError(f"shares: they add up to {sum(parts) / BUCKETS}, not to 1")
    ends = [0]
    for part in parts:
        ends.append(ends[-1] + part)
    return ends[1:]


def arm_index(experiment: str, salt: str, user_id: str, ends: Sequence[int]) -> int:
    """Return the index of the listener's arm among the arms.

    Args:
        experiment: name of the experiment.
        salt: salt of the experiment.
        user_id: external id of the listener; of an integer, its decimal text.
        ends: the result of `bucket_bounds`.
    """
    return bisect_right(ends, bucket_of(experiment, salt, user_id))
