"""The blend (models/cold_start/methods/blend.py) as files: its network as ONNX, its neighbours as arrays.

    network.onnx  layout.json  neighbours.{offsets,tracks,scores}.npy

A release contains these under <space>/blend/. Tokens are those of the release's own tracks, in the order of
models/cold_start/methods/vocabulary.py.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.methods.vocabulary import Catalogue, Vocabulary, pad_tokens
from serving.release import files
from serving.release.onnx_session import session

INPUT, OUTPUT = "tokens", "logits"
NETWORK = "network.onnx"
NEIGHBOURS = tuple(f"neighbours.{part}.npy" for part in ("offsets", "tracks", "scores"))
LAYOUT = "layout.json"
FILES = (NETWORK, LAYOUT, *NEIGHBOURS)
BATCH = 256


class OnnxAutoencoder:
    """The autoencoder as it is served."""

    def __init__(self, network: Path, vocabulary: Vocabulary) -> None:
        """Open the network; raise CheckFailed if onnxruntime cannot open it."""
        self.network, self.n_tracks = session(network), vocabulary.n_tracks

    def scores(self, tokens_BV: csr_array) -> np.ndarray:
        """Return the probability of each track over that of the listener's most likely one, (B, N), above 0 to 1."""
        n_listeners = tokens_BV.shape[0]
        out = np.empty((n_listeners, self.n_tracks), np.float32)
        for start in range(0, n_listeners, BATCH):
            tokens_BT = pad_tokens(tokens_BV[start : start + BATCH])
            (logits,) = self.network.run([OUTPUT], {INPUT: tokens_BT})
            out[start : start + BATCH] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return out


def layout(vocabulary: Vocabulary, share: float) -> dict[str, object]:
    """Return the order of the tokens and the blend's weight as JSON, for readers in any language."""
    return {
        "input": INPUT,
        "output": OUTPUT,
        "empty": vocabulary.size,
        "tokens": {kind: [span.start, span.stop] for kind, span in vocabulary.spans.items()},
        "countries": list(vocabulary.countries),
        "share": share,
    }


def read(folder: Path, catalogue: Catalogue) -> Blend:
    """Return the blend as it is served: with onnxruntime, and memory-mapped neighbours.

    Raises:
        CheckFailed: a file is invalid, or belongs to another catalogue.
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
