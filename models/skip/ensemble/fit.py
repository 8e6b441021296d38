"""Fitting of the ensemble: out-of-fold predictions, selection of members, and weights of their log odds.

Shapes   N plays, M members, K folds
Source   stacked generalisation (Wolpert 1992), as section 6.1 of the DSG17 report proposes; greedy choice of members
         after Caruana et al. 2004
Time     fold k is predicted by members trained on the training plays before it, so the weights are fitted on
         predictions of later plays, as in the service
Differs  weights are not negative: a member that would need a negative weight is excluded; the regression uses clipped
         log odds instead of probabilities
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.skip.data.arrays import log_loss, sigmoid
from models.skip.data.plays import Plays
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.estimators.base import SkipModel
from models.skip.evaluation.metrics import auc


def fold_borders(n: int, folds: int, initial_share: float) -> list[int]:
    """Return the K + 1 borders of the folds; plays before the first border are used for training only."""
    return [round(b) for b in np.linspace(initial_share * n, n, folds + 1)]


def out_of_fold(
    make: Callable[[str], SkipModel], name: str, train: Plays, borders: Sequence[int], seed: int
) -> NDArray[np.float64]:
    """Return the prediction of each fold by a model trained on the plays before it, (N - borders[0],)."""
    return np.concatenate([proba_N for _, proba_N in fold_predictions(make, name, train, borders, seed)])


def fold_predictions(
    make: Callable[[str], SkipModel], name: str, train: Plays, borders: Sequence[int], seed: int
) -> Iterator[tuple[Plays, NDArray[np.float64]]]:
    """Generate, fold by fold, its plays and their out-of-fold predictions.

    The latest tenth of the plays before a fold is the validation set.
    """
    for start, stop in pairwise(borders):
        cut = int(0.9 * start)
        model = make(name)
        model.fit(train.rows(slice(0, cut)), train.rows(slice(cut, start)), seed)
        fold = train.rows(slice(start, stop))
        model.observe(fold)
        yield fold, model.predict_proba(fold)


def fit_logistic(logits_NM: NDArray[np.float64], listened_N: NDArray[np.int8]) -> Mix:
    """Fit non-negative weights by log loss, with a small penalty towards equal weights that resolves ties."""
    m = logits_NM.shape[1]
    penalty = 1.0 / len(listened_N)

    def loss(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z_N = logits_NM @ v[:-1] + v[-1]
        gap_N = sigmoid(z_N) - listened_N
        deviation = v[:-1] - 1 / m
        value = float((np.logaddexp(0, z_N) - listened_N * z_N).mean() + penalty * deviation @ deviation)
        return value, np.concatenate([logits_NM.T @ gap_N / len(gap_N) + 2 * penalty * deviation, [gap_N.mean()]])

    start = np.concatenate([np.full(m, 1 / m), [0.0]])
    minimum = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * m + [(None, None)])
    return Mix("logistic", minimum.x[:-1], float(minimum.x[-1]))


def weighted_mean(logits_NM: NDArray[np.float64], listened_N: NDArray[np.int8]) -> Mix:
    """Return weights proportional to each member's AUC above one half, (M,), with sum 1."""
    above = np.asarray([max(auc(listened_N, column) - 0.5, 1e-6) for column in logits_NM.T])
    return Mix("mean", above / above.sum(), 0.0)


METHODS: dict[str, Callable[[NDArray[np.float64], NDArray[np.int8]], Mix]] = {
    "logistic": fit_logistic,
    "mean": weighted_mean,
}


def fold_of(borders: Sequence[int]) -> NDArray[np.int64]:
    """Return the fold of each out-of-fold play, (N - borders[0],)."""
    return np.repeat(np.arange(len(borders) - 1), np.diff(borders))


def select_members(
    folds: Mapping[str, NDArray[np.float64]],
    folds_listened_N: NDArray[np.int8],
    fold_N: NDArray[np.int64],
    valid: Mapping[str, NDArray[np.float64]],
    valid_listened_N: NDArray[np.int8],
    min_gain: float,
) -> tuple[list[str], Mix]:
    """Select members greedily by mean log loss and fit their weights.

    The log loss of a mix is the mean over the folds, each with weights fitted on the other folds, and validation, with
    weights fitted on all folds. Validation alone is small, and it was used for early stopping, which favours members
    that overfit it. The selection starts with the best member, adds the one that helps most, and stops when no member
    reduces the loss by `min_gain`. Log loss separates two mixes with fewer plays than AUC.

    Args:
        folds: Out-of-fold log odds of every candidate.
        folds_listened_N: Labels of the out-of-fold plays.
        fold_N: Fold of each of these plays.
        valid: Log odds of every candidate on the validation plays.
        valid_listened_N: Labels of the validation plays.
        min_gain: Smallest reduction of the log loss by another member.

    Returns:
        Names of the members, best first, and their mix.
    """

    def evaluate(names: list[str], method: str) -> float:
        logits_NM = np.stack([folds[n] for n in names], axis=1)
        losses = []
        for fold in np.unique(fold_N):
            in_fold = fold_N == fold
            if not in_fold.all():
                mix = METHODS[method](logits_NM[~in_fold], folds_listened_N[~in_fold])
                losses.append(log_loss(folds_listened_N[in_fold], sigmoid(mix(logits_NM[in_fold]))))
        mix_all = METHODS[method](logits_NM, folds_listened_N)
        losses.append(log_loss(valid_listened_N, sigmoid(mix_all(np.stack([valid[n] for n in names], axis=1)))))
        return float(np.mean(losses))

    chosen: list[str] = []
    best, best_method = np.inf, ""
    while len(chosen) < len(folds):
        candidates = [
            (evaluate([*chosen, n], method), n, method) for n in folds if n not in chosen for method in METHODS
        ]
        winner = min(candidates, key=lambda candidate: candidate[0])
        if chosen and winner[0] > best - min_gain:
            break
        best, best_method = winner[0], winner[2]
        chosen.append(winner[1])
    return chosen, METHODS[best_method](np.stack([folds[n] for n in chosen], axis=1), folds_listened_N)


@dataclass(frozen=True, eq=False)
class Blend:
    """Fitted ensemble.

    Attributes:
        members: Fitted models by name, in the order of the mix's weights.
        mix: Weights of their log odds.
        calibration: Map from the mix to probabilities.
    """

    members: Mapping[str, SkipModel]
    mix: Mix
    calibration: Calibration

    def predict_proba(self, plays: Plays) -> NDArray[np.float64]:
        """Return the probability that each play is listened to, (N,).

        Raises:
            ValueError: A member raises it.
        """
        logits_NM = np.stack([logit(member.predict_proba(plays)) for member in self.members.values()], axis=1)
        return self.calibration(self.mix(logits_NM))
