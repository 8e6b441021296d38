"""Restricted Boltzmann machine over track features; its hidden units are the inputs of a logistic regression.

Shapes   N plays, W visible units (one-hot fields), D hidden units
Source   the DSG17 report, 4.5: genre, artist, album and the track's age, 100 components; scikit-learn's BernoulliRBM
         (persistent contrastive divergence, Tieleman 2008)
Differs  every field has a unit for each of its `values` most frequent values, and one unit for all other values: a step
         costs W times D, and W would be hundreds of thousands. With millions of plays an epoch is a sample of them.
         Training runs batch by batch, so that visible units of all plays are never in memory at once
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.neural_network import BernoulliRBM

from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.one_hot import OneHot
from models.skip.estimators.base import Epoch, Losses, Needs, SkipModel
from models.skip.estimators.onehot_regression import CONTENT_IDS, CONTENT_NUMBERS, Regression

_CHUNK = 1 << 14


@dataclass(frozen=True)
class RbmRecipe:
    """Hyperparameters of the RBM.

    Attributes:
        components: Number of hidden units, 100 in the report.
        values: Largest number of values per field with their own unit.
        c: Inverse of the L2 penalty of the regression.
        max_plays: Largest number of training plays of the regression.
    """

    components: int = 100
    learning_rate: float = 0.05
    epochs: int = 5
    batch: int = 256
    epoch_plays: int = 500_000
    values: int = 300
    bins: int = 8
    c: float = 1.0
    max_plays: int = 1_000_000

    def __post_init__(self) -> None:
        if (
            min(self.components, self.epochs, self.batch, self.epoch_plays, self.values, self.max_plays) < 1
            or self.bins < 2
        ):
            raise ValueError(f"rbm: counts must be at least 1 and bins at least 2, got {self}")
        if not self.learning_rate > 0 or not self.c > 0:
            raise ValueError(f"rbm: learning_rate and c must be above 0, got {self}")


class Rbm(SkipModel):
    """RBM on the inputs of the content-based regression; it does not use the user."""

    name = "rbm"
    needs = Needs(ids=CONTENT_IDS, numbers=CONTENT_NUMBERS)
    Recipe = RbmRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe = self.recipe
        self.onehot = OneHot.learn(
            train, CONTENT_IDS, CONTENT_NUMBERS, recipe.bins, 1, self.name, max_values=recipe.values
        )
        machine = BernoulliRBM(
            recipe.components, learning_rate=recipe.learning_rate, batch_size=recipe.batch, random_state=seed
        )
        rng = np.random.default_rng(seed)
        positions_NM = self.onehot.positions(train)
        for _ in range(recipe.epochs):
            order_N = rng.permutation(len(train))[: recipe.epoch_plays]
            # A smaller last batch is dropped: the Markov chains have the size of a full batch.
            for start in range(0, max(len(order_N) - recipe.batch + 1, 1), recipe.batch):
                machine.partial_fit(self.onehot.matrix_at(positions_NM[order_N[start : start + recipe.batch]]))
        self.components_DW = machine.components_.astype(np.float32)
        self.hidden_D = machine.intercept_hidden_.astype(np.float32)
        sample = train.subsample(recipe.max_plays)
        h_ND, listened_N = self.hidden(sample), sample.require_both_classes(self.name)
        self.regression = Regression.learn(h_ND, listened_N, recipe.c)
        loss = log_loss(listened_N, self.regression.proba(h_ND))
        return [Epoch(loss, log_loss(valid.labels(), self._predict_in_chunks(valid)))]

    def hidden(self, plays: Plays) -> NDArray[np.float32]:
        """Return the probability that each hidden unit is on, (N, D) float32."""
        out_ND = np.empty((len(plays), len(self.hidden_D)), np.float32)
        for start in range(0, len(plays), _CHUNK):
            part = plays.rows(slice(start, start + _CHUNK))
            out_ND[start : start + len(part)] = sigmoid(self.onehot.matrix(part) @ self.components_DW.T + self.hidden_D)
        return out_ND

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self.regression.proba(self.hidden(plays))

    def _state(self) -> State:
        fields, arrays = self.onehot.state()
        named = add_prefix("onehot", arrays) | add_prefix("regression", self.regression.arrays())
        return {"fields": fields}, named | {"components": self.components_DW, "hidden": self.hidden_D}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.onehot = OneHot.restore(facts["fields"], select_prefix("onehot", arrays), self.name)
        self.regression = Regression.from_arrays(select_prefix("regression", arrays))
        self.components_DW, self.hidden_D = arrays["components"], arrays["hidden"]
