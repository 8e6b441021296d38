"""Daily counts of keys that many listeners share, such as a genre, a context, or a genre by age group.

Shapes   N plays; E entries, each the plays of one key on one day
Time     a play sees the days before its own, not earlier hours of the same day. One key can have more plays than one
         machine can sort. Keys and days are few, so their counts are sent to every task
Source   of this project; the report has no such counts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from models.arrays import BoolVector, IdVector, LongVector
from models.skip.features.counters import NO_KEY, TOTALS, Columns, Counters
from models.skip.features.point_in_time import sums_by_key

KEYS = {
    "context": ("context_type", None),
    "genre": ("genre_id", None),
    "genre_context": ("genre_id", "context_type"),
    "genre_gender": ("genre_id", "user_gender"),
    "genre_age": ("genre_id", "user_age"),
    "context_platform": ("context_type", "platform_flow"),
}
KINDS = tuple(KEYS)


@dataclass(frozen=True, eq=False)
class DailyCounts:
    """Labelled plays of one kind by key and day.

    Attributes:
        key: int64, distinct first parts of keys, ascending.
        other: int64, distinct second parts, ascending; NO_KEY for kinds with one part.
        first_day: Days since 1970 of the first entry.
        n_ranks: Number of ranks of days; rank 0 is for counters of earlier days, rank 1 for the first day.
        code: int64 (E,), ascending codes of (position in key, position in other, rank of the day).
        plays: int64 (E + 1,), plays of all entries before each.
        listened: int64 (E + 1,), listened plays of all entries before each.
    """

    key: IdVector
    other: IdVector
    first_day: int
    n_ranks: int
    code: LongVector
    plays: LongVector
    listened: LongVector

    @classmethod
    def from_entries(cls, entries: Columns, before: Counters) -> DailyCounts:
        """Add the plays of some days to the counters before them.

        Args:
            entries: Columns key, other, day, n_plays and n_listened; entries with equal key and day are added.
            before: Counters before these days.
        """
        day = entries["day"]
        first, last = int(day.min(initial=2**31)), int(day.max(initial=-1))
        n_ranks = max(last - first, 0) + 2
        keys = [np.concatenate([getattr(before, name), entries[name]]) for name in ("key", "other")]
        rank = np.concatenate([np.zeros(len(before.key), np.int64), day - first + 1])
        columns = [np.concatenate([before.numbers[name], entries[name]]) for name in ("n_plays", "n_listened")]
        (key, other, rank), sums = sums_by_key([*keys, rank], columns)
        ids, at_key = np.unique(key, return_inverse=True)
        others, at_other = np.unique(other, return_inverse=True)
        code = (at_key * len(others) + at_other) * n_ranks + rank
        plays, listened = (np.concatenate([[0], np.cumsum(value)]) for value in sums)
        return cls(ids, others, first, n_ranks, code, plays, listened)

    def counts_before(
        self, key: IdVector, other: IdVector, day: LongVector, *, leaky: bool
    ) -> tuple[LongVector, LongVector]:
        """Return plays and listened plays of each row's key on earlier days, int64 (N,); with `leaky` on all days."""
        at_key, has_key = find_positions(self.key, key)
        at_other, has_other = find_positions(self.other, other)
        base = (at_key * len(self.other) + at_other) * self.n_ranks
        upto = self.n_ranks if leaky else np.clip(day - self.first_day + 1, 1, self.n_ranks)
        low, high = np.searchsorted(self.code, base), np.searchsorted(self.code, base + upto)
        has_both = has_key & has_other
        return (
            np.where(has_both, self.plays[high] - self.plays[low], 0),
            np.where(has_both, self.listened[high] - self.listened[low], 0),
        )


def find_positions(ids: IdVector, values: IdVector) -> tuple[LongVector, BoolVector]:
    """Return the position of each value among ascending ids, and whether it is one of them."""
    if not len(ids):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return at, np.asarray(ids[at] == values)


def shared_counts(
    rows: Columns, day: LongVector, daily: Mapping[str, DailyCounts], *, leaky: bool = False
) -> dict[str, LongVector]:
    """Return the shared counts of earlier days by name, int64 (N,).

    Args:
        rows: Plays, with the columns of KEYS.
        day: Day of each play, in days since 1970.
        daily: Daily counts by kind.
        leaky: Include the play's own day and later days.
    """
    counts = {}
    for kind, (first, second) in KEYS.items():
        other = rows[second] if second is not None else np.full(len(day), NO_KEY)
        of_kind = daily[kind].counts_before(rows[first], other, day, leaky=leaky)
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = of_kind
    return counts


def update_shared_counters(entries: Columns, before: Counters) -> Counters:
    """Return the counters after some days.

    Args:
        entries: Columns key, other, TOTALS and last_ts of the days.
        before: Counters before these days.
    """
    keys = [np.concatenate([getattr(before, name), entries[name]]) for name in ("key", "other")]
    names = (*TOTALS, "last_ts")
    *values, last = (np.concatenate([before.numbers[name], entries[name]]) for name in names)
    (key, other), sums = sums_by_key(keys, values, last)
    return Counters.without_days(key, other, dict(zip(names, sums, strict=True)))
