"""Point-in-time aggregation: counts, windows and last values of earlier rows with the same key.

Shapes   N rows in any order; results are in the same order
Rule     a row sees rows of its key with a strictly smaller time in seconds. Rows with equal timestamps do not see each
         other, and rows without a known outcome are not seen at all.
Carried  earlier totals enter as rows at time BEFORE: a day added to carried totals gives bit-identical results to all
         days at once, because all counts are integers
Leaky    sees all rows of the key, including the row itself and its label. It is wrong for training, and exists to
         measure the effect of leakage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BEFORE = np.iinfo(np.int64).min  # time of carried rows
AFTER = np.iinfo(np.int64).max  # time of a query about the end
DAY_S = 86_400


class Past:
    """Rows sorted by (keys, time), with the end of the earlier rows of each."""

    def __init__(self, keys: Sequence[np.ndarray], ts: np.ndarray, known: np.ndarray, *, leaky: bool = False) -> None:
        """Sort the rows; each aggregation is then one pass over them.

        Args:
            keys: int64 (N,) each; rows that are equal in all of them have a common history.
            ts: int64 (N,) seconds since 1970; BEFORE for carried rows.
            known: bool (N,), whether other rows may see the row.
            leaky: See all rows of the key.
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

    def back(self, sorted_values: np.ndarray) -> np.ndarray:
        """Return values in the original order of the rows."""
        out = np.empty_like(sorted_values)
        out[self.order] = sorted_values
        return out

    def sums(self, value: np.ndarray) -> np.ndarray:
        """Return running totals (N + 1,) of known rows in sorted order; entry i is the total before row i."""
        return np.concatenate([[0], np.cumsum(np.where(self.known, value[self.order], 0))])

    def count(self, value: np.ndarray) -> np.ndarray:
        """Return the sum of an int64 value over the rows that each row sees."""
        sums = self.sums(value)
        return self.back(sums[self.seen] - sums[self.start])

    def count_since(self, value: np.ndarray, when: np.ndarray, back: int) -> np.ndarray:
        """Return the sum over the rows that each row sees and whose time is at most `back` before it.

        Args:
            value: int64 (N,).
            when: int64 (N,) seconds or days since 1970, non-decreasing with ts.
            back: Length of the window, in the unit of `when`.
        """
        ordered = when[self.order]
        base = int(ordered.min()) - back if len(ordered) else 0
        width = int(ordered.max()) - base + 1 if len(ordered) else 1
        at = self.rank * width + (ordered - base)
        low = np.searchsorted(at, at - back)
        sums = self.sums(value)
        return self.back(sums[self.seen] - sums[low])

    def last(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Return the sorted position of the last known row earlier than each row, -1 if there is none.

        Args:
            mask: bool (N,) in sorted order; only these rows count.
        """
        marked = self.known if mask is None else self.known & mask
        upto = np.maximum.accumulate(np.where(marked, self.place, -1)) if len(marked) else self.place
        position = np.where(self.tie > 0, upto[self.tie - 1], -1) if len(marked) else self.place
        return np.where(position >= self.start, position, -1)


def ends(starts: np.ndarray) -> np.ndarray:
    """Return one past the last position of each row's group, for groups that begin where `starts` is true."""
    first = np.flatnonzero(starts)
    last = np.append(first[1:], len(starts))
    return np.repeat(last, last - first) if len(starts) else np.zeros(0, np.int64)


def days(ts: np.ndarray) -> np.ndarray:
    """Return days since 1970 (UTC) of times in seconds; BEFORE and AFTER are outside all windows."""
    return np.asarray(np.floor_divide(ts, DAY_S), np.int64)


def totals(
    keys: Sequence[np.ndarray], values: Sequence[np.ndarray], last: np.ndarray | None = None
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the distinct keys, ascending, and for each the sums of the values, then the maximum of `last` if given."""
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
