"""The report's two logistic regressions: content-based and collaborative.

Shapes   N plays, W positions of one-hot fields, G columns
Source   the DSG17 report, 4.1 (content-based: genre, artist, album, release date; C = 1) and 4.2 (collaborative: user
         and track with the track's listened and skipped share; C = 0.1)
Differs  shares are computed from earlier plays only, while the report's include the play's own label; ids are one-hot
         fields, while the report's may have been numbers; an id needs `min_count` plays for its own weight
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.one_hot import OneHot
from models.skip.estimators.base import Epoch, Losses, Needs, SkipModel

_ITERATIONS = 200


@dataclass(frozen=True)
class Regression:
    """Fitted logistic regression: logit = x w + b."""

    weights_G: NDArray[np.float64]
    bias: float

    @classmethod
    def learn(cls, x_NG: Any, listened_N: NDArray[np.int8], c: float) -> Regression:
        """Fit by L-BFGS.

        Args:
            x_NG: Columns of the plays, dense or sparse.
            listened_N: Labels.
            c: Inverse of the L2 penalty on the summed loss, as in scikit-learn.
        """
        fitted = LogisticRegression(C=c, max_iter=_ITERATIONS).fit(x_NG, listened_N)
        return cls(fitted.coef_[0].astype(np.float64), float(fitted.intercept_[0]))

    def proba(self, x_NG: Any) -> NDArray[np.float64]:
        """Return the probability of listening, (N,)."""
        return sigmoid(np.asarray(x_NG @ self.weights_G) + self.bias)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return weights and bias as arrays, for from_arrays()."""
        return {"weights": self.weights_G, "bias": np.asarray(self.bias)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Regression:
        """Rebuild the regression from the output of arrays()."""
        return cls(arrays["weights"], float(arrays["bias"]))


@dataclass(frozen=True)
class LinearRecipe:
    """Hyperparameters of a one-hot regression.

    Attributes:
        c: Inverse of the L2 penalty.
        min_count: Smallest number of plays of a value with its own position.
        bins: Number of bins of each numeric feature.
    """

    c: float = 1.0
    min_count: int = 2
    bins: int = 16

    def __post_init__(self) -> None:
        if not self.c > 0 or self.min_count < 1 or self.bins < 2:
            raise ValueError(f"linear: c must be above 0, min_count at least 1, bins at least 2, got {self}")


class _OneHotRegression(SkipModel):
    """Logistic regression over one-hot fields and binned numbers."""

    exact: tuple[str, ...]
    binned: tuple[str, ...]

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe = self.recipe
        self.onehot = OneHot.learn(train, self.exact, self.binned, recipe.bins, recipe.min_count, self.name)
        x_NW: csr_matrix = self.onehot.matrix(train)
        self.regression = Regression.learn(x_NW, train.labels(), recipe.c)
        fit_loss = log_loss(train.labels(), self.regression.proba(x_NW))
        return [Epoch(fit_loss, log_loss(valid.labels(), self._predict_in_chunks(valid)))]

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self.regression.proba(self.onehot.matrix(plays))

    def _state(self) -> State:
        fields, arrays = self.onehot.state()
        return {"fields": fields}, add_prefix("onehot", arrays) | add_prefix("regression", self.regression.arrays())

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.onehot = OneHot.restore(facts["fields"], select_prefix("onehot", arrays), self.name)
        self.regression = Regression.from_arrays(select_prefix("regression", arrays))


CONTENT_IDS = ("genre", "artist", "album")
CONTENT_NUMBERS = ("song_age_days", "duration_s")


class ContentBased(_OneHotRegression):
    """Regression on genre, artist, album, the track's age and duration; it does not use the user."""

    name = "content_based"
    needs = Needs(ids=CONTENT_IDS, numbers=CONTENT_NUMBERS)
    Recipe = LinearRecipe
    exact, binned = CONTENT_IDS, CONTENT_NUMBERS


@dataclass(frozen=True)
class CollaborativeRecipe(LinearRecipe):
    """Hyperparameters of the collaborative regression, with the report's C as default."""

    c: float = 0.1


class Collaborative(_OneHotRegression):
    """Regression on user, track, and the track's shares of listened and skipped earlier plays."""

    name = "collaborative"
    needs = Needs(ids=("user", "track"), numbers=("avg_song_listened", "skip_score"))
    Recipe = CollaborativeRecipe
    exact, binned = ("user", "track"), ("avg_song_listened", "skip_score")
