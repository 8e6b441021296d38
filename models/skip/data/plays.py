"""Plays for training and prediction: one row per play, with features known before it began.

Shapes   N plays in time order, F numeric features of each
Time     features of row n are computed from plays strictly earlier than ts_N[n]. `Plays` cannot check this; the tests
         of the modules that compute them do
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

IDS = ("user", "track", "artist", "album", "genre")


@dataclass(frozen=True, eq=False)
class Plays:
    """N plays in time order; every column has one entry per play.

    Attributes:
        ts_N: int64, seconds since 1970 (UTC), non-decreasing.
        user_N: int64, raw ids.
        track_N: int64, raw ids.
        artist_N: int64, raw ids.
        album_N: int64, raw ids.
        genre_N: int64, raw ids.
        categories: Categorical columns by name, int32 (N,), such as context_type or platform_name; -1 = rare or
            unknown.
        numbers_NF: float32 (N, F), NaN where unknown.
        names: Names of the F numeric features.
        is_flow_N: bool, whether the recommender (Flow) chose the play.
        listened_N: int8, 1 = listened for more than 30 s, 0 = skipped; None for plays without a known outcome.

    Raises:
        ValueError: A column has the wrong length, a name is missing or duplicated, the times are not sorted, or a label
            is not 0 or 1.
    """

    ts_N: NDArray[np.int64]
    user_N: NDArray[np.int64]
    track_N: NDArray[np.int64]
    artist_N: NDArray[np.int64]
    album_N: NDArray[np.int64]
    genre_N: NDArray[np.int64]
    categories: dict[str, NDArray[np.int32]]
    numbers_NF: NDArray[np.float32]
    names: tuple[str, ...]
    is_flow_N: NDArray[np.bool_]
    listened_N: NDArray[np.int8] | None = None

    def __post_init__(self) -> None:
        n = len(self.ts_N)
        columns = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith("_N")}
        for name, column in (columns | {f"categories.{k}": v for k, v in self.categories.items()}).items():
            if column is not None and np.shape(column) != (n,):
                raise ValueError(f"plays.{name}: must have one entry for each of {n} plays, got {np.shape(column)}")
        if self.numbers_NF.shape != (n, len(self.names)):
            raise ValueError(
                f"plays.numbers_NF: must be {(n, len(self.names))}, one column per name, got {self.numbers_NF.shape}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"plays.names: must be unique, got {', '.join(self.names)}")
        falls = np.flatnonzero(np.diff(self.ts_N) < 0)
        if len(falls):
            raise ValueError(f"plays.ts_N: must be in time order, play {falls[0] + 1} is earlier than play {falls[0]}")
        if self.listened_N is not None:
            invalid = np.flatnonzero((self.listened_N != 0) & (self.listened_N != 1))
            if len(invalid):
                raise ValueError(
                    f"plays.listened_N: must be 0 or 1, play {invalid[0]} has {self.listened_N[invalid[0]]}"
                )

    def __len__(self) -> int:
        return len(self.ts_N)

    def rows(self, index: ArrayLike | slice) -> Plays:
        """Return a subset of the plays in time order.

        Args:
            index: A slice (returns views, no copy), a mask, or increasing positions.
        """
        selection = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(selection, slice) and not len(selection):
            selection = selection.astype(np.int64)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        rows = {k: v[selection] for k, v in values.items() if isinstance(v, np.ndarray)}
        categories = {name: column[selection] for name, column in self.categories.items()}
        return Plays(**(values | rows | {"categories": categories}))

    def subsample(self, max_plays: int) -> Plays:
        """Return every k-th play, with the smallest k that leaves at most `max_plays`, without a copy."""
        return self.rows(slice(None, None, max(1, -(-len(self) // max_plays))))

    def numbers(self, names: Iterable[str], model_name: str = "plays") -> NDArray[np.float32]:
        """Return some numeric features of every play.

        Args:
            names: Names of the features.
            model_name: Name of the model that needs them, for the error message.

        Returns:
            (N, len(names)) float32.

        Raises:
            ValueError: A feature is missing; the message names it and the model.
        """
        requested = tuple(names)
        if requested == self.names:
            return self.numbers_NF
        missing = [name for name in requested if name not in self.names]
        if missing:
            raise ValueError(
                f"{model_name}: needs the features {', '.join(missing)}; the plays have {', '.join(self.names)}"
            )
        return self.numbers_NF[:, [self.names.index(name) for name in requested]]

    def category(self, name: str, model_name: str = "plays") -> NDArray[np.int32]:
        """Return one categorical column, (N,) int32.

        Raises:
            ValueError: The column is missing; the message names it and the model.
        """
        if name not in self.categories:
            raise ValueError(
                f"{model_name}: needs the category {name}; the plays have {', '.join(sorted(self.categories))}"
            )
        return self.categories[name]

    def labels(self, model_name: str = "plays") -> NDArray[np.int8]:
        """Return the labels, (N,) int8: 1 = listened, 0 = skipped.

        Raises:
            ValueError: The plays have no labels.
        """
        if self.listened_N is None:
            raise ValueError(f"{model_name}: needs labelled plays, and these have no listened_N")
        return self.listened_N

    def require_both_classes(self, model_name: str = "plays") -> NDArray[np.int8]:
        """Return the labels and require both classes, since a classifier cannot be trained on one.

        Raises:
            ValueError: The plays have no labels, or were all listened to, or all skipped.
        """
        listened_N = self.labels(model_name)
        n, ones = len(listened_N), int(listened_N.sum(dtype=np.int64))
        if ones in (0, n):
            description = "no plays" if not n else f"{n} plays, all " + ("listened to" if ones else "skipped")
            raise ValueError(f"{model_name}: needs both listened and skipped plays, got {description}")
        return listened_N


def concatenate(parts: Iterable[Plays]) -> Plays:
    """Concatenate plays in the given order, which must be time order.

    Raises:
        ValueError: There are no parts; feature names or categories differ; only some parts have labels; times are not
            sorted.
    """
    part_list = list(parts)
    if not part_list:
        raise ValueError("plays: nothing to concatenate")
    first = part_list[0]
    for part in part_list[1:]:
        if part.names != first.names or set(part.categories) != set(first.categories):
            raise ValueError("plays: parts to concatenate must have the same features and categories")
        if (part.listened_N is None) != (first.listened_N is None):
            raise ValueError("plays: parts to concatenate must all have labels, or none of them")
    values = {f.name: getattr(first, f.name) for f in fields(first)}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = np.concatenate([getattr(part, name) for part in part_list])
    values["categories"] = {k: np.concatenate([part.categories[k] for part in part_list]) for k in first.categories}
    return Plays(**values)
