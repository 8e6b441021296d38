"""Drift of inputs: do today's listeners differ from those that the network was trained on?

Measure  population stability index, sum of (p - q) * ln(p / q) over the classes of a feature: 0 no difference, above
0.1
         worth a look, above 0.25 drifted (Siddiqi 2006); p is what the service receives, q the training split
Features country, age class, and for each of the 18 blocks of first-day signals the number of ids in it; "none" and
         "unknown" are classes, so that a signal that stops arriving shows
Window   exponential decay over listeners; the reference and the window are counted by `FeatureClasses`
Cost     some microseconds per listener; indices are computed every `EVERY` listeners and when they are read
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from models.cold_start.input_vector import AGE_CLASSES, INTERACTIONS, FirstDays, age_class

NAME = "inputs.json"
AGES = (*AGE_CLASSES, "unknown")
STARTS = (1, 2, 4, 10)
NUMBERS = ("none", "1", "2-3", "4-9", "10+")
OTHER, UNKNOWN = "other", "unknown"
COUNTRIES = 30  # most frequent ones, each with a class of its own
EVERY = 64
LARGE = 1e100  # counts that grow beyond this are rescaled
WINDOW = 2_000  # effective number of listeners in the window; the oldest have the lowest weight
_NUMBER = tuple(bisect_right(STARTS, n) for n in range(STARTS[-1] + 1))  # class of 0 to 10 ids
_AGE = tuple(age_class(age) for age in range(131))


class FeatureClasses:
    """The position of each class of each feature in one row of counts: country, age, then the blocks.

    Plain Python on purpose: for one listener it is several times as fast as arrays.
    """

    def __init__(self, countries: Sequence[str]) -> None:
        """Set the countries that have classes of their own, in this order; others and unknown follow."""
        self._country = {code: place for place, code in enumerate(countries)}
        self._other, self._ages = len(countries), len(countries) + 2
        first = self._ages + len(AGES)
        self.names = {"country": [*countries, OTHER, UNKNOWN], "age": list(AGES)}
        self.names |= {name: list(NUMBERS) for name in INTERACTIONS}
        self._block = {name: first + place * len(NUMBERS) for place, name in enumerate(INTERACTIONS)}
        self.starts = np.array([0, self._ages, *self._block.values()])
        self.size = first + len(INTERACTIONS) * len(NUMBERS)

    def of(self, days: FirstDays) -> Iterator[list[int]]:
        """Yield for each of B listeners the counted positions: country, age, and each block with an id."""
        one = len(days) == 1
        sizes = [
            (self._block[name], [len(ragged.ids)] if one else ragged.lengths.tolist())
            for name, ragged in days.blocks.items()
        ]
        for b, (code, age) in enumerate(zip(days.country.tolist(), days.age.tolist(), strict=True)):
            country = self._other + 1 if code is None else self._country.get(code, self._other)
            at = [country, self._ages + (len(AGE_CLASSES) if age < 0 else _AGE[min(age, len(_AGE) - 1)])]
            for block, n in sizes:
                if n[b]:
                    at.append(block + _NUMBER[min(n[b], STARTS[-1])])
            yield at

    def with_none(self, counts: np.ndarray, total: float) -> np.ndarray:
        """Return counts by class, where a block's "none" counts the listeners in no other class of it."""
        completed = counts.copy()
        for start in self._block.values():
            completed[start] = total - counts[start + 1 : start + len(NUMBERS)].sum()
        return completed


def reference(days: FirstDays) -> dict[str, Any]:
    """Return the reference that a release contains: the number of training listeners in each class, by feature."""
    often = Counter(code for code in days.country.tolist() if code is not None)
    known = sorted(sorted(often, key=lambda code: (-often[code], code))[:COUNTRIES])
    classes = FeatureClasses(known)
    counts = np.zeros(classes.size)
    for at in classes.of(days):
        counts[at] += 1
    parts = np.split(classes.with_none(counts, len(days)), classes.starts[1:])
    features = {
        name: {"classes": named, "counts": [int(n) for n in part]}
        for (name, named), part in zip(classes.names.items(), parts, strict=True)
    }
    return {"format": 1, "split": "train", "n_users": len(days), "features": features}


def psi(observed: np.ndarray, expected: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the stability index of each feature.

    Half a listener is added to every class on both sides, so that an empty class has little weight and no division by
    zero occurs.

    Args:
        observed: weights by class of the window, features end to end.
        expected: weights by class of the reference.
        starts: first position of each feature.
    """
    sizes = np.diff(np.append(starts, observed.size))
    p, q = (
        (counts + 0.5) / np.repeat(np.add.reduceat(counts, starts) + 0.5 * sizes, sizes)
        for counts in (observed, expected)
    )
    index_per_feature: np.ndarray = np.add.reduceat((p - q) * np.log(p / q), starts)
    return index_per_feature


def parse_reference(reference: dict[str, Any]) -> tuple[FeatureClasses, np.ndarray]:
    """Return the classes of a reference and its counts, features end to end.

    Raises:
        ValueError: it has another format or other classes.
    """
    if reference["format"] != 1:
        raise ValueError(f"{NAME}: format {reference['format']} is not known here")
    features = reference["features"]
    classes = FeatureClasses(features["country"]["classes"][:-2])
    if {name: features[name]["classes"] for name in features} != classes.names:
        raise ValueError(f"{NAME}: its features or classes are not those of this program")
    return classes, np.concatenate([np.asarray(features[name]["counts"], float) for name in classes.names])


def compare(reference: dict[str, Any], days: FirstDays) -> dict[str, float]:
    """Return the stability index by feature of B listeners with equal weights.

    Raises:
        ValueError: as `opened`.
    """
    classes, expected = parse_reference(reference)
    counts = np.zeros(classes.size)
    for at in classes.of(days):
        counts[at] += 1
    index_per_feature = psi(classes.with_none(counts, len(days)), expected, classes.starts)
    return dict(zip(classes.names, index_per_feature.tolist(), strict=True))


class NoDriftMonitor:
    """Replaces `DriftMonitor` where a release has no training distribution: it counts nothing and reports nothing."""

    def count(self, days: FirstDays) -> FirstDays:
        """Return the days unchanged."""
        return days

    def set_callback(self, callback: Callable[[dict[str, float]], None]) -> None:
        """Do nothing."""

    def refresh(self) -> None:
        """Do nothing."""


class DriftMonitor(NoDriftMonitor):
    """Counts the listeners of one release against its training split.

    The window decays: instead of scaling down every count with each listener, each listener has a slightly larger
    weight than the one before; only ratios matter.
    """

    def __init__(self, reference: dict[str, Any]) -> None:
        """Prepare the counts.

        Args:
            reference: as `reference()` returned it.

        Raises:
            ValueError: it has another format or other classes.
        """
        self._classes, self._expected = parse_reference(reference)
        self._counts, self._total, self._step = [0.0] * self._classes.size, 0.0, 1.0
        self._grow = WINDOW / (WINDOW - 1)
        self._since = 0
        self._tell: Callable[[dict[str, float]], None] | None = None
        self._lock = threading.Lock()

    def count(self, days: FirstDays) -> FirstDays:
        """Count these listeners; return the days unchanged."""
        with self._lock:
            counts, step = self._counts, self._step
            for at in self._classes.of(days):
                step *= self._grow
                for place in at:
                    counts[place] += step
                self._total += step
            self._step = step
            if step > LARGE:
                self._counts, self._total, self._step = [n / step for n in counts], self._total / step, 1.0
            self._since += len(days)
            due = self._since >= EVERY
        if due:
            self.refresh()
        return days

    def set_callback(self, callback: Callable[[dict[str, float]], None]) -> None:
        """Set the callback that receives the indices when they are computed."""
        self._tell = callback

    def indices(self) -> dict[str, float]:
        """Return the stability index by feature, and the window's weight as `listeners`; empty at first."""
        with self._lock:
            total = self._total / self._step
            counts = np.array(self._counts) / self._step
        if not total:
            return {}
        index_per_feature = psi(self._classes.with_none(counts, total), self._expected, self._classes.starts)
        return {**dict(zip(self._classes.names, index_per_feature.tolist(), strict=True)), "listeners": total}

    def refresh(self) -> None:
        """Compute the indices and report them."""
        self._since = 0
        if self._tell is not None and (indices := self.indices()):
            self._tell(indices)
