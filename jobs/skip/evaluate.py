"""Judge every trained skip model and the blend, by slice, with intervals over users; and draw what people ask about.

Input   work/<week>/<model>/scores.npz of skip.models, work/<week>/blend/, skip_features before as_of
Output  skip_evaluation, partition week; a run with the table and the pictures
Source  ROC AUC first, by DeLong summed over users; the other intervals by drawing users with replacement; the report
        for the rest. The best threshold is chosen on validation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from contracts.errors import CheckFailed
from jobs.platform.stopwatch import stopwatch
from jobs.skip import artifacts, figures, importance, train
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.artifacts import Scores
    from jobs.skip.dataset import LabelledPlays

SPLITS = {"validation": splits.VALIDATION, "test": splits.TEST}
COUNTS = ("true_positives", "false_positives", "false_negatives", "true_negatives")
TAILS = (0.025, 0.975)
RATES = ("precision", "recall", "f1", "accuracy")


def run(context: Context) -> dict[str, Any]:
    """Judge, write, draw; the report for Airflow."""
    with Tracker.task(context, "evaluate") as task, stopwatch("skip evaluate") as watch:
        found = train.read_plays(context, (context.settings.skip.evaluation.explained_model,))
        watch.lap("read_s")
        scores = all_scores(context, found)
        where = slices(context, found)
        rows = [row for name in scores for row in judge(context, name, scores[name], where)]
        watch.lap("judge_s")
        written = context.lake.write(
            "skip_evaluation",
            pa.Table.from_pandas(pd.DataFrame(rows).astype({"n": "int32"}), preserve_index=False),
            report={"models": list(scores), "commit": context.commit},
            week=context.week.name,
        )
        log(context, task, rows, scores)
        told = importance.run(context, task, found)
        watch.lap("explain_s")
        best = {row["model"]: round(row["value"], 4) for row in picked(rows, "test", "all", "auc")}
        return {"rows": written.rows, "path": written.path, "auc": best, "reasons": told, **task.links}


def all_scores(context: Context, found: LabelledPlays) -> dict[str, Scores]:
    """Of every model that the settings train, then of the blend; all of these plays."""
    plays = artifacts.digest_of(found)
    told: dict[str, dict[str, Any]] = {
        name: artifacts.read_report(context, name) for name in context.settings.skip.models
    }
    told["blend"] = artifacts.read_blend(context)
    odd = [name for name, report in told.items() if report["plays"] != plays]
    if odd:
        raise CheckFailed(
            f"evaluate: {', '.join(odd)} learned other plays, or another split, than skip_features and the settings "
            "have now; train and blend again"
        )
    return {name: artifacts.read_scores(context, name) for name in told}


def slices(context: Context, found: LabelledPlays) -> dict[str, NDArray[np.bool_]]:
    """Masks over all labelled plays."""
    plays, least = found.plays, context.settings.skip.evaluation.new_plays
    user_N, track_N = plays.numbers(("user_plays", "track_plays")).T
    masks = {
        "all": np.ones(len(plays), bool),
        "flow=yes": plays.is_flow_N,
        "flow=no": ~plays.is_flow_N,
        "user=new": user_N < least,
        "user=known": user_N >= least,
        "track=new": track_N < least,
        "track=known": track_N >= least,
    }
    platform_N = plays.category("platform_name")
    masks |= {f"platform={code}": platform_N == code for code in np.unique(platform_N)}
    return masks


def judge(context: Context, model: str, scores: Scores, where: Mapping[str, NDArray[np.bool_]]) -> list[dict[str, Any]]:
    """Rows of the table for one model: AUC by slice, everything else on all plays of a split."""
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

        masks = {name: mask[part.place_N] for name, mask in where.items()}
        by_slice = metrics.auc_by_slice(
            part.listened_N, part.proba_N, dict(masks), part.user_N, 1 if len(masks) == 1 else settings.min_class_plays
        )
        by_slice["all"] = metrics.auc_interval(part.listened_N, part.proba_N, part.user_N)
        for name, reached in by_slice.items():
            if reached is not None:
                row(name, "auc", reached.value, int(masks[name].sum()), reached.low, reached.high)
        n = len(part.place_N)
        for name, (value, low, high) in summary(part, threshold, settings.n_bootstrap, context.seed(split)).items():
            row("all", name, value, n, low, high)
        row("all", "threshold", threshold, n)
        row("all", "calibration_error", metrics.calibration_error(part.listened_N, part.proba_N), n)
    return rows


def summary(
    part: Scores, threshold: float, draws: int, seed: int
) -> dict[str, tuple[float, float | None, float | None]]:
    """Counts, rates at 0.5 and at the threshold, and Brier score: value and bounds over resamples of users."""
    listened_N = part.listened_N == 1
    users, code_N = np.unique(part.user_N, return_inverse=True)
    error_N = np.square(part.proba_N - listened_N)
    weight_SU = np.random.default_rng(seed).multinomial(len(users), np.full(len(users), 1 / len(users)), draws)
    low, high = np.quantile((weight_SU @ np.bincount(code_N, error_N)) / (weight_SU @ np.bincount(code_N)), TAILS)
    found: dict[str, tuple[float, float | None, float | None]] = {"brier": (float(error_N.mean()), low, high)}
    for at, suffix in ((0.5, ""), (threshold, "_best")):
        whole = metrics.decisions(part.listened_N, part.proba_N, at)
        said_N = part.proba_N >= at
        cells = (said_N & listened_N, said_N & ~listened_N, ~said_N & listened_N, ~said_N & ~listened_N)
        tp_S, fp_S, fn_S, tn_S = (weight_SU @ np.bincount(code_N, cell) for cell in cells)
        drawn = {
            "precision": tp_S / np.maximum(tp_S + fp_S, 1),
            "recall": tp_S / np.maximum(tp_S + fn_S, 1),
            "f1": 2 * tp_S / np.maximum(2 * tp_S + fp_S + fn_S, 1),
            "accuracy": (tp_S + tn_S) / (tp_S + fp_S + fn_S + tn_S),
        }
        for name in RATES:
            low, high = np.quantile(drawn[name], TAILS)
            found[name + suffix] = (getattr(whole, name), float(low), float(high))
        found |= {name + suffix: (float(getattr(whole, name)), None, None) for name in COUNTS}
    return found


def picked(rows: list[dict[str, Any]], split: str, slice_: str, metric: str) -> list[dict[str, Any]]:
    """One row a model, best first."""
    chosen = [row for row in rows if (row["split"], row["slice"], row["metric"]) == (split, slice_, metric)]
    return sorted(chosen, key=lambda row: -row["value"])


def log(context: Context, task: Tracker, rows: list[dict[str, Any]], scores: Mapping[str, Scores]) -> None:
    """The table, the numbers of the whole splits as metrics, and the pictures of the test."""
    whole = [row for row in rows if row["slice"] == "all" and row["metric"] not in COUNTS]
    task.log_metrics({f"{row['split']}.{row['model']}.{row['metric']}": row["value"] for row in whole})
    task.log_table(rows, "evaluation.json")
    task.log_partitions("skip_features", train.feature_partitions(context), use="evaluation")
    reached = picked(rows, "test", "all", "auc")
    task.log_figure(
        figures.forest([{**row, "name": row["model"]} for row in reached], "Test AUC of every model"), "auc.png"
    )
    of_slices = [
        {**row, "name": row["slice"]}
        for row in rows
        if (row["model"], row["split"], row["metric"]) == ("blend", "test", "auc")
    ]
    task.log_figure(figures.forest(of_slices, "The blend's test AUC by slice"), "slices.png")
    tests = {name: found.test for name, found in scores.items()}
    listened_N = tests["blend"].listened_N
    drawn = {
        name: {
            "auc": metrics.auc(found.listened_N, found.proba_N),
            "roc": metrics.roc_curve(found.listened_N, found.proba_N),
            "pr": metrics.pr_curve(found.listened_N, found.proba_N),
        }
        for name, found in tests.items()
    }
    task.log_figure(figures.curves(drawn, float(listened_N.mean())), "curves.png")
    best = next(row["model"] for row in reached if row["model"] != "blend")
    shown = ("blend", best)
    task.log_figure(
        figures.reliability(
            {name: metrics.reliability(listened_N, tests[name].proba_N) for name in shown},
            {name: f"Brier {metrics.brier(listened_N, tests[name].proba_N):.4f}" for name in shown},
        ),
        "reliability.png",
    )
    for name in shown:
        limit = metrics.best_threshold(scores[name].valid.listened_N, scores[name].valid.proba_N)
        at = {
            f"at {value:.3g}": asdict(metrics.decisions(listened_N, tests[name].proba_N, value))
            for value in (0.5, limit)
        }
        task.log_figure(figures.confusion(name, at), f"confusion_{name}.png")
    reports = {name: artifacts.read_report(context, name) for name in scores if name != "blend"}
    task.log_figure(
        figures.all_losses({name: report["losses"]["validation"] for name, report in reports.items()}), "losses.png"
    )
