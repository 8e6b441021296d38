"""The numbers of a play as models want them: counts become smoothed rates, heavy tails are tamed, NaN is told apart.

Shapes   N plays, F numbers of a play, G columns that come out, C categories

A pair of numbers `<key>_plays`, `<key>_listened` says how often something (the user, the artist, this user with this
genre ...) was played before, and how often listened to. It becomes `<key>_smoothed`, the rate (listened + a m) / (plays
+ a), m the mean of all training plays: with few plays it stays near the mean. The strength a is the one under which the
rate itself, used as a forecast, has the least log loss on training plays, which is empirical Bayes with a grid for the
maximum. A training play's counts hold earlier plays only, so that nothing of its own label is in what is measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays
from models.skip.encoding.one_hot import OneHot
from models.skip.estimators.base import log_loss, prefixed, under

PLAYS, LISTENED = "_plays", "_listened"
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_LEARNED_FROM = 300_000  # training plays from which strengths and quantiles are learned
_KNOTS = 65
_STEP = 1 << 17  # plays that are prepared at once


def pairs(names: tuple[str, ...]) -> list[str]:
    """Keys that have both counts, in the order of the names."""
    keys = [name.removesuffix(PLAYS) for name in names if name.endswith(PLAYS)]
    return [key for key in keys if key + LISTENED in names]


class Numbers:
    """Learned from training plays; then the same for every play."""

    def __init__(
        self,
        names: tuple[str, ...],
        categories: tuple[str, ...],
        mean: float,
        strengths: NDArray[np.float64],
        knots_GK: NDArray[np.float32],
        flags_G: NDArray[np.bool_] | None,
        for_whom: str,
    ) -> None:
        """Parts as learn() makes them: knots_GK the quantiles of the columns of raw(), flags_G which were unknown."""
        self.names, self.categories, self.mean, self.for_whom = names, categories, mean, for_whom
        self.keys = pairs(names)
        self.strengths, self.knots_GK = strengths, knots_GK
        self.ranks = [_ranks(knots_K) for knots_K in knots_GK]
        counted = {key + LISTENED for key in self.keys}
        self.plain = tuple(name for name in names if name not in counted)
        self.flagged = tuple(g for g in range(len(self.plain)) if flags_G is None or flags_G[g])
        self.columns = (*(f"{key}_smoothed" for key in self.keys), *self.plain, "is_flow", *categories)

    @classmethod
    def learn(cls, train: Plays, for_whom: str) -> Numbers:
        """All numbers and categories of the training plays."""
        some = train.rows(slice(None, None, max(1, len(train) // _LEARNED_FROM)))
        listened_N, mean = some.labels(for_whom), float(train.labels(for_whom).mean(dtype=np.float64))
        strengths = []
        for key in pairs(train.names):
            plays_N, heard_N = some.numbers((key + PLAYS, key + LISTENED), for_whom).T
            known = plays_N > 0
            losses = [
                log_loss(listened_N[known], (heard_N[known] + a * mean) / (plays_N[known] + a)) if known.any() else 0.0
                for a in STRENGTHS
            ]
            strengths.append(STRENGTHS[int(np.argmin(losses))])
        categories = tuple(sorted(train.categories))
        args = (train.names, categories, mean, np.asarray(strengths))
        raw_NG = cls(*args, np.empty((0, _KNOTS), np.float32), None, for_whom).raw(some)
        start = len(strengths)
        plain_NG = raw_NG[:, start : raw_NG.shape[1] - 1 - len(categories)]
        flags_G = np.asarray(np.isnan(plain_NG).any(axis=0))
        return cls(*args, _quantiles(raw_NG), flags_G, for_whom)

    def raw(self, plays: Plays) -> NDArray[np.float32]:
        """(N, G) as `columns`: rates, then numbers as they are, NaN kept, is_flow, and categories as codes.

        What boosted trees take, to whom the scale of a column is nothing.
        """
        out_NG = np.empty((len(plays), len(self.columns)), np.float32)
        for g, (key, a) in enumerate(zip(self.keys, self.strengths, strict=True)):
            plays_N, heard_N = plays.numbers((key + PLAYS, key + LISTENED), self.for_whom).T
            out_NG[:, g] = (np.nan_to_num(heard_N) + a * self.mean) / (np.nan_to_num(plays_N) + a)
        at = len(self.keys)
        out_NG[:, at : at + len(self.plain)] = plays.numbers(self.plain, self.for_whom)
        at += len(self.plain)
        out_NG[:, at] = plays.is_flow_N
        for g, name in enumerate(self.categories, at + 1):
            out_NG[:, g] = plays.category(name, self.for_whom)
        return out_NG

    @property
    def width(self) -> int:
        """Columns of scaled()."""
        return len(self.keys) + len(self.plain) + len(self.flagged) + 1

    def scaled(self, plays: Plays) -> NDArray[np.float32]:
        """(N, width): what linear models and networks take, categories left to one-hot or embeddings.

        Rates as log odds less those of the mean; other numbers by their rank among training plays, -1 to 1, so that no
        outlier outweighs the rest; NaN is 0, with a flag beside where training had any; is_flow as 0 or 1.
        """
        raw_NG = self.raw(plays)
        k, p = len(self.keys), len(self.plain)
        out_NW = np.empty((len(plays), self.width), np.float32)
        rate = np.clip(raw_NG[:, :k], 1e-3, 1 - 1e-3)
        out_NW[:, :k] = np.log(rate / (1 - rate)) - np.float32(np.log(self.mean / (1 - self.mean)))
        for g in range(k, k + p):
            out_NW[:, g] = np.where(np.isnan(raw_NG[:, g]), 0, np.interp(raw_NG[:, g], *self.ranks[g]))
        for at, g in enumerate(self.flagged, k + p):
            out_NW[:, at] = np.isnan(raw_NG[:, k + g])
        out_NW[:, -1] = raw_NG[:, k + p]
        return out_NW

    def scaled_names(self) -> tuple[str, ...]:
        """What each column of scaled() tells about: a flag stands under the name of its number."""
        rates = tuple(f"{key}_smoothed" for key in self.keys)
        return (*rates, *self.plain, *(self.plain[g] for g in self.flagged), "is_flow")

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What restore() takes."""
        facts = {"names": self.names, "categories": self.categories, "mean": self.mean}
        flags_G = np.isin(np.arange(len(self.plain)), self.flagged)
        return facts, {"strengths": self.strengths, "knots": self.knots_GK, "flags": flags_G}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], for_whom: str) -> Numbers:
        """What state() gave."""
        names, categories = tuple(facts["names"]), tuple(facts["categories"])
        return cls(names, categories, facts["mean"], arrays["strengths"], arrays["knots"], arrays["flags"], for_whom)


class Dense:
    """Scaled numbers and one-hot categories side by side: what a network or a regression reads, (N, G) float32.

    A category has a column of its own with a thousandth of the training plays; the others share one.
    """

    def __init__(self, numbers: Numbers, onehot: OneHot) -> None:
        """Both of the same training."""
        self.numbers, self.onehot = numbers, onehot

    @classmethod
    def learn(cls, train: Plays, for_whom: str) -> Dense:
        """From the training plays."""
        numbers = Numbers.learn(train, for_whom)
        least = max(2, -(-len(train) // 1000))
        return cls(numbers, OneHot.learn(train, numbers.categories, (), 2, least, for_whom))

    @property
    def width(self) -> int:
        """G."""
        return self.numbers.width + self.onehot.width

    def columns(self, plays: Plays, dtype: type = np.float32) -> NDArray[np.floating]:
        """(N, G), in steps that bound memory; float16 where many plays are kept for training."""
        out_NG: NDArray[Any] = np.empty((len(plays), self.width), dtype)
        for start in range(0, len(plays), _STEP):
            part = plays.rows(slice(start, start + _STEP))
            to = out_NG[start : start + len(part)]
            to[:, : self.numbers.width] = self.numbers.scaled(part)
            to[:, self.numbers.width :] = self.onehot.matrix(part).toarray()
        return out_NG

    def column_names(self) -> tuple[str, ...]:
        """Of each column the number, pair of counts or category that it tells about."""
        sizes = zip(self.onehot.exact, self.onehot.vocabularies, strict=True)
        return (*self.numbers.scaled_names(), *(name for name, v in sizes for _ in range(len(v))))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What restore() takes."""
        facts, arrays = self.numbers.state()
        fields, places = self.onehot.state()
        return {"numbers": facts, "fields": fields}, prefixed("numbers", arrays) | prefixed("onehot", places)

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], for_whom: str) -> Dense:
        """What state() gave."""
        numbers = Numbers.restore(facts["numbers"], under("numbers", arrays), for_whom)
        return cls(numbers, OneHot.restore(facts["fields"], under("onehot", arrays), for_whom))


def _quantiles(raw_NG: NDArray[np.float32]) -> NDArray[np.float32]:
    knots_GK = np.zeros((raw_NG.shape[1], _KNOTS), np.float32)
    for g in range(raw_NG.shape[1]):
        known = raw_NG[:, g][~np.isnan(raw_NG[:, g])]
        if len(known):
            knots_GK[g] = np.quantile(known, np.linspace(0, 1, _KNOTS))
    return knots_GK


def _ranks(knots_K: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Distinct knots and their ranks, -1 to 1: of equal ones the middle."""
    distinct, first, n = np.unique(knots_K, return_index=True, return_counts=True)
    return distinct, (2 * first + n - 1) / (len(knots_K) - 1) - 1
