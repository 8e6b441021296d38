"""Exports skip models to ONNX, so that the service predicts without PyTorch, LightGBM and scikit-learn.

Shapes   N plays, G columns, H places of a history, S signs of an earlier play, M fields of one-hot places

The inputs of a graph are computed in NumPy by models/skip/encoding/model_inputs.py, the same code for training and for
the service. Its output `listen` (N,) float32 is the probability that the play is listened to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument
from jobs.platform.onnx import export_onnx
from models.skip.data.play_history import HISTORY_FEATURES, Log
from models.skip.data.plays import Plays
from models.skip.encoding.model_inputs import (
    FeatureInputs,
    HistoryInputs,
    IdInputs,
    ModelInputs,
    OneHotInputs,
    RawInputs,
)
from models.skip.estimators.base import SkipModel
from models.skip.estimators.boosted_trees import BoostedTrees
from models.skip.estimators.factorization_machine import FactorisationMachine
from models.skip.estimators.logistic_regression import FeatureRegression
from models.skip.estimators.ncf import IdNetwork
from models.skip.estimators.session_gru import SessionGru
from serving.release.onnx_session import BATCH, session

if TYPE_CHECKING:
    import torch

OUTPUT = "listen"
TOLERANCE = 1e-4  # largest allowed difference of a probability between ONNX and the model


def to_onnx(model: SkipModel) -> bytes:
    """Return a fitted model as one self-contained ONNX file with a free batch size; equal weights give equal bytes.

    Raises:
        BadArgument: this kind of model has no ONNX form.
    """
    return _export_of(model)[0](model)


def has_onnx_form(model: SkipModel) -> bool:
    """Return whether this kind of model can be exported."""
    return isinstance(model, tuple(_EXPORTS))


def model_inputs(model: SkipModel) -> ModelInputs:
    """Return the encoding of plays as inputs of the model's graph.

    Raises:
        BadArgument: as to_onnx().
    """
    return _export_of(model)[1](model)


def inputs(model: SkipModel, plays: Plays) -> dict[str, np.ndarray]:
    """Return the inputs of the model's graph for plays, by name; the play history is the model's own.

    Raises:
        BadArgument: as to_onnx().
    """
    return model_inputs(model).encode(plays, model.log if isinstance(model, SessionGru) else Log.empty())


def predict(network: bytes | Path, input_arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the predictions of onnxruntime, (N,) float32, computed in batches to bound memory.

    Args:
        network: content or path of the ONNX file.
        input_arrays: inputs of the graph by name, N rows each.
    """
    onnx_session = session(network)
    n = len(next(iter(input_arrays.values())))
    out_N = np.empty(n, np.float32)
    for start in range(0, n, BATCH):
        part = {name: column[start : start + BATCH] for name, column in input_arrays.items()}
        out_N[start : start + BATCH] = onnx_session.run([OUTPUT], part)[0]
    return out_N


def parity(model: SkipModel, network: bytes | Path, plays: Plays) -> float:
    """Return the largest absolute difference between ONNX and the model for the same plays."""
    onnx_N = predict(network, inputs(model, plays))
    return float(np.abs(onnx_N - model.predict_proba(plays)).max(initial=0))


def _export_of(model: SkipModel) -> tuple[Callable[[Any], bytes], Callable[[Any], ModelInputs]]:
    for kind, export in _EXPORTS.items():
        if isinstance(model, kind):
            return export
    exportable = ", ".join(kind.__name__ for kind in _EXPORTS)
    raise BadArgument(f"{model.name}: cannot be exported to ONNX; {exportable} can")


def _regression(model: FeatureRegression) -> bytes:
    import torch
    from torch import nn

    linear = nn.Linear(len(model.regression.weights_G), 1)
    with torch.no_grad():
        linear.weight[:] = torch.from_numpy(model.regression.weights_G.astype(np.float32))[None]
        linear.bias[:] = float(model.regression.bias)
    net = nn.Sequential(linear, nn.Flatten(0))
    return _network(net, {"x": torch.zeros(2, linear.in_features)})


def _ids(model: IdNetwork) -> bytes:
    import torch

    places = torch.zeros(2, dtype=torch.int64)
    return _network(model.net, {"user": places, "track": places.clone(), "x": torch.zeros(2, model.dense.width)})


def _session(model: SessionGru) -> bytes:
    import torch

    signs = torch.zeros(2, model.recipe.length, len(HISTORY_FEATURES))
    return _network(model.net, {"signs": signs, "x": torch.zeros(2, model.dense.width)})


def _factorisation_machine(model: FactorisationMachine) -> bytes:
    import torch
    from torch import Tensor, nn

    class Machine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.from_numpy(model.bias_1))
            self.linear = nn.Parameter(torch.from_numpy(model.linear_W))
            self.factors = nn.Parameter(torch.from_numpy(model.factors_WD))

        def forward(self, places_NM: Tensor) -> Tensor:
            v_NMD = self.factors[places_NM]
            pairs_N = (v_NMD.sum(1).square() - v_NMD.square().sum(1)).sum(1) / 2
            return self.bias + self.linear[places_NM].sum(1) + pairs_N

    return _network(Machine(), {"places": torch.zeros((2, len(model.onehot.fields)), dtype=torch.int64)})


def _network(net: torch.nn.Module, examples: dict[str, torch.Tensor]) -> bytes:
    """Export a network that computes log odds, followed by a sigmoid."""
    import torch
    from torch import Tensor, nn

    class Probability(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *inputs: Tensor) -> Tensor:
            return torch.sigmoid(self.net(*inputs))

    batch = torch.export.Dim("batch")
    # One group of shapes, because forward takes its inputs as *inputs.
    return export_onnx(
        Probability(), tuple(examples.values()), (tuple({0: batch} for _ in examples),), tuple(examples), OUTPUT
    )


def _trees(model: BoostedTrees) -> bytes:
    from onnx import TensorProto, helper
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    width = len(model.numbers.columns)
    converted = convert_lightgbm(model.booster, "trees", [("x", FloatTensorType([None, width]))], zipmap=False)
    graph = converted.graph
    probabilities = next(value.name for value in graph.output if "prob" in value.name)
    # LightGBM returns (N, 2) probabilities; the second column is that of a listen.
    graph.initializer.append(helper.make_tensor("listen_column", TensorProto.INT64, [], [1]))
    graph.node.append(helper.make_node("Gather", [probabilities, "listen_column"], [OUTPUT], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None]))
    converted.ClearField("doc_string")
    return bytes(converted.SerializeToString(deterministic=True))


_EXPORTS: dict[type[SkipModel], tuple[Callable[[Any], bytes], Callable[[Any], ModelInputs]]] = {
    FeatureRegression: (_regression, lambda m: FeatureInputs(m.dense)),
    BoostedTrees: (_trees, lambda m: RawInputs(m.numbers)),
    IdNetwork: (_ids, lambda m: IdInputs(m.dense, m.users, m.tracks)),
    SessionGru: (_session, lambda m: HistoryInputs(m.dense, m.recipe.length)),
    FactorisationMachine: (_factorisation_machine, lambda m: OneHotInputs(m.numbers, m.onehot)),
}
