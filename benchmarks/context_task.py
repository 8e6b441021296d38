"""The context of streams and of listeners: day part and kind of day; used by time_and_context.py.

Shapes   n streams, B listeners, D width of the space, N tracks, C contexts, K places of a list
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.sparse import csr_array

DAY = 86_400
N_DRAWS = 1_000


@dataclass(frozen=True, eq=False)
class Log:
    """The streams of catalogue tracks, and the moment that determines the context of each listener's first day.

    Attributes:
        user: user ids (n,) of the streams.
        second: times (n,), seconds since 1970.
        track: track_idx (n,).
        moment: seconds since 1970 by user id.
    """

    user: np.ndarray
    second: np.ndarray
    track: np.ndarray
    moment: dict[int, int]

    @classmethod
    def read(cls, context: Any) -> Log:
        """Read the events of all days."""
        import pandas as pd
        import pyarrow.compute as pc

        from jobs.cold_start.training_data import catalogue
        from jobs.platform.log_start import log_start

        lake = context.lake
        users = lake.read("users", columns=["user_id", "registered_at"]).to_pandas()
        registered = users.set_index("user_id").registered_at.dt.as_unit("s").astype("int64")
        start = int(pd.Timestamp(log_start(lake)).timestamp())
        moment = registered[registered >= start].to_dict()
        parts = []
        for partition in sorted(lake.partitions("events"), key=lambda p: p["day"]):
            table = lake.read("events", columns=["user_id", "ts", "kind", "entity", "entity_id"], **partition)
            first = table.group_by("user_id").aggregate([("ts", "min")]).to_pandas()
            for user, when in zip(first.user_id, first.ts_min.dt.as_unit("s").astype("int64"), strict=True):
                moment.setdefault(user, when)
            streams = table.filter(pc.and_(pc.equal(table["kind"], "stream"), pc.equal(table["entity"], "track")))
            parts.append(streams.select(["user_id", "ts", "entity_id"]).to_pandas())
        frame = pd.concat(parts, ignore_index=True)
        track_ids = catalogue(context).track_id_N
        order = np.argsort(track_ids)
        place = np.minimum(np.searchsorted(track_ids[order], frame.entity_id), len(order) - 1)
        known = (track_ids[order[place]] == frame.entity_id).to_numpy()
        second = frame.ts.dt.as_unit("s").astype("int64").to_numpy()
        return cls(frame.user_id.to_numpy()[known], second[known], order[place][known], moment)

    @cached_property
    def days_since(self) -> np.ndarray:
        """Days of each stream since its listener's first day, (n,)."""
        return self.second // DAY - self.moments(self.user) // DAY

    @cached_property
    def same_context(self) -> np.ndarray:
        """Whether each stream is in the context of its listener's first day, (n,)."""
        return np.asarray(context_of(self.second) == context_of(self.moments(self.user)))

    def moments(self, user: np.ndarray) -> np.ndarray:
        """Return the moment of each user id (B,)."""
        ids, index = np.unique(user, return_inverse=True)
        return np.array([self.moment[i] for i in ids.tolist()], np.int64)[index]

    def tracks_of(self, user_id: np.ndarray, chosen: np.ndarray) -> Any:
        """Return the distinct tracks of the chosen streams of each listener, a Ragged of (B,)."""
        from models.cold_start.ragged import Ragged

        order = np.argsort(user_id)
        place = np.minimum(np.searchsorted(user_id[order], self.user), len(order) - 1)
        mine = chosen & (user_id[order[place]] == self.user)
        n_tracks = int(self.track.max()) + 1
        pairs = np.unique(order[place[mine]] * n_tracks + self.track[mine])
        offsets = np.searchsorted(pairs, np.arange(len(user_id) + 1) * n_tracks)
        return Ragged(offsets.astype(np.int64), pairs % n_tracks)


def context_of(second: np.ndarray) -> np.ndarray:
    """Return the context of each time (n,) in seconds since 1970: day part, and weekday or weekend."""
    from jobs.ingest.simulate.context_taste import contexts

    return contexts(second % DAY, (second // DAY + 3) % 7)


def time_columns(moment_B: np.ndarray) -> np.ndarray:
    """Return sine and cosine of the hour and seven indicators of the weekday, (B, 9) float32."""
    angle_B = 2 * np.pi * (moment_B % DAY) / DAY
    weekday_B7 = np.eye(7)[(moment_B // DAY + 3) % 7]
    return np.column_stack([np.sin(angle_B), np.cos(angle_B), weekday_B7]).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Listeners:
    """Listeners with what the network reads, and what it is compared with.

    Attributes:
        user_id: (B,).
        x_BF: input vectors.
        moment_B: seconds since 1970.
    """

    user_id: np.ndarray
    x_BF: np.ndarray
    moment_B: np.ndarray

    def inputs(self, with_time: bool) -> np.ndarray:
        """Return the rows of the network, (B, F) or (B, 9 + F)."""
        return np.column_stack([time_columns(self.moment_B), self.x_BF]) if with_time else self.x_BF


def popular_by_group(
    user: np.ndarray, item: np.ndarray, group: np.ndarray, n_groups: int, prior: float, k: int
) -> np.ndarray:
    """Return the k items with the most listeners in each group, (groups, k), smoothed with those of everybody.

    Args:
        user: listeners (n,).
        item: codes of the items (n,).
        group: codes of the groups (n,), below n_groups.
        n_groups: number of groups.
        prior: number of listeners of everybody that are added to each group.
        k: length of the lists.
    """
    n_items = int(item.max()) + 1

    def listeners(group: np.ndarray, n: int) -> np.ndarray:
        users, code = np.unique(user, return_inverse=True)
        pairs = np.unique((group * n_items + item) * len(users) + code) // len(users)
        return np.bincount(pairs, minlength=n * n_items).reshape(n, n_items)

    everybody = listeners(np.zeros_like(group), 1) / len(np.unique(user))
    smoothed = listeners(group, n_groups) + prior * everybody
    return np.argsort(-smoothed, axis=1, kind="stable")[:, :k]


def alike(user: np.ndarray, second: np.ndarray, item: np.ndarray, group: np.ndarray) -> dict[str, float]:
    """Return how much more often two plays of one group have equal items than two plays of different groups.

    Args:
        user: listeners (n,).
        second: times (n,), seconds since 1970.
        item: genres or artists (n,).
        group: contexts or platforms (n,).

    Returns:
        "ratio": the share of equal items among pairs of one group, divided by that among pairs of different groups, for
        pairs of one listener's plays on different days; "others: ratio": the same for plays of two listeners. Both
        with a 95 % interval that resamples listeners.
    """
    users, code = np.unique(user, return_inverse=True)
    day = second // DAY - second.min() // DAY
    item, group = (np.unique(column, return_inverse=True)[1] for column in (item, group))

    def own_pairs(*columns: np.ndarray) -> np.ndarray:
        """Return the number of pairs that are equal in all columns, and not on the same day, by listener."""
        total_U = np.zeros(len(users))
        for sign, keys in ((1, columns), (-1, (*columns, day))):
            _, first, count = np.unique(cells(code, *keys), return_index=True, return_counts=True)
            total_U += sign * np.bincount(code[first], count * (count - 1) / 2, len(users))
        return total_U

    def plays_by_cell(*columns: np.ndarray) -> csr_array:
        """Return the number of plays of each listener in each cell of the columns, (U, cells)."""
        key = np.unique(cells(np.zeros_like(code), *columns), return_inverse=True)[1]
        return csr_array((np.ones(len(code)), (code, key)), shape=(len(users), int(key.max()) + 1))

    keys = ((group,), (group, item), (), (item,))
    own = [own_pairs(*columns) for columns in keys]
    counts = [plays_by_cell(*columns) for columns in keys]
    squares = [np.asarray(one.multiply(one).sum(axis=1)).ravel() for one in counts]

    def shares(weight_U: np.ndarray) -> np.ndarray:
        """Return shares in one group and in different groups, own and others; listeners count `weight_U` times."""
        sums = [
            [weight_U @ pairs_U for pairs_U in own],
            [
                (np.square(weight_U @ one).sum() - np.square(weight_U) @ squares_U) / 2
                for one, squares_U in zip(counts, squares, strict=True)
            ],
        ]
        return np.array([[b / a, (d - b) / (c - a)] for a, b, c, d in sums])

    everybody = np.ones(len(users))
    rng, draws = np.random.default_rng(7), []
    for _ in range(N_DRAWS):
        drawn = rng.integers(0, len(users), len(users))
        draws.append(shares(np.bincount(drawn, minlength=len(users)).astype(float)))
    result = {"own pairs": float(own[2].sum())}
    for at, prefix in enumerate(("", "others: ")):
        same, other = shares(everybody)[at]
        low, high = np.quantile([draw[at, 0] / draw[at, 1] for draw in draws], [0.025, 0.975])
        result |= {f"{prefix}equal in one, %": 100 * float(same), f"{prefix}in different, %": 100 * float(other)}
        result |= {f"{prefix}ratio": float(same / other), f"{prefix}low": float(low), f"{prefix}high": float(high)}
    return result


def cells(first: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Return one number for each combination of columns of codes (n,)."""
    cell = first
    for column in columns:
        cell = cell * (int(column.max()) + 1) + column
    return cell
