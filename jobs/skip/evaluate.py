"""Evaluates every trained skip model and the blend, by slice, with intervals over users, and draws the figures.

Input   work/<week>/<model>/scores.npz of skip.models, work/<week>/blend/, skip_features before as_of
Output  skip_evaluation, partition week; work/<week>/raw_columns/ (jobs/skip/artifacts.py); an MLflow run with the table
        and the figures
Source  ROC AUC with DeLong intervals summed over users; the other intervals by resampling users with replacement; the
        remaining metrics after the DSG17 report. The best threshold is chosen on validation.

The blend is also compared with a plain LightGBM on the raw columns of the plays, trained on the same training plays, on
all plays and on those of listeners without a training play.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.platform.stopwatch import stopwatch
from jobs.skip import artifacts, figures, importance, train
from jobs.tracking.tracker import Tracker
from models.arrays import BoolVector
from models.skip.data import splits
from models.skip.evaluation import metrics
from models.skip.evaluation.raw_baseline import fit_raw_baseline, predict_raw_baseline

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.artifacts import Scores
    from jobs.skip.dataset import LabelledPlays

SPLITS = {"validation": splits.VALIDATION, "test": splits.TEST}
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
TAILS = (0.025, 0.975)
GAIN_ENDS = {"": "value", "_low": "low", "_high": "high"}
RATES = ("precision", "recall", "f1", "accuracy")


def run(context: Context) -> dict[str, Any]:
    """Evaluate the models, write skip_evaluation and log to MLflow.

    Returns:
        The report for Airflow.

    Raises:
        CheckFailed: a model or the blend has not been trained, or was trained on other plays.
    """
    with Tracker.task(context, "evaluate") as task, stopwatch("skip evaluate") as watch:
        labelled = train.read_plays(context, (context.settings.skip.evaluation.explained_model,))
        watch.lap("read_s")
        scores = read_all_scores(context, labelled)
        masks = slice_masks(context, labelled)
        rows = [row for name in scores for row in evaluation_rows(context, name, scores[name], masks)]
        baseline = baseline_scores(context, labelled)
        artifacts.write_baseline(context, baseline, artifacts.digest_of(labelled))
        rows += evaluation_rows(context, artifacts.RAW_COLUMNS, baseline, masks)
        rows += gain_rows(context, scores["blend"], baseline, masks)
        watch.lap("evaluate_s")
        written = context.lake.write(
            "skip_evaluation",
            pa.Table.from_pandas(pd.DataFrame(rows).astype({"n": "int32"}), preserve_index=False),
            report={"models": list(scores), "commit": context.commit},
            week=context.week.name,
        )
        log_evaluation(context, task, rows, scores)
        sentences = importance.run(context, task, labelled)
        watch.lap("explain_s")
        best = {row["model"]: round(row["value"], 4) for row in best_first(rows, "test", "all", "auc")}
        return {"rows": written.rows, "path": written.path, "auc": best, "reasons": sentences, **task.links}


def read_all_scores(context: Context, labelled: LabelledPlays) -> dict[str, Scores]:
    """Return the scores of every model of skip.models, then of the blend.

    Raises:
        CheckFailed: a model or the blend was trained on other plays than the labelled ones, or on another split.
    """
    plays = artifacts.digest_of(labelled)
    reports: dict[str, dict[str, Any]] = {
        name: artifacts.read_report(context, name) for name in context.settings.skip.models
    }
    reports["blend"] = artifacts.read_blend(context)
    outdated = [name for name, report in reports.items() if report["plays"] != plays]
    if outdated:
        raise CheckFailed(
            f"evaluate: {', '.join(outdated)} was trained on other plays or another split than skip_features and the "
            "settings have now; train and blend again"
        )
    return {name: artifacts.read_scores(context, name) for name in reports}


def slice_masks(context: Context, labelled: LabelledPlays) -> dict[str, BoolVector]:
    """Return the mask of each slice over all N labelled plays, by name."""
    plays, new_plays = labelled.plays, context.settings.skip.evaluation.new_plays
    user_N, track_N = plays.numbers(("user_plays", "track_plays")).T
    masks = {
        "all": np.ones(len(plays), bool),
        "flow=yes": plays.is_flow_N,
        "flow=no": ~plays.is_flow_N,
        "user=new": user_N < new_plays,
        "user=known": user_N >= new_plays,
        "user=unseen": labelled.of_unseen_listeners(),
        "track=new": track_N < new_plays,
        "track=known": track_N >= new_plays,
    }
    platform_N = plays.category("platform_name")
    masks |= {f"platform={code}": platform_N == code for code in np.unique(platform_N)}
    return masks


def baseline_scores(context: Context, labelled: LabelledPlays) -> Scores:
    """Return the validation and test scores of LightGBM on the raw columns, fitted on the training plays."""
    seed = context.seed(f"skip/{artifacts.RAW_COLUMNS}")
    booster = fit_raw_baseline(labelled.of_split(splits.TRAIN), labelled.of_split(splits.VALIDATION), seed)
    place_N = np.flatnonzero(np.isin(labelled.split_N, list(SPLITS.values())))
    return artifacts.Scores.for_plays(labelled, place_N, predict_raw_baseline(booster, labelled.plays.rows(place_N)))


def gain_rows(
    context: Context, blend: Scores, baseline: Scores, slices: Mapping[str, BoolVector]
) -> list[dict[str, Any]]:
    """Return the AUC of the blend minus that of the baseline on the test plays, by slice, with paired intervals.

    Args:
        context: settings and seeds.
        blend: scores of the blend.
        baseline: scores of the baseline for the same plays.
        slices: masks over all labelled plays (`slice_masks`).
    """
    settings, ours, theirs, rows = context.settings.skip.evaluation, blend.test, baseline.test, []
    for name, mask in slices.items():
        in_slice_N = mask[ours.place_N]
        labels_N = ours.listened_N[in_slice_N]
        n_listened = int(labels_N.sum(dtype=np.int64))
        if name != "all" and min(n_listened, len(labels_N) - n_listened) < settings.min_class_plays:
            continue
        gain = metrics.bootstrap_difference(
            labels_N,
            ours.proba_N[in_slice_N],
            theirs.proba_N[in_slice_N],
            ours.user_N[in_slice_N],
            settings.n_bootstrap,
            context.seed("raw_columns"),
        )
        common = {"model": "blend", "split": "test", "slice": name, "metric": "auc_gain", "n": len(labels_N)}
        rows.append({**common, "value": gain.value, "low": gain.low, "high": gain.high})
    return rows


def evaluation_rows(
    context: Context, model: str, scores: Scores, slices: Mapping[str, BoolVector]
) -> list[dict[str, Any]]:
    """Return the rows of skip_evaluation for one model: AUC by slice, the other metrics on all plays of a split.

    Args:
        context: settings and seeds.
        model: name of the model, or `blend`.
        scores: its validation and test scores.
        slices: masks over all labelled plays (`slice_masks`).
    """
    settings, rows = context.settings.skip.evaluation, []
    valid = scores.valid
    threshold = metrics.best_threshold(valid.listened_N, valid.proba_N)
    for split, code in SPLITS.items():
        part = scores.of_split(code)

        def row(
            slice_: str, metric: str, value: float, n: int, low: float | None = None, high: float | None = None
        ) -> None:
            rows.append(
                {
                    "model": model,
                    "split": split,  # noqa: B023
                    "slice": slice_,
                    "metric": metric,
                    "value": float(value),
                    "low": low,
                    "high": high,
                    "n": n,
                }
            )

        masks = {name: mask[part.place_N] for name, mask in slices.items()}
        by_slice = metrics.auc_by_slice(
            part.listened_N, part.proba_N, dict(masks), part.user_N, 1 if len(masks) == 1 else settings.min_class_plays
        )
        by_slice["all"] = metrics.auc_interval(part.listened_N, part.proba_N, part.user_N)
        for name, auc in by_slice.items():
            if auc is not None:
                row(name, "auc", auc.value, int(masks[name].sum()), auc.low, auc.high)
        n = len(part.place_N)
        for name, (value, low, high) in threshold_metrics(
            part, threshold, settings.n_bootstrap, context.seed(split)
        ).items():
            row("all", name, value, n, low, high)
        row("all", "threshold", threshold, n)
        row("all", "calibration_error", metrics.calibration_error(part.listened_N, part.proba_N), n)
    return rows


def threshold_metrics(
    part: Scores, threshold: float, n_bootstrap: int, seed: int
) -> dict[str, tuple[float, float | None, float | None]]:
    """Return the Brier score, and counts and rates at 0.5 and at the threshold: value, lower and upper bound.

    Args:
        part: scores of one split.
        threshold: the best threshold on validation; its metrics have the suffix `_best`.
        n_bootstrap: resamples of users for the bounds.
        seed: of the resamples.
    """
    listened_N = part.listened_N == 1
    users, code_N = np.unique(part.user_N, return_inverse=True)
    error_N = np.square(part.proba_N - listened_N)
    weight_SU = np.random.default_rng(seed).multinomial(len(users), np.full(len(users), 1 / len(users)), n_bootstrap)
    low, high = np.quantile((weight_SU @ np.bincount(code_N, error_N)) / (weight_SU @ np.bincount(code_N)), TAILS)
    result: dict[str, tuple[float, float | None, float | None]] = {"brier": (float(error_N.mean()), low, high)}
    for at, suffix in ((0.5, ""), (threshold, "_best")):
        decisions = metrics.decisions(part.listened_N, part.proba_N, at)
        predicted_N = part.proba_N >= at
        cells = (
            predicted_N & listened_N,
            predicted_N & ~listened_N,
            ~predicted_N & listened_N,
            ~predicted_N & ~listened_N,
        )
        tp_S, fp_S, fn_S, tn_S = (weight_SU @ np.bincount(code_N, cell) for cell in cells)
        resampled = {
            "precision": tp_S / np.maximum(tp_S + fp_S, 1),
            "recall": tp_S / np.maximum(tp_S + fn_S, 1),
            "f1": 2 * tp_S / np.maximum(2 * tp_S + fp_S + fn_S, 1),
            "accuracy": (tp_S + tn_S) / (tp_S + fp_S + fn_S + tn_S),
        }
        for name in RATES:
            low, high = np.quantile(resampled[name], TAILS)
            result[name + suffix] = (getattr(decisions, name), float(low), float(high))
        result |= {name + suffix: (float(getattr(decisions, name)), None, None) for name in COUNTS}
    return result


def best_first(rows: list[dict[str, Any]], split: str, slice_: str, metric: str) -> list[dict[str, Any]]:
    """Return the rows of one split, slice and metric, one per model, the highest value first."""
    selected = [row for row in rows if (row["split"], row["slice"], row["metric"]) == (split, slice_, metric)]
    return sorted(selected, key=lambda row: -row["value"])


def log_evaluation(context: Context, task: Tracker, rows: list[dict[str, Any]], scores: Mapping[str, Scores]) -> None:
    """Log the table, the metrics of slice `all`, and the figures of the test plays to MLflow."""
    overall = [row for row in rows if row["slice"] == "all" and row["metric"] not in COUNTS]
    task.log_metrics({f"{row['split']}.{row['model']}.{row['metric']}": row["value"] for row in overall})
    gains = [row for row in rows if row["metric"] == "auc_gain" and row["slice"] == "user=unseen"]
    task.log_metrics({f"unseen.auc_gain{end}": row[key] for row in gains for end, key in GAIN_ENDS.items()})
    task.log_table(rows, "evaluation.json")
    task.log_partitions("skip_features", train.feature_partitions(context), use="evaluation")
    by_auc = best_first(rows, "test", "all", "auc")
    task.log_figure(
        figures.forest([{**row, "name": row["model"]} for row in by_auc], "Test AUC of every model"), "auc.png"
    )
    slice_rows = [
        {**row, "name": row["slice"]}
        for row in rows
        if (row["model"], row["split"], row["metric"]) == ("blend", "test", "auc")
    ]
    task.log_figure(figures.forest(slice_rows, "The blend's test AUC by slice"), "slices.png")
    tests = {name: model.test for name, model in scores.items()}
    listened_N = tests["blend"].listened_N
    curves = {
        name: {
            "auc": metrics.auc(test.listened_N, test.proba_N),
            "roc": metrics.roc_curve(test.listened_N, test.proba_N),
            "pr": metrics.pr_curve(test.listened_N, test.proba_N),
        }
        for name, test in tests.items()
    }
    task.log_figure(figures.curves(curves, float(listened_N.mean())), "curves.png")
    best = next(row["model"] for row in by_auc if row["model"] != "blend")
    shown = ("blend", best)
    task.log_figure(
        figures.reliability(
            {name: metrics.reliability(listened_N, tests[name].proba_N) for name in shown},
            {name: f"Brier {metrics.brier(listened_N, tests[name].proba_N):.4f}" for name in shown},
        ),
        "reliability.png",
    )
    for name in shown:
        threshold = metrics.best_threshold(scores[name].valid.listened_N, scores[name].valid.proba_N)
        decisions = {
            f"at {value:.3g}": asdict(metrics.decisions(listened_N, tests[name].proba_N, value))
            for value in (0.5, threshold)
        }
        task.log_figure(figures.confusion(name, decisions), f"confusion_{name}.png")
    reports = {name: artifacts.read_report(context, name) for name in scores if name != "blend"}
    task.log_figure(
        figures.all_losses({name: report["losses"]["validation"] for name, report in reports.items()}), "losses.png"
    )
