"""Conversion of counters to the rows of table skip_state, which stores them at the end of a day, and back.

Shapes   S rows; ragged lists of days as offsets (S + 1,) and values
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from models.skip.features import shared, track, user
from models.skip.features.counters import TOTALS, USER_NUMBERS, Carried, Columns, carry, nothing
from models.skip.features.user import carry_sessions

KINDS = (*track.KINDS, *user.KINDS)


@dataclass(frozen=True)
class Rows:
    """Rows of any kinds: columns by name (int64; `kind` as text), and lists of days with their offsets."""

    columns: Columns
    offsets: np.ndarray
    days: np.ndarray
    plays: np.ndarray


def unpack(rows: Rows, kind: str) -> Carried:
    """Return the counters of one kind."""
    of_kind = rows.columns["kind"] == kind
    lengths = np.diff(rows.offsets)
    of_row = np.repeat(np.arange(len(lengths)), lengths)
    entries = of_kind[of_row]
    at = of_row[entries]
    names = (*TOTALS, "last_ts", *(USER_NUMBERS if kind == "user" else ()))
    numbers = {name: rows.columns[name][of_kind] for name in names}
    key, other = rows.columns["key"], rows.columns["other"]
    return Carried(
        key[of_kind],
        other[of_kind],
        numbers,
        key[at],
        other[at],
        rows.days[entries].astype(np.int64),
        rows.plays[entries].astype(np.int64),
    )


def pack(kind: str, carried: Carried) -> Rows:
    """Convert counters of one kind to rows; columns that the kind does not have are -1."""
    n = len(carried.key)
    columns = {"kind": np.full(n, kind), "key": carried.key, "other": carried.other}
    missing = np.full(n, -1)
    columns |= {name: carried.numbers.get(name, missing) for name in (*TOTALS, "last_ts", *USER_NUMBERS)}
    new = np.zeros(len(carried.day), bool)
    new[:1] = True
    new[1:] = (np.diff(carried.day_key) != 0) | (np.diff(carried.day_other) != 0)
    first = np.flatnonzero(new)
    # Keys with days are a subset of all keys, in the same order.
    lengths = np.zeros(n, np.int64)
    if len(first):
        pairs = places_with_days(carried, first)
        lengths[pairs] = np.diff(np.append(first, len(carried.day)))
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Rows(columns, offsets, carried.day.astype(np.int32), carried.day_plays.astype(np.int32))


def places_with_days(carried: Carried, first: np.ndarray) -> np.ndarray:
    """Return the positions, among all keys, of the keys that have days; both are ascending."""
    width = int(max(carried.other.max(), 0)) + 2
    ranks, key_rank = np.unique(carried.key, return_inverse=True)
    day_rank = np.searchsorted(ranks, carried.day_key[first])
    places = np.searchsorted(key_rank * width + carried.other, day_rank * width + carried.day_other[first])
    return np.asarray(places)


def after(rows: Columns, before: Rows, kinds: tuple[str, ...], last_day: int, gap_s: int) -> list[Rows]:
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
        old = unpack(before, kind)
        new = carry(rows, kind, old, last_day)
        if kind == "user":
            users, sessions = carry_sessions(rows, old, gap_s)
            if not np.array_equal(users, new.key):
                raise AssertionError("keys of user totals and of sessions differ")
            new = Carried(
                new.key, new.other, {**new.numbers, **sessions}, new.day_key, new.day_other, new.day, new.day_plays
            )
        updated.append(pack(kind, new))
    return updated


def empty() -> dict[str, Carried]:
    """Return empty counters of every kind."""
    return {kind: nothing() for kind in (*KINDS, *shared.KINDS)}
