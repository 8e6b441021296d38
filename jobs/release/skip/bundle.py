"""Writes the contents of a skip release: members, ensemble, cleaning, state snapshot and evaluation.

Input   skip_features, skip_state, plays, skip_evaluation before as_of; the trained models and their blend

    answers.json  cleaning.json  members/<name>/  evaluated/<name>/  explain/      serving/skip/release.py
    state/  history/  tracks/                                       jobs/release/skip/snapshot.py, serving/skip/state.py

The served members are those that were trained on all labelled plays, with the stopping points, weights and calibration
of the time split (jobs/skip/train.py, blend.py). The models of the time split are in the bundle, too, because the gate
evaluates them and compares them with those of the next release.
The bundle of a daily update starts from the files of the champion (jobs/release/skip/update_bundle.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.entity_forms import entity_forms
from jobs.release.skip import update_bundle
from jobs.release.skip.snapshot import (
    calibration_entry,
    end_day,
    member_entries,
    required_columns,
    write_model_inputs,
    write_snapshot,
)
from jobs.skip import artifacts, dataset, onnx_export
from models.skip.data import splits
from models.skip.data.play_history import Log
from models.skip.estimators.logistic_regression import FeatureRegression
from serving.skip.release import ANSWERS, CLEANING, EVALUATED, EXPLAIN, MEMBERS, NETWORK, read_json

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.dataset import LabelledPlays
    from models.skip.encoding.model_inputs import ModelInputs
    from models.skip.estimators.base import SkipModel


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write the contents of a release.

    Args:
        context: week (or day), lake and settings.
        folder: an empty folder.

    Returns:
        What provenance.json contains about the contents.

    Raises:
        CheckFailed: features, state, blend or evaluation are missing or do not belong together.
    """
    if context.week.daily:
        return update_bundle.fill(context, folder)
    labelled, plays = read_blend_plays(context)
    blend, refitted = artifacts.load_blend(context), artifacts.load_blend(context, artifacts.REFITTED)
    inputs = write_members(folder / MEMBERS, refitted.members)
    evaluated_inputs = write_members(folder / EVALUATED, blend.members)
    explanation = write_explanation(context, folder / EXPLAIN, plays)
    all_inputs = list(inputs.values()) + ([explanation] if explanation else [])
    as_of = int(context.week.as_of.timestamp())
    references = {name: artifacts.model_reference(context, name) for name in blend.members}
    combination = {
        "method": blend.mix.method,
        "bias": blend.mix.bias,
        "calibration": calibration_entry(blend.calibration),
    }
    facts = {
        **combination,
        **required_columns(all_inputs),
        "members": member_entries(references, blend.mix),
        "trained_until": as_of,
        "learned_until": as_of,
        "evaluated": {
            **combination,
            **required_columns(evaluated_inputs.values()),
            "members": [
                {"name": name, "weight": float(weight)}
                for name, weight in zip(blend.members, blend.mix.weights_M, strict=True)
            ],
            "learned_until": first_unseen_second(context, labelled),
        },
    }
    files.write(folder / CLEANING, files.canonical(labelled.cleaning.to_json()))
    log = Log.from_plays(labelled.plays)
    snapshot = write_snapshot(context, folder, log, [member.history_length for member in inputs.values()])
    files.write(folder / ANSWERS, files.canonical({**facts, **snapshot}))
    files.write(folder / "evaluation.json", files.canonical(read_evaluation(context)))
    forms = entity_forms(context.lake, "skip")
    return {"members": list(blend.members), "plays": plays, "ids": forms}


def write_members(folder: Path, members: Mapping[str, SkipModel]) -> dict[str, ModelInputs]:
    """Write models as ONNX networks with their input encodings; returns the encodings by name."""
    inputs = {name: onnx_export.model_inputs(model) for name, model in members.items()}
    for name, model in members.items():
        files.write(folder / name / NETWORK, onnx_export.to_onnx(model))
        write_model_inputs(folder / name, inputs[name])
    return inputs


def registered_network(context: Context, folder: Path) -> str:
    """Return the folder of the member with the largest weight; its network is registered in MLflow."""
    members = read_json(folder / ANSWERS)["members"]
    return f"{MEMBERS}/{max(members, key=lambda member: member['weight'])['name']}"


def summary(context: Context) -> dict[str, float]:
    """Return the metrics of every model on the test plays, as far as the week has been evaluated."""
    rows = read_evaluation(context) if context.lake.exists("skip_evaluation", week=context.week.name) else []
    overall = [row for row in rows if row["split"] == "test" and row["slice"] == "all"]
    return {f"{row['model']}.{row['metric']}": row["value"] for row in overall if row["value"] is not None}


def read_blend_plays(context: Context) -> tuple[LabelledPlays, str]:
    """Return the plays that the blend of the week was trained on, with the number duration_s only, and their digest.

    Raises:
        CheckFailed: there is no blend, or the plays have changed since.
    """
    plays: str = artifacts.read_blend(context)["plays"]
    labelled = dataset.read_labelled(context, ("duration_s",), end=end_day(context))
    if artifacts.digest_of(labelled) != plays:
        raise CheckFailed(
            f"skip: the labelled plays have changed since the blend of week {context.week} was trained; run `overture "
            "skip train` for each model, then `overture skip blend`, again"
        )
    return labelled, plays


def first_unseen_second(context: Context, labelled: LabelledPlays) -> int:
    """Return the second from which on no play was used for training or selection on the time split.

    Where the split is not by time, that is the second after the last play.
    """
    if context.settings.skip.split.kind != "global":
        return int(labelled.plays.ts_N.max()) + 1
    return int(labelled.plays.ts_N[labelled.split_N == splits.TEST].min())


def read_evaluation(context: Context) -> list[dict[str, Any]]:
    """Return the rows of skip_evaluation of the week, in a fixed order.

    Raises:
        CheckFailed: the week has not been evaluated.
    """
    if not context.lake.exists("skip_evaluation", week=context.week.name):
        raise CheckFailed(
            f"skip_evaluation: nothing for week {context.week}; run `overture skip evaluate --week {context.week}`"
        )
    rows = context.lake.read("skip_evaluation", week=context.week.name).to_pylist()
    return sorted(rows, key=lambda row: tuple(str(row[key]) for key in ("model", "split", "slice", "metric")))


def write_explanation(context: Context, folder: Path, plays: str) -> ModelInputs | None:
    """Write the regression whose terms are the reasons of a prediction.

    Args:
        context: week and settings.
        folder: its folder in the bundle.
        plays: digest of the plays that the blend was trained on.

    Returns:
        Its input encoding; None if the week did not train it on these plays.
    """
    name = FeatureRegression.name
    if name not in context.settings.skip.models or artifacts.read_report(context, name)["plays"] != plays:
        return None
    kind = artifacts.REFITTED if artifacts.has_refitted_model(context, name) else artifacts.MODEL
    model = artifacts.load_model(context, name, kind)
    assert isinstance(model, FeatureRegression)
    inputs = onnx_export.model_inputs(model)
    write_model_inputs(folder, inputs)
    files.write_array(folder / "weights.npy", model.regression.weights_G)
    files.write_array(folder / "centre.npy", model.centre_G)
    return inputs
