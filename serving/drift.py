"""Drift of inputs: are the listeners of today like those that the network learned from?

Measure  population stability index, sum of (p - q) * ln(p / q) over the classes of a feature: 0 the same, above 0.1
         worth a look, above 0.25 others (Siddiqi 2006); p is what the service sees, q the training split
Features country, age class, and for each of the 18 blocks of first-day signals how many ids it holds; "none" and
         "unknown" are classes, so that a signal that stops coming shows
Window   exponential decay over answered listeners; the reference and the window are counted by `classes`
Cost     a few array operations a request; indices are worked out every `EVERY` listeners and when somebody reads them
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from models.input_vector import AGE_CLASSES, INTERACTIONS, FirstDays, age_classes

NAME = "inputs.json"
FEATURES = ("country", "age", *INTERACTIONS)
AGES = (*AGE_CLASSES, "unknown")
STARTS = (1, 2, 4, 10)
NUMBERS = ("none", "1", "2-3", "4-9", "10+")
OTHER, UNKNOWN = "other", "unknown"
COUNTRIES = 30  # most frequent ones with a class of their own
EVERY = 64
WINDOW = 2_000  # listeners that the window weighs in the end; the oldest count least
_NUMBER = np.searchsorted(STARTS, np.arange(STARTS[-1] + 1), side="right")  # class of 0 to 10 ids
_NUMBER_OF = {name: place for place, name in enumerate(INTERACTIONS)}


def classes(days: FirstDays, countries: Mapping[str, int]) -> np.ndarray:
    """Class of each of B listeners in each feature, (B, features), counted from 0 within the feature.

    `countries` is code -> class; the next class is that of other countries, the one after it of the unknown.
    """
    found = np.zeros((len(days), len(FEATURES)), np.int64)
    n = len(countries)
    found[:, 0] = [n + 1 if code is None else countries.get(code, n) for code in days.country]
    ages = age_classes(days.age)
    found[:, 1] = np.where(ages < 0, len(AGE_CLASSES), ages)
    for name, ragged in days.blocks.items():
        found[:, 2 + _NUMBER_OF[name]] = _NUMBER[np.minimum(ragged.lengths, STARTS[-1])]
    return found


def reference(days: FirstDays) -> dict[str, Any]:
    """What goes into a release: how many listeners of the training split are in each class, by feature."""
    codes, counts = np.unique([code for code in days.country if code is not None], return_counts=True)
    most = sorted(codes[np.lexsort((codes, -counts))][:COUNTRIES].tolist())
    at = classes(days, {code: place for place, code in enumerate(most)})
    named = {"country": (*most, OTHER, UNKNOWN), "age": AGES} | dict.fromkeys(INTERACTIONS, NUMBERS)
    features = {
        feature: {"classes": list(names), "counts": np.bincount(at[:, place], minlength=len(names)).tolist()}
        for place, (feature, names) in enumerate(named.items())
    }
    return {"format": 1, "split": "train", "n_users": len(days), "features": features}


def psi(seen: np.ndarray, expected: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Stability index of each feature from weights by class, features end to end; `starts` is where each begins.

    Half a listener is added to every class on both sides, so that an empty one weighs little and divides by nothing.
    """
    sizes = np.diff(np.append(starts, seen.size))
    p, q = (
        (counts + 0.5) / np.repeat(np.add.reduceat(counts, starts) + 0.5 * sizes, sizes) for counts in (seen, expected)
    )
    found: np.ndarray = np.add.reduceat((p - q) * np.log(p / q), starts)
    return found


class Blind:
    """Stands where a release tells nothing of its training inputs: it sees nothing and has nothing to say."""

    def seen(self, days: FirstDays) -> FirstDays:
        """The days as they are."""
        return days

    def tell(self, to: Callable[[dict[str, float]], None]) -> None:
        """Nothing to tell."""

    def refresh(self) -> None:
        """Nothing to work out."""


class Watch(Blind):
    """Counts the listeners of one release against its training split."""

    def __init__(self, reference: dict[str, Any]) -> None:
        """`reference` as `reference()` made it.

        Raises:
            ValueError: it is of another format or has other features.
        """
        features = reference["features"]
        if reference["format"] != 1 or set(features) != set(FEATURES):
            raise ValueError(f"{NAME}: format {reference['format']} with {len(features)} features is not known here")
        names = features["country"]["classes"]
        self._countries = {code: place for place, code in enumerate(names[:-2])}
        counts = [np.asarray(features[feature]["counts"], np.float64) for feature in FEATURES]
        self._expected = np.concatenate(counts)
        self._starts = np.cumsum([0, *(len(one) for one in counts)])[:-1]
        self._weight = np.zeros_like(self._expected)
        self._keep = 1 - 1 / WINDOW
        self._since = 0
        self._tell: Callable[[dict[str, float]], None] | None = None
        self._lock = threading.Lock()

    def seen(self, days: FirstDays) -> FirstDays:
        """Count these listeners; the days as they are."""
        at = classes(days, self._countries) + self._starts
        with self._lock:
            for row in at:
                self._weight *= self._keep
                self._weight[row] += 1.0
            self._since += len(at)
            due = self._since >= EVERY
        if due:
            self.refresh()
        return days

    def tell(self, to: Callable[[dict[str, float]], None]) -> None:
        """Who is told the indices when they were worked out."""
        self._tell = to

    def indices(self) -> dict[str, float]:
        """Stability index by feature, and under `listeners` how many the window weighs; empty before the first."""
        with self._lock:
            weight = self._weight.copy()
        listeners = float(weight[self._starts[0] : self._starts[1]].sum())
        if not listeners:
            return {}
        found = psi(weight, self._expected, self._starts).tolist()
        return {**dict(zip(FEATURES, found, strict=True)), "listeners": listeners}

    def refresh(self) -> None:
        """Work the indices out and tell them."""
        self._since = 0
        if self._tell is not None and (found := self.indices()):
            self._tell(found)
