"""Play histories: for each play, the most recent earlier plays of the same user.

Shapes   L plays of the log, N query plays, H positions of a history, S features of an earlier play

The log can be queried for any time. A query returns plays of strictly earlier seconds only, so a play that is in the
log does not see itself or plays of the same second. All plays of a test set can therefore be added before any is
queried.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays

COLUMNS = ("user", "ts", "track", "artist", "album", "genre", "is_flow", "listened")
QUERY_COLUMNS = ("user", "ts", "track", "artist", "album", "genre")  # columns of a query play
HISTORY_FEATURES = ("listened", "skipped", "flow", "days_ago", "log_gap", "track", "artist", "album", "genre", "there")
_DAY_S = 86_400


class Log:
    """Labelled plays sorted by (user, time, track), without duplicates."""

    def __init__(self, columns: Mapping[str, NDArray[np.integer]]) -> None:
        """Sort the plays and remove duplicates.

        Args:
            columns: COLUMNS, each (L,), in any order of plays.
        """
        order_L = np.lexsort((columns["track"], columns["ts"], columns["user"]))
        duplicate = np.ones(max(len(order_L) - 1, 0), bool)
        for name in ("user", "ts", "track"):
            duplicate &= np.diff(columns[name][order_L]) == 0
        order_L = order_L[np.concatenate([[True], ~duplicate])] if len(order_L) else order_L
        self.columns = {name: np.ascontiguousarray(columns[name][order_L]) for name in COLUMNS}
        self.users_U, self.starts_U = np.unique(self.columns["user"], return_index=True)
        codes_L = np.repeat(np.arange(len(self.users_U)), np.diff([*self.starts_U, len(order_L)]))
        self.keys_L = _keys(codes_L, self.columns["ts"])

    @classmethod
    def from_plays(cls, plays: Plays) -> Log:
        """Build a log from labelled plays."""
        columns = {name: getattr(plays, f"{name}_N") for name in COLUMNS if name != "listened"}
        return cls(columns | {"listened": plays.labels("log")})

    @classmethod
    def empty(cls) -> Log:
        """Return a log without plays."""
        return cls({name: np.zeros(0, np.int64) for name in COLUMNS})

    def __len__(self) -> int:
        return len(self.keys_L)

    def newest(self, h: int) -> Log:
        """Return the last `h` plays of each user, which are all that a play after the end of the log can see."""
        if not len(self):
            return self
        ends_U = np.append(self.starts_U[1:], len(self))
        remaining_L = np.repeat(ends_U, ends_U - self.starts_U) - np.arange(len(self))
        return Log({name: column[remaining_L <= h] for name, column in self.columns.items()})

    def union(self, other: Log) -> Log:
        """Return the union of two logs; a play that is in both is stored once."""
        return Log({name: np.concatenate([self.columns[name], other.columns[name]]) for name in COLUMNS})

    def recent(self, user_N: NDArray[np.int64], ts_N: NDArray[np.int64], h: int) -> NDArray[np.int64]:
        """Return the positions in the log of each user's last `h` plays before a time, oldest first.

        Args:
            user_N: User ids.
            ts_N: Upper limit of time in seconds since 1970 (UTC), exclusive.
            h: Length of a history.

        Returns:
            Positions (N, h), int64, padded with -1 at the front.
        """
        if not len(self.users_U):
            return np.full((len(user_N), h), -1)
        code_N = np.minimum(np.searchsorted(self.users_U, user_N), len(self.users_U) - 1)
        known_N = self.users_U[code_N] == user_N
        end_N = np.searchsorted(self.keys_L, _keys(code_N, ts_N), side="left")
        position_NH = end_N[:, None] + np.arange(-h, 0)
        return np.where(known_N[:, None] & (position_NH >= self.starts_U[code_N][:, None]), position_NH, -1)


def history_features(log: Log, ids: Mapping[str, NDArray[np.int64]], length: int) -> NDArray[np.float32]:
    """Return features of the last `length` plays of each user before a time, relative to the query track.

    Args:
        log: Earlier plays.
        ids: QUERY_COLUMNS, each (N,).
        length: Length H of a history.

    Returns:
        HISTORY_FEATURES of each earlier play, (N, H, S) float32, zero-padded at the front.
    """
    position_NH = log.recent(ids["user"], ids["ts"], length)
    exists_NH = position_NH >= 0
    if not len(log):
        return np.zeros((*position_NH.shape, len(HISTORY_FEATURES)), np.float32)
    earlier = {name: column[position_NH] for name, column in log.columns.items()}
    gap_NH = np.maximum(ids["ts"][:, None] - earlier["ts"], 1)
    features = [earlier["listened"], 1 - earlier["listened"], earlier["is_flow"], np.minimum(gap_NH / _DAY_S, 30) / 30]
    features += [np.log(gap_NH) / 10]
    features += [earlier[name] == ids[name][:, None] for name in ("track", "artist", "album", "genre")]
    features_NHS = np.stack([*features, exists_NH], axis=2).astype(np.float32)
    return np.where(exists_NH[:, :, None], features_NHS, np.float32(0))


def _keys(code_N: NDArray[np.int64], ts_N: NDArray[np.int64]) -> NDArray[np.int64]:
    """Encode user and time as one integer with the same sort order; times are valid until 2106."""
    return (code_N.astype(np.int64) << 32) + np.clip(ts_N, 0, (1 << 32) - 1)
