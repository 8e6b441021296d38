"""Conversion of counters to the rows of table skip_state, which stores them at the end of a day, and back.

Shapes   S rows; ragged lists of days as offsets (S + 1,) and values
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from models.arrays import IntVector, LongVector
from models.skip.features import shared, track, user
from models.skip.features.counters import TOTALS, USER_NUMBERS, Columns, Counters, no_counters, update_counters
from models.skip.features.user import update_sessions

KINDS = (*track.KINDS, *user.KINDS)


@dataclass(frozen=True)
class Rows:
    """Rows of any kinds: columns by name (int64; `kind` as text), and lists of days with their offsets."""

    columns: Columns
    offsets: LongVector
    days: IntVector
    plays: IntVector


def from_rows(rows: Rows, kind: str) -> Counters:
    """Return the counters of one kind."""
    of_kind = rows.columns["kind"] == kind
    lengths = np.diff(rows.offsets)
    row_of_entry = np.repeat(np.arange(len(lengths)), lengths)
    entries = of_kind[row_of_entry]
    row = row_of_entry[entries]
    names = (*TOTALS, "last_ts", *(USER_NUMBERS if kind == "user" else ()))
    numbers = {name: rows.columns[name][of_kind] for name in names}
    key, other = rows.columns["key"], rows.columns["other"]
    return Counters(
        key[of_kind],
        other[of_kind],
        numbers,
        key[row],
        other[row],
        rows.days[entries].astype(np.int64),
        rows.plays[entries].astype(np.int64),
    )


def to_rows(kind: str, counters: Counters) -> Rows:
    """Convert counters of one kind to rows; columns that the kind does not have are -1."""
    n = len(counters.key)
    columns = {"kind": np.full(n, kind), "key": counters.key, "other": counters.other}
    missing = np.full(n, -1)
    columns |= {name: counters.numbers.get(name, missing) for name in (*TOTALS, "last_ts", *USER_NUMBERS)}
    new = np.zeros(len(counters.day), bool)
    new[:1] = True
    new[1:] = (np.diff(counters.day_key) != 0) | (np.diff(counters.day_other) != 0)
    first = np.flatnonzero(new)
    # Keys with days are a subset of all keys, in the same order.
    lengths = np.zeros(n, np.int64)
    if len(first):
        with_days = _positions_with_days(counters, first)
        lengths[with_days] = np.diff(np.append(first, len(counters.day)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(columns, offsets, counters.day.astype(np.int32), counters.day_plays.astype(np.int32))


def _positions_with_days(counters: Counters, first: LongVector) -> LongVector:
    """Return the positions, among all keys, of the keys that have days; `first` is the first entry of each."""
    width = int(max(counters.other.max(), 0)) + 2
    ranks, key_rank = np.unique(counters.key, return_inverse=True)
    day_rank = np.searchsorted(ranks, counters.day_key[first])
    positions = np.searchsorted(key_rank * width + counters.other, day_rank * width + counters.day_other[first])
    return np.asarray(positions)


def update_state(rows: Columns, before: Rows, kinds: tuple[str, ...], last_day: int, gap_s: int) -> list[Rows]:
    """Return the counters after the days up to last_day, for all rows of some artists or users.

    Args:
        rows: Plays of the days.
        before: Counters before these days.
        kinds: Kinds of counters to update.
        last_day: Last day, in days since 1970.
        gap_s: Silence that ends a session, in seconds.
    """
    updated = []
    for kind in kinds:
        old = from_rows(before, kind)
        new = update_counters(rows, kind, old, last_day)
        if kind == "user":
            users, sessions = update_sessions(rows, old, gap_s)
            if not np.array_equal(users, new.key):
                raise AssertionError("keys of user totals and of sessions differ")
            new = replace(new, numbers={**new.numbers, **sessions})
        updated.append(to_rows(kind, new))
    return updated


def empty() -> dict[str, Counters]:
    """Return empty counters of every kind."""
    return {kind: no_counters() for kind in (*KINDS, *shared.KINDS)}
