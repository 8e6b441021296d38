"""A trained blend, kept for the release: what serving/release/blend.py reads, and what the gate compares it with.

A week's working folder holds under <space>/blend/ the files of serving/release/blend.py, PyTorch's scores for some of the
cohort (`cohort_user_id.npy`, `cohort_scores.npy`), and facts (`blend.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.cold_start import onnx_export
from jobs.platform import files
from jobs.platform.onnx import export_onnx
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.blend import Blend
from serving.release.blend import FILES, INPUT, LAYOUT, NEIGHBOURS, NETWORK, OUTPUT, layout, read

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from models.cold_start.methods.autoencoder import FirstDayAutoencoder

__all__ = ["FILES", "compared", "keep", "kept", "read", "to_onnx"]

COHORT = ("cohort_user_id.npy", "cohort_scores.npy")
COMPARED = 256  # listeners whose scores of all tracks are kept


def to_onnx(autoencoder: FirstDayAutoencoder) -> bytes:
    """The network: tokens (B, T) int64, V where a place is empty -> logits (B, N) float32; B and T free."""
    import torch

    from models.cold_start.methods.first_day_network import PaddedFirstDayNetwork

    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("places")}
    example = torch.zeros((2, 3), dtype=torch.int64)
    return export_onnx(PaddedFirstDayNetwork(autoencoder.network), (example,), (free,), (INPUT,), OUTPUT)


def keep(
    context: Context,
    space: str,
    blend: Blend,
    autoencoder: FirstDayAutoencoder,
    user_ids: np.ndarray,
    days: FirstDays,
    facts: Mapping[str, object],
) -> bytes:
    """Keep a trained blend, and its scores for the first of the cohort by PyTorch; returns the network as ONNX."""
    folder = context.work / space / "blend"
    network, n = to_onnx(autoencoder), min(COMPARED, len(days))
    neighbours = blend.neighbours
    arrays = (neighbours.score_VN.indptr, neighbours.score_VN.indices, neighbours.score_VN.data)
    with onnx_export.sealing(folder, "blend.json", (*FILES, *COHORT), facts):
        files.write(folder / NETWORK, network)
        files.write(folder / LAYOUT, files.canonical(layout(neighbours.vocabulary, float(blend.autoencoder_weight))))
        for name, array in zip(NEIGHBOURS, arrays, strict=True):
            files.write_array(folder / name, array)
        files.write_array(folder / COHORT[0], np.asarray(user_ids[:n], np.int64))
        files.write_array(folder / COHORT[1], blend.scores(days.rows(0, n)))
    return network


def kept(context: Context, space: str) -> Path:
    """The folder of what keep() kept, verified.

    Raises:
        CheckFailed: the week has no blend in this space, its training was cut off, or a file is damaged.
    """
    folder = context.work / space / "blend"
    onnx_export.sealed(context, folder, "blend.json")
    return folder


def compared(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """User ids (b,) of the cohort and PyTorch's scores for them (b, N)."""
    user_ids, scores = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in COHORT)
    return user_ids, scores
