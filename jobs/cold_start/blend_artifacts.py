"""A trained blend, stored for the release and the gate.

A week's working folder contains under <space>/blend/ the files of serving/release/blend.py, PyTorch's scores for a part
of the cohort (`cohort_user_id.npy`, `cohort_scores.npy`), and facts (`blend.json`).
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

__all__ = ["FILES", "blend_folder", "read", "read_cohort_scores", "to_onnx", "write_blend"]

COHORT = ("cohort_user_id.npy", "cohort_scores.npy")
N_COMPARED = 256  # listeners whose scores are stored, for all tracks


def to_onnx(autoencoder: FirstDayAutoencoder) -> bytes:
    """Return the network as ONNX: tokens (B, T) int64, V in empty positions -> logits (B, N); B and T are free."""
    import torch

    from models.cold_start.methods.first_day_network import PaddedFirstDayNetwork

    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("places")}
    example = torch.zeros((2, 3), dtype=torch.int64)
    return export_onnx(PaddedFirstDayNetwork(autoencoder.network), (example,), (free,), (INPUT,), OUTPUT)


def write_blend(
    context: Context,
    space: str,
    blend: Blend,
    autoencoder: FirstDayAutoencoder,
    user_ids: np.ndarray,
    days: FirstDays,
    facts: Mapping[str, object],
) -> bytes:
    """Store a trained blend and PyTorch's scores for the first cohort users; return the network as ONNX.

    Args:
        context: names the week.
        space: ut_als or tt_svd.
        blend: the trained blend.
        autoencoder: the autoencoder of the blend.
        user_ids: ids (B,) of the cohort.
        days: their first days.
        facts: provenance for the release, as JSON.
    """
    folder = context.work / space / "blend"
    network, n = to_onnx(autoencoder), min(N_COMPARED, len(days))
    neighbours = blend.neighbours
    arrays = (neighbours.score_VN.indptr, neighbours.score_VN.indices, neighbours.score_VN.data)
    with onnx_export.write_with_digests(folder, "blend.json", (*FILES, *COHORT), facts):
        files.write(folder / NETWORK, network)
        files.write(folder / LAYOUT, files.canonical(layout(neighbours.vocabulary, float(blend.autoencoder_weight))))
        for name, array in zip(NEIGHBOURS, arrays, strict=True):
            files.write_array(folder / name, array)
        files.write_array(folder / COHORT[0], np.asarray(user_ids[:n], np.int64))
        files.write_array(folder / COHORT[1], blend.scores(days.rows(0, n)))
    return network


def blend_folder(context: Context, space: str) -> Path:
    """Return the folder that `write_blend` wrote, verified.

    Raises:
        CheckFailed: the week has no blend in this space, its training was interrupted, or a file is damaged.
    """
    folder = context.work / space / "blend"
    onnx_export.read_verified(context, folder, "blend.json")
    return folder


def read_cohort_scores(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return user ids (b,) of the cohort and PyTorch's scores for them (b, N)."""
    user_ids, scores = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in COHORT)
    return user_ids, scores
