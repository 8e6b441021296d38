"""Permutation importance: the loss of AUC when one feature is shuffled.

Shapes   N plays, F numeric features
Source   Breiman 2001, section 10
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays
from models.skip.encoding.numeric import LISTENED, PLAYS
from models.skip.evaluation.metrics import auc

Predict = Callable[[Plays], NDArray[np.float64]]


def permutation_importance(predict: Predict, plays: Plays, draws: int = 3, seed: int = 0) -> dict[str, float]:
    """Return the loss of AUC when a feature, category or is_flow is shuffled among the plays, largest first.

    A pair of counts is shuffled together, as one feature.

    Args:
        predict: Returns the probability of each play.
        plays: Labelled plays.
        draws: Number of shuffles, whose losses are averaged.
        seed: Seed of the shuffles.

    Raises:
        ValueError: The plays have one class only, or `draws` is below 1.
    """
    listened_N = plays.require_both_classes("permutation importance")
    if draws < 1:
        raise ValueError(f"permutation importance: draws must be at least 1, got {draws}")
    rng = np.random.default_rng(seed)
    baseline = auc(listened_N, predict(plays))
    groups: dict[str, list[int]] = {}
    for f, name in enumerate(plays.names):
        base = name.removesuffix(LISTENED).removesuffix(PLAYS)
        groups.setdefault(base, []).append(f)
    losses: dict[str, float] = {}
    orders = [rng.permutation(len(plays)) for _ in range(draws)]
    for base, columns in groups.items():
        losses[base] = baseline - float(
            np.mean([auc(listened_N, predict(_shuffled(plays, order, columns))) for order in orders])
        )
    for name in plays.categories:
        shuffled = [
            replace(plays, categories=plays.categories | {name: plays.categories[name][order]}) for order in orders
        ]
        losses[name] = baseline - float(np.mean([auc(listened_N, predict(part)) for part in shuffled]))
    flows = [replace(plays, is_flow_N=plays.is_flow_N[order]) for order in orders]
    losses["is_flow"] = baseline - float(np.mean([auc(listened_N, predict(part)) for part in flows]))
    return dict(sorted(losses.items(), key=lambda item: -item[1]))


def _shuffled(plays: Plays, order_N: NDArray[np.int64], columns: list[int]) -> Plays:
    numbers_NF = plays.numbers_NF.copy()
    numbers_NF[:, columns] = plays.numbers_NF[order_N][:, columns]
    return replace(plays, numbers_NF=numbers_NF)
