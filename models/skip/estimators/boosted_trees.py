"""LightGBM: gradient boosted trees over all features of a play except ids.

Shapes   N plays, G columns of models/skip/encoding/numeric.py: smoothed rates, numbers with NaN, is_flow, categories
         as codes
Source   Ke et al. 2017
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from models.skip.data.arrays import State, add_prefix, select_prefix
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Numbers
from models.skip.estimators.base import Epoch, Losses, Needs, SkipModel

_STEP = 1 << 18
ROUNDS_DIVISOR = 10  # partial_fit() adds at most a tenth of the recipe's rounds


@dataclass(frozen=True)
class TreesRecipe:
    """Hyperparameters of LightGBM.

    Attributes:
        patience: Number of rounds without a better validation loss after which training stops; 0: none stops it.
        max_plays: Largest number of training plays; of more plays every k-th is used, because the time of a round grows
            with them, and small trees over a hundred columns gain little. The smoothing is learned from all plays.
    """

    learning_rate: float = 0.03
    leaves: int = 8
    min_leaf_plays: int = 60
    column_share: float = 0.5
    row_share: float = 0.7
    l2: float = 10.0
    rounds: int = 600
    patience: int = 50
    max_plays: int = 1_500_000

    def __post_init__(self) -> None:
        if (
            not self.learning_rate > 0
            or self.leaves < 2
            or min(self.min_leaf_plays, self.rounds, self.max_plays) < 1
            or self.patience < 0
        ):
            raise ValueError(
                f"boosted_trees: learning_rate must be above 0, leaves at least 2, counts at least 1, got {self}"
            )
        if not 0 < self.column_share <= 1 or not 0 < self.row_share <= 1 or self.l2 < 0:
            raise ValueError(f"boosted_trees: shares must be in (0, 1] and l2 at least 0, got {self}")


class BoostedTrees(SkipModel):
    """Gradient boosted trees; NaN is handled by LightGBM, which sends it to the better side of each split."""

    name = "boosted_trees"
    needs = Needs(numbers=("all",), categories=("all",))
    Recipe = TreesRecipe

    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        self.numbers = Numbers.learn(train, self.name)
        return self._grow(train, valid, seed, self.recipe.rounds, None)

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        """Add a few trees and leave the existing ones unchanged.

        Leaves refitted to a single day would lose what was learned before.
        """
        return self._grow(new, valid, seed, max(1, self.recipe.rounds // ROUNDS_DIVISOR), self.booster)

    def _grow(self, train: Plays, valid: Plays, seed: int, rounds: int, init_model: lgb.Booster | None) -> Losses:
        recipe = self.recipe
        settings = {
            "objective": "binary",
            "metric": "binary_logloss",
            "learning_rate": recipe.learning_rate,
            "num_leaves": recipe.leaves,
            "min_data_in_leaf": recipe.min_leaf_plays,
            "feature_fraction": recipe.column_share,
            "bagging_fraction": recipe.row_share,
            "bagging_freq": 1,
            "lambda_l2": recipe.l2,
            "seed": seed,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }
        names = [
            f"c{g}" for g in range(len(self.numbers.columns))
        ]  # LightGBM rejects sample characters in feature names
        sample = train.subsample(self.recipe.max_plays)
        data = lgb.Dataset(
            self._matrix(sample), sample.require_both_classes(self.name), feature_name=names, params=settings
        )
        validation = data.create_valid(self._matrix(valid), valid.labels())
        losses: dict[str, dict[str, list[float]]] = {}
        callbacks: list[Callable[..., None]] = [lgb.record_evaluation(losses)]
        if recipe.patience:
            callbacks.append(lgb.early_stopping(recipe.patience, first_metric_only=True, verbose=False))
        booster = lgb.train(
            settings,
            data,
            rounds,
            valid_sets=[data, validation],
            valid_names=["train", "valid"],
            init_model=init_model,
            callbacks=callbacks,
        )
        self.booster = lgb.Booster(model_str=booster.model_to_string(num_iteration=booster.best_iteration))
        curves = zip(losses["train"]["binary_logloss"], losses["valid"]["binary_logloss"], strict=True)
        return [Epoch(float(a), float(b)) for a, b in curves]

    def contributions(self, plays: Plays) -> NDArray[np.float64]:
        """Return the contribution of each column to the log odds, relative to the mean training play (SHAP), (N, G)."""
        return np.asarray(self.booster.predict(self.numbers.raw(plays), pred_contrib=True))[:, :-1]

    def columns(self) -> tuple[str, ...]:
        """Return the feature name of each column of contributions(), (G,)."""
        return self.numbers.columns

    def mean(self) -> float:
        """Return the share of the training plays that were listened to."""
        return self.numbers.mean

    def _matrix(self, plays: Plays) -> NDArray[np.float32]:
        out_NG = np.empty((len(plays), len(self.numbers.columns)), np.float32)
        for start in range(0, len(plays), _STEP):
            part = plays.rows(slice(start, start + _STEP))
            out_NG[start : start + len(part)] = self.numbers.raw(part)
        return out_NG

    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        if not len(plays):  # LightGBM rejects an empty matrix
            return np.empty(0)
        return np.asarray(self.booster.predict(self.numbers.raw(plays)), np.float64)

    def _state(self) -> State:
        facts, arrays = self.numbers.state()
        text = self.booster.model_to_string().encode()
        return {"numbers": facts}, add_prefix("numbers", arrays) | {"trees": np.frombuffer(text, np.uint8)}

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.numbers = Numbers.restore(facts["numbers"], select_prefix("numbers", arrays), self.name)
        self.booster = lgb.Booster(model_str=arrays["trees"].tobytes().decode())
