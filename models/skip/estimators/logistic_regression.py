"""Logistic regression over all features of a play except ids: the engine's own linear model.

Shapes   N plays, G columns: scaled numbers, then one-hot categories
Source   Chapelle, Li 2011, algorithm 3, for incremental training: each weight has a prior with the curvature of all
         plays it was learned from, so that a day's plays move it in proportion to their evidence

A prediction is the sum of one term per column, so reasons are exact and a prediction takes microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense
from models.skip.estimators.base import Epoch, Losses, Needs, SkipModel
from models.skip.estimators.onehot_regression import Regression


@dataclass(frozen=True)
class FeaturesRecipe:
    """Hyperparameters of the regression.

    Attributes:
        c: Inverse of the L2 penalty on the summed loss.
        max_plays: Largest number of training plays; of more plays every k-th is used, because a few hundred weights
            gain nothing from them.
    """

    c: float = 0.01
    max_plays: int = 1_000_000

    def __post_init__(self) -> None:
        if not self.c > 0 or self.max_plays < 2:
            raise ValueError(f"logistic_features: c must be above 0 and max_plays at least 2, got {self}")


class FeatureRegression(SkipModel):
    """Logistic regression on scaled numbers and one-hot categories (models/skip/encoding/numeric.py)."""

    name = "logistic_features"
    needs = Needs(numbers=("all",), categories=("all",))
    Recipe = FeaturesRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        self.dense = Dense.learn(train, self.name)
        sample = train.subsample(self.recipe.max_plays)
        x_NG, listened_N = self.dense.columns(sample), sample.require_both_classes(self.name)
        self.regression = Regression.learn(x_NG, listened_N, self.recipe.c)
        self.centre_G = x_NG.mean(axis=0, dtype=np.float64)
        penalty_G = np.append(np.full(x_NG.shape[1], 1 / self.recipe.c), 0.0)  # the bias has no penalty
        self.precision_G = penalty_G + curvature(x_NG, self.regression.proba(x_NG))
        loss = log_loss(listened_N, self.regression.proba(x_NG))
        return [Epoch(loss, log_loss(valid.labels(), self._predict_in_chunks(valid)))]

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        sample = new.subsample(self.recipe.max_plays)
        x_NG, listened_N = self.dense.columns(sample), sample.labels()
        self.regression = updated_regression(self.regression, self.precision_G, x_NG, listened_N)
        self.precision_G = self.precision_G + curvature(x_NG, self.regression.proba(x_NG))
        loss = log_loss(listened_N, self.regression.proba(x_NG))
        return [Epoch(loss, log_loss(valid.labels(), self._predict_in_chunks(valid)))]

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Return the contribution of each column to the log odds, relative to the mean training play, (N, G)."""
        return np.asarray((self.dense.columns(plays) - self.centre_G) * self.regression.weights_G, np.float64)

    def columns(self) -> tuple[str, ...]:
        """Return the feature name of each column of contributions(), (G,)."""
        return self.dense.column_names()

    def mean(self) -> float:
        """Return the share of the training plays that were listened to."""
        return self.dense.numbers.mean

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self.regression.proba(self.dense.columns(plays))

    def _state(self) -> State:
        facts, arrays = self.dense.state()
        arrays_out = add_prefix("dense", arrays) | add_prefix("regression", self.regression.arrays())
        return facts, arrays_out | {"centre": self.centre_G, "precision": self.precision_G}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.dense = Dense.restore(facts, select_prefix("dense", arrays), self.name)
        self.regression = Regression.from_arrays(select_prefix("regression", arrays))
        self.centre_G, self.precision_G = arrays["centre"], arrays["precision"]


def curvature(x_NG: NDArray[np.floating], proba_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the diagonal of the Hessian of the summed log loss: of the weights, then the bias, (G + 1,)."""
    weight_N = proba_N * (1 - proba_N)
    return np.append(np.square(x_NG).T @ weight_N, weight_N.sum())


def updated_regression(
    old: Regression, precision_G: NDArray[np.float64], x_NG: NDArray[np.floating], listened_N: NDArray[np.int8]
) -> Regression:
    """Return the regression updated by more plays: the minimum of their log loss and 1/2 precision * (step)^2.

    Args:
        old: Regression before the update, the mean of the prior.
        precision_G: Precision of the prior, (G + 1,), of the weights, then of the bias.
        x_NG: Columns of the plays.
        listened_N: Labels of the plays.
    """
    start_G, sign_N = np.append(old.weights_G, old.bias), 2.0 * listened_N - 1

    def loss(w_G: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        step_G, z_N = w_G - start_G, sign_N * (x_NG @ w_G[:-1] + w_G[-1])
        slope_N = -sign_N * sigmoid(-z_N)
        value = np.logaddexp(0, -z_N).sum() + (precision_G * step_G**2).sum() / 2
        return float(value), np.append(x_NG.T @ slope_N, slope_N.sum()) + precision_G * step_G

    weights_G = minimize(loss, start_G, jac=True, method="L-BFGS-B").x
    return Regression(weights_G[:-1], float(weights_G[-1]))
