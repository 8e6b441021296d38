"""A day on top of the champion: what can be learned in a day is learned, the rest waits for the week.

Input   plays and skip_state of the day before, the champion      Output  the day's skip_features, skip_state; a release
Time    a release of day D knows plays up to the end of D; its members, mix and calibration learned from plays before D,
        and the plays of D judge it
Re-run  safe: the day's tables are replaced; a second run starts from the same release as the first and gives the same

    made anew     totals, rates, popularity, sessions and histories of listeners, tracks
    learned on    members: trees get more trees, regression and machine move by what a play is worth beside those of
                  training, networks take a few small steps; what mixes and calibrates them is learned anew. Each only
                  where it does better on newer plays (jobs/skip/incremental_training.py)
    as it was     what a member has of all plays together: ids with a row of their own, ranks, smoothing, one-hot
                  fields; cleaning. A listener or track that training has not met is known by its counts until the week

The release goes through the same gate as a week's. Whatever fails, the champion stays and answers.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from contracts.errors import CheckFailed, OvertureError
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import bundle, gate, pointer, promote
from jobs.release.skip import bundle as contents
from jobs.release.skip import gate as judging
from jobs.skip import artifacts, build_features, dataset, incremental_training, onnx_export
from jobs.tracking.tracker import Tracker
from models.skip.estimators.logistic_regression import FeatureRegression
from models.skip.evaluation.metrics import auc_interval, brier
from serving.skip.release import ANSWERS, CLEANING, EXPLAIN, MEMBERS, NETWORK, SkipRelease

if TYPE_CHECKING:
    from jobs.settings.settings import Settings
    from jobs.skip.incremental_training import ChampionUpdate
    from models.skip.data.play_history import Log


def run(settings: Settings, day: date) -> dict[str, Any]:
    """Features of the day, a new release, its verdict, its promotion; the report for Airflow.

    Raises:
        CheckFailed: no champion, no plays of the day, or the gate says no: the champion stays.
    """
    context = Context.for_engine(settings, Week.after_day(day), "skip")
    base(context)  # before a session is started
    if not context.lake.exists("plays", day=str(day)):
        raise CheckFailed(f"plays: day={day} has not been written; ingest the day first")
    try:
        check.run(context, list(judging.REQUIRED))
        with Tracker.task(context, "features") as tracked:
            made = build_features.run(context, str(day), str(day))
            tracked.log_json(made, "report.json")
        built = bundle.run(context)
        judged = gate.run(context)
        moved = promote.run(context)
    except BaseException:
        with suppress(OvertureError):  # where MLflow is away too, the first error is the one to tell
            Tracker.finish_week(context, failed=True)
        raise
    parent = Tracker.finish_week(context, verdict=str(judged["verdict"]))
    return {
        "day": str(day),
        "rows": made["rows"],
        "release": built["release"],
        "verdict": judged["verdict"],
        "promoted": moved["promoted"],
        "why": moved["why"],
        **parent.links,
    }


def base(context: Context) -> SkipRelease:
    """The release that the day is added to: the one in service; where that is of this day already, what it came from.

    Raises:
        CheckFailed: there is none, it is damaged, or of a later day.
    """
    now = pointer.read(context.release_home)
    if now is None:
        raise CheckFailed("skip update: there is no champion yet; run the weekly pipeline of the skip engine first")
    if now.week[:10] > str(context.week):
        raise CheckFailed(f"skip update: the champion is of {now.week} already, later than the end of this day")
    release = SkipRelease(pointer.releases(context.release_home) / now.release)
    if release.week != context.week.name:
        return release
    return SkipRelease(release.folder.with_name(release.provenance["updates"]))


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write an update's bundle: the champion's, what learned on put in its place, memory as of the day's end."""
    old = base(context)
    for file in sorted(path for path in old.folder.rglob("*") if path.is_file()):
        place = file.relative_to(old.folder)
        if place.parts[0] in (MEMBERS, EXPLAIN, CLEANING):
            files.write(folder / place, file.read_bytes())
    day = f"{context.week.as_of - timedelta(days=1):%Y-%m-%d}"
    log = contents.log_of(context, old.cleaning)
    found = incremental_training.update_champion(context, old, day, log)
    rows = evaluation(context, found, day, log)
    for name, model in found.members.items():
        files.write(folder / MEMBERS / name / NETWORK, onnx_export.to_onnx(model))
        if isinstance(model, FeatureRegression) and old.explanation is not None:
            files.write_array(folder / EXPLAIN / "weights.npy", model.regression.weights_G)
    states = {one["name"]: one.get("state", {}) for one in old.told["members"]}
    states |= {name: artifacts.write_updated_model(context, model) for name, model in found.members.items()}
    memory = contents.write_memory(context, folder, log, [member.feeds.length for member in old.members])
    changed = {
        "method": found.mix.method,
        "bias": found.mix.bias,
        "members": contents.weighed(states, found.mix),
        "calibration": contents.as_json(found.calibration),
        "trained_until": found.trained_until,
        "learned_until": int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp()),
    }
    files.write(folder / ANSWERS, files.canonical(old.told | changed | memory))
    files.write(folder / "evaluation.json", files.canonical(rows))
    return {"updates": old.name, "members": list(states), "fine_tuning": dict(found.report)}


def evaluation(context: Context, found: ChampionUpdate, day: str, log: Log) -> list[dict[str, Any]]:
    """AUC and Brier's score of the day's plays, as rows of skip_evaluation have them."""
    plays, _ = dataset.read_rows(context, found.champion.names, "past", day, contents.before(context))
    heard_N = plays.labels()
    if not len(plays):
        raise CheckFailed(f"skip update: {day} has no labelled plays, and they are what judges the release")
    if len(np.unique(heard_N)) < 2:
        raise CheckFailed(f"skip update: the {len(plays)} labelled plays of {day} are of one class; no AUC can be told")
    listen_N = found.predict(found.champion.cleaned(plays), log)
    reached = auc_interval(heard_N, listen_N, plays.user_N)
    same = {"model": "blend", "split": "day", "slice": "all", "n": len(plays)}
    return [
        {**same, "metric": "auc", "value": reached.value, "low": reached.low, "high": reached.high},
        {**same, "metric": "brier", "value": brier(heard_N, listen_N), "low": None, "high": None},
    ]
