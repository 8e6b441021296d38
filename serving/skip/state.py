"""The state at the end of a release's last day: totals by key, recent plays of users, tracks; memory-mapped.

Shapes   S rows of one kind, K and O distinct keys and others, P plays of the log, T tracks, N plays at hand

    state/<kind>/keys.npy (K,) others.npy (O,)   distinct ids, ascending
                 code.npy (S,)                   position in keys * O + position in others, ascending: one row per pair
                 <number>.npy (S,)               totals, last_ts, for users their session
                 offsets.npy (S + 1,) days.npy day_plays.npy      of artists and tracks
    history/<column>.npy (P,)                    by user, then time: the plays that session models read
    tracks/<column>.npy (T,)                     by track_id, ascending; release_day is NaN where unknown

A request reads the few rows that it concerns, and models/skip computes features from them as from a whole day.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contracts.errors import CheckFailed
from models.skip.data.play_history import COLUMNS, Log
from models.skip.features import counter_state, shared
from models.skip.features import counters as counter_kinds
from models.skip.features.counters import TOTALS, USER_NUMBERS, WITH_DAYS, Columns, Counters

KINDS = (*counter_state.KINDS, *shared.KINDS)
KEYS = counter_kinds.KEYS | shared.KEYS
READ_WHOLE_KEY = ("user_genre", "user_second")  # all rows of a user are read: for the top genre and the last hour
TRACK_COLUMNS = ("track_id", "artist_id", "album_id", "genre_id", "duration_s", "release_day")
NONE = np.zeros(0, np.int64)


def load_array(file: Path) -> np.ndarray:
    """Return a memory-mapped array; raise CheckFailed if it cannot be read."""
    try:
        array: np.ndarray = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CheckFailed(f"{file.parent.name}/{file.name}: cannot be read: {error}") from None
    return array


def find_positions(sorted_S: np.ndarray, wanted_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of values in an ascending array (N,), and which of them are present (N,) bool."""
    if not len(sorted_S):
        return np.zeros(len(wanted_N), np.int64), np.zeros(len(wanted_N), bool)
    at = np.minimum(np.searchsorted(sorted_S, wanted_N), len(sorted_S) - 1)
    return at, np.asarray(sorted_S[at] == wanted_N)


def number_names(kind: str) -> tuple[str, ...]:
    """Return the names of the numbers that a row of this kind has."""
    return (*TOTALS, "last_ts", *(USER_NUMBERS if kind == "user" else ()))


def state_arrays(kind: str, counters: Counters) -> dict[str, np.ndarray]:
    """Return the files of one kind by name, as `KindTotals` opens them.

    Raises:
        ValueError: more pairs of ids than a 64-bit code can distinguish.
    """
    keys, key_S = np.unique(counters.key, return_inverse=True)
    others, other_S = np.unique(counters.other, return_inverse=True)
    if len(keys) * max(len(others), 1) >= 2**62:
        raise ValueError(f"skip state: {len(keys)} x {len(others)} pairs of {kind} exceed a 64-bit code")
    code_S = key_S * len(others) + other_S
    order = np.argsort(code_S, kind="stable")
    arrays = {"keys": keys, "others": others, "code": code_S[order]}
    arrays |= {name: counters.numbers[name][order] for name in number_names(kind)}
    if kind in WITH_DAYS:
        day_code = np.searchsorted(keys, counters.day_key) * len(others) + np.searchsorted(others, counters.day_other)
        by = np.lexsort((counters.day, day_code))
        arrays["offsets"] = np.append(np.searchsorted(day_code[by], arrays["code"]), len(by))
        arrays["days"] = counters.day[by].astype(np.int32)
        arrays["day_plays"] = counters.day_plays[by].astype(np.int32)
    return arrays


class KindTotals:
    """The rows of one kind."""

    def __init__(self, folder: Path) -> None:
        """Open state/<kind>."""
        self.kind = folder.name
        self.keys, self.others, self.code = (load_array(folder / f"{name}.npy") for name in ("keys", "others", "code"))
        self.numbers = {name: load_array(folder / f"{name}.npy") for name in number_names(self.kind)}
        self.days = (
            [load_array(folder / f"{name}.npy") for name in ("offsets", "days", "day_plays")]
            if self.kind in WITH_DAYS
            else None
        )
        sizes = {len(self.code), *(len(column) for column in self.numbers.values())}
        if len(sizes) != 1 or (self.days and len(self.days[0]) != len(self.code) + 1):
            raise CheckFailed(f"state/{self.kind}: its files are inconsistent")

    def counters_of(self, rows: Columns) -> Counters:
        """Return the counters of the keys of these plays."""
        first, second = KEYS[self.kind]
        width = max(len(self.others), 1)
        key_N, there_N = find_positions(self.keys, rows[first])
        if self.kind in READ_WHOLE_KEY:
            spans = [self.row_span(int(key)) for key in np.unique(key_N[there_N])]
            at = np.concatenate([np.arange(*row_span) for row_span in spans]) if spans else NONE
        else:
            other_N, known_N = np.zeros(len(key_N), np.int64), there_N
            if second is not None:
                other_N, other_there = find_positions(self.others, rows[second])
                known_N = there_N & other_there
            code, there = find_positions(self.code, np.unique((key_N * width + other_N)[known_N]))
            at = code[there]
        key, other = np.divmod(np.asarray(self.code[at]), width)
        numbers = {name: np.asarray(column[at], np.int64) for name, column in self.numbers.items()}
        key, other = np.asarray(self.keys[key]), np.asarray(self.others[other]) if len(at) else NONE
        if self.days is None:
            return Counters.without_days(key, other, numbers)
        offsets, days, plays = self.days
        starts, lengths = offsets[at], offsets[at + 1] - offsets[at]
        ends = np.cumsum(lengths)
        listed = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(starts - (ends - lengths), lengths)
        return Counters(
            key,
            other,
            numbers,
            np.repeat(key, lengths),
            np.repeat(other, lengths),
            np.asarray(days[listed], np.int64),
            np.asarray(plays[listed], np.int64),
        )

    def row_span(self, key_place: int) -> tuple[int, int]:
        """Return the first row of a key and the end of its rows."""
        width = max(len(self.others), 1)
        start, end = np.searchsorted(self.code, (key_place * width, (key_place + 1) * width))
        return int(start), int(end)


class State:
    """The state of a release."""

    def __init__(self, folder: Path) -> None:
        """Open the state of the release in a folder.

        Raises:
            CheckFailed: a file is missing or inconsistent with the others.
        """
        self.totals = {kind: KindTotals(folder / "state" / kind) for kind in KINDS}
        self.log = {name: load_array(folder / "history" / f"{name}.npy") for name in COLUMNS}
        self.tracks = {name: load_array(folder / "tracks" / f"{name}.npy") for name in TRACK_COLUMNS}
        for part, columns in (("history", self.log), ("tracks", self.tracks)):
            if len({len(column) for column in columns.values()}) != 1:
                raise CheckFailed(f"{part}: its files are inconsistent")

    def counters(self, rows: Columns) -> dict[str, Counters]:
        """Return the counters of the keys of these plays, by kind."""
        return {kind: totals.counters_of(rows) for kind, totals in self.totals.items()}

    def last_ts(self, user_id: int) -> int:
        """Return the second of a user's last play in the state, -1 if there is none."""
        totals = self.totals["user"]
        at, there = find_positions(totals.keys, np.asarray([user_id]))
        return int(totals.numbers["last_ts"][at[0]]) if there[0] else -1

    def history(self, user_id: int) -> Log:
        """Return a user's recent plays, as many as a session model reads."""
        start, end = np.searchsorted(self.log["user"], (user_id, user_id + 1))
        return Log({name: np.asarray(column[start:end]) for name, column in self.log.items()})

    def tracks_of(self, track_ids: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the columns of the known tracks, in the order of the request, and which tracks are known (N,) bool."""
        at, there = find_positions(self.tracks["track_id"], track_ids)
        return {name: np.asarray(column[at[there]]) for name, column in self.tracks.items()}, there
