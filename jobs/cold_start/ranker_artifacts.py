"""A trained ranker, stored for the release and for later weeks that keep it.

A week's working folder contains under <space>/ranker/ the files of serving/release/ranker.py, LightGBM's trees
(`trees.txt`, which later weeks read), rows of the cohort with LightGBM's relevance (`cohort_features.npy`,
`cohort_relevance.npy`), and facts (`ranker.json`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from contracts.errors import CheckFailed
from jobs.cold_start import onnx_export
from jobs.platform import files
from jobs.platform.week import Week
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.ranked_candidates import RankedCandidates
from serving.release.ranker import FILES, INPUT, LAYOUT, OUTPUT, TREES, OnnxTrees, arrays, layout, read

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.settings.settings import Settings
    from models.cold_start.methods.ranker import Ranker

__all__ = ["FILES", "kept_ranker", "parity", "ranker_folder", "read", "to_onnx", "write_ranker"]

CARD, TEXT = "ranker.json", "trees.txt"
COHORT = ("cohort_features.npy", "cohort_relevance.npy")
N_COMPARED = 64  # listeners whose candidates are compared


def to_onnx(ranker: Ranker) -> bytes:
    """Return the trees as ONNX: features (R, F) -> relevance (R, 1), R is free; equal trees give equal bytes."""
    from onnx import TensorProto, helper
    from onnxmltools import convert_lightgbm
    from onnxmltools.convert.common.data_types import FloatTensorType

    width = ranker.booster.num_feature()
    converted = convert_lightgbm(ranker.booster, "ranker", [(INPUT, FloatTensorType([None, width]))], zipmap=False)
    graph = converted.graph
    (produced,) = graph.output
    graph.node.append(helper.make_node("Identity", [produced.name], [OUTPUT]))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, 1]))
    converted.ClearField("doc_string")
    return bytes(converted.SerializeToString(deterministic=True))


def recipe(settings: Settings) -> dict[str, object]:
    """Return the settings that a ranker depends on, its first stage included, as JSON."""
    ranker = settings.ranker.model_dump(mode="json", exclude={"keep_weeks"})
    stages = settings.model_dump(mode="json", include={"autoencoder", "neighbours", "autoencoder_weight"})
    return {"ranker": ranker, **stages}


def write_ranker(
    context: Context, space: str, method: RankedCandidates, ranker: Ranker, days: FirstDays, facts: Mapping[str, object]
) -> bytes:
    """Store the method for the release; return the trees as ONNX.

    Args:
        context: names the week.
        space: ut_als or tt_svd.
        method: candidates, in the order of LightGBM.
        ranker: its trees.
        days: first days of the cohort; LightGBM's relevance for the first of them is stored.
        facts: provenance for the release, as JSON.

    Raises:
        CheckFailed: ONNX and LightGBM differ by more than gate.parity_tolerance.
    """
    folder, trees = context.work / space / "ranker", to_onnx(ranker)
    scores = method.stage.score(days.rows(0, min(N_COMPARED, len(days))))
    features_BCF = method.stage.features(scores, method.stage.candidates(scores))
    features_RF = features_BCF.reshape(-1, features_BCF.shape[2])
    relevance_R = ranker.relevance(features_RF) if len(features_RF) else np.empty(0, np.float32)
    difference = _difference(trees, features_RF, relevance_R)
    if difference > context.settings.gate.parity_tolerance:
        raise CheckFailed(
            f"ranker: ONNX and LightGBM differ by {difference:.2g}, more than gate.parity_tolerance "
            f"({context.settings.gate.parity_tolerance})"
        )
    content = arrays(method)
    with onnx_export.write_with_digests(folder, CARD, (*FILES, TEXT, *COHORT), {**facts, "parity": difference}):
        files.write(folder / TREES, trees)
        files.write(folder / TEXT, ranker.booster.model_to_string().encode())
        files.write(folder / LAYOUT, files.canonical(layout(method)))
        for name, array in {**content, COHORT[0]: features_RF, COHORT[1]: relevance_R}.items():
            files.write_array(folder / name, array)
    return trees


def ranker_folder(context: Context, space: str) -> Path:
    """Return the folder that `write_ranker` wrote, verified.

    Raises:
        CheckFailed: the week has no ranker in this space, its training was interrupted, or a file is damaged.
    """
    folder = context.work / space / "ranker"
    onnx_export.read_verified(context, folder, CARD)
    return folder


def parity(folder: Path, trees: Path) -> float:
    """Return the largest absolute difference between trees as ONNX and the relevance by LightGBM that is stored."""
    features_RF, relevance_R = (np.load(folder / name, allow_pickle=False) for name in COHORT)
    return _difference(trees, features_RF, relevance_R)


def _difference(trees: bytes | Path, features_RF: np.ndarray, relevance_R: np.ndarray) -> float:
    if not len(features_RF):
        return 0.0
    return float(np.abs(OnnxTrees(trees).relevance(features_RF) - relevance_R).max())


def kept_ranker(context: Context, space: str) -> tuple[Ranker, str] | None:
    """Return the newest ranker that was trained at most `ranker.keep_weeks` weeks ago, and the week of its training.

    None: there is none with the same settings and features, and the week trains its own.
    """
    import lightgbm as lgb

    from models.cold_start.methods.ranker import Ranker

    settings, week = context.settings.ranker, context.week
    for age in range(1, settings.keep_weeks + 1):
        earlier = replace(context, week=Week(week.monday - timedelta(weeks=age), week.backtest))
        folder = context.release_home / "work" / earlier.week.name / space / "ranker"
        if not (folder / CARD).is_file():
            continue
        facts = onnx_export.read_verified(earlier, folder, CARD)
        trained = str(facts["trained_in"])
        oldest = (week.monday - timedelta(weeks=settings.keep_weeks)).isoformat()
        if trained[:10] < oldest or facts["recipe"] != recipe(context.settings):
            continue
        try:
            return Ranker(lgb.Booster(model_str=(folder / TEXT).read_text())), trained
        except ValueError:  # trained on the features of another version
            continue
    return None
