"""What joins the members' answers to one probability: weights of their log odds, then a calibration.

Shapes   N plays, M members, K steps of a staircase

Numpy alone, so that a service answers with what jobs have learned (models/skip/ensemble/fit.py, calibration.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from models.skip.estimators.base import sigmoid

Kind = Literal["platt", "isotonic"]
_CLIP = 6.0  # log odds: a member that is sure of itself does not outweigh all others


def logit(proba_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds within -_CLIP and _CLIP."""
    low = 1 / (1 + np.exp(_CLIP))
    p_N = np.clip(proba_N, low, 1 - low)
    return np.asarray(np.log(p_N) - np.log1p(-p_N))


@dataclass(frozen=True, eq=False)
class Mix:
    """Log odds of members -> score (N,): weights (M,) not below 0, and a bias."""

    method: str
    weights_M: NDArray[np.float64]
    bias: float

    def __call__(self, logits_NM: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds of the mix, (N,)."""
        return logits_NM @ self.weights_M + self.bias


@dataclass(frozen=True, eq=False)
class Calibration:
    """Score -> probability: never falling, so that the order of plays stays (isotonic may tie some)."""

    kind: Kind
    x_K: NDArray[np.float64]  # platt: (slope, shift); isotonic: scores where the staircase turns
    y_K: NDArray[np.float64]  # platt: empty; isotonic: probabilities there

    def __call__(self, score_N: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, (N,)."""
        if self.kind == "platt":
            return sigmoid(self.x_K[0] * score_N + self.x_K[1])
        return np.interp(score_N, self.x_K, self.y_K)

    def arrays(self) -> dict[str, np.ndarray]:
        """What of() takes, beside the kind."""
        return {"x": self.x_K, "y": self.y_K}

    @classmethod
    def of(cls, kind: Kind, arrays: Mapping[str, np.ndarray]) -> Calibration:
        """What arrays() gave."""
        return cls(kind, arrays["x"], arrays["y"])
