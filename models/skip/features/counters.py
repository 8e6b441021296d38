"""Rows of the skip log and what is carried of the days before, as arrays by name.

Shapes   N plays; S carried rows of one kind
Kinds    artist; track and album of an artist; user; artist, genre, track, album, context, platform, device family and
         daypart of a user, and second, of the last hour alone; models/skip/features/shared.py has more
Log      artist_id track_id album_id genre_id user_id ts, is_flow (bool), listened: int64, -1 where it is not known;
         context_type platform_name platform_family, daypart (hour // 6, UTC): int

A carried row holds totals of one key. Of tracks and artists it also holds plays by day, for windows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from models.skip.features.point_in_time import BEFORE, DAY_S, Past, days, totals

Columns = Mapping[str, np.ndarray]
TOTALS = ("n_plays", "n_listened", "n_flow", "n_flow_listened")
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
class Carried:
    """Totals of one kind: key and other (NO_KEY where the kind has one key), numbers by name, and plays by day."""

    key: np.ndarray
    other: np.ndarray
    numbers: Columns
    day_key: np.ndarray
    day_other: np.ndarray
    day: np.ndarray
    day_plays: np.ndarray

    def some(self, mask: np.ndarray) -> Carried:
        """Some of the totals, of a kind without days."""
        numbers = {name: value[mask] for name, value in self.numbers.items()}
        return Carried(
            self.key[mask], self.other[mask], numbers, self.day_key, self.day_other, self.day, self.day_plays
        )


def nothing() -> Carried:
    """What is carried when there is no day before."""
    none = np.zeros(0, np.int64)
    names = (*TOTALS, "last_ts", *USER_NUMBERS)
    return Carried(none, none, {name: none for name in names}, none, none, none, none)


USER_NUMBERS = (
    "first_ts",
    "session_start",
    "session_plays",
    "session_listened",
    "n_sessions",
    "session_s",
    "last_listened",
    "skips_in_a_row",
)


class Timeline:
    """Carried rows of one kind, its plays by day, then the plays at hand: one set of arrays to count over."""

    def __init__(
        self, rows: Columns, kind: str, carried: Carried, keys: Sequence[str] | None = None, *, leaky: bool = False
    ) -> None:
        """`keys`: other columns to sort by, where fewer than the kind's."""
        first, second = KEYS[kind]
        n_carried, n_days, self.n = len(carried.key), len(carried.day), len(rows["ts"])
        self.skip = n_carried + n_days
        self.carried = carried
        names = [name for name in (first, second) if name is not None]
        parts = [(carried.key, carried.day_key, rows[first])]
        if second is not None:
            parts.append((carried.other, carried.day_other, rows[second]))
        self.keys = [np.concatenate(part) for part in parts]
        kept = [key for name, key in zip(names, self.keys, strict=True) if keys is None or name in keys]
        self.ts = np.concatenate([np.full(n_carried, BEFORE), carried.day * DAY_S, rows["ts"]])
        listened = rows["listened"]
        is_play = listened >= 0
        known = np.concatenate([np.ones(self.skip, bool), is_play])
        self.is_carried = np.arange(len(self.ts)) < n_carried
        self.is_day = ~self.is_carried & (np.arange(len(self.ts)) < self.skip)
        self.past = Past(kept, self.ts, known, leaky=leaky)
        self.is_flow = rows["is_flow"]
        flow = self.is_flow.astype(np.int64)
        heard = np.maximum(listened, 0)
        self.one = is_play.astype(np.int64)
        self.plays = {
            "n_plays": self.one,
            "n_listened": heard,
            "n_flow": flow * self.one,
            "n_flow_listened": flow * heard,
        }

    def column(self, carried: np.ndarray, here: np.ndarray) -> np.ndarray:
        """One value for carried rows, zero for days, one for plays at hand."""
        return np.concatenate([carried, np.zeros(len(self.carried.day), carried.dtype), here])

    def total(self, name: str) -> np.ndarray:
        """How many plays of this sort each play at hand sees (N,) int64."""
        return self.past.count(self.column(self.carried.numbers[name], self.plays[name]))[self.skip :]

    def of_kind(self) -> tuple[np.ndarray, np.ndarray]:
        """Plays, and listened plays, seen of the play's own kind: Flow for a Flow play, all others for another."""
        flow = self.is_flow
        n_flow, n_heard = self.total("n_flow"), self.total("n_flow_listened")
        return (
            np.where(flow, n_flow, self.total("n_plays") - n_flow),
            np.where(flow, n_heard, self.total("n_listened") - n_heard),
        )

    def window(self, n_days: int) -> np.ndarray:
        """Plays seen since midnight n_days before the play's day."""
        value = np.concatenate([np.zeros(len(self.carried.key), np.int64), self.carried.day_plays, self.one])
        day = days(self.ts)
        day[self.is_carried] = day[~self.is_carried].min(initial=0) - 1
        return self.past.count_since(value, day, n_days)[self.skip :]


def carry(rows: Columns, kind: str, before: Carried, last_day: int) -> Carried:
    """What the days up to and including these rows leave behind; a window of days reaches 90 days back from tomorrow.

    Users' sessions are not here (models/skip/features/user.py): they are no sums.
    """
    known = rows["listened"] >= 0
    if kind == "user_second":
        since = (last_day + 1) * DAY_S - HOUR_S
        known, before = known & (rows["ts"] >= since), before.some(before.other >= since)
    rows = {name: value[known] for name, value in rows.items()}
    first, second = KEYS[kind]
    one = np.ones(len(rows["ts"]), np.int64)
    other = rows[second] if second is not None else np.full(len(one), NO_KEY)
    flow = rows["is_flow"].astype(np.int64)
    here = {"n_plays": one, "n_listened": rows["listened"], "n_flow": flow, "n_flow_listened": flow * rows["listened"]}
    keys = [np.concatenate([before.key, rows[first]]), np.concatenate([before.other, other])]
    values = [np.concatenate([before.numbers[name], here[name]]) for name in TOTALS]
    at, found = totals(keys, values, np.concatenate([before.numbers["last_ts"], rows["ts"]]))
    numbers = dict(zip((*TOTALS, "last_ts"), found, strict=True))
    none = np.zeros(0, np.int64)
    if kind not in WITH_DAYS:
        return Carried(at[0], at[1], numbers, none, none, none, none)
    day = np.concatenate([before.day, days(rows["ts"])])
    by_day = [np.concatenate([before.day_key, rows[first]]), np.concatenate([before.day_other, other]), day]
    recent = day > last_day - WINDOWS[-1]
    listed, sums = totals([key[recent] for key in by_day], [np.concatenate([before.day_plays, one])[recent]])
    return Carried(at[0], at[1], numbers, listed[0], listed[1], listed[2], sums[0])
