"""Search a better recipe for one model: judged by its AUC on validation, never on test.

Input   skip_features, variant past, days before as_of
Output  OVERTURE_HOME/skip/tuning/<model>.log, Optuna's journal; a run with a child run a trial; the best recipe as YAML
Budget  skip.tuning.trials and minutes, or the command's; whichever is met first
Re-run  goes on: the trials that were made of the same plays count

Baselines go through their grid; other models are searched with Optuna's tree-structured Parzen estimator, the recipe of
the settings first. Every trial learns the newest part of the training plays, and is given up there if its AUC is below
the median of the others at that point; else it learns all of them. Networks and trees stop by themselves besides.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from jobs import tracking
from jobs.errors import BadArgument, CheckFailed
from jobs.skip import figures, kept, train
from jobs.skip.watch import watched
from jobs.tracking_run import Run
from models.skip import metrics, registry, splits
from models.skip.tuning import SPACES, Choice, Space, grid, is_grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.context import Context
    from models.skip.interface import SkipModel
    from models.skip.plays import Plays


def run(context: Context, model: str, trials: int | None = None, minutes: float | None = None) -> dict[str, Any]:
    """Search within the budget; the best recipe found so far, and its YAML on stdout's report."""
    chosen = context.settings.skip.tuning
    trials, minutes = trials or chosen.trials, minutes or chosen.minutes
    if trials < 1 or not minutes > 0:
        raise BadArgument(f"--trials: at least 1, and --minutes above 0, got {trials} and {minutes}")
    given = train.maker(context)(model)
    with tracking.task(context, "tune", model) as task, watched(f"skip tune {model}") as watch:
        found = train.plays_of(context, (model,))
        plays = kept.digest(found)
        study = open_study(context, model, plays)
        space = SPACES[model]
        if not study.trials and not is_grid(space):
            study.enqueue_trial({name: value for name, value in asdict(given.recipe).items() if name in space})
        learn, valid = found.part(splits.TRAIN), found.part(splits.VALIDATION)
        before, deadline = len(finished(study)), time.monotonic() + 60 * minutes
        try_one = objective(context, model, learn, valid, task, watch.say)
        left = trials - before
        while left > 0 and time.monotonic() < deadline and not exhausted(study, space):
            study.optimize(try_one, n_trials=1, catch=(ValueError,))
            left -= 1
        best = told(context, study, model, plays)
        task.log_params({"trials": trials, "minutes": minutes, "plays": plays, **best["recipe"]})
        task.log_metrics({"validation_auc": best["auc"], "trials_made": len(finished(study)) - before})
        values = [(t.number, t.value if t.state == TrialState.COMPLETE else None) for t in finished(study)]
        task.log_figure(figures.trials(values, best["given_auc"]), "trials.png")
        task.log_json(best, "best.json")
        text = yaml.safe_dump({"skip": {"recipes": {model: best["recipe"]}}}, sort_keys=False)
        watch.say(f"best of {len(finished(study))} trials, AUC {best['auc']:.4f}; for the settings:\n{text}")
        return {**best, "yaml": text, "made": len(finished(study)) - before, **task.links}


def open_study(context: Context, model: str, plays: str) -> optuna.Study:
    """The journal's study of these plays, made when there is none."""
    folder = context.release_home / "tuning"
    folder.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, seed = SPACES[model], context.seed(f"tuning/{model}")
    sampler: optuna.samplers.BaseSampler = (
        optuna.samplers.GridSampler({name: list(part.values) for name, part in choices(space).items()}, seed=seed)
        if is_grid(space)
        else optuna.samplers.TPESampler(seed=seed)
    )
    return optuna.create_study(
        study_name=f"{model}/{plays[:16]}",
        storage=JournalStorage(JournalFileBackend(str(folder / f"{model}.log"))),
        sampler=sampler,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=context.settings.skip.tuning.unpruned, n_warmup_steps=0),
        direction="maximize",
        load_if_exists=True,
    )


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
    context: Context, model: str, learn: Plays, valid: Plays, task: Run, say: Callable[[str], None]
) -> Callable[[optuna.Trial], float]:
    """One trial: a child run, the newest training plays first, then all of them."""
    settings = context.settings.skip
    seed = context.seed(f"skip/{model}")

    def reached(recipe: dict[str, Any], part: Plays) -> float:
        fresh: SkipModel = registry.make(model, {**settings.recipes.get(model, {}), **recipe})  # type: ignore[call-overload]
        fresh.fit(part, valid, seed)
        return metrics.auc(valid.labels(), fresh.predict_proba(valid))

    def try_one(trial: optuna.Trial) -> float:
        recipe = suggested(trial, SPACES[model])
        with tracking.trial(task, f"{model} {trial.number}") as run:
            run.log_params(recipe)
            newest = learn.rows(slice(int(len(learn) * (1 - settings.tuning.first_look)), None))
            first = reached(recipe, newest)
            run.log_metrics({"validation_auc_first_look": first})
            trial.report(first, 0)
            pruned = trial.should_prune()
            run.set_tags({"state": "pruned" if pruned else "complete"})
            if not pruned:
                value = reached(recipe, learn)
                run.log_metrics({"validation_auc": value})
        if pruned:
            say(f"trial {trial.number} given up at {first:.4f}")
            raise optuna.TrialPruned
        say(f"trial {trial.number}: {value:.4f}")
        return value

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
    recipe = asdict(train.maker(context)(model).recipe)
    given = [t.value for t in done if all(recipe[name] == value for name, value in t.params.items())]
    return {
        "model": model, "plays": plays, "trials": len(finished(study)),
        "pruned": len(finished(study)) - len(done), "auc": best.value, "given_auc": given[0] if given else None,
        "recipe": {**context.settings.skip.recipes.get(model, {}), **best.params},  # type: ignore[call-overload]
    }  # fmt: skip
