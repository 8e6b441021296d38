"""Search a better recipe for one model: judged by its AUC on later and later plays, never on test.

Input   skip_features, variant past, days before as_of
Output  OVERTURE_HOME/skip/tuning/<model>.log, Optuna's journal; a run with a child run a trial; the best recipe as YAML
Budget  skip.tuning.trials and minutes, or the command's; whichever is met first
Re-run  goes on: the trials that were made of the same plays count

Baselines go through their grid; other models are searched with Optuna's tree-structured Parzen estimator, the recipe of
the settings first. A trial is worth the mean of its AUC on each fold of the blend (skip.blend: training plays forecast
from those before them) and on validation: one stretch of some thousand plays, looked at dozens of times, would choose
what suits it by chance. From its second fold on, a trial below the median of the others at that point is given up.
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
from models.skip.ensemble.fit import forecasts
from models.skip.estimators import registry
from models.skip.estimators.search_spaces import SPACES, Choice, Space, grid, is_grid
from models.skip.evaluation import metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from jobs.platform.context import Context
    from models.skip.data.plays import Plays
    from models.skip.estimators.base import SkipModel


def run(context: Context, model: str, trials: int | None = None, minutes: float | None = None) -> dict[str, Any]:
    """Search within the budget; the best recipe found so far, and its YAML on stdout's report."""
    chosen = context.settings.skip.tuning
    trials, minutes = trials or chosen.trials, minutes or chosen.minutes
    if trials < 1 or not minutes > 0:
        raise BadArgument(f"--trials: at least 1, and --minutes above 0, got {trials} and {minutes}")
    given = train.model_factory(context)(model)
    with Tracker.task(context, "tune", model) as task, stopwatch(f"skip tune {model}") as watch:
        found = train.read_plays(context, (model,))
        plays = artifacts.digest_of(found)
        study = open_study(context, model, plays)
        space = SPACES[model]
        if not study.trials and not is_grid(space):
            study.enqueue_trial({name: value for name, value in asdict(given.recipe).items() if name in space})
        learn, valid = found.of_split(splits.TRAIN), found.of_split(splits.VALIDATION)
        before, deadline = len(finished(study)), time.monotonic() + 60 * minutes
        try_one = objective(context, model, learn, valid, train.compute_fold_borders(context, found), task, watch.log)
        left = trials - before
        while left > 0 and time.monotonic() < deadline and not exhausted(study, space):
            study.optimize(try_one, n_trials=1, catch=(ValueError,))
            left -= 1
        best = told(context, study, model, plays)
        task.log_params({"trials": trials, "minutes": minutes, "plays": plays, **best["recipe"]})
        task.log_metrics({"mean_auc": best["auc"], "trials_made": len(finished(study)) - before})
        values = [(t.number, t.value if t.state == TrialState.COMPLETE else None) for t in finished(study)]
        task.log_figure(figures.trials(model, values, best["given_auc"]), "trials.png")
        task.log_json(best, "best.json")
        text = yaml.safe_dump({"skip": {"recipes": {model: best["recipe"]}}}, sort_keys=False)
        watch.log(f"best of {len(finished(study))} trials, AUC {best['auc']:.4f}; for the settings:\n{text.rstrip()}")
        return {**best, "yaml": text, "made": len(finished(study)) - before, **task.links}


def open_study(context: Context, model: str, plays: str) -> optuna.Study:
    """The journal's study of these plays, made when there is none."""
    folder = context.release_home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, folds = SPACES[model], context.settings.skip.blend
    study = optuna.create_study(
        study_name=f"{model}/{plays[:16]}/{folds.folds} folds from {folds.initial_share}",  # what a trial is worth
        storage=JournalStorage(JournalFileBackend(str(folder / f"{model}.log"))),
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=context.settings.skip.tuning.startup_trials, n_warmup_steps=1
        ),
        direction="maximize",
        load_if_exists=True,
    )
    if is_grid(space):
        # Points are numbered in an order drawn from the seed, so that every call needs the same.
        points = {name: list(part.values) for name, part in choices(space).items()}
        study.sampler = optuna.samplers.GridSampler(points, seed=context.seed(f"tuning/{model}"))
    else:
        # A call that goes on with the first call's seed would draw the first call's trials again.
        study.sampler = optuna.samplers.TPESampler(seed=context.seed(f"tuning/{model}/{len(study.trials)}"))
    return study


def choices(space: Space) -> dict[str, Choice]:
    """The parts of a grid."""
    return {name: part for name, part in space.items() if isinstance(part, Choice)}


def suggested(trial: optuna.Trial, space: Space) -> dict[str, Any]:
    """One recipe of a space."""
    found: dict[str, Any] = {}
    for name, part in space.items():
        if isinstance(part, Choice):
            found[name] = trial.suggest_categorical(name, list(part.values))
        elif isinstance(part.low, int):
            found[name] = trial.suggest_int(name, part.low, int(part.high), log=part.log)
        else:
            found[name] = trial.suggest_float(name, part.low, part.high, log=part.log)
    return found


def objective(
    context: Context,
    model: str,
    learn: Plays,
    valid: Plays,
    borders: Sequence[int],
    task: Tracker,
    say: Callable[[str], None],
) -> Callable[[optuna.Trial], float]:
    """One trial: a child run; folds from the earliest on, validation last."""
    settings = context.settings.skip
    seed = context.seed(f"skip/{model}")

    def reached(recipe: dict[str, Any]) -> Iterator[float]:
        def fresh(name: str) -> SkipModel:
            return registry.make(name, {**settings.recipes.get(name, {}), **recipe})  # type: ignore[call-overload]

        for fold, proba_N in forecasts(fresh, model, learn, borders, seed):
            yield metrics.auc(fold.labels(), proba_N)
        whole = fresh(model)
        whole.fit(learn, valid, seed)
        yield metrics.auc(valid.labels(), whole.predict_proba(valid))

    def try_one(trial: optuna.Trial) -> float:
        recipe = suggested(trial, SPACES[model])
        with task.trial(f"{model} {trial.number}") as run:
            run.log_params(recipe)
            auc_F: list[float] = []
            pruned = False
            for step, auc in enumerate(reached(recipe)):
                auc_F.append(auc)
                run.log_batch([("auc", auc, step)])
                trial.report(float(np.mean(auc_F)), step)
                pruned = step < len(borders) - 1 and trial.should_prune()
                if pruned:
                    break
            run.set_tags({"state": "pruned" if pruned else "complete"})
            run.log_metrics({"mean_auc": float(np.mean(auc_F))})
        parts = " ".join(f"{auc:.4f}" for auc in auc_F)
        say(f"trial {trial.number}: {'given up' if pruned else f'{np.mean(auc_F):.4f}'} ({parts})")
        if pruned:
            raise optuna.TrialPruned
        return float(np.mean(auc_F))

    return try_one


def finished(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    """Trials that say something: what was interrupted or failed does not count."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def exhausted(study: optuna.Study, space: Space) -> bool:
    """Has every point of a grid been tried?"""
    return is_grid(space) and len(finished(study)) >= sum(1 for _ in grid(space))


def told(context: Context, study: optuna.Study, model: str, plays: str) -> dict[str, Any]:
    """The best trial's recipe, and what the settings' own reached where it was among the trials."""
    done = [trial for trial in finished(study) if trial.state == TrialState.COMPLETE]
    if not done:
        raise CheckFailed(
            f"tune {model}: no trial came to its end within the budget; give it more --minutes or --trials"
        )
    best = max(done, key=lambda trial: trial.value or 0.0)
    recipe = asdict(train.model_factory(context)(model).recipe)
    given = [t.value for t in done if all(recipe[name] == value for name, value in t.params.items())]
    return {
        "model": model,
        "plays": plays,
        "trials": len(finished(study)),
        "pruned": len(finished(study)) - len(done),
        "auc": best.value,
        "given_auc": given[0] if given else None,
        "recipe": {**context.settings.skip.recipes.get(model, {}), **best.params},  # type: ignore[call-overload]
    }
