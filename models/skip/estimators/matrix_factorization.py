"""Two matrix factorisations of users and tracks: truncated SVD with a regression on top, and PMF with biases.

Shapes   N plays, W positions of one-hot fields, D factors, U users, T tracks
Source   the DSG17 report, 4.3 (the inputs of collaborative filtering with context and time of day, truncated SVD to 6
         components, then logistic regression) and 4.4 (PMF for a binary outcome: sigmoid, biases of user and track,
         gradient descent, 10 factors, learning rate and regularisation 0.01); Salakhutdinov, Mnih 2007 for PMF
Differs  PMF starts from the log odds of the mean and stops after the epoch with the best validation loss; ids with
         fewer than `min_count` training plays share one row
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.extmath import randomized_svd

from blockfactor.compiled import kernel
from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import Plays
from models.skip.encoding.one_hot import OneHot, Vocabulary
from models.skip.estimators.base import Epoch, Losses, Needs, SkipModel
from models.skip.estimators.early_stopping import stop_early
from models.skip.estimators.onehot_regression import Regression


@dataclass(frozen=True)
class SvdRecipe:
    """Hyperparameters of truncated SVD.

    Attributes:
        components: Number of latent dimensions.
        c: Inverse of the L2 penalty of the regression.
        min_count: Smallest number of plays of a value with its own position.
    """

    components: int = 6
    c: float = 1.0
    min_count: int = 1

    def __post_init__(self) -> None:
        if self.components < 1 or not self.c > 0 or self.min_count < 1:
            raise ValueError(f"truncated_svd: components, c and min_count must be positive, got {self}")


SVD_FIELDS = ("user", "track", "context_type", "bin_time")
SVD_NUMBERS = ("avg_song_listened", "skip_score")
_BINS = 6


class TruncatedSvd(SkipModel):
    """Truncated SVD of one-hot rows (user, track, context, time of day, the track's shares), then a regression."""

    name = "truncated_svd"
    needs = Needs(ids=("user", "track"), numbers=SVD_NUMBERS, categories=("context_type", "bin_time"))
    Recipe = SvdRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe = self.recipe
        self.onehot = OneHot.learn(train, SVD_FIELDS, SVD_NUMBERS, _BINS, recipe.min_count, self.name)
        x_NW = self.onehot.matrix(train)
        if recipe.components >= min(x_NW.shape):
            raise ValueError(
                f"truncated_svd.components: must be below the rank, at most {min(x_NW.shape) - 1} for these plays, "
                f"got {recipe.components}"
            )
        _, sigma_D, v_DW = randomized_svd(x_NW, recipe.components, n_iter=5, random_state=seed)
        # Each latent dimension is scaled to mean square 1 over training, so the penalty is equal for all.
        self.v_WD = np.ascontiguousarray(v_DW.T * (np.sqrt(len(train)) / sigma_D), np.float32)
        latent_ND = x_NW @ self.v_WD
        self.regression = Regression.learn(latent_ND, train.labels(), recipe.c)
        loss = log_loss(train.labels(), self.regression.proba(latent_ND))
        return [Epoch(loss, log_loss(valid.labels(), self._predict_in_chunks(valid)))]

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self.regression.proba(self.onehot.matrix(plays) @ self.v_WD)

    def _state(self) -> State:
        fields, arrays = self.onehot.state()
        named = add_prefix("onehot", arrays) | add_prefix("regression", self.regression.arrays()) | {"v": self.v_WD}
        return {"fields": fields}, named

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.onehot = OneHot.restore(facts["fields"], select_prefix("onehot", arrays), self.name)
        self.regression = Regression.from_arrays(select_prefix("regression", arrays))
        self.v_WD = arrays["v"]


@dataclass(frozen=True)
class PmfRecipe:
    """Hyperparameters of PMF, with the report's values as defaults.

    Attributes:
        patience: Number of epochs without a better validation loss after which training stops; 0: none stops it.
        min_count: Smallest number of plays of an id with its own row.
    """

    factors: int = 10
    learning_rate: float = 0.01
    regularisation: float = 0.01
    epochs: int = 30
    patience: int = 3
    min_count: int = 1

    def __post_init__(self) -> None:
        if min(self.factors, self.epochs, self.min_count) < 1 or self.patience < 0:
            raise ValueError(f"pmf: factors, epochs, min_count must be at least 1, patience at least 0, got {self}")
        if not self.learning_rate > 0 or self.regularisation < 0:
            raise ValueError(f"pmf: learning_rate must be above 0 and regularisation at least 0, got {self}")


class Pmf(SkipModel):
    """PMF: log odds = mean + bias of user + bias of track + user's factors . track's factors."""

    name = "pmf"
    needs = Needs(ids=("user", "track"))
    Recipe = PmfRecipe
    _PARTS = ("user_bias", "track_bias", "user", "track")

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe, listened_N = self.recipe, train.labels()
        self.users = Vocabulary.learn(train.user_N, recipe.min_count)
        self.tracks = Vocabulary.learn(train.track_N, recipe.min_count)
        rng = np.random.default_rng(seed)
        mean = listened_N.mean(dtype=np.float64)
        self.mean = float(np.log(mean / (1 - mean)))
        sizes = (len(self.users), len(self.tracks))
        bias = [np.zeros(n, np.float32) for n in sizes]
        factors = [(0.1 * rng.standard_normal((n, recipe.factors))).astype(np.float32) for n in sizes]
        # Without rare ids the row of unknown ids gets no training and must add nothing.
        for table in factors:
            table[0] = 0
        self.parts = dict(zip(self._PARTS, (*bias, *factors), strict=True))
        user_N, track_N = self._codes(train)
        valid_ids = self._codes(valid)

        def epoch() -> float:
            order_N = rng.permutation(len(train))
            loss = _descend(
                order_N,
                user_N,
                track_N,
                listened_N,
                np.float32(self.mean),
                np.float32(recipe.learning_rate),
                np.float32(recipe.regularisation),
                *self.parts.values(),
            )
            return loss / len(train)

        return stop_early(
            epoch,
            lambda: log_loss(valid.labels(), self._score(*valid_ids)),
            tuple(self.parts.values()),
            recipe.epochs,
            recipe.patience,
        )

    def _codes(self, plays: Plays) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        return self.users.codes(plays.user_N), self.tracks.codes(plays.track_N)

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self._score(*self._codes(plays))

    def _score(self, user_N: NDArray[np.int32], track_N: NDArray[np.int32]) -> NDArray[np.float64]:
        user_bias_U, track_bias_T, user_UD, track_TD = self.parts.values()
        dot_N = np.vecdot(user_UD[user_N], track_TD[track_N])
        return sigmoid(self.mean + user_bias_U[user_N] + track_bias_T[track_N] + dot_N)

    def _state(self) -> State:
        ids = {"users": self.users.values_V, "tracks": self.tracks.values_V}
        return {"mean": self.mean}, ids | add_prefix("part", self.parts)

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.users, self.tracks = Vocabulary(arrays["users"]), Vocabulary(arrays["tracks"])
        self.mean = facts["mean"]
        parts = select_prefix("part", arrays)
        self.parts = {name: parts[name] for name in self._PARTS}


@kernel
def _descend(
    order_N: NDArray[np.int64],
    user_N: NDArray[np.int32],
    track_N: NDArray[np.int32],
    listened_N: NDArray[np.int8],
    mean: np.float32,
    rate: np.float32,
    reg: np.float32,
    user_bias_U: NDArray[np.float32],
    track_bias_T: NDArray[np.float32],
    user_UD: NDArray[np.float32],
    track_TD: NDArray[np.float32],
) -> float:
    """Run one epoch of stochastic gradient descent on the log loss, play by play; return the sum of losses."""
    loss = 0.0
    for n in order_N:
        u, t = user_N[n], track_N[n]
        z = mean + user_bias_U[u] + track_bias_T[t]
        for d in range(user_UD.shape[1]):
            z += user_UD[u, d] * track_TD[t, d]
        p = np.float32(1 / (1 + np.exp(-z)))
        y = np.float32(listened_N[n])
        loss -= np.log(max(p if y > 0 else 1 - p, np.float32(1e-7)))
        step = rate * (y - p)
        user_bias_U[u] += step - rate * reg * user_bias_U[u]
        track_bias_T[t] += step - rate * reg * track_bias_T[t]
        for d in range(user_UD.shape[1]):
            a, b = user_UD[u, d], track_TD[t, d]
            user_UD[u, d] += step * b - rate * reg * a
            track_TD[t, d] += step * a - rate * reg * b
    return loss
