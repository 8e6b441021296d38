"""What each row of a log may know of the rows before it: counts, windows and last values by key.

Shapes   N rows in any order; results are in the same order
Law      a row sees rows of its key with a strictly smaller second. A tie sees nothing of the other, a row nothing of
         itself, and an unknown row (one without an outcome yet) is seen by nobody.
Carried  what happened before the rows at hand enters as rows at BEFORE whose values are totals: a day on top of what
         was carried gives, bit for bit, what all days at once give, because everything counted is a whole number
Leaky    the same with the whole key in sight, the row's own label included: what must not be done. It exists to
         measure what it would have feigned.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BEFORE = np.iinfo(np.int64).min  # the second of carried rows
AFTER = np.iinfo(np.int64).max  # the second of a question about the end
DAY_S = 86_400


class Past:
    """Rows in the order of (keys, second), with the place where each row's past ends."""

    def __init__(self, keys: Sequence[np.ndarray], ts: np.ndarray, known: np.ndarray, *, leaky: bool = False) -> None:
        """Sort once; every question after it is a pass over the rows.

        Args:
            keys: int64 (N,) each; rows that agree in all of them share a history.
            ts: int64 (N,) seconds since 1970, BEFORE for what was carried.
            known: bool (N,), whether others may see the row.
            leaky: see everything of the key.
        """
        self.order = np.lexsort((ts, *reversed(keys)))
        n = len(ts)
        self.place = np.arange(n)
        self.ts, self.known = ts[self.order], known[self.order]
        new = np.zeros(n, bool)
        new[:1] = True
        for key in keys:
            ordered = key[self.order]
            new[1:] |= ordered[1:] != ordered[:-1]
        second = new.copy()
        second[1:] |= self.ts[1:] != self.ts[:-1]
        self.rank = np.cumsum(new) - 1
        first = np.flatnonzero(new)
        self.start = first[self.rank] if n else self.place
        self.tie = np.maximum.accumulate(np.where(second, self.place, 0))
        self.tie_end = ends(second)
        self.seen = np.append(first[1:], n)[self.rank] if leaky and n else self.tie

    def back(self, found: np.ndarray) -> np.ndarray:
        """From the sorted order to the rows' own."""
        out = np.empty_like(found)
        out[self.order] = found
        return out

    def sums(self, value: np.ndarray) -> np.ndarray:
        """Running totals (N + 1,) of known rows in sorted order; place i holds those before it."""
        return np.concatenate([[0], np.cumsum(np.where(self.known, value[self.order], 0))])

    def count(self, value: np.ndarray) -> np.ndarray:
        """Sum of an int64 value over what the row sees."""
        sums = self.sums(value)
        return self.back(sums[self.seen] - sums[self.start])

    def count_since(self, value: np.ndarray, when: np.ndarray, back: int) -> np.ndarray:
        """The same from `back` before the row on; when: int64 (N,), seconds or days since 1970, never falls with ts."""
        ordered = when[self.order]
        base = int(ordered.min()) - back if len(ordered) else 0
        width = int(ordered.max()) - base + 1 if len(ordered) else 1
        at = self.rank * width + (ordered - base)
        low = np.searchsorted(at, at - back)
        sums = self.sums(value)
        return self.back(sums[self.seen] - sums[low])

    def last(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Place (sorted order) of the last known row before each row's second, -1 without one; mask is sorted too."""
        marked = self.known if mask is None else self.known & mask
        upto = np.maximum.accumulate(np.where(marked, self.place, -1)) if len(marked) else self.place
        found = np.where(self.tie > 0, upto[self.tie - 1], -1) if len(marked) else self.place
        return np.where(found >= self.start, found, -1)


def ends(starts: np.ndarray) -> np.ndarray:
    """One past the last place of each row's group, for groups that begin where `starts` is true."""
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(starts))
    return np.repeat(last, last - first) if len(starts) else np.zeros(0, np.int64)


def days(ts: np.ndarray) -> np.ndarray:
    """Days since 1970 (UTC) of seconds; of carried rows and questions as well, far away from all others' windows."""
    return np.asarray(np.floor_divide(ts, DAY_S), np.int64)


def totals(
    keys: Sequence[np.ndarray], values: Sequence[np.ndarray], last: np.ndarray | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Distinct keys, ascending, and the sums of each value over them; then, where `last` is given, its largest."""
    order = np.lexsort(tuple(reversed(keys)))
    n = len(order)
    new = np.zeros(n, bool)
    new[:1] = True
    for key in keys:
        new[1:] |= key[order][1:] != key[order][:-1]
    first = np.flatnonzero(new)
    summed = [np.add.reduceat(value[order], first) if n else value[:0] for value in values]
    if last is not None:
        summed.append(np.maximum.reduceat(last[order], first) if n else last[:0])
    return [key[order][first] for key in keys], summed
