"""Searches for a better recipe of one model, by its AUC on folds of later and later plays; test plays are not used.

Input   skip_features, variant past, days before as_of
Output  OVERTURE_HOME/skip/tuning/<model>.log, the journal of Optuna; an MLflow run with a child run per trial; the best
        recipe as YAML
Budget  skip.tuning.trials and minutes, or the command's options; the search ends when either is reached
Re-run  continues the search: earlier trials on the same plays count

Baselines are searched by a grid, other models with Optuna's tree-structured Parzen estimator, starting from the recipe
of the settings. The value of a trial is the mean of its AUC on each fold of the blend (skip.blend: training plays
predicted from those before them) and on validation. Validation alone has some thousand plays; dozens of trials would
overfit it. A trial is pruned from its second fold on if its mean is below the median of the other trials at that step.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.stopwatch import stopwatch
from jobs.skip import artifacts, figures, train
from jobs.tracking.tracker import Tracker
from models.skip.data import splits
from models.skip.ensemble.fit import fold_predictions
from models.skip.estimators import registry
from models.skip.estimators.search_spaces import SPACES, Choice, Space, grid, is_grid
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobs.platform.context import Context
    from models.skip.data.plays import Plays
    from models.skip.estimators.base import SkipModel


def run(context: Context, model: str, trials: int | None = None, minutes: float | None = None) -> dict[str, Any]:
    """Search within the budget.

    Args:
        context: week, lake and settings.
        model: name of the model.
        trials: number of trials, earlier ones included; None or 0: skip.tuning.trials.
        minutes: time limit of this call; None or 0: skip.tuning.minutes.

    Returns:
        The report for Airflow: the best recipe so far, also as YAML for the settings.

    Raises:
        BadArgument: the budget is not positive, or there is no such model.
        CheckFailed: no trial was completed within the budget.
    """
    settings = context.settings.skip.tuning
    trials, minutes = trials or settings.trials, minutes or settings.minutes
    if trials < 1 or not minutes > 0:
        raise BadArgument(f"--trials: must be at least 1, and --minutes above 0; got {trials} and {minutes}")
    initial = train.model_factory(context)(model)
    with Tracker.task(context, "tune", model) as task, stopwatch(f"skip tune {model}") as watch:
        labelled = train.read_plays(context, (model,))
        plays = artifacts.digest_of(labelled)
        study = open_study(context, model, plays)
        space = SPACES[model]
        if not study.trials and not is_grid(space):
            study.enqueue_trial({name: value for name, value in asdict(initial.recipe).items() if name in space})
        training, valid = labelled.of_split(splits.TRAIN), labelled.of_split(splits.VALIDATION)
        n_before, deadline = len(finished(study)), time.monotonic() + 60 * minutes
        borders = train.compute_fold_borders(context, labelled)
        objective = make_objective(context, model, training, valid, borders, task, watch.log)
        n_left = trials - n_before
        while n_left > 0 and time.monotonic() < deadline and not exhausted(study, space):
            study.optimize(objective, n_trials=1, catch=(ValueError,))
            n_left -= 1
        best = best_recipe(context, study, model, plays)
        task.log_params({"trials": trials, "minutes": minutes, "plays": plays, **best["recipe"]})
        task.log_metrics({"mean_auc": best["auc"], "new_trials": len(finished(study)) - n_before})
        values = [(t.number, t.value if t.state == TrialState.COMPLETE else None) for t in finished(study)]
        task.log_figure(figures.trials(model, values, best["settings_auc"]), "trials.png")
        task.log_json(best, "best.json")
        text = yaml.safe_dump({"skip": {"recipes": {model: best["recipe"]}}}, sort_keys=False)
        watch.log(f"best of {len(finished(study))} trials, AUC {best['auc']:.4f}; for the settings:\n{text.rstrip()}")
        return {**best, "yaml": text, "new_trials": len(finished(study)) - n_before, **task.links}


def open_study(context: Context, model: str, plays: str) -> optuna.Study:
    """Return the study of the model and these plays from the journal; it is created when there is none."""
    folder = context.release_home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, folds = SPACES[model], context.settings.skip.blend
    study = optuna.create_study(
        study_name=f"{model}/{plays[:16]}/{folds.folds} folds from {folds.initial_share}",  # defines a trial's value
        storage=JournalStorage(JournalFileBackend(str(folder / f"{model}.log"))),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=context.settings.skip.tuning.startup_trials, n_warmup_steps=1
        ),
        direction="maximize",
        load_if_exists=True,
    )
    if is_grid(space):
        # The seed determines the order of the grid points, so every call needs the same one.
        points = {name: list(part.values) for name, part in choices(space).items()}
        study.sampler = optuna.samplers.GridSampler(points, seed=context.seed(f"tuning/{model}"))
    else:
        # With the seed of the first call, a later call would sample the trials of the first call again.
        study.sampler = optuna.samplers.TPESampler(seed=context.seed(f"tuning/{model}/{len(study.trials)}"))
    return study


def choices(space: Space) -> dict[str, Choice]:
    """Return the dimensions of a grid, by name of the recipe field."""
    return {name: part for name, part in space.items() if isinstance(part, Choice)}


def suggest_recipe(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """Return the recipe that a trial samples from a search space."""
    recipe: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, Choice):
            recipe[name] = trial.suggest_categorical(name, list(part.values))
        elif isinstance(part.low, int):
            recipe[name] = trial.suggest_int(name, part.low, int(part.high), log=part.log)
        else:
            recipe[name] = trial.suggest_float(name, part.low, part.high, log=part.log)
    return recipe


def make_objective(
    context: Context,
    model: str,
    training: Plays,
    valid: Plays,
    borders: Sequence[int],
    task: Tracker,
    log_line: Callable[[str], None],
) -> Callable[[optuna.Trial], float]:
    """Return the objective function of a study: it runs one trial and returns its mean AUC.

    A trial is a child run of the task. Its steps are the folds, from the earliest on, and validation last.

    Args:
        context: settings and seeds.
        model: name of the model.
        training: training plays.
        valid: validation plays.
        borders: first rows of the folds in the training plays, and the row after the last.
        task: the MLflow run of the search.
        log_line: writes one line of progress.
    """
    settings = context.settings.skip
    seed = context.seed(f"skip/{model}")

    def auc_by_step(recipe: dict[str, Any]) -> Iterator[float]:
        def make_model(name: str) -> SkipModel:
            return registry.make(name, {**settings.recipes.get(name, {}), **recipe})  # type: ignore[call-overload]

        for fold, proba_N in fold_predictions(make_model, model, training, borders, seed):
            yield metrics.auc(fold.labels(), proba_N)
        fitted = make_model(model)
        fitted.fit(training, valid, seed)
        yield metrics.auc(valid.labels(), fitted.predict_proba(valid))

    def run_trial(trial: optuna.Trial) -> float:
        recipe = suggest_recipe(trial, SPACES[model])
        with task.trial(f"{model} {trial.number}") as run:
            run.log_params(recipe)
            auc_F: list[float] = []
            pruned = False
            for step, auc in enumerate(auc_by_step(recipe)):
                auc_F.append(auc)
                run.log_batch([("auc", auc, step)])
                trial.report(float(np.mean(auc_F)), step)
                pruned = step < len(borders) - 1 and trial.should_prune()
                if pruned:
                    break
            run.set_tags({"state": "pruned" if pruned else "complete"})
            run.log_metrics({"mean_auc": float(np.mean(auc_F))})
        parts = " ".join(f"{auc:.4f}" for auc in auc_F)
        log_line(f"trial {trial.number}: {'pruned' if pruned else f'{np.mean(auc_F):.4f}'} ({parts})")
        if pruned:
            raise optuna.TrialPruned
        return float(np.mean(auc_F))

    return run_trial


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Return the completed and pruned trials; interrupted and failed ones do not count."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def exhausted(study: optuna.Study, space: Space) -> bool:
    """Return whether every point of a grid has been tried; False for a space that is no grid."""
    return is_grid(space) and len(finished(study)) >= sum(1 for _ in grid(space))


def best_recipe(context: Context, study: optuna.Study, model: str, plays: str) -> dict[str, Any]:
    """Return the recipe and AUC of the best trial, and the AUC of the settings' recipe if it was a trial.

    Raises:
        CheckFailed: no trial was completed.
    """
    completed = [trial for trial in finished(study) if trial.state == TrialState.COMPLETE]
    if not completed:
        raise CheckFailed(f"tune {model}: no trial was completed within the budget; increase --minutes or --trials")
    best = max(completed, key=lambda trial: trial.value or 0.0)
    recipe = asdict(train.model_factory(context)(model).recipe)
    settings_auc = [t.value for t in completed if all(recipe[name] == value for name, value in t.params.items())]
    return {
        "model": model,
        "plays": plays,
        "trials": len(finished(study)),
        "pruned": len(finished(study)) - len(completed),
        "auc": best.value,
        "settings_auc": settings_auc[0] if settings_auc else None,
        "recipe": {**context.settings.skip.recipes.get(model, {}), **best.params},  # type: ignore[call-overload]
    }
