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
    """Counters of one kind.

    Attributes:
        key: First part of the keys, (S,).
        other: Second part of the keys, (S,); NO_KEY for kinds with one part.
        numbers: Totals by name, (S,) each.
        day_key: First part of the key of each entry by day.
        day_other: Second part of the key of each entry by day.
        day: Days since 1970 of each entry, within the longest window.
        day_plays: Plays of each entry.
    """

    key: np.ndarray
    other: np.ndarray
    numbers: Columns
    day_key: np.ndarray
    day_other: np.ndarray
    day: np.ndarray
    day_plays: np.ndarray

    def subset(self, mask: np.ndarray) -> Carried:
        """Return a subset of the counters, for a kind without days."""
        numbers = {name: value[mask] for name, value in self.numbers.items()}
        return Carried(
            self.key[mask], self.other[mask], numbers, self.day_key, self.day_other, self.day, self.day_plays
        )


def nothing() -> Carried:
    """Return empty counters."""
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
    """Counters of one kind, their plays by day, and current plays, concatenated for counting."""

    def __init__(
        self, rows: Columns, kind: str, carried: Carried, keys: Sequence[str] | None = None, *, leaky: bool = False
    ) -> None:
        """Concatenate the rows and sort them by key and time.

        Args:
            rows: Current plays.
            kind: Kind of the counters.
            carried: Counters before the current plays.
            keys: Columns to group by, if fewer than those of the kind.
            leaky: Include later plays and the play itself; for measuring leakage only.
        """
        first, second = KEYS[kind]
        n_carried, n_days, self.n = len(carried.key), len(carried.day), len(rows["ts"])
        self.skip = n_carried + n_days
        self.carried = carried
        names = [name for name in (first, second) if name is not None]
        parts = [(carried.key, carried.day_key, rows[first])]
        if second is not None:
            parts.append((carried.other, carried.day_other, rows[second]))
        self.keys = [np.concatenate(part) for part in parts]
        group_keys = [key for name, key in zip(names, self.keys, strict=True) if keys is None or name in keys]
        self.ts = np.concatenate([np.full(n_carried, BEFORE), carried.day * DAY_S, rows["ts"]])
        listened = rows["listened"]
        is_play = listened >= 0
        known = np.concatenate([np.ones(self.skip, bool), is_play])
        self.is_carried = np.arange(len(self.ts)) < n_carried
        self.is_day = ~self.is_carried & (np.arange(len(self.ts)) < self.skip)
        self.past = Past(group_keys, self.ts, known, leaky=leaky)
        self.is_flow = rows["is_flow"]
        flow = self.is_flow.astype(np.int64)
        listened_plays = np.maximum(listened, 0)
        self.one = is_play.astype(np.int64)
        self.plays = {
            "n_plays": self.one,
            "n_listened": listened_plays,
            "n_flow": flow * self.one,
            "n_flow_listened": flow * listened_plays,
        }

    def column(self, carried: np.ndarray, current: np.ndarray) -> np.ndarray:
        """Concatenate values of counters, zeros for entries by day, and values of current plays."""
        return np.concatenate([carried, np.zeros(len(self.carried.day), carried.dtype), current])

    def total(self, name: str) -> np.ndarray:
        """Return the total of earlier plays for each current play, (N,) int64."""
        return self.past.count(self.column(self.carried.numbers[name], self.plays[name]))[self.skip :]

    def of_kind(self) -> tuple[np.ndarray, np.ndarray]:
        """Return earlier plays and listened plays of the same kind: Flow for a Flow play, not Flow otherwise."""
        flow = self.is_flow
        n_flow, n_listened_plays = self.total("n_flow"), self.total("n_flow_listened")
        return (
            np.where(flow, n_flow, self.total("n_plays") - n_flow),
            np.where(flow, n_listened_plays, self.total("n_listened") - n_listened_plays),
        )

    def window(self, n_days: int) -> np.ndarray:
        """Return the number of plays since midnight n_days before the play's day."""
        value = np.concatenate([np.zeros(len(self.carried.key), np.int64), self.carried.day_plays, self.one])
        day = days(self.ts)
        day[self.is_carried] = day[~self.is_carried].min(initial=0) - 1
        return self.past.count_since(value, day, n_days)[self.skip :]


def carry(rows: Columns, kind: str, before: Carried, last_day: int) -> Carried:
    """Return the counters after the current rows, with days of the longest window before tomorrow.

    Session state is not included, because it is not a sum; see carry_sessions() in models/skip/features/user.py.
    """
    known = rows["listened"] >= 0
    if kind == "user_second":
        since = (last_day + 1) * DAY_S - HOUR_S
        known, before = known & (rows["ts"] >= since), before.subset(before.other >= since)
    rows = {name: value[known] for name, value in rows.items()}
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
    at, sums = totals(keys, values, np.concatenate([before.numbers["last_ts"], rows["ts"]]))
    numbers = dict(zip((*TOTALS, "last_ts"), sums, strict=True))
    none = np.zeros(0, np.int64)
    if kind not in WITH_DAYS:
        return Carried(at[0], at[1], numbers, none, none, none, none)
    day = np.concatenate([before.day, days(rows["ts"])])
    by_day = [np.concatenate([before.day_key, rows[first]]), np.concatenate([before.day_other, other]), day]
    recent = day > last_day - WINDOWS[-1]
    day_keys, day_sums = totals([key[recent] for key in by_day], [np.concatenate([before.day_plays, one])[recent]])
    return Carried(at[0], at[1], numbers, day_keys[0], day_keys[1], day_keys[2], day_sums[0])
