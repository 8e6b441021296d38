"""Skip models as ONNX: what a service answers with, without PyTorch, LightGBM or scikit-learn.

Shapes   N plays, G columns, H places of a history, S signs of an earlier play, M fields of one-hot places

A graph begins where numpy ends: models/skip/encoding/model_inputs.py makes its inputs, the same code for training and for an answer.
Its output `listen` (N,) float32 is the chance of a listen.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument
from jobs.platform.onnx import export_onnx
from models.skip.data.play_history import SIGNS, Log
from models.skip.data.plays import Plays
from models.skip.encoding.model_inputs import Feeds
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
TOLERANCE = 1e-4  # of a probability: what the gate allows ONNX to differ from the model


def to_onnx(model: SkipModel) -> bytes:
    """A fitted model as one self-contained ONNX file, N free; the same weights give the same bytes.

    Raises:
        BadArgument: a kind of model that no service answers with.
    """
    return _kind(model)[0](model)


def can(model: SkipModel) -> bool:
    """Has this kind of model an ONNX form?"""
    return isinstance(model, tuple(_WAYS))


def feeds(model: SkipModel) -> Feeds:
    """How plays become what the graph of a fitted model reads.

    Raises:
        BadArgument: as to_onnx().
    """
    return _kind(model)[1](model)


def inputs(model: SkipModel, plays: Plays) -> dict[str, np.ndarray]:
    """What the graph of a model reads of plays, by the name of the input; of earlier plays those that it has seen.

    Raises:
        BadArgument: as to_onnx().
    """
    return feeds(model)(plays, model.log if isinstance(model, SessionGru) else Log.empty())


def run(network: bytes | Path, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
    """The chance of a listen by onnxruntime, (N,) float32, in batches that bound the memory."""
    opened = session(network)
    n = len(next(iter(feeds.values())))
    out_N = np.empty(n, np.float32)
    for start in range(0, n, BATCH):
        part = {name: column[start : start + BATCH] for name, column in feeds.items()}
        out_N[start : start + BATCH] = opened.run([OUTPUT], part)[0]
    return out_N


def parity(model: SkipModel, network: bytes | Path, plays: Plays) -> float:
    """Largest absolute difference of ONNX from the model on the same plays."""
    found_N = run(network, inputs(model, plays))
    return float(np.abs(found_N - model.predict_proba(plays)).max(initial=0))


def _kind(model: SkipModel) -> tuple[Callable[[Any], bytes], Callable[[Any], Feeds]]:
    for kind, ways in _WAYS.items():
        if isinstance(model, kind):
            return ways
    able = ", ".join(kind.__name__ for kind in _WAYS)
    raise BadArgument(f"{model.name}: has no ONNX form; {able} have one")


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

    signs = torch.zeros(2, model.recipe.length, len(SIGNS))
    return _network(model.net, {"signs": signs, "x": torch.zeros(2, model.dense.width)})


def _machine(model: FactorisationMachine) -> bytes:
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
    """A network of log odds, with the sigmoid that its answer goes through."""
    import torch
    from torch import Tensor, nn

    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, *given: Tensor) -> Tensor:
            return torch.sigmoid(self.net(*given))

    free = torch.export.Dim("batch")
    # One group of shapes: forward takes its inputs as *given.
    return export_onnx(
        Chance(), tuple(examples.values()), (tuple({0: free} for _ in examples),), tuple(examples), OUTPUT
    )


def _trees(model: BoostedTrees) -> bytes:
    from onnx import TensorProto, helper
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    width = len(model.numbers.columns)
    found = convert_lightgbm(model.booster, "trees", [("x", FloatTensorType([None, width]))], zipmap=False)
    inner = found.graph
    both = next(value.name for value in inner.output if "prob" in value.name)
    # Of (N, 2) probabilities the second is that of a listen.
    inner.initializer.append(helper.make_tensor("listen_column", TensorProto.INT64, [], [1]))
    inner.node.append(helper.make_node("Gather", [both, "listen_column"], [OUTPUT], axis=1))
    del inner.output[:]
    inner.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None]))
    found.ClearField("doc_string")
    return bytes(found.SerializeToString(deterministic=True))


_WAYS: dict[type[SkipModel], tuple[Callable[[Any], bytes], Callable[[Any], Feeds]]] = {
    FeatureRegression: (_regression, lambda m: Feeds("columns", dense=m.dense)),
    BoostedTrees: (_trees, lambda m: Feeds("raw", numbers=m.numbers)),
    IdNetwork: (_ids, lambda m: Feeds("ids", dense=m.dense, users=m.users, tracks=m.tracks)),
    SessionGru: (_session, lambda m: Feeds("signs", dense=m.dense, length=m.recipe.length)),
    FactorisationMachine: (_machine, lambda m: Feeds("places", numbers=m.numbers, onehot=m.onehot)),
}
