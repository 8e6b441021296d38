"""Our own linear model: logistic regression over everything known before a play, and no id.

Shapes   N plays, G columns: scaled numbers, then one-hot categories

What it says is a sum of one term a column, so that its reasons are exact and it answers within microseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.skip.inputs import Dense
from models.skip.interface import Epoch, Losses, Needs, SkipModel, State, log_loss, prefixed, under
from models.skip.linear import Regression
from models.skip.plays import Plays


@dataclass(frozen=True)
class FeaturesRecipe:
    """`most`: training plays are thinned evenly to so many, more than a few hundred weights can use."""

    c: float = 0.01
    most: int = 1_000_000

    def __post_init__(self) -> None:
        if not self.c > 0 or self.most < 2:
            raise ValueError(f"logistic_features: c must be above 0 and most at least 2, got {self}")


class FeatureRegression(SkipModel):
    """Numbers scaled and categories one-hot as in models/skip/inputs.py."""

    name = "logistic_features"
    needs = Needs(numbers=("all",), categories=("all",))
    Recipe = FeaturesRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        self.dense = Dense.learn(train, self.name)
        some = train.thinned(self.recipe.most)
        x_NG, listened_N = self.dense.columns(some), some.both_classes(self.name)
        self.regression = Regression.learn(x_NG, listened_N, self.recipe.c)
        self.centre_G = x_NG.mean(axis=0, dtype=np.float64)
        loss = log_loss(listened_N, self.regression.proba(x_NG))
        return [Epoch(loss, log_loss(valid.labels(), self.predicted(valid)))]

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Log odds that each column adds to those of the mean training play, (N, G)."""
        return np.asarray((self.dense.columns(plays) - self.centre_G) * self.regression.weights_G, np.float64)

    def columns(self) -> tuple[str, ...]:
        """What each column of contributions() tells about, (G,)."""
        return self.dense.column_names()

    def mean(self) -> float:
        """Share of the training plays that were listened to."""
        return self.dense.numbers.mean

    def _proba(self, plays: Plays) -> NDArray[np.float64]:
        return self.regression.proba(self.dense.columns(plays))

    def _state(self) -> State:
        facts, arrays = self.dense.state()
        kept = prefixed("dense", arrays) | prefixed("regression", self.regression.arrays())
        return facts, kept | {"centre": self.centre_G}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.dense = Dense.restore(facts, under("dense", arrays), self.name)
        self.regression = Regression.of(under("regression", arrays))
        self.centre_G = arrays["centre"]
