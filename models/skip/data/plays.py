"""The plays that skip models learn from and answer about: one row a play, and what was known before it began.

Shapes   N plays in time order, F numbers known before each
Time     a number of row n was computed from plays strictly earlier than ts_N[n]; Plays cannot check that, the tests of
         whatever fills it do
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

IDS = ("user", "track", "artist", "album", "genre")


@dataclass(frozen=True, eq=False)
class Plays:
    """N plays in time order; every column has one entry a play.

    Attributes:
        ts_N: int64, seconds since 1970 (UTC), never falling.
        user_N: int64 ids, raw, as the other ids.
        track_N: int64.
        artist_N: int64.
        album_N: int64.
        genre_N: int64.
        categories: by name int32 (N,), such as context_type or platform_name; -1 = rare or unknown.
        numbers_NF: float32 (N, F), NaN where unknown.
        names: of the F numbers.
        is_flow_N: bool, was the play chosen by the recommender?
        listened_N: int8, 1 = listened for more than 30 s, 0 = skipped; None where nobody knows yet.

    Raises:
        ValueError: a column is of another length, a name is missing or twice, time falls, a label is not 0 or 1.
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
                f"plays.numbers_NF: must be {(n, len(self.names))}, a column a name, got {self.numbers_NF.shape}"
            )
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"plays.names: each name once, got {', '.join(self.names)}")
        falls = np.flatnonzero(np.diff(self.ts_N) < 0)
        if len(falls):
            raise ValueError(f"plays.ts_N: must be in time order, play {falls[0] + 1} is earlier than play {falls[0]}")
        if self.listened_N is not None:
            odd = np.flatnonzero((self.listened_N != 0) & (self.listened_N != 1))
            if len(odd):
                raise ValueError(f"plays.listened_N: must be 0 or 1, play {odd[0]} has {self.listened_N[odd[0]]}")

    def __len__(self) -> int:
        return len(self.ts_N)

    def rows(self, index: ArrayLike | slice) -> Plays:
        """Some of the plays, in time order as well: a slice (nothing is copied), a mask or places that rise."""
        part = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(part, slice) and not len(part):
            part = part.astype(np.int64)
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        taken = {k: v[part] for k, v in values.items() if isinstance(v, np.ndarray)}
        kinds = {name: column[part] for name, column in self.categories.items()}
        return Plays(**(values | taken | {"categories": kinds}))

    def thinned(self, most: int) -> Plays:
        """Every k-th of the plays, the least k that leaves at most `most` of them; nothing is copied."""
        return self.rows(slice(None, None, max(1, -(-len(self) // most))))

    def numbers(self, names: Iterable[str], for_whom: str = "plays") -> NDArray[np.float32]:
        """Some numbers of every play, (N, len(names)) float32; ValueError names what is missing and for whom."""
        wanted = tuple(names)
        if wanted == self.names:
            return self.numbers_NF
        missing = [name for name in wanted if name not in self.names]
        if missing:
            raise ValueError(f"{for_whom}: needs the numbers {', '.join(missing)}; there are {', '.join(self.names)}")
        return self.numbers_NF[:, [self.names.index(name) for name in wanted]]

    def category(self, name: str, for_whom: str = "plays") -> NDArray[np.int32]:
        """One category of every play, (N,) int32; ValueError names it where it is missing."""
        if name not in self.categories:
            raise ValueError(f"{for_whom}: needs the category {name}; there are {', '.join(sorted(self.categories))}")
        return self.categories[name]

    def labels(self, for_whom: str = "plays") -> NDArray[np.int8]:
        """Was each play listened to, (N,); ValueError where that is not known."""
        if self.listened_N is None:
            raise ValueError(f"{for_whom}: learns from plays whose outcome is known, and these have no label")
        return self.listened_N

    def both_classes(self, for_whom: str = "plays") -> NDArray[np.int8]:
        """The labels; ValueError unless some plays were listened to and some skipped: nothing is learned from one."""
        listened_N = self.labels(for_whom)
        n, ones = len(listened_N), int(listened_N.sum(dtype=np.int64))
        if ones in (0, n):
            what = "no plays" if not n else f"{n} plays, all " + ("listened to" if ones else "skipped")
            raise ValueError(f"{for_whom}: needs plays that were listened to and plays that were skipped, got {what}")
        return listened_N


def joined(parts: Iterable[Plays]) -> Plays:
    """Plays one after the other, in the order given, which must be that of time.

    Raises:
        ValueError: no parts; other names or categories; some with labels and some without; time falls.
    """
    found = list(parts)
    if not found:
        raise ValueError("plays: nothing to join")
    first = found[0]
    for part in found[1:]:
        if part.names != first.names or set(part.categories) != set(first.categories):
            raise ValueError("plays: parts to join must have the same numbers and categories")
        if (part.listened_N is None) != (first.listened_N is None):
            raise ValueError("plays: parts to join must all have labels, or none of them")
    values = {f.name: getattr(first, f.name) for f in fields(first)}
    for name, value in values.items():
        if isinstance(value, np.ndarray):
            values[name] = np.concatenate([getattr(part, name) for part in found])
    values["categories"] = {k: np.concatenate([part.categories[k] for part in found]) for k in first.categories}
    return Plays(**values)
