"""Tune the methods for comparison on real playlists: twenty trials of each with Optuna, on the validation listeners.

Task    as in benchmarks/playlists.py, with one seed; the space is tt_svd, and ut_als for the fold-in, whose factors are
        trained anew in every trial
Budget  TRIALS settings of each method: the first is the one in use at that commit, the others come from Optuna's
        tree-structured Parzen estimator with a fixed seed. configs/mpd.yaml and models/cold_start/methods/peers.py
        contain the best ones, rounded
Metric  NDCG@50 of the validation listeners. The test listeners are evaluated twice per method after the search: with
        the settings in use, and with the best settings of the validation
Log     every trial is in `trials` of the result, with its settings
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import harness
from harness import Measurement, Peer, stopwatch
from playlists import SPACES, K, ndcg_of, prepare_week

SEED, SPACE, ALS_SPACE = 7, *SPACES
TRIALS, QUICK_TRIALS = 20, 2
Parameters = dict[str, float]


def suggest(trial: Any, name: str) -> Parameters:
    """Return the settings of a trial, drawn from the search space of one method."""
    if name == "dropoutnet_full":
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-3, 0.3, log=True),
            "dropout": trial.suggest_float("dropout", 0.1, 0.9),
            "epochs": trial.suggest_int("epochs", 5, 30),
        }
    if name == "melu_full":
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
            "inner_rate": trial.suggest_float("inner_rate", 5e-6, 0.5, log=True),
            "epochs": trial.suggest_int("epochs", 10, 40),
        }
    if name == "ease":
        return {"ridge": trial.suggest_float("ridge", 10, 5_000, log=True)}
    if name == "item_knn":
        return {
            "token_exponent": trial.suggest_float("token_exponent", 0, 1),
            "track_exponent": trial.suggest_float("track_exponent", 0, 1),
            "shrinkage": trial.suggest_float("shrinkage", 0.1, 100, log=True),
        }
    return {
        "alpha": trial.suggest_float("alpha", 1, 100, log=True),
        "regularisation": trial.suggest_float("regularisation", 0.05, 200, log=True),
        "frequency_exponent": trial.suggest_float("frequency_exponent", 0, 1),
    }


def in_use(factory: Any, als: Any) -> dict[str, Parameters]:
    """Return the settings in use, by method.

    Args:
        factory: factory of the week's methods.
        als: settings of the ALS factors.
    """
    from models.cold_start.methods.peers import EASE_RIDGE, ITEM_KNN

    recipes = {"dropoutnet_full": factory.inputs.dropoutnet, "melu_full": factory.inputs.melu, "item_knn": ITEM_KNN}
    fields = {
        "dropoutnet_full": ("learning_rate", "dropout", "epochs"),
        "melu_full": ("learning_rate", "inner_rate", "epochs"),
        "item_knn": ("token_exponent", "track_exponent", "shrinkage"),
    }
    used = {name: {field: getattr(recipes[name], field) for field in fields[name]} for name in recipes}
    used["ease"] = {"ridge": EASE_RIDGE}
    used["ials_fold_in"] = {name: getattr(als, name) for name in ("alpha", "regularisation", "frequency_exponent")}
    return used


NAMES = ("dropoutnet_full", "melu_full", "ease", "item_knn", "ials_fold_in")


def run_search(data: str, quick: bool, name: str) -> Measurement:
    """Tune one method; return the trials, and the test NDCG of the settings in use and of the best ones.

    `quality` maps "what, split" to NDCG in %; `records` has the settings of each trial.
    """
    import numpy as np
    import optuna

    from jobs.cold_start.evaluate import read_cohort
    from jobs.cold_start.methods import method_factory
    from jobs.factorize import als as als_job
    from jobs.platform.context import Context
    from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull
    from models.cold_start.methods.melu import Melu, MeluFull
    from models.cold_start.methods.neighbours import Neighbours
    from models.cold_start.methods.peers import ITEM_KNN, Ease, IalsFoldIn

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    clock = stopwatch()
    context = prepare_week(data, SEED, quick, (SPACE,))
    factory = method_factory(context, SPACE, lambda *_: None)
    cohorts = {split: read_cohort(context, SPACE, split) for split in ("validation", "test")}

    def fold_in(parameters: Parameters) -> IalsFoldIn:
        settings = context.settings
        als = settings.als.model_copy(update=parameters)
        week = Context(settings.model_copy(update={"als": als}), context.week, context.home)
        als_job.run(week)
        week.spark.stop()
        tracks_ND = context.lake.matrix("track_vectors", week=context.week.name, space=ALS_SPACE)
        warm = replace(factory.warm, track_ND=tracks_ND)
        return IalsFoldIn(warm, als.alpha, als.regularisation, als.frequency_exponent)

    builders: dict[str, Callable[[Parameters], Any]] = {
        "dropoutnet_full": lambda p: DropoutNetFull(
            DropoutNet(factory.warm, replace(factory.inputs.dropoutnet, **p), SEED)
        ),
        "melu_full": lambda p: MeluFull(Melu(factory.warm, replace(factory.inputs.melu, **p), SEED)),
        "ease": lambda p: Ease(factory.warm, **p),
        "item_knn": lambda p: Neighbours.fit(factory.warm, replace(ITEM_KNN, **p), "item_knn"),
        "ials_fold_in": fold_in,
    }

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=SEED))
    study.enqueue_trial(in_use(factory, context.settings.als)[name])
    test_of_trial: dict[int, float] = {}

    def objective(trial: Any) -> float:
        method = builders[name](suggest(trial, name))
        # The factors of a trial are overwritten by the next, so the test value is computed now and read only for the
        # trial that validation selects, and for the settings in use.
        test_of_trial[trial.number] = ndcg_of(context, method, cohorts["test"])
        return ndcg_of(context, method, cohorts["validation"])

    records: list[dict[str, Any]] = []
    for number in range(QUICK_TRIALS if quick else TRIALS):
        study.optimize(objective, n_trials=1, catch=(ValueError,))
        trial = study.trials[-1]
        value = float("nan") if trial.value is None else trial.value
        records.append({"trial": number, **trial.params, "validation ndcg": round(value, 3)})
        harness.log(f"  {name}, trial {number + 1}: {value:.2f} {trial.params}")
    quality: dict[str, float] = {}
    for what, trial in (("in use", study.trials[0]), ("best on validation", study.best_trial)):
        quality[f"{what}, validation"] = float(np.nan) if trial.value is None else trial.value
        quality[f"{what}, test"] = test_of_trial[trial.number]
    return Measurement([clock()], quality, records=records)


def case(name: str, measurement: Measurement, peak_mib: float) -> dict[str, Any]:
    """Return the case of one method: the settings in use and the best ones, on both cohorts, and all trials."""
    peers = {}
    for what in ("in use", "best on validation"):
        quality = {split: measurement.quality[f"{what}, {split}"] for split in ("validation", "test")}
        peers[what] = harness.summary([(Measurement(measurement.seconds, quality), peak_mib)], "")
    trials = measurement.records
    best = max(trials, key=lambda record: record["validation ndcg"])
    settings = ", ".join(f"{key} {value:.4g}" for key, value in best.items() if key not in ("trial", "validation ndcg"))
    about = (
        f"NDCG@{K} in %, one seed, {len(trials)} trials; best settings: {settings}. Seconds and MiB are those of the "
        "whole search."
    )
    return {"case": name, "about": about, "peers": peers, "ratios": {}, "trials": trials}


def main() -> None:
    """Tune the methods, each in a process of its own."""
    data_help = "Spotify Million Playlist Dataset: playlist_track.parquet and track_uri_map.parquet"
    arguments = harness.parse_arguments(
        "baselines", (__doc__ or "").splitlines()[0], data_help, required=True, in_parts=True
    )
    cases, best = [], 0.0
    for name in NAMES:
        peer = Peer(
            f"baselines {name}", run_search, {"data": str(arguments.data), "quick": arguments.quick, "name": name}
        )
        measurement, peak_mib = harness.run_part(arguments.parts, peer)
        cases.append(case(name, measurement, peak_mib))
        best = max(best, measurement.quality["best on validation, validation"])
    harness.write_result(arguments, cases, [], ("best validation NDCG@50, %", best))


if __name__ == "__main__":
    main()
