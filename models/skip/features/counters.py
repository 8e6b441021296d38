"""Counters by key over the skip log: totals of earlier days together with the plays of the current rows.

Shapes   N plays; S rows of counters of one kind
Kinds    artist; track and album of an artist; user; artist, genre, track, album, context, platform, device family and
         daypart of a user, and second, of the last hour only; models/skip/features/shared.py has more
Log      artist_id track_id album_id genre_id user_id ts, is_flow (bool), listened: int64, -1 if unknown; context_type
         platform_name platform_family, daypart (hour // 6, UTC): int

A counter has the totals of one key. Counters of tracks and artists also have plays by day, for windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.arrays import AnyVector, BoolVector, IdVector, LongVector
from models.skip.features.point_in_time import DAY_S, EarlierRows, days, sums_by_key

Columns = Mapping[str, AnyVector]
TOTALS = ("n_plays", "n_listened", "n_flow", "n_flow_listened")
USER_NUMBERS = (  # of kind user only
    "first_ts",
    "session_start",
    "session_plays",
    "session_listened",
    "n_sessions",
    "session_s",
    "last_listened",
    "skips_in_a_row",
)
WINDOWS = (7, 30, 90)  # days
KEYS = {
    "artist": ("artist_id", None),
    "track": ("artist_id", "track_id"),
    "album": ("artist_id", "album_id"),
    "user": ("user_id", None),
    "user_artist": ("user_id", "artist_id"),
    "user_genre": ("user_id", "genre_id"),
    "user_track": ("user_id", "track_id"),
    "user_album": ("user_id", "album_id"),
    "user_context": ("user_id", "context_type"),
    "user_platform": ("user_id", "platform_name"),
    "user_family": ("user_id", "platform_family"),
    "user_daypart": ("user_id", "daypart"),
    "user_second": ("user_id", "ts"),
}
WITH_DAYS = ("artist", "track")
NO_KEY = -1
HOUR_S = 3_600


@dataclass(frozen=True)
class Counters:
    """Counters of one kind: totals of earlier days by key.

    Attributes:
        key: First part of the keys, (S,).
        other: Second part of the keys, (S,); NO_KEY for kinds with one part.
        numbers: Totals by name, (S,) int64 each.
        day_key: First part of the key of each entry by day.
        day_other: Second part of the key of each entry by day.
        day: Days since 1970 of each entry, within the longest window.
        day_plays: Plays of each entry.
    """

    key: IdVector
    other: IdVector
    numbers: Columns
    day_key: IdVector
    day_other: IdVector
    day: LongVector
    day_plays: LongVector

    @classmethod
    def without_days(cls, key: IdVector, other: IdVector, numbers: Columns) -> Counters:
        """Return counters of a kind that has no plays by day."""
        none = np.zeros(0, np.int64)
        return cls(key, other, numbers, none, none, none, none)

    def subset(self, mask: BoolVector) -> Counters:
        """Return a subset of the counters, for a kind without days."""
        numbers = {name: value[mask] for name, value in self.numbers.items()}
        return Counters.without_days(self.key[mask], self.other[mask], numbers)


def no_counters() -> Counters:
    """Return empty counters."""
    none = np.zeros(0, np.int64)
    return Counters.without_days(none, none, {name: none for name in (*TOTALS, "last_ts", *USER_NUMBERS)})


class Timeline:
    """Counters of one kind, their plays by day, and current plays, concatenated for counting.

    Attributes:
        counters: Counters before the current plays.
        n_plays: Number of current plays N.
        n_before: Number of rows before the current plays: counters, then entries by day.
        keys: Parts of the keys of all rows.
        ts: Time of all rows in seconds since 1970; 0 for counters.
        is_total: Whether a row is a counter, for all rows.
        earlier: The rows sorted by key and time.
        increments: What each current play adds to each of TOTALS, (N,) int64; 0 for plays without an outcome.
    """

    def __init__(
        self, rows: Columns, kind: str, counters: Counters, keys: Sequence[str] | None = None, *, leaky: bool = False
    ) -> None:
        """Concatenate the rows and sort them by key and time.

        Args:
            rows: Current plays.
            kind: Kind of the counters.
            counters: Counters before the current plays.
            keys: Columns to group by, if fewer than those of the kind.
            leaky: Include later plays and the play itself; for measuring leakage only.
        """
        first, second = KEYS[kind]
        n_totals, n_days, self.n_plays = len(counters.key), len(counters.day), len(rows["ts"])
        self.n_before = n_totals + n_days
        self.counters = counters
        names = [name for name in (first, second) if name is not None]
        parts = [(counters.key, counters.day_key, rows[first])]
        if second is not None:
            parts.append((counters.other, counters.day_other, rows[second]))
        self.keys = [np.concatenate(part) for part in parts]
        group_keys = [key for name, key in zip(names, self.keys, strict=True) if keys is None or name in keys]
        self.ts = np.concatenate([np.zeros(n_totals, np.int64), counters.day * DAY_S, rows["ts"]])
        self.is_total = np.arange(len(self.ts)) < n_totals
        listened = rows["listened"]
        has_outcome = listened >= 0
        is_counted = np.concatenate([np.ones(self.n_before, bool), has_outcome])
        self.earlier = EarlierRows(group_keys, self.ts, is_counted, self.is_total, leaky=leaky)
        self.is_flow = rows["is_flow"]
        flow, one, listened_or_0 = self.is_flow.astype(np.int64), has_outcome.astype(np.int64), np.maximum(listened, 0)
        self.increments = {
            "n_plays": one,
            "n_listened": listened_or_0,
            "n_flow": flow * one,
            "n_flow_listened": flow * listened_or_0,
        }

    def concatenated(self, of_counters: AnyVector, of_plays: AnyVector) -> AnyVector:
        """Concatenate values of counters, zeros for entries by day, and values of current plays."""
        return np.concatenate([of_counters, np.zeros(len(self.counters.day), of_counters.dtype), of_plays])

    def earlier_total(self, name: str) -> LongVector:
        """Return the total of earlier plays for each current play, (N,) int64."""
        values = self.concatenated(self.counters.numbers[name], self.increments[name])
        return self.earlier.sum_of_earlier(values)[self.n_before :]

    def same_flow_totals(self) -> tuple[LongVector, LongVector]:
        """Return earlier plays and listened plays with the same is_flow as the play, (N,) int64."""
        flow = self.is_flow
        n_flow, n_flow_listened = self.earlier_total("n_flow"), self.earlier_total("n_flow_listened")
        return (
            np.where(flow, n_flow, self.earlier_total("n_plays") - n_flow),
            np.where(flow, n_flow_listened, self.earlier_total("n_listened") - n_flow_listened),
        )

    def plays_in_days(self, n_days: int) -> LongVector:
        """Return the number of earlier plays since midnight n_days before the play's day, (N,) int64."""
        value = np.concatenate(
            [np.zeros(len(self.counters.key), np.int64), self.counters.day_plays, self.increments["n_plays"]]
        )
        day = days(self.ts)
        day[self.is_total] = day[~self.is_total].min(initial=0) - 1  # before all days; totals add 0 to a window
        return self.earlier.sum_in_window(value, day, n_days)[self.n_before :]


def update_counters(rows: Columns, kind: str, before: Counters, last_day: int) -> Counters:
    """Return the counters after the current rows, with days of the longest window before tomorrow.

    Session state is not included, because it is not a sum; see update_sessions() in models/skip/features/user.py.

    Args:
        rows: Current plays.
        kind: Kind of the counters.
        before: Counters before the current plays.
        last_day: Last day of the current plays, in days since 1970.
    """
    has_outcome = rows["listened"] >= 0
    if kind == "user_second":
        oldest_ts = (last_day + 1) * DAY_S - HOUR_S
        has_outcome, before = has_outcome & (rows["ts"] >= oldest_ts), before.subset(before.other >= oldest_ts)
    rows = {name: value[has_outcome] for name, value in rows.items()}
    first, second = KEYS[kind]
    one = np.ones(len(rows["ts"]), np.int64)
    other = rows[second] if second is not None else np.full(len(one), NO_KEY)
    flow = rows["is_flow"].astype(np.int64)
    current = {
        "n_plays": one,
        "n_listened": rows["listened"],
        "n_flow": flow,
        "n_flow_listened": flow * rows["listened"],
    }
    keys = [np.concatenate([before.key, rows[first]]), np.concatenate([before.other, other])]
    values = [np.concatenate([before.numbers[name], current[name]]) for name in TOTALS]
    (new_key, new_other), sums = sums_by_key(keys, values, np.concatenate([before.numbers["last_ts"], rows["ts"]]))
    numbers = dict(zip((*TOTALS, "last_ts"), sums, strict=True))
    if kind not in WITH_DAYS:
        return Counters.without_days(new_key, new_other, numbers)
    day = np.concatenate([before.day, days(rows["ts"])])
    by_day = [np.concatenate([before.day_key, rows[first]]), np.concatenate([before.day_other, other]), day]
    recent = day > last_day - WINDOWS[-1]
    (day_key, day_other, new_day), (day_plays,) = sums_by_key(
        [key[recent] for key in by_day], [np.concatenate([before.day_plays, one])[recent]]
    )
    return Counters(new_key, new_other, numbers, day_key, day_other, new_day, day_plays)
