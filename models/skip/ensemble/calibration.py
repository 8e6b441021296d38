"""Calibration of scores to probabilities: Platt scaling or isotonic regression, chosen on validation.

Shapes   N plays
Source   Platt 1999 (with its smoothed targets); Zadrozny, Elkan 2002 for isotonic
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.isotonic import IsotonicRegression

from models.skip.data.arrays import sigmoid
from models.skip.ensemble.ensemble import Calibration, Kind
from models.skip.evaluation.metrics import brier

KINDS: tuple[Kind, ...] = ("platt", "isotonic")


def fit_calibration(kind: Kind, listened_N: NDArray[np.int8], score_N: NDArray[np.float64]) -> Calibration:
    """Fit a calibration on plays that were not used to train the scores."""
    if kind == "isotonic":
        # Half a play of the other class at both ends keeps probabilities strictly between 0 and 1.
        n = len(score_N)
        fitted = IsotonicRegression(y_min=0.5 / n, y_max=1 - 0.5 / n, out_of_bounds="clip").fit(score_N, listened_N)
        return Calibration(kind, np.asarray(fitted.X_thresholds_, float), np.asarray(fitted.y_thresholds_, float))
    ones = int(listened_N.sum(dtype=np.int64))
    target_N = np.where(listened_N == 1, (ones + 1) / (ones + 2), 1 / (len(listened_N) - ones + 2))

    def loss(ab: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z_N = np.exp(ab[0]) * score_N + ab[1]  # exp keeps the slope positive
        gap_N = sigmoid(z_N) - target_N
        slope = np.exp(ab[0]) * (gap_N * score_N).mean()
        return float((np.logaddexp(0, z_N) - target_N * z_N).mean()), np.asarray([slope, gap_N.mean()])

    minimum = minimize(loss, np.zeros(2), jac=True, method="L-BFGS-B")
    return Calibration(kind, np.asarray([np.exp(minimum.x[0]), minimum.x[1]]), np.empty(0))


def fit_best_calibration(listened_N: NDArray[np.int8], score_N: NDArray[np.float64]) -> Calibration:
    """Return the calibration whose kind has the smaller Brier score, fitted on all plays.

    Each kind is fitted on the earlier half of the plays and evaluated on the later half. The better one is then fitted
    on all plays.

    Args:
        listened_N: Labels of validation plays in time order.
        score_N: Scores of these plays.

    Raises:
        ValueError: There are fewer than four plays.
    """
    half = len(score_N) // 2
    if half < 2:
        raise ValueError(f"calibration: needs at least 4 validation plays, got {len(score_N)}")
    kinds = {
        kind: brier(listened_N[half:], fit_calibration(kind, listened_N[:half], score_N[:half])(score_N[half:]))
        for kind in KINDS
    }
    return fit_calibration(min(KINDS, key=kinds.__getitem__), listened_N, score_N)
