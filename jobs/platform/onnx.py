"""Export of PyTorch modules to ONNX."""

from __future__ import annotations

import contextlib
import copy
import logging
import sys
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


def export_onnx(
    net: torch.nn.Module,
    examples: tuple[torch.Tensor, ...],
    dynamic_shapes: tuple[Any, ...],
    input_names: tuple[str, ...],
    output_name: str,
) -> bytes:
    """Return a module of one output as one self-contained ONNX file.

    The same weights give the same bytes: the exporter's metadata, such as names of source files, is removed.

    Args:
        net: The module. It is copied, moved to the CPU and put into evaluation mode.
        examples: One tensor per input, with the shape and dtype of the input.
        dynamic_shapes: For each input the dimensions of free size, as `torch.onnx.export` takes them. A module whose
            `forward` takes `*inputs` needs one more tuple around them.
        input_names: The inputs' names in the ONNX graph.
        output_name: The output's name in the ONNX graph.
    """
    import torch

    net = copy.deepcopy(net).to("cpu").eval()
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                net,
                examples,
                dynamo=True,
                input_names=input_names,
                output_names=[output_name],
                dynamic_shapes=dynamic_shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert program is not None  # dynamo=True returns a program
    model = program.model_proto
    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    graph.ClearField("value_info")
    return bytes(model.SerializeToString(deterministic=True))
