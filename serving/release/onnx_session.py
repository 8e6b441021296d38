"""A release's networks: onnxruntime on one thread of the CPU, in the gate and in the service alike."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import CheckFailed

if TYPE_CHECKING:
    import onnxruntime

INPUT, OUTPUT = "x", "vector"
BATCH = 4096


def session(model: bytes | Path) -> onnxruntime.InferenceSession:
    """An onnxruntime session on one thread of the CPU: the service's own setting.

    Raises:
        CheckFailed: the bytes are no network.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(model) if isinstance(model, Path) else model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:
        name = model.name if isinstance(model, Path) else "network.onnx"
        raise CheckFailed(f"{name}: onnxruntime cannot open it: {error}") from error


def run(network: onnxruntime.InferenceSession, x_BF: np.ndarray) -> np.ndarray:
    """Predictions (B, d) float32, in batches that bound the memory."""
    parts = [
        network.run([OUTPUT], {INPUT: np.ascontiguousarray(x_BF[start : start + BATCH], np.float32)})[0]
        for start in range(0, max(len(x_BF), 1), BATCH)
    ]
    return np.concatenate(parts)


def finite(vectors_BD: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The same vectors, held to their shape.

    Raises:
        CheckFailed: another shape, NaN or infinity.
    """
    if vectors_BD.shape != shape or not np.isfinite(vectors_BD).all():
        raise CheckFailed(f"the network must give finite vectors {shape}, got {vectors_BD.shape}")
    return vectors_BD
