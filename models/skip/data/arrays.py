"""Functions on arrays that all skip models share: saved state, log loss and sigmoid.

Shapes   N plays
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# What a part of a model saves: JSON values, and arrays by name.
State = tuple[dict[str, Any], dict[str, np.ndarray]]


def log_loss(listened_N: NDArray[np.int8], proba_N: NDArray[np.floating]) -> float:
    """Return the mean log loss, with probabilities clipped to 1e-7 and 1 - 1e-7."""
    p_N = np.clip(proba_N, 1e-7, 1 - 1e-7)
    return float(-np.log(np.where(listened_N == 1, p_N, 1 - p_N)).mean())


def sigmoid(z_N: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 / (1 + exp(-z)) without overflow, (N,) float64."""
    half = np.tanh(np.asarray(z_N, np.float64) / 2)
    return np.asarray((1 + half) / 2)


def add_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays of a part of a model with its prefix added to their names."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def select_prefix(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays whose names have a prefix, without the prefix: the inverse of add_prefix()."""
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
