"""Numeric features of a play as model inputs: smoothed rates, ranks, and flags for unknown values.

Shapes   N plays, F numeric features of a play, G output columns, C categories

A pair of features `<key>_plays`, `<key>_listened` counts the earlier plays of something (the user, the artist, this
user with this genre ...) and those listened to. It becomes `<key>_smoothed`, the rate (listened + a m) / (plays + a),
where m is the mean of all training plays: with few plays the rate stays near the mean. The strength a is the value in
STRENGTHS for which the rate, used as a probability, has the smallest log loss on training plays; this is empirical
Bayes with the maximum taken over a grid. The counts of a training play contain earlier plays only, so its own label
is not included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.skip.data.arrays import add_prefix, log_loss, select_prefix
from models.skip.data.plays import Plays
from models.skip.encoding.one_hot import OneHot

PLAYS, LISTENED = "_plays", "_listened"
STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0)
_LEARNED_FROM = 300_000  # training plays used to learn strengths and quantiles
_KNOTS = 65
_STEP = 1 << 17  # plays per step


def count_pairs(names: tuple[str, ...]) -> list[str]:
    """Return the keys that have both counts, in the order of the names."""
    keys = [name.removesuffix(PLAYS) for name in names if name.endswith(PLAYS)]
    return [key for key in keys if key + LISTENED in names]


class Numbers:
    """Numeric encoder: strengths of the smoothed rates and quantiles of the columns, learned from training plays."""

    def __init__(
        self,
        names: tuple[str, ...],
        categories: tuple[str, ...],
        mean: float,
        strengths: NDArray[np.float64],
        knots_GK: NDArray[np.float32],
        flags_G: NDArray[np.bool_] | None,
        model_name: str,
    ) -> None:
        """Build the encoder from learned parts.

        Args:
            names: Numeric features of the plays.
            categories: Categorical columns of the plays.
            mean: Share of listened training plays.
            strengths: Smoothing strength of each pair of counts.
            knots_GK: Quantiles of the columns of `raw`.
            flags_G: Whether a plain feature was unknown for some training play; None: all of them.
            model_name: Name of the model, for error messages.
        """
        self.names, self.categories, self.mean, self.model_name = names, categories, mean, model_name
        self.keys = count_pairs(names)
        self.strengths, self.knots_GK = strengths, knots_GK
        self.ranks = [_ranks(knots_K) for knots_K in knots_GK]
        counted = {key + LISTENED for key in self.keys}
        self.plain = tuple(name for name in names if name not in counted)
        self.flagged = tuple(g for g in range(len(self.plain)) if flags_G is None or flags_G[g])
        self.columns = (*(f"{key}_smoothed" for key in self.keys), *self.plain, "is_flow", *categories)

    @classmethod
    def learn(cls, train: Plays, model_name: str) -> Numbers:
        """Learn the encoder from all numeric features and categories of the training plays."""
        sample = train.rows(slice(None, None, max(1, len(train) // _LEARNED_FROM)))
        listened_N, mean = sample.labels(model_name), float(train.labels(model_name).mean(dtype=np.float64))
        strengths = []
        for key in count_pairs(train.names):
            play_count_N, listened_count_N = sample.numbers((key + PLAYS, key + LISTENED), model_name).T
            has_plays = play_count_N > 0
            losses = [
                log_loss(
                    listened_N[has_plays], (listened_count_N[has_plays] + a * mean) / (play_count_N[has_plays] + a)
                )
                if has_plays.any()
                else 0.0
                for a in STRENGTHS
            ]
            strengths.append(STRENGTHS[int(np.argmin(losses))])
        categories = tuple(sorted(train.categories))
        args = (train.names, categories, mean, np.asarray(strengths))
        raw_NG = cls(*args, np.empty((0, _KNOTS), np.float32), None, model_name).raw(sample)
        start = len(strengths)
        plain_NG = raw_NG[:, start : raw_NG.shape[1] - 1 - len(categories)]
        flags_G = np.asarray(np.isnan(plain_NG).any(axis=0))
        return cls(*args, _quantiles(raw_NG), flags_G, model_name)

    def raw(self, plays: Plays) -> NDArray[np.float32]:
        """Return the unscaled columns named in `columns`, (N, G): the input of boosted trees.

        Smoothed rates, then plain features with NaN, then is_flow, then categories as codes. Trees do not depend on the
        scale of a column.
        """
        out_NG = np.empty((len(plays), len(self.columns)), np.float32)
        for g, (key, a) in enumerate(zip(self.keys, self.strengths, strict=True)):
            play_count_N, listened_count_N = plays.numbers((key + PLAYS, key + LISTENED), self.model_name).T
            out_NG[:, g] = (np.nan_to_num(listened_count_N) + a * self.mean) / (np.nan_to_num(play_count_N) + a)
        at = len(self.keys)
        out_NG[:, at : at + len(self.plain)] = plays.numbers(self.plain, self.model_name)
        at += len(self.plain)
        out_NG[:, at] = plays.is_flow_N
        for g, name in enumerate(self.categories, at + 1):
            out_NG[:, g] = plays.category(name, self.model_name)
        return out_NG

    @property
    def width(self) -> int:
        """Number of columns of scaled()."""
        return len(self.keys) + len(self.plain) + len(self.flagged) + 1

    def scaled(self, plays: Plays) -> NDArray[np.float32]:
        """Return the scaled numeric columns, (N, width): the input of linear models and networks, without categories.

        Rates are log odds relative to the mean. Other features are ranks among training plays, from -1 to 1, which
        limits outliers. NaN becomes 0, with a flag column for each feature that was NaN in training. is_flow is 0 or 1.
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
        """Return the feature name of each column of scaled(); a flag has the name of its feature."""
        rates = tuple(f"{key}_smoothed" for key in self.keys)
        return (*rates, *self.plain, *(self.plain[g] for g in self.flagged), "is_flow")

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the learned parts as JSON values and arrays, for restore()."""
        facts = {"names": self.names, "categories": self.categories, "mean": self.mean}
        flags_G = np.isin(np.arange(len(self.plain)), self.flagged)
        return facts, {"strengths": self.strengths, "knots": self.knots_GK, "flags": flags_G}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> Numbers:
        """Rebuild the encoder from the output of state()."""
        names, categories = tuple(facts["names"]), tuple(facts["categories"])
        return cls(names, categories, facts["mean"], arrays["strengths"], arrays["knots"], arrays["flags"], model_name)


class Dense:
    """Encoder of dense columns: scaled numeric features, then one-hot categories, (N, G) float32.

    A category value has its own column if at least a thousandth of the training plays have it; the others share one.
    """

    def __init__(self, numbers: Numbers, onehot: OneHot) -> None:
        """Combine two encoders that were learned from the same plays."""
        self.numbers, self.onehot = numbers, onehot

    @classmethod
    def learn(cls, train: Plays, model_name: str) -> Dense:
        """Learn both encoders from the training plays."""
        numbers = Numbers.learn(train, model_name)
        min_count = max(2, -(-len(train) // 1000))
        return cls(numbers, OneHot.learn(train, numbers.categories, (), 2, min_count, model_name))

    @property
    def width(self) -> int:
        """Number of columns G."""
        return self.numbers.width + self.onehot.width

    def columns(self, plays: Plays, dtype: type = np.float32) -> NDArray[np.floating]:
        """Return the columns (N, G), computed in steps to bound memory.

        Args:
            plays: N plays.
            dtype: float16 halves the memory of stored training inputs.
        """
        out_NG: NDArray[Any] = np.empty((len(plays), self.width), dtype)
        for start in range(0, len(plays), _STEP):
            part = plays.rows(slice(start, start + _STEP))
            block = out_NG[start : start + len(part)]
            block[:, : self.numbers.width] = self.numbers.scaled(part)
            block[:, self.numbers.width :] = self.onehot.matrix(part).toarray()
        return out_NG

    def column_names(self) -> tuple[str, ...]:
        """Return, for each column, the name of its numeric feature, pair of counts or category."""
        sizes = zip(self.onehot.exact, self.onehot.vocabularies, strict=True)
        return (*self.numbers.scaled_names(), *(name for name, v in sizes for _ in range(len(v))))

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the learned parts as JSON values and arrays, for restore()."""
        facts, arrays = self.numbers.state()
        fields, field_arrays = self.onehot.state()
        return {"numbers": facts, "fields": fields}, add_prefix("numbers", arrays) | add_prefix("onehot", field_arrays)

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> Dense:
        """Rebuild the encoder from the output of state()."""
        numbers = Numbers.restore(facts["numbers"], select_prefix("numbers", arrays), model_name)
        return cls(numbers, OneHot.restore(facts["fields"], select_prefix("onehot", arrays), model_name))


def _quantiles(raw_NG: NDArray[np.float32]) -> NDArray[np.float32]:
    knots_GK = np.zeros((raw_NG.shape[1], _KNOTS), np.float32)
    for g in range(raw_NG.shape[1]):
        known_values = raw_NG[:, g][~np.isnan(raw_NG[:, g])]
        if len(known_values):
            knots_GK[g] = np.quantile(known_values, np.linspace(0, 1, _KNOTS))
    return knots_GK


def _ranks(knots_K: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return the distinct knots and their ranks, -1 to 1; equal knots have the rank of the middle one."""
    distinct, first, n = np.unique(knots_K, return_index=True, return_counts=True)
    return distinct, (2 * first + n - 1) / (len(knots_K) - 1) - 1
