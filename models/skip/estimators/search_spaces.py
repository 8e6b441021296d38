"""What may be tried for each model: search spaces as plain data, which a job turns into Optuna distributions.

A space names fields of the model's recipe. The baselines have the report's kind of search, a grid; networks and trees
are sampled at random, and stop early by themselves. A trial is judged by its AUC on folds of the
training plays and on validation, never on test.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Choice:
    """One of these."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Whole:
    """A whole number from low to high, both possible; by its logarithm where `log`."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Real:
    """A number from low to high; by its logarithm where `log`."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Choice | Whole | Real]

_NETWORK: Space = {
    "learning_rate": Real(5e-4, 1e-2, log=True),
    "weight_decay": Real(1e-3, 1.0, log=True),
    "dropout": Choice((0.0, 0.2, 0.4, 0.6)),
}
_IDS: Space = {"id_dropout": Choice((0.0, 0.2, 0.5)), "min_count": Choice((2, 5, 10))}

SPACES: dict[str, Space] = {
    "content_based": {"c": Choice((0.001, 0.01, 0.1, 1.0, 10.0)), "min_count": Choice((1, 2, 5))},
    "collaborative": {"c": Choice((0.001, 0.01, 0.1, 1.0, 10.0)), "min_count": Choice((1, 2, 5))},
    "truncated_svd": {"components": Choice((2, 6, 12, 24, 48)), "c": Choice((0.1, 1.0))},
    "pmf": {
        "factors": Choice((5, 10, 20)),
        "learning_rate": Choice((0.005, 0.01, 0.02)),
        "regularisation": Choice((0.01, 0.05, 0.1)),
    },
    "rbm": {"components": Choice((50, 100)), "learning_rate": Choice((0.01, 0.05)), "c": Choice((0.1, 1.0))},
    "fm": {
        "rank": Choice((4, 8, 16, 30)),
        "learning_rate": Choice((0.005, 0.02, 0.05)),
        "l2_factors": Choice((1e-4, 1e-3, 1e-2)),
    },
    "ncf": {**_NETWORK, **_IDS, "embedding": Choice((8, 16, 32)), "units": Choice((16, 32, 64))},
    "neumf": {**_NETWORK, **_IDS, "gmf": Choice((8, 16, 24)), "mlp": Choice((16, 24, 32))},
    "graphsage": {**_NETWORK, **_IDS, "width": Choice((32, 64)), "near": Whole(4, 12), "far": Whole(2, 6)},
    "logistic_features": {"c": Real(1e-4, 1.0, log=True)},
    "boosted_trees": {
        "learning_rate": Real(0.01, 0.1, log=True),
        "leaves": Whole(2, 63, log=True),
        "min_leaf_plays": Whole(20, 400, log=True),
        "column_share": Real(0.3, 1.0),
        "row_share": Real(0.5, 1.0),
        "l2": Real(0.1, 100.0, log=True),
    },
    "session_gru": {**_NETWORK, "length": Choice((10, 20, 40)), "hidden": Choice((16, 32, 64))},
}


def is_grid(space: Space) -> bool:
    """Has the space a finite number of trials, to be gone through one by one?"""
    return all(isinstance(part, Choice) for part in space.values())


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Every trial of a grid, in order; ValueError for a space that is none."""
    if not is_grid(space):
        raise ValueError("tuning: a space with ranges is sampled, it has no grid")
    names = list(space)
    for values in product(*(part.values for part in space.values() if isinstance(part, Choice))):
        yield dict(zip(names, values, strict=True))


def sample(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """One random trial."""
    return {name: _drawn(part, rng) for name, part in space.items()}


def _drawn(part: Choice | Whole | Real, rng: np.random.Generator) -> Any:
    if isinstance(part, Choice):
        return part.values[int(rng.integers(len(part.values)))]
    high = part.high + 1 if isinstance(part, Whole) else part.high
    value = float(np.exp(rng.uniform(np.log(part.low), np.log(high))) if part.log else rng.uniform(part.low, high))
    return min(int(value), int(part.high)) if isinstance(part, Whole) else value
