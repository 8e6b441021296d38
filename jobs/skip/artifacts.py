"""What training a skip model leaves behind for blend, evaluation and release, and how it is read again.

    work/<week>/<model>/model/      the fitted model (SkipModel.save), its history reaching to as_of
                        scores.npz  what it says of every validation and test play: Scores, a column an array
                        folds.npz   the same of training plays forecast by models of earlier plays; members of the blend
                        report.json recipe, losses, AUC, seconds, and the digests that hold the folder together
    work/<day>/<model>/model/       of a day's update: a member of the champion that learned on, without its history
    work/<week>/blend/  blend.json  members, weights, bias, calibration, and which save of each member it was made of
                        scores.npz  of the blend

Every file is replaced in one step and the JSON comes last: it names the SHA-256 of the others; half of a training is
refused when it is read. `plays` is the digest of the labelled plays and their split: scores of other plays never meet.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from contracts.errors import CheckFailed
from models.skip.data import splits
from models.skip.data.play_history import Log
from models.skip.ensemble.ensemble import Calibration, Mix
from models.skip.ensemble.fit import Blend
from models.skip.estimators import registry
from models.skip.estimators.base import SkipModel, read_card, replace
from models.skip.estimators.session_gru import SessionGru

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.dataset import Labelled

BLEND = "blend"
MODEL, SCORES, FOLDS, REPORT, BLEND_JSON = "model", "scores.npz", "folds.npz", "report.json", "blend.json"


@dataclass(frozen=True, eq=False)
class Scores:
    """What a model says of plays, in time order.

    Attributes:
        place_N: int64, which of the week's labelled plays (read.labelled(...).plays) each is.
        split_N: int8, VALIDATION or TEST of models/skip/data/splits.py; TRAIN for folds.
        proba_N: float64, chance of being listened to.
        listened_N: int8, what happened.
        user_N: int64, for intervals by user.
        is_flow_N: bool.
    """

    place_N: NDArray[np.int64]
    split_N: NDArray[np.int8]
    proba_N: NDArray[np.float64]
    listened_N: NDArray[np.int8]
    user_N: NDArray[np.int64]
    is_flow_N: NDArray[np.bool_]

    @classmethod
    def of(cls, found: Labelled, place_N: NDArray[np.int64], proba_N: NDArray[np.float64]) -> Scores:
        """About some of the labelled plays."""
        plays = found.plays
        return cls(
            place_N,
            found.split_N[place_N],
            proba_N,
            plays.labels()[place_N],
            plays.user_N[place_N],
            plays.is_flow_N[place_N],
        )

    def part(self, split: int) -> Scores:
        """Those of one split."""
        mine = self.split_N == split
        return Scores(**{field.name: getattr(self, field.name)[mine] for field in fields(self)})

    @property
    def valid(self) -> Scores:
        """Of validation plays."""
        return self.part(splits.VALIDATION)

    @property
    def test(self) -> Scores:
        """Of test plays."""
        return self.part(splits.TEST)

    def packed(self) -> bytes:
        """As a file of arrays."""
        raw = io.BytesIO()
        np.savez(raw, allow_pickle=False, **{field.name: getattr(self, field.name) for field in fields(self)})
        return raw.getvalue()


def digest(found: Labelled) -> str:
    """Which plays with which outcomes, in which split."""
    plays, told = found.plays, hashlib.sha256()
    for values in (plays.ts_N, plays.user_N, plays.track_N, plays.labels(), found.split_N):
        told.update(np.ascontiguousarray(values).data)
    return told.hexdigest()


def folder(context: Context, name: str) -> Path:
    """Of a model, or of the blend."""
    return context.work / name


def write(
    context: Context, model: SkipModel, scores: Scores, folds: Scores | None, plays: str, report: Mapping[str, Any]
) -> Path:
    """Keep a training; what an earlier one left is replaced. Returns the folder."""
    to = folder(context, model.name)
    model.save(to / MODEL)
    digests = {MODEL: read_card(to / MODEL)["sha256"], SCORES: _put(to / SCORES, scores)}
    if folds is None:
        (to / FOLDS).unlink(missing_ok=True)
    else:
        digests[FOLDS] = _put(to / FOLDS, folds)
    _put_json(to / REPORT, {**report, "model": model.name, "plays": plays, "sha256": digests})
    return to


def read_report(context: Context, name: str) -> dict[str, Any]:
    """What training said; CheckFailed where the model has not been trained."""
    return _json(folder(context, name) / REPORT, f"run `overture skip train --model {name} --week {context.week}`")


def read_scores(context: Context, name: str) -> Scores:
    """Of a model, or of the blend; CheckFailed where there are none, or they are of another training than the JSON."""
    if name == BLEND:
        return _scores(folder(context, BLEND) / SCORES, read_blend(context)["sha256"][SCORES])
    return _scores(folder(context, name) / SCORES, read_report(context, name)["sha256"][SCORES])


def read_folds(context: Context, name: str) -> Scores:
    """Of training plays; CheckFailed as of scores, and where the model was not trained as a member of the blend."""
    told = read_report(context, name)["sha256"]
    if FOLDS not in told:
        raise CheckFailed(
            f"{name}: was trained without folds, which the blend learns from; name it in skip.blend.members and train "
            "it again"
        )
    return _scores(folder(context, name) / FOLDS, told[FOLDS])


def load_model(context: Context, name: str) -> SkipModel:
    """The fitted model; CheckFailed where it is damaged or of another training than the report."""
    told, at = read_report(context, name), folder(context, name) / MODEL
    return _model(at, told["sha256"][MODEL], f"is of another training than {REPORT} beside it; train it again")


def state_of(context: Context, name: str) -> dict[str, str]:
    """Which save of a model it is that a release answers with, for load_state(): {week, sha256}."""
    return {"week": context.week.name, "sha256": read_report(context, name)["sha256"][MODEL]}


def write_state(context: Context, model: SkipModel) -> dict[str, str]:
    """Keep a model that learned on; returns which save it is. Earlier plays are not kept again: the lake has them."""
    if isinstance(model, SessionGru):
        model.log = Log.empty()
    to = folder(context, model.name) / MODEL
    model.save(to)
    return {"week": context.week.name, "sha256": read_card(to)["sha256"]}


def load_state(context: Context, name: str, state: Mapping[str, str], log: Log) -> SkipModel:
    """The model that a release answers with, looking back at `log`.

    Raises:
        CheckFailed: it is not kept on this machine, it is damaged, or it was trained again since.
    """
    at = context.release_home / "work" / state["week"] / name / MODEL
    found = _model(at, state["sha256"], "was trained again since the release was made")
    if isinstance(found, SessionGru):
        found.log = log
    return found


def write_blend(
    context: Context,
    members: Sequence[str],
    mix: Mix,
    calibration: Calibration,
    scores: Scores,
    plays: str,
    report: Mapping[str, Any],
) -> Path:
    """Keep a blend: what joins its members, which lie in folders of their own. Returns the folder."""
    to = folder(context, BLEND)
    learned = {
        "members": list(members),
        "method": mix.method,
        "bias": mix.bias,
        "weights": dict(zip(members, mix.weights_M.tolist(), strict=True)),
        "calibration": {"kind": calibration.kind, "x": calibration.x_K.tolist(), "y": calibration.y_K.tolist()},
        "made_of": {name: read_report(context, name)["sha256"][MODEL] for name in members},
        "plays": plays,
    }
    digests = {SCORES: _put(to / SCORES, scores)}
    _put_json(to / BLEND_JSON, {**report, **learned, "sha256": digests})
    return to


def read_blend(context: Context) -> dict[str, Any]:
    """blend.json: members, method, weights by member, bias, calibration {kind, x, y}, made_of, plays, and the report.

    Raises:
        CheckFailed: there is none, or a member was trained again since.
    """
    found = _json(folder(context, BLEND) / BLEND_JSON, f"run `overture skip blend --week {context.week}`")
    for name, saved in found["made_of"].items():
        if read_report(context, name)["sha256"][MODEL] != saved:
            raise CheckFailed(f"blend: {name} was trained again since; run `overture skip blend --week {context.week}`")
    return found


def load_blend(context: Context) -> Blend:
    """The blend with its members, ready to answer; CheckFailed as of its parts."""
    told = read_blend(context)
    weights_M = np.asarray([told["weights"][name] for name in told["members"]])
    kept = told["calibration"]
    calibration = Calibration.of(kept["kind"], {key: np.asarray(kept[key], np.float64) for key in ("x", "y")})
    members = {name: load_model(context, name) for name in told["members"]}
    return Blend(members, Mix(told["method"], weights_M, told["bias"]), calibration)


def _model(at: Path, sha256: str, otherwise: str) -> SkipModel:
    try:
        found, saved = registry.load(at), read_card(at)["sha256"]
    except ValueError as error:
        raise CheckFailed(f"skip: {error}; train it again") from error
    if saved != sha256:
        raise CheckFailed(f"{at}: {otherwise}")
    return found


def _put(file: Path, scores: Scores) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    raw = scores.packed()
    replace(file, raw)
    return hashlib.sha256(raw).hexdigest()


def _put_json(file: Path, found: Mapping[str, Any]) -> None:
    replace(file, json.dumps(found, indent=1, sort_keys=True, allow_nan=False).encode())


def _json(file: Path, otherwise: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except FileNotFoundError:
        raise CheckFailed(f"{file}: missing; {otherwise}") from None
    except json.JSONDecodeError as error:
        raise CheckFailed(f"{file}: is no JSON ({error}); {otherwise}") from None
    if not isinstance(found, dict) or "sha256" not in found:
        raise CheckFailed(f"{file}: is not what training writes; {otherwise}")
    return found


def _scores(file: Path, told: str) -> Scores:
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise CheckFailed(f"{file}: missing; train and blend again") from None
    if hashlib.sha256(raw).hexdigest() != told:
        raise CheckFailed(f"{file}: is of another run than the JSON beside it; train and blend again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as found:
        return Scores(**{field.name: found[field.name] for field in fields(Scores)})
