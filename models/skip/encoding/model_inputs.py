"""Inputs of the exported network of each model, computed with NumPy, equally in training, the gate and the service.

Shapes   N plays, G columns, H positions of a history, S features of an earlier play, M one-hot fields

    class            kind in JSON  inputs                                                  network
    FeatureInputs    columns       x (N, G) float32: scaled numbers, one-hot categories    regression
    RawInputs        raw           x (N, G) float32: smoothed rates, numbers, codes        boosted trees
    IdInputs         ids           user and track (N,) int64 codes; x as FeatureInputs     networks with embeddings
    HistoryInputs    signs         signs (N, H, S) float32 of earlier plays; x likewise    session network
    OneHotInputs     places        places (N, M) int64 one-hot positions                   factorisation machine
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from models.skip.data.arrays import State, add_prefix, select_prefix
from models.skip.data.play_history import QUERY_COLUMNS, Log, history_features
from models.skip.data.plays import Plays
from models.skip.encoding.numeric import Dense, Numbers
from models.skip.encoding.one_hot import OneHot, Vocabulary

_STEP = 1 << 18  # plays per step: bounds the size of the copy of their numeric features


@dataclass(frozen=True, eq=False)
class _DenseInputs:
    """Common part of the kinds that read dense columns.

    Attributes:
        dense: Encoder of the columns.
    """

    dense: Dense

    @property
    def numbers(self) -> Numbers:
        """Encoder of the numeric features."""
        return self.dense.numbers


@dataclass(frozen=True, eq=False)
class FeatureInputs(_DenseInputs):
    """Inputs of a model that reads dense columns only.

    Attributes:
        dense: Encoder of the columns.
    """

    kind: ClassVar[str] = "columns"
    history_length: ClassVar[int] = 0

    def encode(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Return the network's inputs by name; the log of earlier plays is not used.

        Raises:
            ValueError: A number or category is missing.
        """
        return {"x": _columns(self.dense, plays)}

    def state(self) -> State:
        """Return the inputs as JSON values and arrays, for restore_model_inputs()."""
        return _dense_state(self.kind, self.history_length, self.dense)

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> FeatureInputs:
        """Rebuild the inputs from the output of state()."""
        return cls(_restored_dense(facts, arrays, model_name))


@dataclass(frozen=True, eq=False)
class RawInputs:
    """Inputs of a model that reads unscaled numbers and category codes.

    Attributes:
        numbers: Encoder of the numeric features.
    """

    kind: ClassVar[str] = "raw"
    history_length: ClassVar[int] = 0
    numbers: Numbers

    def encode(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Return the network's inputs by name; the log of earlier plays is not used.

        Raises:
            ValueError: A number or category is missing.
        """
        return {"x": self.numbers.raw(plays)}

    def state(self) -> State:
        """Return the inputs as JSON values and arrays, for restore_model_inputs()."""
        facts, arrays = _numbers_state(self.numbers)
        return _tagged(self.kind, self.history_length) | facts, arrays

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> RawInputs:
        """Rebuild the inputs from the output of state()."""
        return cls(_restored_numbers(facts, arrays, model_name))


@dataclass(frozen=True, eq=False)
class IdInputs(_DenseInputs):
    """Inputs of a model that reads the codes of user and track, and dense columns.

    Attributes:
        dense: Encoder of the columns.
        users: Users with their own embedding.
        tracks: Tracks with their own embedding.
    """

    kind: ClassVar[str] = "ids"
    history_length: ClassVar[int] = 0
    users: Vocabulary
    tracks: Vocabulary

    def encode(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Return the network's inputs by name; the log of earlier plays is not used.

        Raises:
            ValueError: A number or category is missing.
        """
        return {
            "user": self.users.codes(plays.user_N).astype(np.int64),
            "track": self.tracks.codes(plays.track_N).astype(np.int64),
            "x": _columns(self.dense, plays),
        }

    def state(self) -> State:
        """Return the inputs as JSON values and arrays, for restore_model_inputs()."""
        facts, arrays = _dense_state(self.kind, self.history_length, self.dense)
        return facts, arrays | {"users": self.users.values_V, "tracks": self.tracks.values_V}

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> IdInputs:
        """Rebuild the inputs from the output of state()."""
        users, tracks = Vocabulary(arrays["users"]), Vocabulary(arrays["tracks"])
        return cls(_restored_dense(facts, arrays, model_name), users, tracks)


@dataclass(frozen=True, eq=False)
class HistoryInputs(_DenseInputs):
    """Inputs of a model that reads the user's earlier plays, and dense columns.

    Attributes:
        dense: Encoder of the columns.
        history_length: Largest number of earlier plays H.
    """

    kind: ClassVar[str] = "signs"
    history_length: int

    def encode(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Return the network's inputs by name; the log contains the earlier plays with a known outcome.

        Raises:
            ValueError: A number or category is missing.
        """
        queries = {name: getattr(plays, f"{name}_N") for name in QUERY_COLUMNS}
        return {"signs": history_features(log, queries, self.history_length), "x": _columns(self.dense, plays)}

    def state(self) -> State:
        """Return the inputs as JSON values and arrays, for restore_model_inputs()."""
        return _dense_state(self.kind, self.history_length, self.dense)

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> HistoryInputs:
        """Rebuild the inputs from the output of state()."""
        return cls(_restored_dense(facts, arrays, model_name), facts["length"])


@dataclass(frozen=True, eq=False)
class OneHotInputs:
    """Inputs of a model that reads one one-hot position per field.

    Attributes:
        numbers: Encoder of the numeric features; its smoothed rates are binned.
        onehot: Encoder of the fields.
    """

    kind: ClassVar[str] = "places"
    history_length: ClassVar[int] = 0
    numbers: Numbers
    onehot: OneHot

    def encode(self, plays: Plays, log: Log) -> dict[str, np.ndarray]:
        """Return the network's inputs by name; the log of earlier plays is not used.

        Raises:
            ValueError: A number or category is missing.
        """
        return {"places": field_positions(self.numbers, self.onehot, plays).astype(np.int64)}

    def state(self) -> State:
        """Return the inputs as JSON values and arrays, for restore_model_inputs()."""
        facts, arrays = _numbers_state(self.numbers)
        fields, field_arrays = self.onehot.state()
        facts = _tagged(self.kind, self.history_length) | facts | {"fields": fields}
        return facts, arrays | add_prefix("onehot", field_arrays)

    @classmethod
    def restore(cls, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> OneHotInputs:
        """Rebuild the inputs from the output of state()."""
        onehot = OneHot.restore(facts["fields"], select_prefix("onehot", arrays), model_name)
        return cls(_restored_numbers(facts, arrays, model_name), onehot)


ModelInputs = FeatureInputs | RawInputs | IdInputs | HistoryInputs | OneHotInputs
_CLASSES: dict[str, type[ModelInputs]] = {
    FeatureInputs.kind: FeatureInputs,
    RawInputs.kind: RawInputs,
    IdInputs.kind: IdInputs,
    HistoryInputs.kind: HistoryInputs,
    OneHotInputs.kind: OneHotInputs,
}


def restore_model_inputs(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> ModelInputs:
    """Rebuild the inputs of a model from the output of their state().

    Args:
        facts: JSON values; `kind` selects the class.
        arrays: Arrays by name.
        model_name: Name of the model, for error messages.

    Raises:
        KeyError: The kind is unknown, or a part is missing.
    """
    return _CLASSES[facts["kind"]].restore(facts, arrays, model_name)


def _columns(dense: Dense, plays: Plays) -> NDArray[np.float32]:
    return np.asarray(dense.columns(plays), np.float32)


def _tagged(kind: str, length: int) -> dict[str, Any]:
    """Return the JSON values that all kinds have; saved releases contain the length for every kind."""
    return {"kind": kind, "length": length}


def _dense_state(kind: str, length: int, dense: Dense) -> State:
    facts, arrays = dense.state()
    return _tagged(kind, length) | {"dense": facts}, add_prefix("dense", arrays)


def _restored_dense(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> Dense:
    return Dense.restore(facts["dense"], select_prefix("dense", arrays), model_name)


def _numbers_state(numbers: Numbers) -> State:
    facts, arrays = numbers.state()
    return {"numbers": facts}, add_prefix("numbers", arrays)


def _restored_numbers(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], model_name: str) -> Numbers:
    return Numbers.restore(facts["numbers"], select_prefix("numbers", arrays), model_name)


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
