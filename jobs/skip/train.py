"""Trains one skip model on the plays before as_of and saves its predictions for the validation and test plays.

Input   skip_features, variant past, days before as_of       Output  work/<week>/<model>/ (jobs/skip/artifacts.py)
Time    trained on the earliest plays, stopped early on the next, evaluated on the latest (skip.split); afterwards its
        play history is extended to as_of
Memory  the numbers that the model needs, once, as float32
Re-run  safe: the files of the folder are replaced; the JSON that names them is written last

A candidate of the blend is also trained on parts of the training plays, to predict the plays after each part. The blend
learns its weights from these out-of-fold predictions. It is then trained again on all labelled plays, with as many
epochs or rounds as the validation plays chose: the refitted model, which a release serves. The scores, the evaluation
and the gate are about the model of the time split, because no play is left on which the refitted one can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.stopwatch import Stopwatch, stopwatch
from jobs.skip import artifacts, dataset, figures
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.ensemble.fit import fold_borders, out_of_fold
from models.skip.estimators import registry
from models.skip.estimators.base import best_pass
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.artifacts import Scores
    from jobs.skip.dataset import LabelledPlays
    from models.skip.estimators.base import Losses, SkipModel

PARTS = {splits.TRAIN: "train", splits.VALIDATION: "validation", splits.TEST: "test"}


def run(context: Context, model: str) -> dict[str, Any]:
    """Fit a model, score it and write its artifacts.

    Args:
        context: week, lake and settings of the skip engine.
        model: name of the model, such as `boosted_trees`.

    Returns:
        The report for Airflow.

    Raises:
        BadArgument: there is no such model, or its recipe in skip.recipes is invalid.
        CheckFailed: the plays are missing or unsuitable for training.
    """
    make_model = model_factory(context)
    make_model(model)  # an invalid name or recipe is refused before anything is read
    with Tracker.task(context, "train", model) as task, stopwatch(f"skip train {model}") as watch:
        labelled = read_plays(context, (model,))
        watch.lap("read_s")
        seed = context.seed(f"skip/{model}")
        with as_failed_check(model):
            fitted, losses = fit_model(labelled, make_model(model), seed)
            watch.lap("fit_s")
            scores = score_model(labelled, fitted)
            watch.lap("score_s")
            report = training_report(labelled, fitted, losses, scores) | {"seed": seed, "commit": context.commit}
            folds = refitted = None
            if model in context.settings.skip.blend.members:
                report["borders"] = compute_fold_borders(context, labelled)
                folds = out_of_fold_scores(labelled, make_model, model, report["borders"], seed)
                watch.lap("folds_s")
                refitted, report["refit"] = refit_model(labelled, make_model(model), losses, seed)
                watch.lap("refit_s")
        report |= {"seconds": watch.laps, "peak_mib": watch.peak_mib}
        folder = artifacts.write_training(
            context, fitted, refitted, scores, folds, artifacts.digest_of(labelled), report
        )
        log_training(context, task, report, watch)
        return {"model": model, "path": str(folder), "auc": report["auc"], "peak_mib": watch.peak_mib, **task.links}


def model_factory(context: Context) -> Callable[[str], SkipModel]:
    """Return a function that creates a model by name with its recipe in skip.recipes.

    The returned function raises BadArgument for an unknown name or an invalid recipe.
    """
    recipes = context.settings.skip.recipes

    def make_model(name: str) -> SkipModel:
        try:
            return registry.make(name, recipes.get(name))  # type: ignore[call-overload]
        except (ValueError, TypeError) as error:
            raise BadArgument(f"--model or skip.recipes: {error}") from error

    return make_model


@contextmanager
def as_failed_check(model: str) -> Iterator[None]:
    """Raise CheckFailed where a model raises ValueError, because the plays are unsuitable for it."""
    try:
        yield
    except ValueError as error:
        raise CheckFailed(f"skip {model}: {error}") from error


def read_plays(context: Context, models: Sequence[str], **options: Any) -> LabelledPlays:
    """Return the labelled plays before as_of, with the numbers that these models need.

    Args:
        context: week, lake and settings.
        models: names of the models.
        **options: further arguments of dataset.read_labelled, such as `variant` and `split`.

    Raises:
        CheckFailed: there are no plays or no features, or the training, validation or test plays all have one label.
    """
    needs = [registry.MODELS[name].needs.numbers for name in models]
    names = dataset.NUMBERS if any("all" in numbers for numbers in needs) else tuple(dict.fromkeys(sum(needs, ())))
    labelled = dataset.read_labelled(context, names, end=f"{context.week.as_of:%Y-%m-%d}", **options)
    for code in (splits.VALIDATION, splits.TEST):
        labels_N = labelled.plays.labels()[labelled.split_N == code]
        if labels_N.min() == labels_N.max():
            label = "listened to" if labels_N[0] else "skipped"
            raise CheckFailed(
                f"skip: all {len(labels_N)} {PARTS[code]} plays were {label}; AUC needs plays of both classes"
            )
    return labelled


def fit_model(labelled: LabelledPlays, model: SkipModel, seed: int) -> tuple[SkipModel, Losses]:
    """Fit the model on the training plays; returns the model and its losses by epoch."""
    return model, model.fit(labelled.of_split(splits.TRAIN), labelled.of_split(splits.VALIDATION), seed)


def refit_model(
    labelled: LabelledPlays, model: SkipModel, losses: Losses, seed: int
) -> tuple[SkipModel, dict[str, int]]:
    """Fit the model on all labelled plays, with the number of passes that the validation plays chose.

    Args:
        labelled: the labelled plays; their cleaning remains that of the training plays.
        model: a model that is not fitted.
        losses: losses of the fit on the training plays.
        seed: seed of that fit.

    Returns:
        The model, and the numbers of plays and of passes.
    """
    n_passes = best_pass(losses)
    model.refit(labelled.plays, n_passes, seed)
    return model, {"plays": len(labelled.plays), "passes": n_passes}


def score_model(labelled: LabelledPlays, model: SkipModel) -> Scores:
    """Return the predictions of a fitted model for the validation and test plays.

    For each test play the model has observed the strictly earlier test plays.
    """
    valid, test = labelled.of_split(splits.VALIDATION), labelled.of_split(splits.TEST)
    valid_N = model.predict_proba(valid)
    model.observe(test)
    test_N = model.predict_proba(test)
    places = [np.flatnonzero(labelled.split_N == code) for code in (splits.VALIDATION, splits.TEST)]
    place_N, proba_N = np.concatenate(places), np.concatenate([valid_N, test_N])
    order_N = np.argsort(place_N, kind="stable")  # a split that is not by time interleaves the two
    return artifacts.Scores.for_plays(labelled, place_N[order_N], proba_N[order_N])


def compute_fold_borders(context: Context, labelled: LabelledPlays) -> list[int]:
    """Return the rows at which the folds of the training plays begin, and the row after the last."""
    settings = context.settings.skip.blend
    return fold_borders(int((labelled.split_N == splits.TRAIN).sum()), settings.folds, settings.initial_share)


def out_of_fold_scores(
    labelled: LabelledPlays, make_model: Callable[[str], SkipModel], model: str, borders: Sequence[int], seed: int
) -> Scores:
    """Return predictions for training plays, each fold by a model that was fitted on the plays before it."""
    proba_N = out_of_fold(make_model, model, labelled.of_split(splits.TRAIN), borders, seed)
    return artifacts.Scores.for_plays(labelled, np.flatnonzero(labelled.split_N == splits.TRAIN)[borders[0] :], proba_N)


def training_report(labelled: LabelledPlays, model: SkipModel, losses: Losses, scores: Scores) -> dict[str, Any]:
    """Return the numbers of a training run: plays per split, losses by epoch, AUC, recipe."""
    valid, test = scores.valid, scores.test
    test_auc = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
    return {
        "sizes": {name: int((labelled.split_N == code).sum()) for code, name in PARTS.items()},
        "losses": {"train": [epoch.train for epoch in losses], "validation": [epoch.valid for epoch in losses]},
        "auc": {
            "validation": metrics.auc(valid.listened_N, valid.proba_N),
            "test": test_auc.value,
            "test_low": test_auc.low,
            "test_high": test_auc.high,
        },
        "recipe": asdict(model.recipe),
    }


def log_training(context: Context, task: Tracker, report: Mapping[str, Any], watch: Stopwatch) -> None:
    """Log the recipe, loss curves, metrics and input partitions to MLflow."""
    task.log_params({**report["recipe"], "seed": report["seed"], "split": context.settings.skip.split.kind})
    task.log_batch(
        (f"{name}_loss", value, step) for name, values in report["losses"].items() for step, value in enumerate(values)
    )
    task.log_metrics(
        {
            f"{name}_auc" if "_" not in name else name.replace("_", "_auc_"): value
            for name, value in report["auc"].items()
        }
    )
    task.log_metrics({**watch.laps, "peak_mib": watch.peak_mib} | {f"plays_{k}": v for k, v in report["sizes"].items()})
    if "refit" in report:
        task.log_metrics({f"refit_{name}": value for name, value in report["refit"].items()})
    task.log_partitions("skip_features", feature_partitions(context))
    task.log_figure(figures.losses(report["losses"]), "loss_curve.png")
    task.log_json(report, "report.json")


def feature_partitions(context: Context, variant: str = "past") -> list[dict[str, str]]:
    """Return the partitions of skip_features before as_of."""
    end = f"{context.week.as_of:%Y-%m-%d}"
    return [p for p in context.lake.partitions("skip_features") if p["variant"] == variant and p["day"] < end]
