"""Files that skip model training writes for the blend, the evaluation and the release, and functions that read them.

    work/<week>/<model>/model/      the fitted model (SkipModel.save); its play history reaches to as_of
                        refitted/   the model fitted again on all labelled plays; members of the blend only
                        scores.npz  predictions for every validation and test play (Scores, one array per field)
                        folds.npz   out-of-fold predictions for training plays; members of the blend only
                        report.json recipe, losses, AUC, seconds, and the digests of the other files
    work/<day>/<model>/model/       of a daily update: a fine-tuned member of the champion, without its play history
    work/<week>/raw_columns/        scores.npz and report.json of the baseline of `overture skip evaluate`
    work/<week>/blend/  blend.json  members, weights, bias, calibration, and the digest of each member's model
                        scores.npz  predictions of the blend

Every file is replaced atomically and the JSON is written last. It contains the SHA-256 of the other files, so that an
incomplete training run is refused when it is read. `plays` is the digest of the labelled plays and their split. Scores
of different plays are never combined.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from contracts.errors import CheckFailed
from jobs.platform import files
from models.arrays import BoolVector, DoubleVector, IdVector, LongVector
from models.skip.data import splits
from models.skip.data.play_history import Log
from models.skip.ensemble.ensemble import Calibration, Mix
from models.skip.ensemble.fit import Blend
from models.skip.estimators import registry
from models.skip.estimators.base import SkipModel, read_card
from models.skip.estimators.session_gru import SessionGru

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.dataset import LabelledPlays

BLEND, RAW_COLUMNS = "blend", "raw_columns"
MODEL, REFITTED = "model", "refitted"
SCORES, FOLDS, REPORT, BLEND_JSON = "scores.npz", "folds.npz", "report.json", "blend.json"


class ModelReference(TypedDict):
    """One saved version of a model.

    Attributes:
        week: the week (or day) of the run that wrote it.
        sha256: SHA-256 of its arrays.
        folder: MODEL or REFITTED; releases of earlier versions do not have it and refer to MODEL.
    """

    week: str
    sha256: str
    folder: NotRequired[str]


@dataclass(frozen=True, eq=False)
class Scores:
    """Predictions of one model for N plays, in time order.

    Attributes:
        place_N: int64, the row of each play in the labelled plays of the week (dataset.read_labelled(...).plays).
        split_N: int8, VALIDATION or TEST of models/skip/data/splits.py; TRAIN for folds.
        proba_N: float64, predicted probability that the play is listened to.
        listened_N: int8, the label: 1 listened to, 0 skipped.
        user_N: int64 user ids, for intervals by user.
        is_flow_N: bool, whether the recommender chose the track.
    """

    place_N: LongVector
    split_N: NDArray[np.int8]
    proba_N: DoubleVector
    listened_N: NDArray[np.int8]
    user_N: IdVector
    is_flow_N: BoolVector

    @classmethod
    def for_plays(cls, labelled: LabelledPlays, place_N: LongVector, proba_N: DoubleVector) -> Scores:
        """Return the scores of the labelled plays at rows `place_N`, with their labels and users."""
        plays = labelled.plays
        return cls(
            place_N,
            labelled.split_N[place_N],
            proba_N,
            plays.labels()[place_N],
            plays.user_N[place_N],
            plays.is_flow_N[place_N],
        )

    def of_split(self, split: int) -> Scores:
        """Return the scores of one split."""
        in_split_N = self.split_N == split
        return Scores(**{field.name: getattr(self, field.name)[in_split_N] for field in fields(self)})

    @property
    def valid(self) -> Scores:
        """Scores of the validation plays."""
        return self.of_split(splits.VALIDATION)

    @property
    def test(self) -> Scores:
        """Scores of the test plays."""
        return self.of_split(splits.TEST)

    def to_bytes(self) -> bytes:
        """Return the content of an .npz file with one array per field."""
        raw = io.BytesIO()
        np.savez(raw, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})
        return raw.getvalue()


def digest_of(labelled: LabelledPlays) -> str:
    """Return the SHA-256 of the plays, their labels and their split."""
    plays, sha256 = labelled.plays, hashlib.sha256()
    for values in (plays.ts_N, plays.user_N, plays.track_N, plays.labels(), labelled.split_N):
        sha256.update(np.ascontiguousarray(values).data)
    return sha256.hexdigest()


def artifact_dir(context: Context, name: str) -> Path:
    """Return the folder of a model, or of the blend, in the week's work folder."""
    return context.work / name


def write_training(
    context: Context,
    model: SkipModel,
    refitted: SkipModel | None,
    scores: Scores,
    folds: Scores | None,
    plays: str,
    report: Mapping[str, Any],
) -> Path:
    """Write the results of a training run, replacing those of an earlier one.

    Args:
        context: week, settings and folders.
        model: the fitted model.
        refitted: the model fitted again on all labelled plays; None if it is not a member of the blend.
        scores: the fitted model's predictions for validation and test plays.
        folds: its out-of-fold predictions for training plays; None if the model is not a member of the blend.
        plays: digest of the labelled plays (`digest_of`).
        report: further content of report.json.

    Returns:
        The folder.
    """
    folder = artifact_dir(context, model.name)
    model.save(folder / MODEL)
    digests = {MODEL: read_card(folder / MODEL)["sha256"], SCORES: _write_scores(folder / SCORES, scores)}
    if refitted is not None:
        refitted.save(folder / REFITTED)
        digests[REFITTED] = read_card(folder / REFITTED)["sha256"]
    if folds is None:
        (folder / FOLDS).unlink(missing_ok=True)
    else:
        digests[FOLDS] = _write_scores(folder / FOLDS, folds)
    _write_json(folder / REPORT, {**report, "model": model.name, "plays": plays, "sha256": digests})
    return folder


def read_report(context: Context, name: str) -> dict[str, Any]:
    """Return report.json of a model.

    Raises:
        CheckFailed: the model has not been trained.
    """
    command = f"run `overture skip train --model {name} --week {context.week}`"
    return _read_json(artifact_dir(context, name) / REPORT, command)


def read_scores(context: Context, name: str) -> Scores:
    """Return the validation and test scores of a model, or of the blend.

    Raises:
        CheckFailed: there are none, or the file does not match the digest in the JSON file.
    """
    report = read_blend(context) if name == BLEND else read_report(context, name)
    return _read_scores(artifact_dir(context, name) / SCORES, report["sha256"][SCORES])


def read_folds(context: Context, name: str) -> Scores:
    """Return the out-of-fold scores of training plays.

    Raises:
        CheckFailed: as read_scores(), or the model was not trained as a member of the blend.
    """
    digests = read_report(context, name)["sha256"]
    if FOLDS not in digests:
        raise CheckFailed(
            f"{name}: was trained without folds, from which the blend learns its weights; add it to skip.blend.members "
            "and train it again"
        )
    return _read_scores(artifact_dir(context, name) / FOLDS, digests[FOLDS])


def write_baseline(context: Context, scores: Scores, plays: str) -> None:
    """Write the scores of the baseline on raw columns; `plays` is the digest of the labelled plays."""
    folder = artifact_dir(context, RAW_COLUMNS)
    _write_json(folder / REPORT, {"plays": plays, "sha256": {SCORES: _write_scores(folder / SCORES, scores)}})


def read_baseline(context: Context, plays: str) -> Scores:
    """Return the validation and test scores of the baseline on raw columns.

    Args:
        context: week and folders.
        plays: digest of the labelled plays that they must belong to.

    Raises:
        CheckFailed: there are none, or they are of other plays.
    """
    folder, command = artifact_dir(context, RAW_COLUMNS), f"run `overture skip evaluate --week {context.week}`"
    report = _read_json(folder / REPORT, command)
    if report["plays"] != plays:
        raise CheckFailed(f"{folder}: is of other plays than the blend; {command}")
    return _read_scores(folder / SCORES, report["sha256"][SCORES])


def load_model(context: Context, name: str, kind: str = MODEL) -> SkipModel:
    """Return the week's model: fitted on the training plays, or (kind REFITTED) on all labelled plays.

    Raises:
        CheckFailed: it is damaged, does not match report.json, or was not trained as a member of the blend.
    """
    digests, folder = read_report(context, name)["sha256"], artifact_dir(context, name) / kind
    if kind not in digests:
        raise CheckFailed(f"{name}: was not fitted on all plays; add it to skip.blend.members and train it again")
    return _load_model(folder, digests[kind], f"does not match the {REPORT} beside it; train it again")


def has_refitted_model(context: Context, name: str) -> bool:
    """Return whether the week fitted the model on all labelled plays, too."""
    return REFITTED in read_report(context, name)["sha256"]


def model_reference(context: Context, name: str) -> ModelReference:
    """Return the reference to the week's refitted model that a release stores, for `load_referenced_model`."""
    digest = read_report(context, name)["sha256"][REFITTED]
    return {"week": context.week.name, "sha256": digest, "folder": REFITTED}


def write_updated_model(context: Context, model: SkipModel) -> ModelReference:
    """Save a fine-tuned model and return its reference.

    The play history of a session model is not saved again, because the lake contains it.
    """
    if isinstance(model, SessionGru):
        model.log = Log.empty()
    folder = artifact_dir(context, model.name) / MODEL
    model.save(folder)
    return {"week": context.week.name, "sha256": read_card(folder)["sha256"], "folder": MODEL}


def load_referenced_model(context: Context, name: str, reference: ModelReference, log: Log) -> SkipModel:
    """Return the model that a release refers to.

    Args:
        context: folders of this machine.
        name: name of the model.
        reference: the reference in the release.
        log: play history that a session model reads.

    Raises:
        CheckFailed: the model is not stored on this machine, is damaged, or was trained again since the release.
    """
    folder = context.release_home / "work" / reference["week"] / name / reference.get("folder", MODEL)
    model = _load_model(folder, reference["sha256"], "was trained again since the release was made")
    if isinstance(model, SessionGru):
        model.log = log
    return model


def write_blend(
    context: Context,
    members: Sequence[str],
    mix: Mix,
    calibration: Calibration,
    scores: Scores,
    plays: str,
    report: Mapping[str, Any],
) -> Path:
    """Write a blend: weights, calibration and scores. Its members remain in folders of their own.

    Args:
        context: week and folders.
        members: names of the members, in the order of the weights.
        mix: weights and bias.
        calibration: calibration of the mixed score.
        scores: predictions of the blend for validation and test plays.
        plays: digest of the labelled plays (`digest_of`).
        report: further content of blend.json.

    Returns:
        The folder.
    """
    folder = artifact_dir(context, BLEND)
    blend = {
        "members": list(members),
        "method": mix.method,
        "bias": mix.bias,
        "weights": dict(zip(members, mix.weights_M.tolist(), strict=True)),
        "calibration": {"kind": calibration.kind, "x": calibration.x_K.tolist(), "y": calibration.y_K.tolist()},
        "member_digests": {name: read_report(context, name)["sha256"][MODEL] for name in members},
        "plays": plays,
    }
    digests = {SCORES: _write_scores(folder / SCORES, scores)}
    _write_json(folder / BLEND_JSON, {**report, **blend, "sha256": digests})
    return folder


def read_blend(context: Context) -> dict[str, Any]:
    """Return blend.json: members, method, weights, bias, calibration {kind, x, y}, member_digests, plays, report.

    Raises:
        CheckFailed: there is no blend, or a member was trained again since.
    """
    command = f"run `overture skip blend --week {context.week}`"
    blend = _read_json(artifact_dir(context, BLEND) / BLEND_JSON, command)
    if "member_digests" not in blend:
        raise CheckFailed(f"blend: {BLEND_JSON} has no member_digests, an earlier version wrote it; {command}")
    for name, digest in blend["member_digests"].items():
        if read_report(context, name)["sha256"][MODEL] != digest:
            raise CheckFailed(f"blend: {name} was trained again since; {command}")
    return blend


def load_blend(context: Context, kind: str = MODEL) -> Blend:
    """Return the blend with its members, ready to predict.

    Args:
        context: week and folders.
        kind: MODEL for members fitted on the training plays, REFITTED for members fitted on all labelled plays.

    Raises:
        CheckFailed: as read_blend() and load_model().
    """
    blend = read_blend(context)
    weights_M = np.asarray([blend["weights"][name] for name in blend["members"]])
    stored = blend["calibration"]
    calibration = Calibration.from_arrays(
        stored["kind"], {key: np.asarray(stored[key], np.float64) for key in ("x", "y")}
    )
    members = {name: load_model(context, name, kind) for name in blend["members"]}
    return Blend(members, Mix(blend["method"], weights_M, blend["bias"]), calibration)


def _load_model(folder: Path, sha256: str, mismatch: str) -> SkipModel:
    try:
        model, saved = registry.load(folder), read_card(folder)["sha256"]
    except ValueError as error:
        raise CheckFailed(f"skip: {error}; train it again") from error
    if saved != sha256:
        raise CheckFailed(f"{folder}: {mismatch}")
    return model


def _write_scores(file: Path, scores: Scores) -> str:
    """Write scores and return the SHA-256 of the file."""
    raw = scores.to_bytes()
    files.replace(file, raw)
    return hashlib.sha256(raw).hexdigest()


def _write_json(file: Path, content: Mapping[str, Any]) -> None:
    files.replace(file, json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode())


def _read_json(file: Path, command: str) -> dict[str, Any]:
    """Return the content of a JSON file; where it is not usable, CheckFailed names the command that writes it."""
    try:
        content = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckFailed(f"{file}: missing; {command}") from None
    except json.JSONDecodeError as error:
        raise CheckFailed(f"{file}: is not JSON ({error}); {command}") from None
    if not isinstance(content, dict) or "sha256" not in content:
        raise CheckFailed(f"{file}: was not written by training, 'sha256' is missing; {command}")
    return content


def _read_scores(file: Path, sha256: str) -> Scores:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise CheckFailed(f"{file}: missing; train and blend again") from None
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise CheckFailed(f"{file}: does not match the JSON beside it; train and blend again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return Scores(**{field.name: arrays[field.name] for field in fields(Scores)})
