"""Differences between two releases on the same listeners, with one-sided bounds for non-inferiority.

Shapes   B listeners, one value of a metric per listener and release
Bounds   Student's t on the paired differences: exact for normal ones, close for others from some dozens of listeners
         on. The bootstrap's percentile interval is too narrow for few listeners, and has no width for one
Source   non-inferiority: Piaggio et al. 2012 (CONSORT extension); the new release must not be worse by more than delta
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

LEVEL = 0.95  # of one-sided bounds
MIN_LISTENERS = 10  # below, t bounds of skewed differences are not reliable


@dataclass(frozen=True)
class PairedDifference:
    """The mean difference between a release and a rival over B listeners.

    Attributes:
        n: B, number of listeners.
        ours: mean of the release.
        rival: mean of the rival.
        error: standard error of ours - rival; infinite for fewer than two listeners.
    """

    n: int
    ours: float
    rival: float
    error: float

    @classmethod
    def of(cls, ours_B: ArrayLike, rival_B: ArrayLike) -> PairedDifference:
        """Compute the difference from one value per listener and release.

        Args:
            ours_B: values of the release, (B,).
            rival_B: values of the rival for the same listeners, (B,).

        Raises:
            ValueError: shapes differ, there is no listener, or a value is not finite.
        """
        ours, rival = np.asarray(ours_B, np.float64), np.asarray(rival_B, np.float64)
        if ours.shape != rival.shape or ours.ndim != 1 or not ours.size:
            raise ValueError(f"paired difference: needs (B,) of the same listeners, got {ours.shape} and {rival.shape}")
        if not (np.isfinite(ours).all() and np.isfinite(rival).all()):
            raise ValueError("paired difference: a value is not finite")
        error = float((ours - rival).std(ddof=1)) / math.sqrt(ours.size) if ours.size > 1 else math.inf
        return cls(ours.size, float(ours.mean()), float(rival.mean()), error)

    @property
    def change(self) -> float:
        """The difference relative to the rival's mean; 0 where both are 0, infinite where only the rival is."""
        difference = self.ours - self.rival
        if self.rival:
            return difference / self.rival
        return math.copysign(math.inf, difference) if difference else 0.0

    def bounds(self) -> tuple[float, float]:
        """Return the lower and the upper bound of `change`, each of LEVEL by itself.

        They are infinite for one listener, and without a positive mean of the rival, to which nothing can be related.
        """
        if self.rival <= 0 or self.n < 2:
            return -math.inf, math.inf
        reach = float(stdtrit(self.n - 1, LEVEL)) * self.error / self.rival
        return self.change - reach, self.change + reach

    @property
    def p_not_worse(self) -> float:
        """One-sided p-value of the hypothesis that the release is not worse than the rival; small if it is worse."""
        difference = self.ours - self.rival
        if self.n < 2:
            return 1.0
        if self.error == 0:
            return 0.0 if difference < 0 else 1.0
        return float(stdtr(self.n - 1, difference / self.error))
