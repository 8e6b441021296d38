"""The ranker (models/cold_start/methods/ranked_candidates.py) as files: its trees as ONNX, its counts as arrays.

    trees.onnx  layout.json  listeners.npy  segments.{offsets,tokens,counts,members}.npy

A release contains these under <space>/ranker/, beside the blend whose scores the ranker reads. Tokens are those of the
release's own tracks, as in serving/release/blend.py. The trees read the features that `layout.json` names, which may be
fewer than this version computes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from models.arrays import FloatMatrix, FloatVector
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.candidates import FEATURES, CandidateStage
from models.cold_start.methods.ranked_candidates import Rank, RankedCandidates
from models.cold_start.methods.segment_rates import SegmentRates
from serving.release.onnx_session import session

INPUT, OUTPUT = "features", "relevance"
TREES, LAYOUT, LISTENERS = "trees.onnx", "layout.json", "listeners.npy"
SEGMENTS = tuple(f"segments.{part}.npy" for part in ("offsets", "tokens", "counts", "members"))
FILES = (TREES, LAYOUT, LISTENERS, *SEGMENTS)


class OnnxTrees:
    """The trees of the ranker as they are served."""

    def __init__(self, trees: Path | bytes) -> None:
        """Open the trees; raise CheckFailed if onnxruntime cannot open them."""
        self.trees = session(trees)

    def relevance(self, features_RF: FloatMatrix) -> FloatVector:
        """Return the relevance of each row, (R,)."""
        (relevance_R1,) = self.trees.run([OUTPUT], {INPUT: features_RF})
        relevance_R: FloatVector = relevance_R1.reshape(-1)
        return relevance_R


def layout(method: RankedCandidates) -> dict[str, object]:
    """Return the order of the features and the sizes as JSON, for readers in any language."""
    return {
        "input": INPUT,
        "output": OUTPUT,
        "features": list(FEATURES),
        "candidates": method.stage.n_candidates,
        "segment_smoothing": method.stage.segments.smoothing,
    }


def arrays(method: RankedCandidates) -> dict[str, np.ndarray]:
    """Return the arrays of the files, by file name."""
    counts, segments = method.stage.segments.count_KV, method.stage.segments
    parts = (counts.indptr, counts.indices, counts.data, segments.members_K)
    return {LISTENERS: method.stage.listeners_N, **dict(zip(SEGMENTS, parts, strict=True))}


def read(folder: Path, blend: Blend, track_ND: FloatMatrix) -> RankedCandidates:
    """Return the method as it is served: with onnxruntime, over the blend of the same release.

    Args:
        folder: the files.
        blend: whose scores the ranker reads.
        track_ND: vectors of the release's tracks in the ranker's space.

    Raises:
        CheckFailed: a file is invalid, or belongs to another catalogue or another program.
    """
    try:
        card = json.loads((folder / LAYOUT).read_text())
        unknown = [name for name in card["features"] if name not in FEATURES]
        if unknown:
            raise ValueError(f"{LAYOUT} has the features of another program: {unknown[0]}")
        listeners_N = np.load(folder / LISTENERS, allow_pickle=False)
        offsets, tokens, counts, members_K = (np.load(folder / name, allow_pickle=False) for name in SEGMENTS)
        vocabulary = blend.neighbours.vocabulary
        if not len(listeners_N) == len(track_ND) == vocabulary.n_tracks:
            raise ValueError(f"{LISTENERS} has {len(listeners_N)} tracks, the release {vocabulary.n_tracks}")
        count_KV = csr_array((counts, tokens, offsets), shape=(len(members_K), vocabulary.size))
        segments = SegmentRates(count_KV, members_K, card["segment_smoothing"], vocabulary.n_tracks)
        stage = CandidateStage(blend, segments, listeners_N, track_ND, card["candidates"])
        return RankedCandidates(stage, _reading(card["features"], OnnxTrees(folder / TREES).relevance))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckFailed(f"{folder.parent.name}/ranker: {error}") from error


def _reading(names: list[str], rank: Rank) -> Rank:
    """Return a ranker of all FEATURES that reads the named ones."""
    if names == list(FEATURES):
        return rank
    columns = [FEATURES.index(name) for name in names]
    return lambda features_RF: rank(np.ascontiguousarray(features_RF[:, columns]))
