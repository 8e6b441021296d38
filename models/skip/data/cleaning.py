"""Cleaning rules for rare categories and implausible durations, learned from training plays only.

Shapes   N plays; a column of ids or codes int64 or int32, durations in seconds
Source   the report's sections 3.1 and 3.2, steps 3 and 4: frequency below 50 or below the 5 % quantile becomes -1; IQR
Differs  durations are clipped to the bounds and no play is dropped: a play with an implausible duration needs a
         prediction too
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.arrays import AnyVector, IdVector
from models.skip.data.plays import IDS, Plays

RARE = -1


@dataclass(frozen=True, eq=False)
class Cleaning:
    """Learned cleaning rules.

    Attributes:
        frequent: By column name, the values that are not rare, ascending. All other values become RARE.
        shortest_s: Lower bound of durations in seconds.
        longest_s: Upper bound of durations in seconds.
    """

    frequent: Mapping[str, IdVector]
    shortest_s: float
    longest_s: float

    def category(self, name: str, values: AnyVector) -> AnyVector:
        """Replace the rare values of one column by RARE; return a column without a rule unchanged."""
        if name not in self.frequent:
            return values
        frequent_values = self.frequent[name]
        if not len(frequent_values):
            return np.full_like(values, RARE)
        at = np.searchsorted(frequent_values, values).clip(max=len(frequent_values) - 1)
        return np.asarray(np.where(frequent_values[at] == values, values, RARE), values.dtype)

    def durations(self, seconds: AnyVector) -> AnyVector:
        """Clip durations to [shortest_s, longest_s]."""
        return np.asarray(np.clip(seconds, self.shortest_s, self.longest_s))

    def to_json(self) -> dict[str, Any]:
        """Return the rules as JSON values, for a release."""
        frequent_values = {name: values.tolist() for name, values in self.frequent.items()}
        return {"frequent": frequent_values, "shortest_s": self.shortest_s, "longest_s": self.longest_s}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Cleaning:
        """Rebuild the rules from the output of `to_json`."""
        frequent_values = {name: np.asarray(values, np.int64) for name, values in raw["frequent"].items()}
        return cls(frequent_values, float(raw["shortest_s"]), float(raw["longest_s"]))


def frequent(values: AnyVector, min_count: int) -> IdVector:
    """Return the values that occur at least `min_count` times, ascending int64."""
    distinct, n = np.unique(values, return_counts=True)
    return np.asarray(distinct[n >= min_count], np.int64)


def frequent_by_quantile(values: AnyVector, quantile: float) -> IdVector:
    """Return the values whose count is above a quantile of all values' counts, ascending int64."""
    distinct, n = np.unique(values, return_counts=True)
    return np.asarray(distinct[n > np.quantile(n, quantile)] if len(n) else distinct, np.int64)


def iqr_bounds(seconds: AnyVector) -> tuple[float, float]:
    """Return the interquartile bounds (Q1 - 1.5 IQR, Q3 + 1.5 IQR), the lower one at least 0.

    Raises:
        ValueError: `seconds` is empty.
    """
    if not len(seconds):
        raise ValueError("durations: iqr needs at least one training play, got none")
    low, high = np.quantile(seconds, (0.25, 0.75))
    return max(float(low - 1.5 * (high - low)), 0.0), float(high + 1.5 * (high - low))


def clean_plays(plays: Plays, cleaning: Cleaning) -> Plays:
    """Return the plays with rare values replaced by -1 and durations clipped.

    Durations are clipped in place: the caller must not use `plays.numbers_NF` elsewhere.
    """
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
