"""Factorisation machine over the ids, categories and binned numbers of a play.

Shapes   N plays, M fields, W positions of all fields, D factors
Source   Rendle 2010, eq. 1 and 5; the report's settings: rank 30, fastFM's l2_reg_w = 0.1 and l2_reg_V = 0.01
Differs  fastFM's 150 iterations are sweeps of its own least squares solver, and its penalties are weighed against a
         sum over all plays. This implementation runs AdaGrad on the log loss, one play after the other (Duchi et al.
         2011; the solver of libffm), penalizes the weights that a play uses, and stops early on validation. With
         millions of plays, an epoch is a sample of them
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from blockfactor.compiled import kernel
from models.skip.data.arrays import State, add_prefix, log_loss, select_prefix, sigmoid
from models.skip.data.plays import IDS, Plays
from models.skip.encoding.model_inputs import field_positions, numeric_names, with_rates
from models.skip.encoding.numeric import Numbers
from models.skip.encoding.one_hot import OneHot
from models.skip.estimators.base import Losses, Needs, SkipModel
from models.skip.estimators.early_stopping import stop_early

PARAMETERS = (
    "bias_1",
    "linear_W",
    "factors_WD",
    "bias_sq",
    "linear_sq",
    "factors_sq",
)  # in the order of the arguments of _descend()


@dataclass(frozen=True)
class FmRecipe:
    """Hyperparameters of the factorisation machine.

    Attributes:
        l2_linear: Penalty of the linear weights, per play.
        l2_factors: Penalty of the factors, per play.
        epoch_plays: Largest number of plays per epoch.
        patience: Number of epochs without a better validation loss after which training stops; 0: none stops it.
        min_count: Smallest number of plays of a value with its own position.
        bins: Number of bins of each numeric feature.
    """

    rank: int = 30
    learning_rate: float = 0.01
    l2_linear: float = 1e-5
    l2_factors: float = 1e-3
    epochs: int = 12
    epoch_plays: int = 1_000_000
    patience: int = 2
    min_count: int = 5
    bins: int = 12

    def __post_init__(self) -> None:
        if min(self.rank, self.epochs, self.epoch_plays, self.min_count) < 1 or self.bins < 2:
            raise ValueError(
                f"fm: rank, epochs, epoch_plays, min_count must be at least 1 and bins at least 2, got {self}"
            )
        if not self.learning_rate > 0 or min(self.l2_linear, self.l2_factors, self.patience) < 0:
            raise ValueError(f"fm: learning_rate must be above 0, penalties and patience at least 0, got {self}")


class FactorisationMachine(SkipModel):
    """Factorisation machine over all ids, all categories, is_flow, and binned numbers including smoothed rates."""

    name = "fm"
    needs = Needs(ids=IDS, numbers=("all",), categories=("all",))
    Recipe = FmRecipe
    bias_1: NDArray[np.float32]
    linear_W: NDArray[np.float32]
    factors_WD: NDArray[np.float32]

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        recipe, listened_N = self.recipe, train.labels()
        self.numbers = Numbers.learn(train, self.name)
        exact = (*IDS, *sorted(train.categories), "is_flow")
        binned = numeric_names(self.numbers.columns, self.numbers.categories)
        self.onehot = OneHot.learn(
            train,
            exact,
            binned,
            recipe.bins,
            recipe.min_count,
            self.name,
            prepare=lambda sample: with_rates(self.numbers, sample),
        )
        rng = np.random.default_rng(seed)
        mean = listened_N.mean(dtype=np.float64)
        self.bias_1 = np.asarray([np.log(mean / (1 - mean))], np.float32)
        self.linear_W = np.zeros(self.onehot.width, np.float32)
        self.factors_WD = (0.02 * rng.standard_normal((self.onehot.width, recipe.rank))).astype(np.float32)
        # AdaGrad's sums of squares make steps of frequent positions small; partial_fit() continues with them.
        self.bias_sq, self.linear_sq = np.ones_like(self.bias_1), np.ones_like(self.linear_W)
        self.factors_sq = np.ones_like(self.factors_WD)
        positions_NM = self.positions(train)
        seen_W = np.zeros(self.onehot.width, bool)
        for position_N in positions_NM.T:
            seen_W[position_N] = True
        self.factors_WD[~seen_W] = 0  # a position without training plays adds nothing
        return self._run_epochs(positions_NM, listened_N, valid, rng, recipe.epochs)

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        return self._run_epochs(self.positions(new), new.labels(), valid, np.random.default_rng(seed), 1)

    def _run_epochs(
        self,
        positions_NM: NDArray[np.int32],
        listened_N: NDArray[np.int8],
        valid: Plays,
        rng: np.random.Generator,
        epochs: int,
    ) -> Losses:
        """Run epochs of AdaGrad with early stopping; the weights of the best epoch remain."""
        recipe, valid_positions = self.recipe, self.positions(valid)
        parameters = tuple(getattr(self, name) for name in PARAMETERS)

        def epoch() -> float:
            order_N = rng.permutation(len(listened_N))[: recipe.epoch_plays]
            loss = _descend(
                order_N,
                positions_NM,
                listened_N,
                np.float32(recipe.learning_rate),
                np.float32(recipe.l2_linear),
                np.float32(recipe.l2_factors),
                *parameters,
            )
            return loss / len(order_N)

        return stop_early(
            epoch, lambda: log_loss(valid.labels(), self._score(valid_positions)), parameters, epochs, recipe.patience
        )

    def positions(self, plays: Plays) -> NDArray[np.int32]:
        """Return the input of the machine: one position per field, (N, M)."""
        return field_positions(self.numbers, self.onehot, plays)

    def _score(self, positions_NM: NDArray[np.int32]) -> NDArray[np.float64]:
        return sigmoid(_logits(positions_NM, self.bias_1, self.linear_W, self.factors_WD))

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        return self._score(self.positions(plays))

    def _state(self) -> State:
        facts, arrays = self.numbers.state()
        fields, onehot_arrays = self.onehot.state()
        parameters = {name: getattr(self, name) for name in PARAMETERS}
        return {"numbers": facts, "fields": fields}, add_prefix("numbers", arrays) | add_prefix(
            "onehot", onehot_arrays
        ) | parameters

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.numbers = Numbers.restore(facts["numbers"], select_prefix("numbers", arrays), self.name)
        self.onehot = OneHot.restore(facts["fields"], select_prefix("onehot", arrays), self.name)
        for name in PARAMETERS:
            setattr(self, name, np.array(arrays[name]))


@kernel
def _logits(
    positions_NM: NDArray[np.int32],
    bias_1: NDArray[np.float32],
    linear_W: NDArray[np.float32],
    factors_WD: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Return eq. 5: bias + linear + half of (square of the sum - sum of the squares) of the factors, (N,)."""
    n, m = positions_NM.shape
    out_N = np.empty(n, np.float32)
    for i in range(n):
        z = bias_1[0]
        for j in range(m):
            z += linear_W[positions_NM[i, j]]
        for d in range(factors_WD.shape[1]):
            total = np.float32(0)
            squares = np.float32(0)
            for j in range(m):
                v = factors_WD[positions_NM[i, j], d]
                total += v
                squares += v * v
            z += np.float32(0.5) * (total * total - squares)
        out_N[i] = z
    return out_N


@kernel
def _descend(
    order_N: NDArray[np.int64],
    positions_NM: NDArray[np.int32],
    listened_N: NDArray[np.int8],
    rate: np.float32,
    l2_w: np.float32,
    l2_v: np.float32,
    bias_1: NDArray[np.float32],
    linear_W: NDArray[np.float32],
    factors_WD: NDArray[np.float32],
    bias_sq: NDArray[np.float32],
    linear_sq: NDArray[np.float32],
    factors_sq: NDArray[np.float32],
) -> float:
    """Run one epoch of AdaGrad on the log loss, one play after the other; return the sum of losses."""
    loss = 0.0
    m, rank = positions_NM.shape[1], factors_WD.shape[1]
    total_D = np.empty(rank, np.float32)
    for n in order_N:
        total_D[:] = 0
        z = bias_1[0]
        squares = np.float32(0)
        for j in range(m):
            w = positions_NM[n, j]
            z += linear_W[w]
            for d in range(rank):
                v = factors_WD[w, d]
                total_D[d] += v
                squares += v * v
        pair = -squares
        for d in range(rank):
            pair += total_D[d] * total_D[d]
        z += np.float32(0.5) * pair
        p = np.float32(1 / (1 + np.exp(-z)))
        y = np.float32(listened_N[n])
        loss -= np.log(max(p if y > 0 else 1 - p, np.float32(1e-7)))
        g = p - y
        bias_sq[0] += g * g
        bias_1[0] -= rate * g / np.sqrt(bias_sq[0])
        for j in range(m):
            w = positions_NM[n, j]
            slope = g + l2_w * linear_W[w]
            linear_sq[w] += slope * slope
            linear_W[w] -= rate * slope / np.sqrt(linear_sq[w])
            for d in range(rank):
                v = factors_WD[w, d]
                slope = g * (total_D[d] - v) + l2_v * v
                factors_sq[w, d] += slope * slope
                factors_WD[w, d] = v - rate * slope / np.sqrt(factors_sq[w, d])
    return loss
