"""Writes the contents of a daily update: the champion's files, with fine-tuned members and a newer state snapshot.

Input   the champion's bundle; skip_features, skip_state and plays up to the end of the day
Time    members, weights and calibration are trained on plays before the day; the snapshot contains the plays of the day

    computed again   totals, rates, popularity, sessions and play histories of listeners, tracks
    fine-tuned       members: trees get more trees, regression and factorisation machine are updated in proportion to
                     the number of new plays, networks take a few small steps; weights and calibration are fitted again.
                     Each only where it improves on newer plays (jobs/skip/incremental_training.py)
    unchanged        what a member computes over all training plays: embeddings of known ids, ranks, smoothing, one-hot
                     fields; cleaning; the ensemble of the time split, which the next weekly gate compares. A listener
                     or track that is not in the training plays is described by its counts until the weekly training
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.entity_forms import entity_forms
from jobs.release.destination import read_champion, release_folder
from jobs.release.skip.snapshot import calibration_entry, end_day, member_entries, read_play_log, write_snapshot
from jobs.skip import artifacts, dataset, incremental_training, onnx_export
from models.skip.estimators.logistic_regression import FeatureRegression
from models.skip.evaluation.metrics import auc_interval, brier
from serving.skip.release import ANSWERS, CLEANING, EVALUATED, EXPLAIN, MEMBERS, NETWORK, SkipRelease

if TYPE_CHECKING:
    from jobs.platform.context import Context
    from jobs.skip.incremental_training import ChampionUpdate
    from models.skip.data.play_history import Log


def open_base_release(context: Context) -> SkipRelease:
    """Return the release that a daily update starts from.

    That is the champion. If the champion is an update of the same day already, it is the release that this update
    started from, so that a second run gives the same result.

    Raises:
        CheckFailed: there is no champion, it is damaged, or it is of a later day.
    """
    champion = read_champion(context)
    if champion is None:
        raise CheckFailed("skip update: there is no champion yet; run the weekly pipeline of the skip engine first")
    if champion.week[:10] > str(context.week):
        raise CheckFailed(f"skip update: the champion is of {champion.week}, later than the end of this day")
    release = SkipRelease(release_folder(context, champion.release))
    if release.week != context.week.name:
        return release
    return SkipRelease(release_folder(context, release.provenance["base_release"]))


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write the contents of a daily update.

    Args:
        context: the day, as a week that ends with it; lake and settings.
        folder: an empty folder.

    Returns:
        What provenance.json contains about the contents.

    Raises:
        CheckFailed: there is no champion, or the day has no labelled plays of both classes.
    """
    base = open_base_release(context)
    for file in sorted(path for path in base.folder.rglob("*") if path.is_file()):
        relative = file.relative_to(base.folder)
        if relative.parts[0] in (MEMBERS, EVALUATED, EXPLAIN, CLEANING):
            files.write(folder / relative, file.read_bytes())
    day = f"{context.week.as_of - timedelta(days=1):%Y-%m-%d}"
    log = read_play_log(context, base.cleaning)
    update = incremental_training.update_champion(context, base, day, log)
    evaluation = evaluate_day(context, update, day, log)
    for name, model in update.members.items():
        files.write(folder / MEMBERS / name / NETWORK, onnx_export.to_onnx(model))
        if isinstance(model, FeatureRegression) and base.explanation is not None:
            files.write_array(folder / EXPLAIN / "weights.npy", model.regression.weights_G)
    references = {member["name"]: member.get("state", {}) for member in base.description["members"]}
    references |= {name: artifacts.write_updated_model(context, model) for name, model in update.members.items()}
    snapshot = write_snapshot(context, folder, log, [member.inputs.history_length for member in base.members])
    changes = {
        "method": update.mix.method,
        "bias": update.mix.bias,
        "members": member_entries(references, update.mix),
        "calibration": calibration_entry(update.calibration),
        "trained_until": update.trained_until,
        "learned_until": int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()),
    }
    files.write(folder / ANSWERS, files.canonical({**base.description, **changes, **snapshot}))
    files.write(folder / "evaluation.json", files.canonical(evaluation))
    return {
        "base_release": base.name,
        "members": list(references),
        "fine_tuning": dict(update.report),
        "ids": entity_forms(context.lake, "skip"),
    }


def evaluate_day(context: Context, update: ChampionUpdate, day: str, log: Log) -> list[dict[str, Any]]:
    """Return AUC and Brier score of an update for the plays of the day, as rows of skip_evaluation.

    Raises:
        CheckFailed: the day has no labelled plays, or only plays of one class.
    """
    plays, _ = dataset.read_rows(context, update.champion.names, "past", day, end_day(context))
    labels_N = plays.labels()
    if not len(plays):
        raise CheckFailed(f"skip update: {day} has no labelled plays; the release is evaluated on them")
    if len(np.unique(labels_N)) < 2:
        raise CheckFailed(
            f"skip update: the {len(plays)} labelled plays of {day} are of one class; AUC needs plays of both classes"
        )
    proba_N = update.predict(update.champion.cleaned(plays), log)
    auc = auc_interval(labels_N, proba_N, plays.user_N)
    common = {"model": "blend", "split": "day", "slice": "all", "n": len(plays)}
    return [
        {**common, "metric": "auc", "value": auc.value, "low": auc.low, "high": auc.high},
        {**common, "metric": "brier", "value": brier(labels_N, proba_N), "low": None, "high": None},
    ]
