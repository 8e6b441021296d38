"""Combination of the members' predictions: a weighted sum of log odds, then a calibration.

Shapes   N plays, M members, K steps of an isotonic regression

This module uses NumPy only, so that the service evaluates the same code as the jobs (models/skip/ensemble/fit.py,
calibration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.skip.data.arrays import sigmoid

Kind = Literal["platt", "isotonic"]
_CLIP = 6.0  # largest absolute log odds: limits the effect of one very confident member


def logit(proba_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the log odds of probabilities, clipped to -_CLIP and _CLIP."""
    low = 1 / (1 + np.exp(_CLIP))
    p_N = np.clip(proba_N, low, 1 - low)
    return np.asarray(np.log(p_N) - np.log1p(-p_N))


@dataclass(frozen=True, eq=False)
class Mix:
    """Linear combination of the members' log odds, with non-negative weights (M,) and a bias."""

    method: str
    weights_M: NDArray[np.float64]
    bias: float

    def __call__(self, logits_NM: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the log odds of the mix, (N,)."""
        return logits_NM @ self.weights_M + self.bias


@dataclass(frozen=True, eq=False)
class Calibration:
    """Non-decreasing map from scores to probabilities: the order of plays is preserved, except for isotonic ties."""

    kind: Kind
    x_K: NDArray[np.float64]  # platt: (slope, shift); isotonic: scores of the thresholds
    y_K: NDArray[np.float64]  # platt: empty; isotonic: probabilities of the thresholds

    def __call__(self, score_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return probabilities, (N,)."""
        if self.kind == "platt":
            return sigmoid(self.x_K[0] * score_N + self.x_K[1])
        return np.interp(score_N, self.x_K, self.y_K)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the parameters as arrays, for from_arrays()."""
        return {"x": self.x_K, "y": self.y_K}

    @classmethod
    def from_arrays(cls, kind: Kind, arrays: Mapping[str, np.ndarray]) -> Calibration:
        """Rebuild a calibration from its kind and the output of arrays()."""
        return cls(kind, arrays["x"], arrays["y"])
