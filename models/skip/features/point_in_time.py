"""Point-in-time aggregation: counts, windows and last values of earlier rows with the same key.

Shapes   N rows in any order; results are in the same order
Rule     a row depends on rows of its key with a strictly smaller time in seconds. Rows with equal timestamps do not see
         each other, and rows without a known outcome are not counted.
Totals   the totals of earlier days enter as rows before all others of their key. Adding a day to totals gives
         bit-identical results to computing all days at once, because all counts are integers.
Leaky    counts all rows of the key, including the row itself and its label. It is wrong for training, and exists to
         measure the effect of leakage.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from models.arrays import AnyVector, BoolVector, IdVector, LongVector

DAY_S = 86_400


class EarlierRows:
    """Rows sorted by (keys, time), with the range of earlier rows of each.

    All attributes are in sorted order. A group is the rows with equal keys.

    Attributes:
        order: Position of each sorted row in the original order.
        position: 0 to N - 1.
        ts: Time of each row in seconds since 1970; 0 for totals.
        is_counted: Whether the row contributes to the results of others.
        group: Index of the row's group.
        start: First position of the row's group.
        tie_start: First position of the rows of the group with the row's time.
        tie_end: One past the last position of these rows.
        visible_end: One past the last row that the row's result includes: tie_start, or with `leaky` the group's end.
    """

    def __init__(
        self,
        keys: Sequence[IdVector],
        ts: LongVector,
        is_counted: BoolVector,
        is_total: BoolVector | None = None,
        *,
        leaky: bool = False,
    ) -> None:
        """Sort the rows; each aggregation is then one pass over them.

        Args:
            keys: int64 (N,) each; rows that are equal in all of them have a common history.
            ts: Seconds since 1970, (N,); not used for totals.
            is_counted: Whether the row contributes to the results of others, (N,).
            is_total: Rows that contain totals of earlier days, (N,); None for no such rows.
            leaky: Include all rows of the key.
        """
        n = len(ts)
        if is_total is None:
            self.order = np.lexsort((ts, *reversed(keys)))
        else:
            ts = np.where(is_total, 0, ts)
            self.order = np.lexsort((ts, ~is_total, *reversed(keys)))
        self.position = np.arange(n)
        self.ts, self.is_counted = ts[self.order], is_counted[self.order]
        new_group = np.zeros(n, bool)
        new_group[:1] = True
        for key in keys:
            new_group[1:] |= _changes(key[self.order])
        new_time = new_group.copy()
        new_time[1:] |= _changes(self.ts)
        if is_total is not None:
            new_time[1:] |= _changes(is_total[self.order])
        self.group = np.cumsum(new_group) - 1
        first = np.flatnonzero(new_group)
        self.start = first[self.group] if n else self.position
        self.tie_start = np.maximum.accumulate(np.where(new_time, self.position, 0))
        self.tie_end = group_ends(new_time)
        self.visible_end = np.append(first[1:], n)[self.group] if leaky and n else self.tie_start

    def in_original_order(self, sorted_values: AnyVector) -> AnyVector:
        """Return values in the original order of the rows."""
        out = np.empty_like(sorted_values)
        out[self.order] = sorted_values
        return out

    def running_sums(self, value: LongVector) -> LongVector:
        """Return running sums (N + 1,) of counted rows in sorted order; entry i is the sum before row i."""
        return np.concatenate([[0], np.cumsum(np.where(self.is_counted, value[self.order], 0))])

    def sum_of_earlier(self, value: LongVector) -> LongVector:
        """Return the sum of a value over the earlier rows of each row, (N,) int64."""
        sums = self.running_sums(value)
        return self.in_original_order(sums[self.visible_end] - sums[self.start])

    def sum_in_window(self, value: LongVector, when: LongVector, length: int) -> LongVector:
        """Return the sum over the earlier rows whose time is at most `length` before the row, (N,) int64.

        Args:
            value: int64 (N,).
            when: int64 (N,) seconds or days since 1970, non-decreasing with the time of the rows.
            length: Length of the window, in the unit of `when`.
        """
        ordered = when[self.order]
        base = int(ordered.min()) - length if len(ordered) else 0
        width = int(ordered.max()) - base + 1 if len(ordered) else 1
        at = self.group * width + (ordered - base)
        low = np.searchsorted(at, at - length)
        sums = self.running_sums(value)
        return self.in_original_order(sums[self.visible_end] - sums[low])

    def last_earlier(self, mask: BoolVector | None = None) -> LongVector:
        """Return the sorted position of the last counted row earlier than each row, -1 if there is none.

        Args:
            mask: bool (N,) in sorted order; only these rows count.
        """
        if not len(self.position):
            return self.position
        eligible = self.is_counted if mask is None else self.is_counted & mask
        last_upto = np.maximum.accumulate(np.where(eligible, self.position, -1))
        position = np.where(self.tie_start > 0, last_upto[self.tie_start - 1], -1)
        return np.where(position >= self.start, position, -1)


def group_ends(is_start: BoolVector) -> LongVector:
    """Return one past the last position of each row's group, for groups that begin where `is_start` is true."""
    first = np.flatnonzero(is_start)
    last = np.append(first[1:], len(is_start))
    return np.repeat(last, last - first) if len(is_start) else np.zeros(0, np.int64)


def days(ts: LongVector) -> LongVector:
    """Return days since 1970 (UTC) of times in seconds."""
    return np.asarray(np.floor_divide(ts, DAY_S), np.int64)


def sums_by_key(
    keys: Sequence[IdVector], values: Sequence[LongVector], last: LongVector | None = None
) -> tuple[list[IdVector], list[LongVector]]:
    """Return the distinct keys, ascending, and for each the sums of the values, then the maximum of `last` if given."""
    order = np.lexsort(tuple(reversed(keys)))
    n = len(order)
    new = np.zeros(n, bool)
    new[:1] = True
    for key in keys:
        new[1:] |= _changes(key[order])
    first = np.flatnonzero(new)
    summed = [np.add.reduceat(value[order], first) if n else value[:0] for value in values]
    if last is not None:
        summed.append(np.maximum.reduceat(last[order], first) if n else last[:0])
    return [key[order][first] for key in keys], summed


def _changes(values: AnyVector) -> BoolVector:
    """Return whether each value but the first differs from the one before, (N - 1,)."""
    return np.asarray(values[1:] != values[:-1])
