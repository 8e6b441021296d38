"""Models joined: a logistic regression over what they say, or a weighted mean; then models/skip/ensemble/calibration.py.

Shapes   N plays, M members, K folds
Source   stacked generalisation (Wolpert 1992), as section 6.1 of the DSG17 report proposes; greedy choice of members
         after Caruana et al. 2004
Time     fold k is forecast by members that learned from the training plays before it, so the regression sees scores
         such as it will meet: of models about later plays
Differs  weights are not negative: a member that would be turned round is left out; the fast learner of weights meets
         log odds, clipped, in place of probabilities
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.skip.data.plays import Plays
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.estimators.base import SkipModel, log_loss, sigmoid
from models.skip.evaluation.metrics import auc


def fold_borders(n: int, folds: int, initial_share: float) -> list[int]:
    """Where the K folds begin and end, K + 1 places; the plays before the first are only learned from."""
    return [round(b) for b in np.linspace(initial_share * n, n, folds + 1)]


def out_of_fold(
    make: Callable[[str], SkipModel], name: str, train: Plays, borders: Sequence[int], seed: int
) -> NDArray[np.float64]:
    """What a model says about each fold after learning from what came before it: (N - borders[0],) probabilities."""
    return np.concatenate([proba_N for _, proba_N in forecasts(make, name, train, borders, seed)])


def forecasts(
    make: Callable[[str], SkipModel], name: str, train: Plays, borders: Sequence[int], seed: int
) -> Iterator[tuple[Plays, NDArray[np.float64]]]:
    """Fold by fold, its plays and what out_of_fold() says of them; the newest tenth before a fold is its validation."""
    for start, stop in pairwise(borders):
        cut = int(0.9 * start)
        model = make(name)
        model.fit(train.rows(slice(0, cut)), train.rows(slice(cut, start)), seed)
        fold = train.rows(slice(start, stop))
        model.observe(fold)
        yield fold, model.predict_proba(fold)


def logistic(logits_NM: NDArray[np.float64], listened_N: NDArray[np.int8]) -> Mix:
    """The weights with the least log loss, none below 0; pulled a little to the plain mean, which settles ties."""
    m = logits_NM.shape[1]
    pull = 1.0 / len(listened_N)

    def loss(v: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        z_N = logits_NM @ v[:-1] + v[-1]
        gap_N = sigmoid(z_N) - listened_N
        away = v[:-1] - 1 / m
        value = float((np.logaddexp(0, z_N) - listened_N * z_N).mean() + pull * away @ away)
        return value, np.concatenate([logits_NM.T @ gap_N / len(gap_N) + 2 * pull * away, [gap_N.mean()]])

    start = np.concatenate([np.full(m, 1 / m), [0.0]])
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0, None)] * m + [(None, None)])
    return Mix("logistic", found.x[:-1], float(found.x[-1]))


def weighted_mean(logits_NM: NDArray[np.float64], listened_N: NDArray[np.int8]) -> Mix:
    """Weights by how far each member's AUC is above one half, (M,), of sum 1."""
    above = np.asarray([max(auc(listened_N, column) - 0.5, 1e-6) for column in logits_NM.T])
    return Mix("mean", above / above.sum(), 0.0)


METHODS: dict[str, Callable[[NDArray[np.float64], NDArray[np.int8]], Mix]] = {
    "logistic": logistic,
    "mean": weighted_mean,
}


def fold_of(borders: Sequence[int]) -> NDArray[np.int64]:
    """Which fold each forecast play is in, (N - borders[0],)."""
    return np.repeat(np.arange(len(borders) - 1), np.diff(borders))


def select(
    folds: Mapping[str, NDArray[np.float64]],
    folds_listened_N: NDArray[np.int8],
    fold_N: NDArray[np.int64],
    valid: Mapping[str, NDArray[np.float64]],
    valid_listened_N: NDArray[np.int8],
    min_gain: float,
) -> tuple[list[str], Mix]:
    """Members that help, best first, and how they are mixed.

    `folds` and `valid` are log odds of every candidate. A mix is judged by its mean log loss over the folds, each with
    weights learned from the other folds, and validation, with weights from all folds: validation alone is small, and
    has told the members when to stop, which favours those that bent to it. Begin with the best member, add whichever
    helps most, stop where none takes off `min_gain`. Log loss tells two mixes apart on fewer plays than AUC does.
    """

    def judge(names: list[str], method: str) -> float:
        logits_NM = np.stack([folds[n] for n in names], axis=1)
        found = []
        for fold in np.unique(fold_N):
            mine = fold_N == fold
            if not mine.all():
                mix = METHODS[method](logits_NM[~mine], folds_listened_N[~mine])
                found.append(log_loss(folds_listened_N[mine], sigmoid(mix(logits_NM[mine]))))
        whole = METHODS[method](logits_NM, folds_listened_N)
        found.append(log_loss(valid_listened_N, sigmoid(whole(np.stack([valid[n] for n in names], axis=1)))))
        return float(np.mean(found))

    chosen: list[str] = []
    best, how = np.inf, ""
    while len(chosen) < len(folds):
        trials = [(judge([*chosen, n], method), n, method) for n in folds if n not in chosen for method in METHODS]
        top = min(trials, key=lambda trial: trial[0])
        if chosen and top[0] > best - min_gain:
            break
        best, how = top[0], top[2]
        chosen.append(top[1])
    return chosen, METHODS[how](np.stack([folds[n] for n in chosen], axis=1), folds_listened_N)


@dataclass(frozen=True, eq=False)
class Blend:
    """Fitted members by name, in the order of the mix's weights, and what joins their answers."""

    members: Mapping[str, SkipModel]
    mix: Mix
    calibration: Calibration

    def predict_proba(self, plays: Plays) -> NDArray[np.float64]:
        """How likely each play is to be listened to, (N,); ValueError as of the members."""
        logits_NM = np.stack([logit(member.predict_proba(plays)) for member in self.members.values()], axis=1)
        return self.calibration(self.mix(logits_NM))
