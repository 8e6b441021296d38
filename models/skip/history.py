"""What users played before: for each play the same user's most recent ones, strictly earlier.

Shapes   L plays of the log, N plays that are asked about, H places of a history

The log answers about any time: a play that is in the log itself sees what came before it, and nothing of its own
second or later. So plays of a test may all be noted first and asked about afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.skip.plays import Plays

COLUMNS = ("user", "ts", "track", "artist", "album", "genre", "is_flow", "listened")


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

    def __len__(self) -> int:
        return len(self.keys_L)

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


def _keys(code_N: NDArray[np.int64], ts_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """User and time as one number that sorts as the two do; seconds until 2106 fit."""
    return (code_N.astype(np.int64) << 32) + np.clip(ts_N, 0, (1 << 32) - 1)
