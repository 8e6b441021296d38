"""Rare categories and improbable durations: what counts as either is learned from training plays alone.

Shapes   N plays; a column of ids or codes int64 or int32, durations in seconds
Source   the report's sections 3.1 and 3.2, steps 3 and 4: frequency below 50 or below the 5 % quantile becomes -1; IQR
Differs  durations are cut to the bounds, never dropped: a play with an odd duration must be answered too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.skip.data.plays import IDS, Plays

RARE = -1


@dataclass(frozen=True, eq=False)
class Cleaning:
    """frequent: by column, the values that are kept, ascending; durations are cut to [shortest_s, longest_s]."""

    frequent: Mapping[str, np.ndarray]
    shortest_s: float
    longest_s: float

    def category(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values of one column with RARE for what is not frequent; a column without a rule stays as it is."""
        if name not in self.frequent:
            return values
        kept = self.frequent[name]
        if not len(kept):
            return np.full_like(values, RARE)
        at = np.searchsorted(kept, values).clip(max=len(kept) - 1)
        return np.asarray(np.where(kept[at] == values, values, RARE), values.dtype)

    def durations(self, seconds: np.ndarray) -> np.ndarray:
        """Cut to the bounds."""
        return np.asarray(np.clip(seconds, self.shortest_s, self.longest_s))

    def to_json(self) -> dict[str, Any]:
        """For a release: plain numbers."""
        kept = {name: values.tolist() for name, values in self.frequent.items()}
        return {"frequent": kept, "shortest_s": self.shortest_s, "longest_s": self.longest_s}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Cleaning:
        """What `to_json` wrote."""
        kept = {name: np.asarray(values, np.int64) for name, values in raw["frequent"].items()}
        return cls(kept, float(raw["shortest_s"]), float(raw["longest_s"]))


def frequent(values: np.ndarray, least: int) -> np.ndarray:
    """Values that occur at least so often, ascending int64."""
    found, n = np.unique(values, return_counts=True)
    return np.asarray(found[n >= least], np.int64)


def frequent_by_quantile(values: np.ndarray, quantile: float) -> np.ndarray:
    """Values that occur more often than this quantile of all values' counts, ascending int64."""
    found, n = np.unique(values, return_counts=True)
    return np.asarray(found[n > np.quantile(n, quantile)] if len(n) else found, np.int64)


def iqr_bounds(seconds: np.ndarray) -> tuple[float, float]:
    """Quartiles less, and plus, one and a half times their distance; not below 0.

    Raises:
        ValueError: no rows to learn from.
    """
    if not len(seconds):
        raise ValueError("durations: iqr needs training plays, got none")
    low, high = np.quantile(seconds, (0.25, 0.75))
    return max(float(low - 1.5 * (high - low)), 0.0), float(high + 1.5 * (high - low))


def apply(plays: Plays, cleaning: Cleaning) -> Plays:
    """The plays with rare values as -1 and durations cut; numbers are changed in place, they are nobody else's yet."""
    categories = {name: cleaning.category(name, values) for name, values in plays.categories.items()}
    ids = {f"{name}_N": cleaning.category(f"{name}_id", getattr(plays, f"{name}_N")) for name in IDS}
    if "duration_s" in plays.names:
        at = plays.names.index("duration_s")
        plays.numbers_NF[:, at] = cleaning.durations(plays.numbers_NF[:, at])
    return Plays(
        ts_N=plays.ts_N,
        **ids,
        categories=categories,
        numbers_NF=plays.numbers_NF,
        names=plays.names,
        is_flow_N=plays.is_flow_N,
        listened_N=plays.listened_N,
    )
