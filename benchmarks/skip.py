"""Measure the skip models on real plays: split by time, listeners whom the models have not seen, effect of leakage.

`--quick` trains only the candidates of the blend, on the same plays; the headline figure is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from harness import Measurement, Peer, stopwatch
from skip_features import context_at

N_LISTENER_FOLDS = 5
PROTOTYPE_AUC, TARGET, PROTOTYPE_FLOW_AUC = 0.670, 0.69, 0.710


def skip_context(home: str) -> Any:
    """Return the context of the skip engine over configs/skip.yaml, with its lake in `home`."""
    from jobs.platform.context import Context

    base = context_at(home)
    return Context(base.settings, base.week, base.home, "skip")


def ingest_plays(home: str, data: str, *, leaky: bool = True) -> Measurement:
    """Ingest the real plays and build honest features, and with `leaky` leaky ones too."""
    from jobs.ingest.dsg17 import adapter as dsg17
    from jobs.skip import build_features

    context, clock = context_at(home), stopwatch()
    report = dsg17.run(context, Path(data))
    build_features.run(context)
    if leaky:
        build_features.run(context, leaky=True)
    context.spark.stop()
    return Measurement([clock()], {"plays": float(report["files"]["train"]["kept"])})


def train_model(home: str, model: str, *, folds: bool = True) -> Measurement:
    """Run `overture skip train`; measure reading, fitting and prediction.

    Args:
        home: home folder.
        model: name of the model.
        folds: whether to train the folds for the blend, which are not part of the measured time.
    """
    from jobs.skip import artifacts, train

    context = skip_context(home)
    if not folds:
        skip = context.settings.skip
        without_folds = skip.model_copy(update={"blend": skip.blend.model_copy(update={"members": ()})})
        context.settings = context.settings.model_copy(update={"skip": without_folds})
    train.run(context, model)
    report = artifacts.read_report(context, model)
    seconds = report["seconds"]
    elapsed_s = seconds["read_s"] + seconds["fit_s"] + seconds["score_s"]
    return Measurement(
        [elapsed_s],
        quality(context, model, report) | {"fit s": seconds["fit_s"], "folds s": seconds.get("folds_s", 0.0)},
    )


def quality(context: Any, name: str, report: dict[str, Any]) -> dict[str, float]:
    """Return test AUC with its interval, test AUC on Flow plays, and validation AUC."""
    from jobs.skip import artifacts
    from models.skip.evaluation import metrics

    auc, test = report["auc"], artifacts.read_scores(context, name).test
    flow = test.is_flow_N
    return {
        "test AUC": auc["test"],
        "low": auc["test_low"],
        "high": auc["test_high"],
        "Flow AUC": metrics.auc(test.listened_N[flow], test.proba_N[flow]),
        "validation AUC": auc["validation"],
    }


def train_blend(home: str) -> Measurement:
    """Run `overture skip blend` after the training of its candidates; the quality includes each member's weight."""
    from jobs.skip import artifacts, blend

    context, clock = skip_context(home), stopwatch()
    blend.run(context)
    seconds = clock()
    report = artifacts.read_blend(context)
    weights = {f"weight {name}": weight for name, weight in report["weights"].items()}
    return Measurement([seconds], quality(context, "blend", report) | weights)


def prototype(home: str) -> Measurement:
    """Train plain LightGBM on thirteen pandas columns known before each play, with the same split by time."""
    import lightgbm as lgb
    import numpy as np
    import pyarrow as pa

    from models.skip.data import splits
    from models.skip.evaluation import metrics

    context, clock = context_at(home), stopwatch()
    plays = pa.concat_tables([context.lake.read("plays", **p) for p in context.lake.partitions("plays")]).to_pandas()
    plays = plays[plays.is_listened.notna()].sort_values(["ts", "play_id"], ignore_index=True)
    listened = plays.is_listened.astype(int)
    columns = {
        "hour": plays.ts.dt.hour,
        "weekday": plays.ts.dt.weekday,
        "duration": plays.duration_s,
        "age_days": (plays.ts.dt.tz_localize(None) - plays.release_date.astype("datetime64[s]")).dt.days,
        "flow": plays.is_flow.astype(int),
        "context": plays.context_type,
        "platform": plays.platform_name,
        "user_age": plays.user_age,
    }
    for name in ("user_id", "artist_id", "genre_id", "track_id"):
        groups = listened.groupby(plays[name])
        n_before = groups.cumsum() - listened
        columns[name] = (n_before + 10 * 0.68) / (groups.cumcount() + 10)
    columns["user_plays"] = listened.groupby(plays["user_id"]).cumcount()
    x_NG = np.column_stack([np.asarray(values, float) for values in columns.values()])
    seconds = plays.ts.dt.as_unit("s").astype("int64").to_numpy()
    split_N = splits.by_time(seconds, 0.7, 0.15)
    train, valid, test = (split_N == code for code in (splits.TRAIN, splits.VALIDATION, splits.TEST))
    parameters = {"objective": "binary", "learning_rate": 0.03, "num_leaves": 15, "verbosity": -1, "seed": 7}
    validation_set = lgb.Dataset(x_NG[valid], listened[valid])
    model = lgb.train(
        parameters,
        lgb.Dataset(x_NG[train], listened[train]),
        500,
        valid_sets=[validation_set],
        callbacks=[lgb.early_stopping(50, verbose=False)],
    )
    fit_s = clock()
    proba_N = np.asarray(model.predict(x_NG))
    y_N, user_N = listened.to_numpy(), plays.user_id.to_numpy()
    test_auc = metrics.auc_interval(y_N[test], proba_N[test], user_N[test])
    flow = test & plays.is_flow.to_numpy()
    return Measurement(
        [fit_s],
        {
            "test AUC": test_auc.value,
            "low": test_auc.low,
            "high": test_auc.high,
            "Flow AUC": metrics.auc(y_N[flow], proba_N[flow]),
            "validation AUC": metrics.auc(y_N[valid], proba_N[valid]),
            "fit s": fit_s,
        },
    )


def unseen_by_time(home: str) -> Measurement:
    """Compare the blend with LightGBM on the raw columns, on test plays of listeners without a training play."""
    from jobs.skip import artifacts, evaluate, train

    context, clock = skip_context(home), stopwatch()
    labelled = train.read_plays(context, ("boosted_trees",))
    blend, raw = artifacts.read_scores(context, "blend").test, evaluate.baseline_scores(context, labelled).test
    unseen_N = labelled.of_unseen_listeners()[blend.place_N]
    part = blend.listened_N[unseen_N], blend.proba_N[unseen_N], raw.proba_N[unseen_N], blend.user_N[unseen_N]
    return Measurement([clock()], unseen_quality(*part))


def unseen_by_listener(home: str) -> Measurement:
    """Compare the blend with LightGBM on the raw columns, on the plays of listeners who are left out of the training.

    The listeners are in N_LISTENER_FOLDS parts. For each part the members of the blend are fitted on the plays of the
    other listeners as for a release: the newest fifteen percent of these plays stop the training, then a model is
    fitted on all of them. The blend's weights are those of the split by time.
    """
    import numpy as np

    from jobs.skip import artifacts, train
    from models.skip.ensemble.ensemble import logit
    from models.skip.estimators.base import best_pass
    from models.skip.evaluation.raw_baseline import fit_raw_baseline, predict_raw_baseline

    context, clock = skip_context(home), stopwatch()
    blend, make_model = artifacts.read_blend(context), train.model_factory(context)
    plays = train.read_plays(context, blend["members"]).plays
    users, code_N = np.unique(plays.user_N, return_inverse=True)
    fold_N = np.random.default_rng(7).permutation(len(users))[code_N] % N_LISTENER_FOLDS
    score_N, raw_N = np.empty(len(plays)), np.empty(len(plays))
    for fold in range(N_LISTENER_FOLDS):
        others, left_out = plays.rows(fold_N != fold), plays.rows(fold_N == fold)
        cut = int(0.85 * len(others))
        earlier, later = others.rows(slice(0, cut)), others.rows(slice(cut, None))
        score = blend["bias"]
        for name, weight in blend["weights"].items():
            seed, model = context.seed(f"skip/{name}"), make_model(name)
            n_passes = best_pass(make_model(name).fit(earlier, later, seed))
            model.refit(others, n_passes, seed)
            model.observe(left_out)
            score = score + weight * logit(model.predict_proba(left_out))
        seed = context.seed("skip/raw_columns")
        rounds = fit_raw_baseline(earlier, later, seed).best_iteration
        score_N[fold_N == fold] = score
        raw_N[fold_N == fold] = predict_raw_baseline(fit_raw_baseline(others, None, seed, rounds), left_out)
    return Measurement([clock()], unseen_quality(plays.labels(), score_N, raw_N, plays.user_N))


def unseen_quality(listened_N: Any, ours_N: Any, raw_N: Any, user_N: Any) -> dict[str, float]:
    """Return both AUCs and their difference, with a paired interval that resamples listeners."""
    import numpy as np

    from models.skip.evaluation import metrics

    gain = metrics.bootstrap_difference(listened_N, ours_N, raw_N, user_N, 2_000, 7)
    return {
        "AUC": metrics.auc(listened_N, ours_N),
        "AUC on raw columns": metrics.auc(listened_N, raw_N),
        "gain": gain.value,
        "gain low": gain.low,
        "gain high": gain.high,
        "plays": float(len(listened_N)),
        "listeners": float(len(np.unique(user_N))),
    }


def leakage_table(home: str) -> Measurement:
    """Run `overture skip leakage`; the quality maps `model: cell` to test AUC."""
    import json

    from jobs.skip import leakage

    context, clock = skip_context(home), stopwatch()
    report = json.loads(Path(leakage.run(context)["path"]).read_text())
    harness.log(f"skip: {report['sentence']}")
    auc_by_cell = {}
    for row in report["rows"]:
        cells = (*leakage.CELLS, "published")
        auc_by_cell |= {f"{row['model']}: {cell}": row[cell] for cell in cells if row[cell] is not None}
    return Measurement([clock()], auc_by_cell)


def measure_plays(
    folder: Path, data: Path, names: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the cases and targets of the real plays."""
    home = {"home": str(folder / "sample")}
    plays = harness.run_in_process(Peer("read in", ingest_plays, {**home, "data": str(data)}))[0].quality["plays"]
    peers = [Peer(name, train_model, {**home, "model": name}, 1) for name in names]
    peers.append(Peer("blend", train_blend, home, 1, "seconds of the blend only, without its members"))
    peers.append(Peer("plain boosted trees", prototype, home, 1, "baseline: LightGBM on thirteen columns"))
    peer_results = harness.compare(peers)
    add_weights(peer_results)
    blend = peer_results["blend"]["quality"]
    best = max(peer_results[name]["quality"]["test AUC"] for name in names if peer_results[name]["quality"]["weight"])
    unseen = {}
    for name, run in (("left out of training", unseen_by_listener), ("new in the test days", unseen_by_time)):
        measurement, peak = harness.run_in_process(Peer(name, run, home))
        unseen[name] = harness.summary([(measurement, peak)], "")
    measurement, peak = harness.run_in_process(Peer("leakage", leakage_table, home))
    cells: dict[str, dict[str, float]] = {}
    for key, value in measurement.quality.items():
        model, _, cell = key.partition(": ")
        cells.setdefault(model, {})[cell] = value
    cases = [
        {
            "case": f"{plays:.0f} real plays, split by time",
            "about": "Trained on the first 70 %, early stopping on the next 15 %, evaluated on the last 15 %; "
            "intervals over users.",
            "peers": peer_results,
            "ratios": {},
        },
        {
            "case": "listeners whom the models have not seen",
            "about": f"The blend against LightGBM on the raw columns of the plays: whole listeners left out of the "
            f"training ({N_LISTENER_FOLDS} parts), and test plays of listeners without a training play. Paired "
            "intervals over listeners.",
            "peers": unseen,
            "ratios": {},
        },
        {
            "case": "the same plays, honest and leaky",
            "about": "Test AUC by features and split. Seconds and MiB are those of the whole report.",
            "peers": {
                name: harness.summary([(Measurement(measurement.seconds, q), peak)], "") for name, q in cells.items()
            },
            "ratios": {},
        },
    ]
    promises = [
        harness.promise("the blend's test AUC, that of its best member", best, blend["test AUC"]),
        harness.promise("the blend's test AUC, that of the first prototype", PROTOTYPE_AUC, blend["test AUC"]),
        harness.promise("the blend's test AUC, the aim", TARGET, blend["test AUC"]),
        harness.promise("the blend's AUC on Flow plays of the test", PROTOTYPE_FLOW_AUC, blend["Flow AUC"]),
        *(
            harness.promise(
                f"listeners {name}: lower bound of the gain over raw columns", 0.0, p["quality"]["gain low"]
            )
            for name, p in unseen.items()
        ),
    ]
    return cases, promises


def add_weights(peer_results: dict[str, dict[str, Any]]) -> None:
    """Add each member's weight in the blend to its quality; 0 for excluded models."""
    blend = peer_results["blend"]["quality"]
    for name, peer in peer_results.items():
        peer["quality"]["weight"] = blend.get(f"weight {name}", 0.0)
    peer_results["blend"]["quality"] = {key: value for key, value in blend.items() if not key.startswith("weight")}


def main() -> None:
    """Measure both cases."""
    arguments = harness.parse_arguments(
        "skip",
        (__doc__ or "").splitlines()[0],
        "folder of the DSG17 files train_sample.csv or train.csv",
        required=True,
    )
    from jobs.settings.settings import load
    from skip_features import CONFIG
    from spark_peers import scratch

    with scratch() as folder:
        skip = load(CONFIG).skip
        names = skip.blend.members if arguments.quick else skip.models
        cases, promises = measure_plays(folder, arguments.data.resolve(), names)
    blend_auc = cases[0]["peers"]["blend"]["quality"]["test AUC"]
    harness.write_result(arguments, cases, promises, ("the blend's test AUC on real plays by time", blend_auc))


if __name__ == "__main__":
    main()
