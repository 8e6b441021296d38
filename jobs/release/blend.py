"""The blend (models/methods/blend.py) as files: its network as ONNX, its neighbours as arrays.

    network.onnx  layout.json  neighbours.{offsets,tracks,scores}.npy

A week's working folder and the bundle hold these under <space>/blend/; the first also what the gate compares ONNX
with, PyTorch's scores for some of the cohort (`cohort_user_id.npy`, `cohort_scores.npy`), and facts (`blend.json`).
Tokens are those of the bundle's own tracks, in the order of models/methods/tokens.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array

from jobs.errors import CheckFailed
from jobs.release import export, files
from models.input_vector import FirstDays
from models.methods.blend import Blend
from models.methods.neighbours import Neighbours
from models.methods.tokens import Catalogue, Vocabulary, padded

if TYPE_CHECKING:
    from jobs.context import Context
    from models.methods.autoencoder import FirstDayAutoencoder

INPUT, OUTPUT = "tokens", "logits"
NETWORK = "network.onnx"
NEIGHBOURS = tuple(f"neighbours.{part}.npy" for part in ("offsets", "tracks", "scores"))
LAYOUT = "layout.json"
FILES = (NETWORK, LAYOUT, *NEIGHBOURS)
COHORT = ("cohort_user_id.npy", "cohort_scores.npy")
COMPARED = 256  # listeners whose scores of all tracks are kept
BATCH = 256


class OnnxAutoencoder:
    """The autoencoder as it is served."""

    def __init__(self, network: Path, vocabulary: Vocabulary) -> None:
        """CheckFailed when onnxruntime cannot open it."""
        self.network, self.vocabulary, self.n_tracks = export.session(network), vocabulary, vocabulary.n_tracks

    def scores(self, days: FirstDays) -> np.ndarray:
        """Chance of each track over that of the listener's most likely one, (B, N), above 0 to 1."""
        out = np.empty((len(days), self.n_tracks), np.float32)
        tokens_BV = self.vocabulary.days(days)
        for start in range(0, len(days), BATCH):
            tokens_BT = padded(tokens_BV[start : start + BATCH])
            (logits,) = self.network.run([OUTPUT], {INPUT: tokens_BT})
            out[start : start + BATCH] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return out


def to_onnx(autoencoder: FirstDayAutoencoder) -> bytes:
    """The network: tokens (B, T) int64, V where a place is empty -> logits (B, N) float32; B and T free."""
    import torch

    from models.methods.bag import PaddedBag

    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("places")}
    return export.graph(PaddedBag(autoencoder.bag), torch.zeros((2, 3), dtype=torch.int64), free, (INPUT, OUTPUT))


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
    with export.sealing(folder, "blend.json", (*FILES, *COHORT), facts):
        files.write(folder / NETWORK, network)
        files.write(folder / LAYOUT, files.canonical(layout(neighbours.vocabulary, float(blend.share))))
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
    export.sealed(context, folder, "blend.json")
    return folder


def layout(vocabulary: Vocabulary, share: float) -> dict[str, object]:
    """Which token is which, as JSON: what a reader in another language needs."""
    return {
        "input": INPUT,
        "output": OUTPUT,
        "empty": vocabulary.size,
        "tokens": {kind: [span.start, span.stop] for kind, span in vocabulary.spans.items()},
        "countries": list(vocabulary.countries),
        "share": share,
    }


def compared(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """User ids (b,) of the cohort and PyTorch's scores for them (b, N)."""
    user_ids, scores = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in COHORT)
    return user_ids, scores


def read(folder: Path, catalogue: Catalogue) -> Blend:
    """The blend as it is served: onnxruntime, and neighbours that are read from the disk when they are touched.

    Raises:
        CheckFailed: a file is not what it should be, or belongs to another catalogue.
    """
    try:
        card = json.loads((folder / LAYOUT).read_text())
        vocabulary = Vocabulary(catalogue, tuple(card["countries"]))
        if card != json.loads(files.canonical(layout(vocabulary, card["share"]))):
            raise ValueError(f"{LAYOUT} is of another catalogue or another program")
        offsets, tracks, scores = (np.load(folder / name, mmap_mode="r", allow_pickle=False) for name in NEIGHBOURS)
        score_VN = csr_array((scores, tracks, offsets), shape=(vocabulary.size, vocabulary.n_tracks))
        return Blend(OnnxAutoencoder(folder / NETWORK, vocabulary), Neighbours(vocabulary, score_VN), card["share"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckFailed(f"{folder.parent.name}/blend: {error}") from error
