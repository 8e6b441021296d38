"""Train one skip model on the plays before as_of, and keep what it says of those it did not learn from.

Input   skip_features, variant past, days before as_of       Output  work/<week>/<model>/ (jobs/skip/artifacts.py)
Time    learns from the earliest plays, stops by the next, is judged on the latest (skip.split); its history then
        reaches to as_of
Memory  the numbers that the model needs, once, as float32
Re-run  safe: the folder's files are replaced, the JSON that names them last

A candidate of the blend also forecasts parts of its training plays from the plays before each: what the blend learns
its weights from.
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
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.artifacts import Scores
    from jobs.skip.dataset import Labelled
    from models.skip.estimators.base import Losses, SkipModel

PARTS = {splits.TRAIN: "train", splits.VALIDATION: "validation", splits.TEST: "test"}


def run(context: Context, model: str) -> dict[str, Any]:
    """Fit, forecast, keep; the report for Airflow."""
    new = maker(context)
    new(model)  # a name or recipe that is refused stops here, before anything is read
    with Tracker.task(context, "train", model) as task, stopwatch(f"skip train {model}") as watch:
        found = plays_of(context, (model,))
        watch.lap("read_s")
        seed = context.seed(f"skip/{model}")
        with refused(model):
            fitted, history = fit(found, new(model), seed)
            watch.lap("fit_s")
            scores = judged(found, fitted)
            watch.lap("score_s")
            report = told(found, fitted, history, scores) | {"seed": seed, "commit": context.commit}
            folds = None
            if model in context.settings.skip.blend.members:
                report["borders"] = borders_of(context, found)
                folds = folds_of(found, new, model, report["borders"], seed)
                watch.lap("folds_s")
        report |= {"seconds": watch.laps, "peak_mib": watch.peak_mib}
        folder = artifacts.write(context, fitted, scores, folds, artifacts.digest(found), report)
        log(context, task, report, watch)
        return {"model": model, "path": str(folder), "auc": report["auc"], "peak_mib": watch.peak_mib, **task.links}


def maker(context: Context) -> Callable[[str], SkipModel]:
    """Makes a model by name, with the recipe that the settings say; BadArgument for a name or recipe there is not."""
    recipes = context.settings.skip.recipes

    def make(name: str) -> SkipModel:
        try:
            return registry.make(name, recipes.get(name))  # type: ignore[call-overload]
        except (ValueError, TypeError) as error:
            raise BadArgument(f"--model or skip.recipes: {error}") from error

    return make


@contextmanager
def refused(model: str) -> Iterator[None]:
    """What a model says about plays that it cannot learn from or be judged on is a check that failed."""
    try:
        yield
    except ValueError as error:
        raise CheckFailed(f"skip {model}: {error}") from error


def plays_of(context: Context, models: Sequence[str], **chosen: Any) -> Labelled:
    """The labelled plays before as_of, with the numbers that these models need.

    Raises:
        CheckFailed: none, no features, training plays of one class, or a part to judge of one class.
    """
    needs = [registry.MODELS[name].needs.numbers for name in models]
    names = dataset.NUMBERS if any("all" in some for some in needs) else tuple(dict.fromkeys(sum(needs, ())))
    found = dataset.labelled(context, names, end=f"{context.week.as_of:%Y-%m-%d}", **chosen)
    for code in (splits.VALIDATION, splits.TEST):
        heard_N = found.plays.labels()[found.split_N == code]
        if heard_N.min() == heard_N.max():
            what = "listened to" if heard_N[0] else "skipped"
            raise CheckFailed(
                f"skip: all {len(heard_N)} {PARTS[code]} plays were {what}; no AUC can be told of one class"
            )
    return found


def fit(found: Labelled, model: SkipModel, seed: int) -> tuple[SkipModel, Losses]:
    """The model, fitted on training plays, and its losses."""
    return model, model.fit(found.part(splits.TRAIN), found.part(splits.VALIDATION), seed)


def judged(found: Labelled, model: SkipModel) -> Scores:
    """What a fitted model says of validation plays, and of test plays, which see strictly earlier test plays."""
    valid, test = found.part(splits.VALIDATION), found.part(splits.TEST)
    valid_N = model.predict_proba(valid)
    model.observe(test)
    test_N = model.predict_proba(test)
    places = [np.flatnonzero(found.split_N == code) for code in (splits.VALIDATION, splits.TEST)]
    place_N, proba_N = np.concatenate(places), np.concatenate([valid_N, test_N])
    order_N = np.argsort(place_N, kind="stable")  # a split that is not by time interleaves the two
    return artifacts.Scores.of(found, place_N[order_N], proba_N[order_N])


def borders_of(context: Context, found: Labelled) -> list[int]:
    """Where the folds of the training plays begin and end."""
    chosen = context.settings.skip.blend
    return fold_borders(int((found.split_N == splits.TRAIN).sum()), chosen.folds, chosen.initial_share)


def folds_of(found: Labelled, new: Callable[[str], SkipModel], model: str, borders: Sequence[int], seed: int) -> Scores:
    """Training plays forecast by models of the plays before them."""
    proba_N = out_of_fold(new, model, found.part(splits.TRAIN), borders, seed)
    return artifacts.Scores.of(found, np.flatnonzero(found.split_N == splits.TRAIN)[borders[0] :], proba_N)


def told(found: Labelled, model: SkipModel, history: Losses, scores: Scores) -> dict[str, Any]:
    """A training's numbers: plays by part, losses by epoch, AUC, recipe."""
    valid, test = scores.valid, scores.test
    reached = metrics.auc_interval(test.listened_N, test.proba_N, test.user_N)
    return {
        "sizes": {name: int((found.split_N == code).sum()) for code, name in PARTS.items()},
        "losses": {"train": [epoch.train for epoch in history], "validation": [epoch.valid for epoch in history]},
        "auc": {
            "validation": metrics.auc(valid.listened_N, valid.proba_N),
            "test": reached.value,
            "test_low": reached.low,
            "test_high": reached.high,
        },
        "recipe": asdict(model.recipe),
    }


def log(context: Context, task: Tracker, report: Mapping[str, Any], watch: Stopwatch) -> None:
    """Recipe, curves, numbers and the days learned from, to MLflow."""
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
    task.log_partitions("skip_features", days_of(context))
    task.log_figure(figures.losses(report["losses"]), "loss_curve.png")
    task.log_json(report, "report.json")


def days_of(context: Context, variant: str = "past") -> list[dict[str, str]]:
    """The partitions of skip_features before as_of."""
    end = f"{context.week.as_of:%Y-%m-%d}"
    return [p for p in context.lake.partitions("skip_features") if p["variant"] == variant and p["day"] < end]
