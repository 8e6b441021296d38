"""What a release of the skip engine holds.

Input   skip_features, skip_state, plays, skip_evaluation before as_of; the trained models, their blend

    answers.json  cleaning.json  members/<name>/  explain/          serving/skip/release.py
    state/  history/  tracks/                                       serving/skip/state.py

A member without an ONNX form is not served: then the other candidates are chosen and weighed anew, on the same folds
and validation plays as the blend, and answers.json says who was left out. A day's update starts from the champion's
files (jobs/release/skip/daily_update.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.release import bundle, pointer
from jobs.skip import artifacts, build_features, dataset, onnx_export, spark_groups
from jobs.skip.blend import fit_blend, require_same_plays
from models.skip.data import splits
from models.skip.data.cleaning import Cleaning, apply
from models.skip.data.play_history import COLUMNS, Log
from models.skip.encoding.model_inputs import Feeds
from models.skip.ensemble.ensemble import Calibration, Mix
from models.skip.estimators.logistic_regression import FeatureRegression
from models.skip.features import counter_state
from serving.skip.release import ANSWERS, CLEANING, EXPLAIN, INPUTS, MEMBERS, NETWORK, read_json
from serving.skip.state import KINDS, arrays_of

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.dataset import LabelledPlays
    from models.skip.estimators.base import SkipModel

EPOCH = date(1970, 1, 1)


@dataclass(frozen=True, eq=False)
class Chosen:
    """Who answers and how: members by name in order, what joins them, and who was left out and why."""

    members: Mapping[str, SkipModel]
    mix: Mix
    calibration: Calibration
    left_out: Mapping[str, str]


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write members, mix, cleaning, memory and evaluation; returns what provenance tells about them."""
    if context.week.daily:
        from jobs.release.skip import daily_update

        return daily_update.fill(context, folder)
    found, plays = learned_from(context)
    chosen = served(context)
    feeds = {name: onnx_export.feeds(model) for name, model in chosen.members.items()}
    for name, model in chosen.members.items():
        files.write(folder / MEMBERS / name / NETWORK, onnx_export.to_onnx(model))
        write_feeds(folder / MEMBERS / name, feeds[name])
    explained = explain(context, folder / EXPLAIN, plays)
    needs = list(feeds.values()) + ([explained] if explained else [])
    judged_from = int(found.plays.ts_N[found.split_N == splits.TEST].min())
    if context.settings.skip.split.kind != "global":  # then plays of every moment have been learned from
        judged_from = int(found.plays.ts_N.max()) + 1
    states = {name: artifacts.model_reference(context, name) for name in chosen.members}
    facts = {
        **needed(needs),
        "method": chosen.mix.method,
        "bias": chosen.mix.bias,
        "members": weighed(states, chosen.mix),
        "calibration": as_json(chosen.calibration),
        "left_out": dict(chosen.left_out),
        "trained_until": judged_from,
        "learned_until": judged_from,
    }
    files.write(folder / CLEANING, files.canonical(found.cleaning.to_json()))
    memory = write_memory(context, folder, Log.from_plays(found.plays), [feed.length for feed in feeds.values()])
    files.write(folder / ANSWERS, files.canonical(facts | memory))
    rows = evaluation(context)
    files.write(folder / "evaluation.json", files.canonical(rows))
    return {"members": list(chosen.members), "left_out": dict(chosen.left_out), "plays": plays}


def learned_from(context: Context) -> tuple[LabelledPlays, str]:
    """The plays that the week's blend learned from, without numbers but duration_s, and their digest.

    Raises:
        CheckFailed: there is no blend, or the plays have changed since.
    """
    plays: str = artifacts.read_blend(context)["plays"]
    found = dataset.read_labelled(context, ("duration_s",), end=before(context))
    if artifacts.digest_of(found) != plays:
        raise CheckFailed(
            f"skip: the labelled plays have changed since the blend of week {context.week} learned; run `overture skip "
            "train` for each model, then `overture skip blend`, again"
        )
    return found, plays


def answering(context: Context) -> str:
    """The member that weighs most stands for the release in the registry."""
    folder = pointer.releases(context.release_home) / bundle.of_week(context)
    members = read_json(folder / ANSWERS)["members"]
    return f"{MEMBERS}/{max(members, key=lambda one: one['weight'])['name']}"


def summary(context: Context) -> dict[str, float]:
    """Every model's metrics on the test plays."""
    rows = evaluation(context) if context.lake.exists("skip_evaluation", week=context.week.name) else []
    wanted = [row for row in rows if row["split"] == "test" and row["slice"] == "all"]
    return {f"{row['model']}.{row['metric']}": row["value"] for row in wanted if row["value"] is not None}


def evaluation(context: Context) -> list[dict[str, Any]]:
    """The week's rows of skip_evaluation, in one order."""
    if not context.lake.exists("skip_evaluation", week=context.week.name):
        raise CheckFailed(
            f"skip_evaluation: nothing of week {context.week}; run `overture skip evaluate --week {context.week}` first"
        )
    rows = context.lake.read("skip_evaluation", week=context.week.name).to_pylist()
    return sorted(rows, key=lambda row: tuple(str(row[key]) for key in ("model", "split", "slice", "metric")))


def before(context: Context) -> str:
    """The first day that is not seen."""
    return f"{context.week.as_of:%Y-%m-%d}"


def served(context: Context) -> Chosen:
    """The week's blend; without those of its members that no service can answer with."""
    chosen = artifacts.load_blend(context)
    if all(onnx_export.has_onnx_form(model) for model in chosen.members.values()):
        return Chosen(chosen.members, chosen.mix, chosen.calibration, {})
    recipe = context.settings.skip.blend
    left_out: dict[str, str] = {}
    models: dict[str, SkipModel] = {}
    for name in recipe.members:
        model = artifacts.load_model(context, name)
        if not onnx_export.has_onnx_form(model):
            left_out[name] = "has no ONNX form"
        else:
            models[name] = model
    if not models:
        raise CheckFailed("skip.blend.members: none has an ONNX form; name one that has, such as boosted_trees")
    folds = {name: artifacts.read_folds(context, name) for name in models}
    scores = {name: artifacts.read_scores(context, name) for name in models}
    _, borders = require_same_plays(context, tuple(models))
    names, mix, calibration = fit_blend(folds, scores, borders, recipe.min_gain)
    return Chosen({name: models[name] for name in names}, mix, calibration, left_out)


def weighed(states: Mapping[str, artifacts.ModelReference], mix: Mix) -> list[dict[str, Any]]:
    """Members in order with their weights and which save of each model it is (kept.state_of), for answers.json."""
    pairs = zip(states.items(), mix.weights_M, strict=True)
    return [{"name": name, "weight": float(w), "state": dict(state)} for (name, state), w in pairs]


def as_json(calibration: Calibration) -> dict[str, Any]:
    """For answers.json."""
    return {"kind": calibration.kind, "x": calibration.x_K.tolist(), "y": calibration.y_K.tolist()}


def needed(feeds: Iterable[Feeds]) -> dict[str, list[str]]:
    """Numbers and categories that these read, each once."""
    numbers: dict[str, None] = {}
    categories: dict[str, None] = {}
    for feed in feeds:
        learned = feed.numbers or (feed.dense.numbers if feed.dense else None)
        if learned is not None:
            numbers |= dict.fromkeys(learned.names)
            categories |= dict.fromkeys(learned.categories)
    return {"numbers": list(numbers), "categories": list(categories)}


def write_feeds(folder: Path, feeds: Feeds) -> None:
    """What makes a member's inputs."""
    facts, arrays = feeds.state()
    files.write(folder / f"{INPUTS}.json", files.canonical(facts))
    for name, array in arrays.items():
        files.write_array(folder / INPUTS / f"{name}.npy", array)


def explain(context: Context, folder: Path, plays: str) -> Feeds | None:
    """The regression whose terms tell reasons, where the week trained it on the blend's plays; else None."""
    name = FeatureRegression.name
    if name not in context.settings.skip.models or artifacts.read_report(context, name)["plays"] != plays:
        return None
    model = artifacts.load_model(context, name)
    assert isinstance(model, FeatureRegression)
    feeds = onnx_export.feeds(model)
    write_feeds(folder, feeds)
    files.write_array(folder / "weights.npy", model.regression.weights_G)
    files.write_array(folder / "centre.npy", model.centre_G)
    return feeds


def write_memory(context: Context, folder: Path, log: Log, lengths: Iterable[int]) -> dict[str, Any]:
    """State, history and tracks as of as_of; returns what answers.json tells about them."""
    day = state_day(context)
    table = context.lake.read("skip_state", day=day)
    for kind in KINDS:
        mine = table.filter(pc.equal(table.column("kind"), kind))
        carried = counter_state.unpack(spark_groups.to_state_rows(mine), kind)
        for name, array in arrays_of(kind, carried).items():
            files.write_array(folder / "state" / kind / f"{name}.npy", array)
    (whole,) = table.filter(pc.equal(table.column("kind"), "all")).to_pylist()
    length = max(lengths, default=0)
    recent = log.newest(length) if length else Log.empty()
    for name in COLUMNS:
        files.write_array(folder / "history" / f"{name}.npy", recent.columns[name])
    for name, array in tracks(context).items():
        files.write_array(folder / "tracks" / f"{name}.npy", array)
    chosen = context.settings.skip.features
    after = datetime.combine(date.fromisoformat(day) + timedelta(days=1), datetime.min.time(), UTC)
    return {
        "totals": {name: int(whole[name]) for name in ("n_plays", "n_listened")},
        "session_gap_s": chosen.session_gap_min * 60,
        "smoothing": chosen.smoothing,
        "state_until": int(after.timestamp()),
    }


def state_day(context: Context) -> str:
    """The last day of plays before as_of, whose state the release holds.

    Raises:
        CheckFailed: no plays; no state of that day, or one that was made under other settings.
    """
    lake, end = context.lake, before(context)
    days = [p["day"] for p in lake.partitions("plays") if p["day"] < end]
    if not days:
        raise CheckFailed(f"plays: no day before {end}; run `overture ingest dsg17` first")
    if not lake.exists("skip_state", day=days[-1]):
        raise CheckFailed(f"skip_state: nothing of {days[-1]}; run `overture skip features --to {days[-1]}`")
    made_with = lake.report("skip_state", day=days[-1]).get("settings")
    if made_with != build_features.state_settings(context):
        raise CheckFailed(
            f"skip_state: day {days[-1]} was made with {made_with}, the settings say {build_features.state_settings(context)}; "
            "build all days again: overture skip features"
        )
    if lake.report("skip_state", day=days[-1]).get("log") != build_features.plays_digest(context, days):
        raise CheckFailed(
            f"skip_state: plays of some day up to {days[-1]} were written again after the state of {days[-1]}; build "
            "all days again: overture skip features"
        )
    return days[-1]


def tracks(context: Context) -> dict[str, np.ndarray]:
    """What is known of each track played before as_of, by its newest play: columns of serving/skip/state.py."""
    lake, end = context.lake, before(context)
    columns = ["track_id", "artist_id", "album_id", "genre_id", "duration_s", "release_date", "ts", "play_id"]
    kept_rows: pa.Table | None = None
    for day in [p["day"] for p in lake.partitions("plays") if p["day"] < end]:
        part = lake.read("plays", columns=columns, day=day)
        part = part.sort_by([("ts", "ascending"), ("play_id", "ascending")])
        joined = part if kept_rows is None else pa.concat_tables([kept_rows, part])
        ids = joined.column("track_id").to_numpy()
        _, last = np.unique(ids[::-1], return_index=True)
        kept_rows = joined.take(pa.array(len(ids) - 1 - last))
    assert kept_rows is not None
    found = {name: kept_rows.column(name).to_numpy() for name in columns[:4]}
    found["duration_s"] = kept_rows.column("duration_s").to_numpy().astype(np.int64)
    days = kept_rows.column("release_date").cast(pa.int32()).cast(pa.float64())
    found["release_day"] = days.to_numpy(zero_copy_only=False)
    return found


def log_of(context: Context, cleaning: Cleaning) -> Log:
    """Every labelled play before as_of, as a release with this cleaning keeps it."""
    plays, _ = dataset.read_rows(context, (), "past", "", before(context))
    return Log.from_plays(apply(plays, cleaning))
