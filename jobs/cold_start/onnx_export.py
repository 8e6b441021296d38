"""Export PyTorch's network as ONNX, and store it with its predictions until the release is built.

A week's working folder contains for each space `network.onnx`, PyTorch's predictions for the cohort
(`cohort_user_id.npy`, `cohort_vectors.npy`, which the gate compares with ONNX) and, written last, `network.json` with
facts and digests.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.onnx import export_onnx
from serving.release.onnx_session import BATCH, INPUT, OUTPUT, run, session

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from models.cold_start.network import ColdStartNet

__all__ = [
    "BATCH",
    "FILES",
    "INPUT",
    "OUTPUT",
    "TrainedNetwork",
    "parity",
    "read_network",
    "read_verified",
    "run",
    "session",
    "to_onnx",
    "write_network",
    "write_with_digests",
]

FILES = ("network.onnx", "cohort_user_id.npy", "cohort_vectors.npy")


def to_onnx(net: ColdStartNet) -> bytes:
    """Return the network (B, F) -> (B, d) float32 as one self-contained ONNX file; B is free."""
    import torch

    return export_onnx(net, (torch.zeros(2, net.d_in),), ({0: torch.export.Dim("batch")},), (INPUT,), OUTPUT)


def parity(model: bytes | Path, predictions_BD: np.ndarray, x_BF: np.ndarray) -> float:
    """Return the largest absolute difference between ONNX and PyTorch's predictions on the same rows.

    Raises:
        ValueError: the shapes do not match.
    """
    onnx_BD = run(session(model), x_BF)
    if onnx_BD.shape != predictions_BD.shape:
        raise ValueError(f"predictions: shape {predictions_BD.shape}, ONNX gives {onnx_BD.shape}")
    return float(np.abs(onnx_BD - predictions_BD).max()) if len(onnx_BD) else 0.0


@dataclass(frozen=True)
class TrainedNetwork:
    """The files that training stored for the release."""

    network: bytes
    user_ids: np.ndarray
    vectors: np.ndarray
    facts: dict[str, object]


def write_network(
    context: Context,
    space: str,
    network: bytes,
    user_ids: np.ndarray,
    vectors_BD: np.ndarray,
    facts: Mapping[str, object],
) -> Path:
    """Store a trained network and PyTorch's predictions for the whole cohort, for bundle and gate.

    Args:
        context: names the week.
        space: ut_als or tt_svd.
        network: the result of `to_onnx`.
        user_ids: (B,) the cohort users, validation and test, in any order.
        vectors_BD: (B, d) their predictions by PyTorch, in the same order.
        facts: provenance for the release (recipe, seed, parameters, final losses): JSON, no times.

    Returns:
        The folder.
    """
    if len(user_ids) != len(vectors_BD):
        raise ValueError(f"user_ids: {len(user_ids)} users, but {len(vectors_BD)} predictions")
    folder = context.work / space
    with write_with_digests(folder, "network.json", FILES, facts):
        files.write(folder / FILES[0], network)
        files.write_array(folder / FILES[1], np.asarray(user_ids, np.int64))
        files.write_array(folder / FILES[2], np.asarray(vectors_BD, np.float32))
    return folder


@contextlib.contextmanager
def write_with_digests(folder: Path, card: str, names: Sequence[str], facts: Mapping[str, object]) -> Iterator[None]:
    """Write the files of one training inside the context; the card with facts and digests is written last.

    An interrupted training leaves no card, so its files count as absent.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / card, b"{}")
    yield
    digests = {name: files.file_digest(folder / name) for name in names}
    files.replace(folder / card, files.canonical({"facts": dict(facts), "sha256": digests}))


def read_verified(context: Context, folder: Path, card: str) -> dict[str, object]:
    """Return the facts that a training stored in `folder`, with all files verified.

    Raises:
        CheckFailed: nothing is stored, the training was interrupted, or a file is damaged.
    """
    name, space = card.removesuffix(".json"), folder.relative_to(context.work).parts[0]
    try:
        stored = json.loads((folder / card).read_text())
        for file, wanted in stored["sha256"].items():
            if files.file_digest(folder / file) != wanted:
                raise CheckFailed(f"{folder / file} is damaged; run `overture train --space {space}` again")
        facts: dict[str, object] = stored["facts"]
    except (FileNotFoundError, KeyError, ValueError):
        raise CheckFailed(
            f"{name}: week {context.week.name} has none in {space}; run `overture train --space {space}` first"
        ) from None
    return facts


def read_network(context: Context, space: str) -> TrainedNetwork:
    """Return the stored network.

    Raises:
        CheckFailed: the week has no network in this space, or its training was interrupted.
    """
    folder = context.work / space
    facts = read_verified(context, folder, "network.json")
    user_ids, vectors = (np.load(folder / name, allow_pickle=False) for name in FILES[1:])
    return TrainedNetwork((folder / FILES[0]).read_bytes(), user_ids, vectors, facts)
