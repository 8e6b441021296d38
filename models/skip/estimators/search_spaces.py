"""Search spaces of the models' hyperparameters as plain data; a job converts them to Optuna distributions.

The keys of a space are fields of the model's recipe. Baselines are searched on a grid, as in the report. Networks and
trees are sampled at random, and use early stopping. A trial is evaluated by its AUC on folds of the training plays and
on validation plays, never on test plays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Choice:
    """One of several values."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class IntRange:
    """An integer from low to high, inclusive; sampled on a log scale if `log`."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class FloatRange:
    """A float from low to high; sampled on a log scale if `log`."""

    low: float
    high: float
    log: bool = False


Space = Mapping[str, Choice | IntRange | FloatRange]

_NETWORK: Space = {
    "learning_rate": FloatRange(1e-4, 1e-2, log=True),
    "weight_decay": FloatRange(1e-3, 1.0, log=True),
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
        "learning_rate": FloatRange(1e-3, 0.05, log=True),
        "l2_factors": Choice((1e-4, 1e-3, 1e-2)),
    },
    "ncf": {**_NETWORK, **_IDS, "embedding": Choice((8, 16, 32)), "units": Choice((16, 32, 64))},
    "neumf": {**_NETWORK, **_IDS, "gmf": Choice((8, 16, 24)), "mlp": Choice((16, 24, 32))},
    "graphsage": {**_NETWORK, **_IDS, "width": Choice((32, 64)), "near": IntRange(4, 12), "far": IntRange(2, 6)},
    "logistic_features": {"c": FloatRange(1e-4, 1.0, log=True)},
    "boosted_trees": {
        "learning_rate": FloatRange(0.01, 0.1, log=True),
        "leaves": IntRange(2, 63, log=True),
        "min_leaf_plays": IntRange(20, 400, log=True),
        "column_share": FloatRange(0.3, 1.0),
        "row_share": FloatRange(0.5, 1.0),
        "l2": FloatRange(0.1, 100.0, log=True),
    },
    "session_gru": {**_NETWORK, "length": Choice((10, 20, 40)), "hidden": Choice((16, 32, 64))},
}


def is_grid(space: Space) -> bool:
    """Return whether the space has a finite number of trials."""
    return all(isinstance(dimension, Choice) for dimension in space.values())


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """Generate every trial of a grid in order.

    Raises:
        ValueError: The space has a range, so it is not a grid.
    """
    if not is_grid(space):
        raise ValueError("tuning: a space with ranges has no grid; draw trials with sample()")
    names = list(space)
    for values in product(*(dimension.values for dimension in space.values() if isinstance(dimension, Choice))):
        yield dict(zip(names, values, strict=True))


def sample(space: Space, rng: np.random.Generator) -> dict[str, Any]:
    """Draw one random trial."""
    return {name: _sample_value(dimension, rng) for name, dimension in space.items()}


def _sample_value(dimension: Choice | IntRange | FloatRange, rng: np.random.Generator) -> Any:
    if isinstance(dimension, Choice):
        return dimension.values[int(rng.integers(len(dimension.values)))]
    high = dimension.high + 1 if isinstance(dimension, IntRange) else dimension.high
    value = float(
        np.exp(rng.uniform(np.log(dimension.low), np.log(high))) if dimension.log else rng.uniform(dimension.low, high)
    )
    return min(int(value), int(dimension.high)) if isinstance(dimension, IntRange) else value
