"""A release's networks: onnxruntime on one CPU thread, in the gate and in the service alike."""

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
    """Return an onnxruntime session on one CPU thread, as the service uses it.

    Raises:
        CheckFailed: the bytes are not a network.
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
    """Return predictions (B, d) float32, computed in batches that bound the memory."""
    parts = [
        network.run([OUTPUT], {INPUT: np.ascontiguousarray(x_BF[start : start + BATCH], np.float32)})[0]
        for start in range(0, max(len(x_BF), 1), BATCH)
    ]
    return np.concatenate(parts)


def finite(vectors_BD: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the vectors after checking them.

    Raises:
        CheckFailed: they have another shape, or contain NaN or infinity.
    """
    if vectors_BD.shape != shape or not np.isfinite(vectors_BD).all():
        raise CheckFailed(f"the network must give finite vectors {shape}, got {vectors_BD.shape}")
    return vectors_BD
