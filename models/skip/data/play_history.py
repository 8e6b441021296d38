"""What users played before: for each play the same user's most recent ones, strictly earlier.

Shapes   L plays of the log, N plays that are asked about, H places of a history, S signs of an earlier play

The log answers about any time: a play that is in the log itself sees what came before it, and nothing of its own
second or later. So plays of a test may all be noted first and asked about afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays

COLUMNS = ("user", "ts", "track", "artist", "album", "genre", "is_flow", "listened")
ASKED = ("user", "ts", "track", "artist", "album", "genre")  # of a play that is asked about
SIGNS = ("listened", "skipped", "flow", "days_ago", "log_gap", "track", "artist", "album", "genre", "there")
_DAY_S = 86_400


class Log:
    """Plays with outcome in the order of (user, time, track), each once."""

    def __init__(self, columns: Mapping[str, NDArray[np.integer]]) -> None:
        """`columns`: COLUMNS, each (L,), in any order of plays."""
        order_L = np.lexsort((columns["track"], columns["ts"], columns["user"]))
        same = np.ones(max(len(order_L) - 1, 0), bool)
        for name in ("user", "ts", "track"):
            same &= np.diff(columns[name][order_L]) == 0
        order_L = order_L[np.concatenate([[True], ~same])] if len(order_L) else order_L
        self.columns = {name: np.ascontiguousarray(columns[name][order_L]) for name in COLUMNS}
        self.users_U, self.starts_U = np.unique(self.columns["user"], return_index=True)
        codes_L = np.repeat(np.arange(len(self.users_U)), np.diff([*self.starts_U, len(order_L)]))
        self.keys_L = _keys(codes_L, self.columns["ts"])

    @classmethod
    def of(cls, plays: Plays) -> Log:
        """Of plays with labels."""
        columns = {name: getattr(plays, f"{name}_N") for name in COLUMNS if name != "listened"}
        return cls(columns | {"listened": plays.labels("log")})

    @classmethod
    def empty(cls) -> Log:
        """Of no play."""
        return cls({name: np.zeros(0, np.int64) for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.keys_L)

    def newest(self, h: int) -> Log:
        """The last `h` plays of each user: all that is seen by plays after the log's end."""
        if not len(self):
            return self
        ends_U = np.append(self.starts_U[1:], len(self))
        left_L = np.repeat(ends_U, ends_U - self.starts_U) - np.arange(len(self))
        return Log({name: column[left_L <= h] for name, column in self.columns.items()})

    def joined(self, other: Log) -> Log:
        """Both together; a play that is in both counts once."""
        return Log({name: np.concatenate([self.columns[name], other.columns[name]]) for name in COLUMNS})

    def recent(self, user_N: NDArray[np.int64], ts_N: NDArray[np.int64], h: int) -> NDArray[np.int64]:
        """Places in the log of each user's last `h` plays before ts, oldest first, -1 in front where there are fewer.

        (N, h) int64.
        """
        if not len(self.users_U):
            return np.full((len(user_N), h), -1)
        code_N = np.minimum(np.searchsorted(self.users_U, user_N), len(self.users_U) - 1)
        known_N = self.users_U[code_N] == user_N
        end_N = np.searchsorted(self.keys_L, _keys(code_N, ts_N), side="left")
        place_NH = end_N[:, None] + np.arange(-h, 0)
        return np.where(known_N[:, None] & (place_NH >= self.starts_U[code_N][:, None]), place_NH, -1)


def signs(log: Log, ids: Mapping[str, NDArray[np.int64]], length: int) -> NDArray[np.float32]:
    """The last `length` plays of each user before ts, as seen from a track of artist, album, genre: (N, H, S) float32.

    `ids`: ASKED, each (N,). Where there are fewer plays, the places in front are all 0.
    """
    place_NH = log.recent(ids["user"], ids["ts"], length)
    there_NH = place_NH >= 0
    if not len(log):
        return np.zeros((*place_NH.shape, len(SIGNS)), np.float32)
    past = {name: column[place_NH] for name, column in log.columns.items()}
    gap_NH = np.maximum(ids["ts"][:, None] - past["ts"], 1)
    told = [past["listened"], 1 - past["listened"], past["is_flow"], np.minimum(gap_NH / _DAY_S, 30) / 30]
    told += [np.log(gap_NH) / 10]
    told += [past[name] == ids[name][:, None] for name in ("track", "artist", "album", "genre")]
    signs_NHS = np.stack([*told, there_NH], axis=2).astype(np.float32)
    return np.where(there_NH[:, :, None], signs_NHS, np.float32(0))


def _keys(code_N: NDArray[np.int64], ts_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """User and time as one number that sorts as the two do; seconds until 2106 fit."""
    return (code_N.astype(np.int64) << 32) + np.clip(ts_N, 0, (1 << 32) - 1)
