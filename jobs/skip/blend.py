"""Join the trained models: weights from folds, members and method by validation, then probabilities to be believed.

Input   work/<week>/<candidate>/{folds,scores}.npz of every candidate (skip.blend.members)
Output  work/<week>/blend/ (jobs/skip/artifacts.py)
Time    weights are learned from folds of the training plays; who stays and the method (logistic or weighted mean) from
        the folds and validation, the calibration from validation; the test is only looked at
Source  models/skip/ensemble/fit.py, models/skip/ensemble/calibration.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.skip import artifacts, figures
from jobs.skip.artifacts import Scores
from jobs.skip.train import refused
from jobs.tracking.tracker import Tracker
from models.skip.ensemble.calibration import choose
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.ensemble.fit import METHODS, fold_of, select
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context


def run(context: Context) -> dict[str, Any]:
    """Choose, calibrate, keep; the report for Airflow."""
    names: tuple[str, ...] = context.settings.skip.blend.members
    plays, borders = same_plays(context, names)
    with Tracker.task(context, "blend") as task, refused("blend"):
        folds = {name: artifacts.read_folds(context, name) for name in names}
        scores = {name: artifacts.read_scores(context, name) for name in names}
        first = scores[names[0]]
        valid, test = first.valid, first.test
        learned_N = folds[names[0]].listened_N
        fold_logits = {name: logit(found.proba_N) for name, found in folds.items()}
        held = {name: logit(found.valid.proba_N) for name, found in scores.items()}
        least = context.settings.skip.blend.min_gain
        chosen, mix, calibration = joined(folds, scores, borders, least)
        proba_N = calibration(mix(stacked({name: logit(found.proba_N) for name, found in scores.items()}, chosen)))
        blended = Scores(first.place_N, first.split_N, proba_N, first.listened_N, first.user_N, first.is_flow_N)
        report = told(chosen, blended, scores) | {"methods": by_method(chosen, fold_logits, learned_N, held, valid)}
        report["commit"] = context.commit
        folder = artifacts.write_blend(context, chosen, mix, calibration, blended, plays, report)
        found = artifacts.read_blend(context)
        task.log_params(
            {
                "candidates": ", ".join(names),
                "members": ", ".join(chosen),
                "method": mix.method,
                "calibration": calibration.kind,
                "min_gain": least,
            }
        )
        task.log_metrics({f"weight.{name}": weight for name, weight in found["weights"].items()})
        task.log_metrics({f"{part}_auc": value for part, value in report["auc"].items() if "_" not in part})
        task.log_metrics({f"brier.{name}": value for name, value in report["brier"].items()})
        task.log_figure(figures.weights(found["weights"], report["alone"], report["auc"]["validation"]), "weights.png")
        best = max(report["alone"], key=report["alone"].__getitem__)
        curves = {"blend": blended.test.proba_N, best: scores[best].test.proba_N}
        task.log_figure(
            figures.reliability(
                {name: metrics.reliability(test.listened_N, proba_N) for name, proba_N in curves.items()},
                {name: f"Brier {metrics.brier(test.listened_N, proba_N):.4f}" for name, proba_N in curves.items()},
            ),
            "reliability.png",
        )
        task.log_json(found, "blend.json")
        return {
            "path": str(folder),
            "weights": found["weights"],
            "method": mix.method,
            "calibration": calibration.kind,
            "auc": report["auc"],
            "above": report["above"],
            **task.links,
        }


def same_plays(context: Context, names: tuple[str, ...]) -> tuple[str, list[int]]:
    """The digest of the plays that all candidates were trained on, and the borders of their folds.

    Raises:
        CheckFailed: a candidate has not been trained, not as a candidate, or on other plays or folds than the first.
    """
    reports = {name: artifacts.read_report(context, name) for name in names}
    found = {name: (str(report["plays"]), report.get("borders")) for name, report in reports.items()}
    odd = [name for name in names if found[name] != found[names[0]]]
    if odd or found[names[0]][1] is None:
        raise CheckFailed(
            f"blend: {', '.join(odd or names)} learned other plays, split or folds than {names[0]} or none at all; "
            "train every candidate again on the same skip_features and settings"
        )
    return found[names[0]][0], list(found[names[0]][1] or ())


def joined(
    folds: Mapping[str, Scores], scores: Mapping[str, Scores], borders: list[int], min_gain: float
) -> tuple[list[str], Mix, Calibration]:
    """Which of these candidates stay, what mixes them, learned from folds, and what calibrates, from validation."""
    learned_N = next(iter(folds.values())).listened_N
    valid_N = next(iter(scores.values())).valid.listened_N
    held = {name: logit(found.valid.proba_N) for name, found in scores.items()}
    fold_logits = {name: logit(found.proba_N) for name, found in folds.items()}
    chosen, mix = select(fold_logits, learned_N, fold_of(borders), held, valid_N, min_gain)
    return chosen, mix, choose(valid_N, mix(stacked(held, chosen)))


def stacked(logits: Mapping[str, np.ndarray], names: list[str]) -> np.ndarray:
    """(N, M)."""
    return np.stack([logits[name] for name in names], axis=1)


def told(chosen: list[str], blended: Scores, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """The blend's numbers beside each candidate's, and by how much it is above each on the test, with intervals."""
    valid, test = blended.valid, blended.test
    reached = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
    above = {
        name: vars(metrics.auc_difference(test.listened_N, test.proba_N, found.test.proba_N, test.user_N))
        for name, found in scores.items()
    }
    return {
        "auc": {
            "validation": metrics.auc(valid.listened_N, valid.proba_N),
            "test": reached.value,
            "test_low": reached.low,
            "test_high": reached.high,
        },
        "alone": {name: metrics.auc(valid.listened_N, found.valid.proba_N) for name, found in scores.items()},
        "left_out": [name for name in scores if name not in chosen],
        "above": above,
        "brier": {"blend": metrics.brier(test.listened_N, test.proba_N)}
        | {name: metrics.brier(test.listened_N, found.test.proba_N) for name, found in scores.items()},
    }


def by_method(
    chosen: list[str],
    folds: Mapping[str, np.ndarray],
    learned_N: np.ndarray,
    held: Mapping[str, np.ndarray],
    valid: Scores,
) -> dict[str, float]:
    """Validation AUC of each way to mix the members that were kept."""
    mixed = {name: way(stacked(folds, chosen), learned_N) for name, way in METHODS.items()}
    return {name: metrics.auc(valid.listened_N, mix(stacked(held, chosen))) for name, mix in mixed.items()}
