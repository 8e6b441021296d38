"""Inputs of the exported graph of each model, computed with NumPy: the same code in training, the gate and the service.

Shapes   N plays, G columns, H positions of a history, S features of an earlier play, M one-hot fields

    columns  x (N, G) float32: scaled numbers and one-hot categories          regression
    raw      x (N, G) float32: smoothed rates, numbers with NaN, codes        trees
    ids      user, track (N,) int64 codes, and x as columns                   networks over ids
    signs    signs (N, H, S) float32 of earlier plays, and x as columns       session network
    places   places (N, M) int64                                              factorisation machine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from models.skip.data.arrays import State, prefixed, under
from models.skip.data.play_history import QUERY_COLUMNS, Log, history_features
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense, Numbers
from models.skip.encoding.one_hot import OneHot, Vocabulary

Kind = Literal["columns", "raw", "ids", "signs", "places"]
_STEP = 1 << 18  # plays per step: bounds the size of the copy of their numeric features


@dataclass(frozen=True, eq=False)
class Feeds:
    """How plays become the inputs of one graph; the parts that a kind does not need are None, or 0."""

    kind: Kind
    dense: Dense | None = None
    numbers: Numbers | None = None
    onehot: OneHot | None = None
    users: Vocabulary | None = None
    tracks: Vocabulary | None = None
    length: int = 0

    def __call__(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Inputs by name; `log` holds the plays whose outcome is known, and only `signs` looks at it.

        Raises:
            ValueError: a number or category is missing.
        """
        if self.kind == "raw":
            assert self.numbers is not None
            return {"x": self.numbers.raw(plays)}
        if self.kind == "places":
            assert self.numbers is not None
            assert self.onehot is not None
            return {"places": field_positions(self.numbers, self.onehot, plays).astype(np.int64)}
        assert self.dense is not None
        found: dict[str, np.ndarray] = {}
        if self.kind == "ids":
            assert self.users is not None
            assert self.tracks is not None
            found = {
                "user": self.users.codes(plays.user_N).astype(np.int64),
                "track": self.tracks.codes(plays.track_N).astype(np.int64),
            }
        elif self.kind == "signs":
            found = {
                "signs": history_features(
                    log, {name: getattr(plays, f"{name}_N") for name in QUERY_COLUMNS}, self.length
                )
            }
        return found | {"x": np.asarray(self.dense.columns(plays), np.float32)}

    def state(self) -> State:
        """What restore() takes: JSON, and arrays by name."""
        facts: dict[str, Any] = {"kind": self.kind, "length": self.length}
        arrays: dict[str, np.ndarray] = {}
        if self.dense is not None:
            facts["dense"], kept = self.dense.state()
            arrays |= prefixed("dense", kept)
        if self.numbers is not None:
            facts["numbers"], kept = self.numbers.state()
            arrays |= prefixed("numbers", kept)
        if self.onehot is not None:
            facts["fields"], kept = self.onehot.state()
            arrays |= prefixed("onehot", kept)
        for name, vocabulary in (("users", self.users), ("tracks", self.tracks)):
            if vocabulary is not None:
                arrays[name] = vocabulary.values_V
        return facts, arrays

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> Feeds:
        """What state() gave."""
        dense = Dense.restore(facts["dense"], under("dense", arrays), model_name) if "dense" in facts else None
        numbers = (
            Numbers.restore(facts["numbers"], under("numbers", arrays), model_name) if "numbers" in facts else None
        )
        onehot = OneHot.restore(facts["fields"], under("onehot", arrays), model_name) if "fields" in facts else None
        known = {name: Vocabulary(arrays[name]) for name in ("users", "tracks") if name in arrays}
        return cls(facts["kind"], dense, numbers, onehot, known.get("users"), known.get("tracks"), facts["length"])


def numeric_names(names: tuple[str, ...], categories: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the numeric columns of `Numbers`: rates and plain features."""
    return tuple(name for name in names if name not in ("is_flow", *categories))


def with_rates(numbers: Numbers, plays: Plays) -> Plays:
    """Return the plays with smoothed rates in place of the counts of listened plays."""
    names = numeric_names(numbers.columns, numbers.categories)
    values = {name: getattr(plays, name) for name in plays.__dataclass_fields__}
    return Plays(**(values | {"numbers_NF": numbers.raw(plays)[:, : len(names)], "names": names}))


def field_positions(numbers: Numbers, onehot: OneHot, plays: Plays) -> NDArray[np.int32]:
    """Return the input of a factorisation machine: one one-hot position per field, (N, M)."""
    out_NM = np.empty((len(plays), len(onehot.fields)), np.int32)
    for start in range(0, len(plays), _STEP):
        part = plays.rows(slice(start, start + _STEP))
        out_NM[start : start + len(part)] = onehot.positions(with_rates(numbers, part))
    return out_NM
