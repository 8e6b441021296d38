"""Combines the trained models: weights from folds, members and method by validation, then calibrated probabilities.

Input   work/<week>/<candidate>/{folds,scores}.npz of every candidate (skip.blend.members)
Output  work/<week>/blend/ (jobs/skip/artifacts.py)
Time    weights are learned from the folds of the training plays; the members and the method (logistic or weighted mean)
        are selected on the folds and validation; the calibration is fitted on validation; test plays are only evaluated
Source  models/skip/ensemble/fit.py, models/skip/ensemble/calibration.py
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.skip import artifacts, figures
from jobs.skip.artifacts import Scores
from jobs.skip.train import as_failed_check
from jobs.tracking.tracker import Tracker
from models.arrays import DoubleMatrix, DoubleVector
from models.skip.ensemble.calibration import fit_best_calibration
from models.skip.ensemble.ensemble import Calibration, Mix, logit
from models.skip.ensemble.fit import METHODS, fold_of, select_members
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context


def run(context: Context) -> dict[str, Any]:
    """Select the members, calibrate the blend and write it.

    Returns:
        The report for Airflow.

    Raises:
        CheckFailed: a candidate has not been trained, or was trained on other plays or folds than the first.
    """
    settings = context.settings.skip.blend
    names: tuple[str, ...] = settings.members
    plays, borders = require_same_plays(context, names)
    with Tracker.task(context, "blend") as task, as_failed_check("blend"):
        folds = {name: artifacts.read_folds(context, name) for name in names}
        scores = {name: artifacts.read_scores(context, name) for name in names}
        members, mix, calibration = fit_blend(folds, scores, borders, settings.min_gain)
        blended = blended_scores(scores, members, mix, calibration)
        report = blend_report(members, blended, scores) | {"methods": auc_by_method(members, folds, scores)}
        report["commit"] = context.commit
        folder = artifacts.write_blend(context, members, mix, calibration, blended, plays, report)
        blend = artifacts.read_blend(context)
        task.log_params(
            {
                "candidates": ", ".join(names),
                "members": ", ".join(members),
                "method": mix.method,
                "calibration": calibration.kind,
                "min_gain": settings.min_gain,
            }
        )
        log_blend(task, blend, blended, scores)
        return {
            "path": str(folder),
            "weights": blend["weights"],
            "method": mix.method,
            "calibration": calibration.kind,
            "auc": report["auc"],
            "auc_gain": report["auc_gain"],
            **task.links,
        }


def require_same_plays(context: Context, names: tuple[str, ...]) -> tuple[str, list[int]]:
    """Return the digest of the plays that all candidates were trained on, and the borders of their folds.

    Raises:
        CheckFailed: a candidate has not been trained, was not trained as a candidate, or was trained on other plays or
            folds than the first.
    """
    reports = {name: artifacts.read_report(context, name) for name in names}
    plays_and_borders = {name: (str(report["plays"]), report.get("borders")) for name, report in reports.items()}
    plays, borders = plays_and_borders[names[0]]
    different = [name for name in names if plays_and_borders[name] != (plays, borders)]
    if different or borders is None:
        raise CheckFailed(
            f"blend: {', '.join(different or names)} was trained on other plays, another split or other folds than "
            f"{names[0]}, or without folds; train every candidate again on the same skip_features and settings"
        )
    return plays, list(borders)


def fit_blend(
    folds: Mapping[str, Scores], scores: Mapping[str, Scores], borders: list[int], min_gain: float
) -> tuple[list[str], Mix, Calibration]:
    """Select the members of the blend, and fit its weights and its calibration.

    Args:
        folds: out-of-fold scores of every candidate; the weights are fitted on them.
        scores: validation and test scores of every candidate; members are selected and the blend is calibrated on the
            validation plays.
        borders: first rows of the folds, and the row after the last (`fold_borders`).
        min_gain: log loss that a further member must take off (skip.blend.min_gain).

    Returns:
        The names of the members, the best first; their weights; the calibration.
    """
    fold_labels_N = next(iter(folds.values())).listened_N
    valid_labels_N = next(iter(scores.values())).valid.listened_N
    valid_logits = logits_by_name({name: candidate.valid for name, candidate in scores.items()})
    fold_logits = logits_by_name(folds)
    members, mix = select_members(fold_logits, fold_labels_N, fold_of(borders), valid_logits, valid_labels_N, min_gain)
    return members, mix, fit_best_calibration(valid_labels_N, mix(stack(valid_logits, members)))


def blended_scores(scores: Mapping[str, Scores], members: list[str], mix: Mix, calibration: Calibration) -> Scores:
    """Return the calibrated scores of the blend for the plays that its members were scored on."""
    first = next(iter(scores.values()))
    proba_N = calibration(mix(stack(logits_by_name(scores), members)))
    return Scores(first.place_N, first.split_N, proba_N, first.listened_N, first.user_N, first.is_flow_N)


def logits_by_name(scores: Mapping[str, Scores]) -> dict[str, DoubleVector]:
    """Return the log odds (N,) of each model."""
    return {name: logit(model.proba_N) for name, model in scores.items()}


def stack(logits: Mapping[str, DoubleVector], names: list[str]) -> DoubleMatrix:
    """Return the log odds of the named models as columns, (N, M)."""
    return np.stack([logits[name] for name in names], axis=1)


def blend_report(members: list[str], blended: Scores, scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Return the metrics of the blend and of each candidate, and the blend's gain in test AUC, with intervals."""
    valid, test = blended.valid, blended.test
    test_auc = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
    auc_gain = {
        name: vars(metrics.auc_difference(test.listened_N, test.proba_N, candidate.test.proba_N, test.user_N))
        for name, candidate in scores.items()
    }
    return {
        "auc": {
            "validation": metrics.auc(valid.listened_N, valid.proba_N),
            "test": test_auc.value,
            "test_low": test_auc.low,
            "test_high": test_auc.high,
        },
        "candidate_auc": {
            name: metrics.auc(valid.listened_N, candidate.valid.proba_N) for name, candidate in scores.items()
        },
        "excluded": [name for name in scores if name not in members],
        "auc_gain": auc_gain,
        "brier": {"blend": metrics.brier(test.listened_N, test.proba_N)}
        | {name: metrics.brier(test.listened_N, candidate.test.proba_N) for name, candidate in scores.items()},
    }


def auc_by_method(members: list[str], folds: Mapping[str, Scores], scores: Mapping[str, Scores]) -> dict[str, float]:
    """Return the validation AUC of each method of combining the selected members."""
    fold_labels_N = next(iter(folds.values())).listened_N
    valid = {name: candidate.valid for name, candidate in scores.items()}
    valid_labels_N = next(iter(valid.values())).listened_N
    fold_logits_NM = stack(logits_by_name(folds), members)
    valid_logits_NM = stack(logits_by_name(valid), members)
    mixes = {method: fit(fold_logits_NM, fold_labels_N) for method, fit in METHODS.items()}
    return {method: metrics.auc(valid_labels_N, mix(valid_logits_NM)) for method, mix in mixes.items()}


def log_blend(task: Tracker, blend: Mapping[str, Any], blended: Scores, scores: Mapping[str, Scores]) -> None:
    """Log the weights, metrics and figures of a blend to MLflow."""
    task.log_metrics({f"weight.{name}": weight for name, weight in blend["weights"].items()})
    task.log_metrics({f"{part}_auc": value for part, value in blend["auc"].items() if "_" not in part})
    task.log_metrics({f"brier.{name}": value for name, value in blend["brier"].items()})
    candidate_auc = blend["candidate_auc"]
    task.log_figure(figures.weights(blend["weights"], candidate_auc, blend["auc"]["validation"]), "weights.png")
    best = max(candidate_auc, key=candidate_auc.__getitem__)
    labels_N = blended.test.listened_N
    curves = {"blend": blended.test.proba_N, best: scores[best].test.proba_N}
    task.log_figure(
        figures.reliability(
            {name: metrics.reliability(labels_N, proba_N) for name, proba_N in curves.items()},
            {name: f"Brier {metrics.brier(labels_N, proba_N):.4f}" for name, proba_N in curves.items()},
        ),
        "reliability.png",
    )
    task.log_json(blend, "blend.json")
