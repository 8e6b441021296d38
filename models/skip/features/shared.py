"""Daily counts of keys that many listeners share, such as a genre, a context, or a genre by age group.

Shapes   N plays; E entries, each the plays of one key on one day
Time     a play sees the days before its own, not earlier hours of the same day. A key may have a large part of all
plays,
         so sorting them on one machine is avoided. Keys and days are few, so their counts are sent to every task
Source   of this project; the report has no such counts
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.skip.features.counters import NO_KEY, TOTALS, Carried, Columns
from models.skip.features.point_in_time import totals

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
class Daily:
    """Labelled plays of one kind by key and day.

    Attributes:
        key: int64, distinct first parts of keys, ascending.
        other: int64, distinct second parts, ascending; NO_KEY for kinds with one part.
        first_day: Days since 1970 of the first entry.
        n_ranks: Number of ranks of days; rank 0 is for carried counters, rank 1 for the first day.
        code: int64 (E,), ascending codes of (position in key, position in other, rank of the day).
        plays: int64 (E + 1,), plays of all entries before each.
        listened: int64 (E + 1,), listened plays of all entries before each.
    """

    key: np.ndarray
    other: np.ndarray
    first_day: int
    n_ranks: int
    code: np.ndarray
    plays: np.ndarray
    listened: np.ndarray

    @classmethod
    def of(cls, entries: Columns, carried: Carried) -> Daily:
        """Build from columns key, other, day, n_plays and n_listened; equal keys and days are added."""
        day = entries["day"]
        first, last = int(day.min(initial=2**31)), int(day.max(initial=-1))
        n_ranks = max(last - first, 0) + 2
        keys = [np.concatenate([getattr(carried, name), entries[name]]) for name in ("key", "other")]
        rank = np.concatenate([np.zeros(len(carried.key), np.int64), day - first + 1])
        columns = [np.concatenate([carried.numbers[name], entries[name]]) for name in ("n_plays", "n_listened")]
        (key, other, rank), sums = totals([*keys, rank], columns)
        ids, at_key = np.unique(key, return_inverse=True)
        others, at_other = np.unique(other, return_inverse=True)
        code = (at_key * len(others) + at_other) * n_ranks + rank
        plays, listened = (np.concatenate([[0], np.cumsum(value)]) for value in sums)
        return cls(ids, others, first, n_ranks, code, plays, listened)

    def seen(
        self, key: np.ndarray, other: np.ndarray, day: np.ndarray, *, leaky: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return plays and listened plays of each row's key on earlier days, int64 (N,); with `leaky` on all days."""
        at_key, has_key = place(self.key, key)
        at_other, has_other = place(self.other, other)
        base = (at_key * len(self.other) + at_other) * self.n_ranks
        upto = self.n_ranks if leaky else np.clip(day - self.first_day + 1, 1, self.n_ranks)
        low, high = np.searchsorted(self.code, base), np.searchsorted(self.code, base + upto)
        known = has_key & has_other
        return (
            np.where(known, self.plays[high] - self.plays[low], 0),
            np.where(known, self.listened[high] - self.listened[low], 0),
        )


def place(ids: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each value among ascending ids, and whether it is one of them."""
    if not len(ids):
        return np.zeros(len(values), np.int64), np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(ids, values), len(ids) - 1)
    return at, np.asarray(ids[at] == values)


def shared_counts(
    rows: Columns, day: np.ndarray, known: dict[str, Daily], *, leaky: bool = False
) -> dict[str, np.ndarray]:
    """Return the shared counts that each play sees, int64 (N,); `day` is in days since 1970."""
    counts = {}
    for kind, (first, second) in KEYS.items():
        other = rows[second] if second is not None else np.full(len(day), NO_KEY)
        counts[f"{kind}_plays"], counts[f"{kind}_listened"] = known[kind].seen(rows[first], other, day, leaky=leaky)
    return counts


def carry_shared(entries: Columns, before: Carried) -> Carried:
    """Return the counters after some days.

    Args:
        entries: Columns key, other, TOTALS and last_ts of the days.
        before: Counters before these days.
    """
    keys = [np.concatenate([getattr(before, name), entries[name]]) for name in ("key", "other")]
    names, none = (*TOTALS, "last_ts"), np.zeros(0, np.int64)
    *values, last = (np.concatenate([before.numbers[name], entries[name]]) for name in names)
    (key, other), sums = totals(keys, values, last)
    return Carried(key, other, dict(zip(names, sums, strict=True)), none, none, none, none)
