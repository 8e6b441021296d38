"""How plays that many listeners share something of were received: of a genre, a context, a genre by people of an age.

Shapes   N plays; E entries, each the plays of one key on one day
Time     a play sees the days before its own, not the hours of its own day: a key is shared by up to all plays, so that
         no machine may be asked to hold its plays in order. Few keys, though, and days: their counts go everywhere
Source   ours; the report has no such counts
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
        key: int64 ids, ascending.
        other: the same of the key's second part, NO_KEY where it has none.
        first_day: days since 1970 of the first entry.
        n_ranks: of days; rank 0 is what was carried, rank 1 the first day.
        code: int64 (E,), ascending: places in key, other and ranks of days, in this order of weight.
        plays: int64 (E + 1,), those of all entries before each.
        listened: the same of plays listened to.
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
        """From columns key, other, day, n_plays and n_listened (a key and day may come more than once)."""
        day = entries["day"]
        first, last = int(day.min(initial=2**31)), int(day.max(initial=-1))
        n_ranks = max(last - first, 0) + 2
        keys = [np.concatenate([getattr(carried, name), entries[name]]) for name in ("key", "other")]
        rank = np.concatenate([np.zeros(len(carried.key), np.int64), day - first + 1])
        counted = [np.concatenate([carried.numbers[name], entries[name]]) for name in ("n_plays", "n_listened")]
        (key, other, rank), sums = totals([*keys, rank], counted)
        ids, at_key = np.unique(key, return_inverse=True)
        others, at_other = np.unique(other, return_inverse=True)
        code = (at_key * len(others) + at_other) * n_ranks + rank
        plays, listened = (np.concatenate([[0], np.cumsum(value)]) for value in sums)
        return cls(ids, others, first, n_ranks, code, plays, listened)

    def seen(
        self, key: np.ndarray, other: np.ndarray, day: np.ndarray, *, leaky: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """(plays, listened plays) of each row's key on days before its own, int64 (N,); leaky: on all days."""
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


def place(ids: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each is among ascending ids, and whether it is there at all."""
    if not len(ids):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    at = np.minimum(np.searchsorted(ids, wanted), len(ids) - 1)
    return at, np.asarray(ids[at] == wanted)


def shared_counts(
    rows: Columns, day: np.ndarray, known: dict[str, Daily], *, leaky: bool = False
) -> dict[str, np.ndarray]:
    """Counts (N,) int64 that each play sees; day: int64 (N,) since 1970."""
    found = {}
    for kind, (first, second) in KEYS.items():
        other = rows[second] if second is not None else np.full(len(day), NO_KEY)
        found[f"{kind}_plays"], found[f"{kind}_listened"] = known[kind].seen(rows[first], other, day, leaky=leaky)
    return found


def carry_shared(entries: Columns, before: Carried) -> Carried:
    """What the days leave behind; entries: columns key, other, the totals and last_ts."""
    keys = [np.concatenate([getattr(before, name), entries[name]]) for name in ("key", "other")]
    names, none = (*TOTALS, "last_ts"), np.zeros(0, np.int64)
    *values, last = (np.concatenate([before.numbers[name], entries[name]]) for name in names)
    (key, other), found = totals(keys, values, last)
    return Carried(key, other, dict(zip(names, found, strict=True)), none, none, none, none)
