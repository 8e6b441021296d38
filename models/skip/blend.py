"""All models together: a logistic regression over what they say, or a weighted mean, then calibrated.

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
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from models.skip import registry
from models.skip.calibration import choose
from models.skip.interface import Epoch, History, Needs, SkipModel, State, log_loss, prefixed, read_card, sigmoid, under
from models.skip.metrics import auc
from models.skip.mix import Calibration, Mix, logit
from models.skip.plays import Plays

Make = Callable[[str], SkipModel]


@dataclass(frozen=True)
class BlendRecipe:
    """Members to choose from, folds, and by how much the mean log loss must fall for one more."""

    members: tuple[str, ...] = ("boosted_trees", "logistic_features", "neumf", "graphsage", "session_gru", "fm")
    folds: int = 3
    first_share: float = 0.4
    least_gain: float = 0.0002

    def __post_init__(self) -> None:
        if not self.members or len(set(self.members)) != len(self.members):
            raise ValueError(f"blend.members: at least one, each once, got {', '.join(self.members) or 'none'}")
        unknown = [name for name in self.members if name not in registry.NAMES]
        if unknown:
            raise ValueError(f"blend.members: no {', '.join(unknown)}; there are {', '.join(registry.NAMES)}")
        if self.folds < 1 or not 0 < self.first_share < 1 or self.least_gain < 0:
            raise ValueError(f"blend: folds at least 1, first_share in (0, 1), least_gain not below 0, got {self}")


def fold_borders(n: int, folds: int, first_share: float) -> list[int]:
    """Where the K folds begin and end, K + 1 places; the plays before the first are only learned from."""
    return [round(b) for b in np.linspace(first_share * n, n, folds + 1)]


def out_of_fold(make: Make, name: str, train: Plays, borders: Sequence[int], seed: int) -> NDArray[np.float64]:
    """What a model says about each fold after learning from what came before it: (N - borders[0],) probabilities."""
    return np.concatenate([proba_N for _, proba_N in forecasts(make, name, train, borders, seed)])


def forecasts(
    make: Make, name: str, train: Plays, borders: Sequence[int], seed: int
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
    "logistic": logistic, "mean": weighted_mean,
}  # fmt: skip


def fold_of(borders: Sequence[int]) -> NDArray[np.int64]:
    """Which fold each forecast play is in, (N - borders[0],)."""
    return np.repeat(np.arange(len(borders) - 1), np.diff(borders))


def select(
    folds: Mapping[str, NDArray[np.float64]],
    folds_listened_N: NDArray[np.int8],
    fold_N: NDArray[np.int64],
    valid: Mapping[str, NDArray[np.float64]],
    valid_listened_N: NDArray[np.int8],
    least_gain: float,
) -> tuple[list[str], Mix]:
    """Members that help, best first, and how they are mixed.

    `folds` and `valid` are log odds of every candidate. A mix is judged by its mean log loss over the folds, each with
    weights learned from the other folds, and validation, with weights from all folds: validation alone is small, and
    has told the members when to stop, which favours those that bent to it. Begin with the best member, add whichever
    helps most, stop where none takes off `least_gain`. Log loss tells two mixes apart on fewer plays than AUC does.
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
        if chosen and top[0] > best - least_gain:
            break
        best, how = top[0], top[2]
        chosen.append(top[1])
    return chosen, METHODS[how](np.stack([folds[n] for n in chosen], axis=1), folds_listened_N)


class Blend(SkipModel):
    """Reads what its members read; only members that help are kept, and fitted on all training plays."""

    name = "blend"
    needs = Needs(
        ids=("user", "track", "artist", "album", "genre"), numbers=("all",), categories=("all",), history=True
    )
    Recipe = BlendRecipe

    def __init__(self, recipe: BlendRecipe | None = None, make: Make = registry.make) -> None:
        """`make` makes a member, not fitted, by its name: with other recipes than the default, where wanted."""
        super().__init__(recipe)
        self.make = make
        self.members: dict[str, SkipModel] = {}

    def _fit(self, train: Plays, valid: Plays, seed: int) -> History:
        recipe = self.recipe
        borders = fold_borders(len(train), recipe.folds, recipe.first_share)
        folds = {name: logit(out_of_fold(self.make, name, train, borders, seed)) for name in recipe.members}
        fitted: dict[str, SkipModel] = {}
        held: dict[str, NDArray[np.float64]] = {}
        for name in recipe.members:
            fitted[name] = self.make(name)
            fitted[name].fit(train, valid, seed)
            held[name] = logit(fitted[name].predict_proba(valid))
        return self.compose(fitted, folds, held, train.labels()[borders[0] :], fold_of(borders), valid.labels())

    def compose(
        self,
        fitted: Mapping[str, SkipModel],
        folds: Mapping[str, NDArray[np.float64]],
        held: Mapping[str, NDArray[np.float64]],
        folds_listened_N: NDArray[np.int8],
        fold_N: NDArray[np.int64],
        valid_listened_N: NDArray[np.int8],
    ) -> History:
        """Make the blend from fitted members and their log odds on folds and on validation."""
        chosen, self.mix = select(folds, folds_listened_N, fold_N, held, valid_listened_N, self.recipe.least_gain)
        self.members = {name: fitted[name] for name in chosen}
        score_N = self.mix(np.stack([held[name] for name in chosen], axis=1))
        self.calibration = choose(valid_listened_N, score_N)
        folds_N = self.mix(np.stack([folds[name] for name in chosen], axis=1))
        self._fitted = True
        return [
            Epoch(
                log_loss(folds_listened_N, self.calibration(folds_N)),
                log_loss(valid_listened_N, self.calibration(score_N)),
            )
        ]

    @classmethod
    def of(cls, members: Mapping[str, SkipModel], mix: Mix, calibration: Calibration) -> Blend:
        """A blend of fitted members whose weights and calibration were learned before."""
        blend = cls(BlendRecipe(members=tuple(members)))
        blend.members, blend.mix, blend.calibration, blend._fitted = dict(members), mix, calibration, True
        return blend

    def weights(self) -> dict[str, float]:
        """Of each member that was kept."""
        return dict(zip(self.members, self.mix.weights_M.tolist(), strict=True))

    def _observe(self, plays: Plays) -> None:
        for member in self.members.values():
            member.observe(plays)

    def _proba(self, plays: Plays) -> NDArray[np.float64]:
        logits_NM = np.stack([logit(member.predict_proba(plays)) for member in self.members.values()], axis=1)
        return self.calibration(self.mix(logits_NM))

    def save(self, folder: Path) -> None:
        """Members in folders of their own, then what joins them."""
        self._must_be_fitted()
        for name, member in self.members.items():
            member.save(folder / name)
        super().save(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What save() wrote; ValueError as of any model, and for a member that is missing."""
        blend = super().load(folder)
        blend.members = {name: registry.load(folder / name) for name in read_card(folder)["facts"]["members"]}
        return blend

    def _state(self) -> State:
        facts = {"members": list(self.members), "method": self.mix.method, "calibration": self.calibration.kind}
        arrays = {"weights": self.mix.weights_M, "bias": np.asarray(self.mix.bias)}
        return facts, arrays | prefixed("calibration", self.calibration.arrays())

    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        self.mix = Mix(facts["method"], arrays["weights"], float(arrays["bias"]))
        self.calibration = Calibration.of(facts["calibration"], under("calibration", arrays))
