"""Skip models on real plays: every model and the blend by time, and what leaks feign.

`--quick` trains the blend's candidates alone: the same plays, the same last line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import harness
from harness import Answer, Peer, stopwatch
from skip_features import context_at

PLAIN, AIM, PLAIN_FLOW = 0.670, 0.69, 0.710


def skip_context(home: str) -> Any:
    """The skip engine's context over configs/skip.yaml, its lake in `home`."""
    from jobs.platform.context import Context

    base = context_at(home)
    return Context(base.settings, base.week, base.home, "skip")


def read_in(home: str, data: str) -> Answer:
    """The real sample in the lake, with honest and with leaky features."""
    from jobs.ingest.dsg17 import adapter as dsg17
    from jobs.skip import build_features

    context, clock = context_at(home), stopwatch()
    told = dsg17.run(context, Path(data))
    build_features.run(context)
    build_features.run(context, leaky=True)
    context.spark.stop()
    return Answer([clock()], {"plays": float(told["files"]["train"]["kept"])})


def trained(home: str, model: str, *, folds: bool = True) -> Answer:
    """`overture skip train`: reading, fitting and answering are timed; folds for the blend beside, or none of them."""
    from jobs.skip import artifacts, train

    context = skip_context(home)
    if not folds:
        skip = context.settings.skip
        alone = skip.model_copy(update={"blend": skip.blend.model_copy(update={"members": ()})})
        context.settings = context.settings.model_copy(update={"skip": alone})
    train.run(context, model)
    told = artifacts.read_report(context, model)
    seconds = told["seconds"]
    took = seconds["read_s"] + seconds["fit_s"] + seconds["score_s"]
    return Answer(
        [took], quality(context, model, told) | {"fit s": seconds["fit_s"], "folds s": seconds.get("folds_s", 0.0)}
    )


def quality(context: Any, name: str, told: dict[str, Any]) -> dict[str, float]:
    """Test AUC with its interval, on Flow plays alone, and validation AUC."""
    from jobs.skip import artifacts as kept
    from models.skip.evaluation import metrics

    found, test = told["auc"], kept.read_scores(context, name).test
    flow = test.is_flow_N
    return {
        "test AUC": found["test"],
        "low": found["test_low"],
        "high": found["test_high"],
        "Flow AUC": metrics.auc(test.listened_N[flow], test.proba_N[flow]),
        "validation AUC": found["validation"],
    }


def blended(home: str) -> Answer:
    """`overture skip blend`, once its candidates are trained; also each member's weight."""
    from jobs.skip import artifacts as kept
    from jobs.skip import blend

    context, clock = skip_context(home), stopwatch()
    blend.run(context)
    seconds = clock()
    told = kept.read_blend(context)
    weights = {f"weight {name}": weight for name, weight in told["weights"].items()}
    return Answer([seconds], quality(context, "blend", told) | weights)


def prototype(home: str) -> Answer:
    """Plain LightGBM on thirteen columns of pandas, what was known before each play, the same split by time."""
    import lightgbm as lgb
    import numpy as np
    import pyarrow as pa

    from models.skip.data import splits
    from models.skip.evaluation import metrics

    context, clock = context_at(home), stopwatch()
    plays = pa.concat_tables([context.lake.read("plays", **p) for p in context.lake.partitions("plays")]).to_pandas()
    plays = plays[plays.is_listened.notna()].sort_values(["ts", "play_id"], ignore_index=True)
    heard = plays.is_listened.astype(int)
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
        groups = heard.groupby(plays[name])
        before = groups.cumsum() - heard
        columns[name] = (before + 10 * 0.68) / (groups.cumcount() + 10)
    columns["user_plays"] = heard.groupby(plays["user_id"]).cumcount()
    x_NG = np.column_stack([np.asarray(values, float) for values in columns.values()])
    seconds = plays.ts.dt.as_unit("s").astype("int64").to_numpy()
    split_N = splits.by_time(seconds, 0.7, 0.15)
    train, valid, test = (split_N == code for code in (splits.TRAIN, splits.VALIDATION, splits.TEST))
    chosen = {"objective": "binary", "learning_rate": 0.03, "num_leaves": 15, "verbosity": -1, "seed": 7}
    held = lgb.Dataset(x_NG[valid], heard[valid])
    model = lgb.train(
        chosen,
        lgb.Dataset(x_NG[train], heard[train]),
        500,
        valid_sets=[held],
        callbacks=[lgb.early_stopping(50, verbose=False)],
    )
    fitted = clock()
    proba_N = np.asarray(model.predict(x_NG))
    y_N, user_N = heard.to_numpy(), plays.user_id.to_numpy()
    reached = metrics.auc_interval(y_N[test], proba_N[test], user_N[test])
    flow = test & plays.is_flow.to_numpy()
    return Answer(
        [fitted],
        {
            "test AUC": reached.value,
            "low": reached.low,
            "high": reached.high,
            "Flow AUC": metrics.auc(y_N[flow], proba_N[flow]),
            "validation AUC": metrics.auc(y_N[valid], proba_N[valid]),
            "fit s": fitted,
        },
    )


def leaks(home: str) -> Answer:
    """`overture skip leakage`; quality: `model: cell` -> test AUC."""
    import json

    from jobs.skip import leakage

    context, clock = skip_context(home), stopwatch()
    told = json.loads(Path(leakage.run(context)["path"]).read_text())
    harness.say(f"skip: {told['sentence']}")
    found = {}
    for row in told["rows"]:
        cells = (*leakage.CELLS, "published")
        found |= {f"{row['model']}: {cell}": row[cell] for cell in cells if row[cell] is not None}
    return Answer([clock()], found)


def on_the_sample(
    folder: Path, data: Path, names: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Cases and promises of the real plays."""
    home = {"home": str(folder / "sample")}
    plays = harness.alone(Peer("read in", read_in, {**home, "data": str(data)}))[0].quality["plays"]
    peers = [Peer(name, trained, {**home, "model": name}, 1) for name in names]
    peers.append(Peer("blend", blended, home, 1, "seconds are its own, without its members'"))
    peers.append(Peer("plain boosted trees", prototype, home, 1, "the prototype to pass: LightGBM on thirteen columns"))
    found = harness.compare(peers)
    weighted(found)
    blend = found["blend"]["quality"]
    best = max(found[name]["quality"]["test AUC"] for name in names if found[name]["quality"]["weight"])
    answer, peak = harness.alone(Peer("leakage", leaks, home))
    cells: dict[str, dict[str, float]] = {}
    for key, value in answer.quality.items():
        model, _, cell = key.partition(": ")
        cells.setdefault(model, {})[cell] = value
    cases = [
        {
            "case": f"{plays:.0f} real plays, split by time",
            "about": "Learned from the first 70 %, stopped by the next 15 %, judged on the last; intervals over users.",
            "peers": found,
            "ratios": {},
        },
        {
            "case": "the same plays, honest and leaky",
            "about": "Test AUC by features and split. Seconds and MiB are those of the whole report.",
            "peers": {name: harness.summary([(Answer(answer.seconds, q), peak)], "") for name, q in cells.items()},
            "ratios": {},
        },
    ]
    promises = [
        harness.promise("the blend's test AUC, that of its best member", best, blend["test AUC"]),
        harness.promise("the blend's test AUC, that of the first prototype", PLAIN, blend["test AUC"]),
        harness.promise("the blend's test AUC, the aim", AIM, blend["test AUC"]),
        harness.promise("the blend's AUC on Flow plays of the test", PLAIN_FLOW, blend["Flow AUC"]),
    ]
    return cases, promises


def weighted(found: dict[str, dict[str, Any]]) -> None:
    """Each member's weight in the blend beside its own numbers, 0 for who is left out."""
    blend = found["blend"]["quality"]
    for name, peer in found.items():
        peer["quality"]["weight"] = blend.get(f"weight {name}", 0.0)
    found["blend"]["quality"] = {key: value for key, value in blend.items() if not key.startswith("weight")}


def main() -> None:
    """Both tables of real plays."""
    chosen = harness.options(
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
        names = skip.blend.members if chosen.quick else skip.models
        cases, promises = on_the_sample(folder, chosen.data.resolve(), names)
    reached = cases[0]["peers"]["blend"]["quality"]["test AUC"]
    harness.finish(chosen, cases, promises, ("the blend's test AUC on real plays by time", reached))


if __name__ == "__main__":
    main()
