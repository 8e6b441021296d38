"""A day on top of the champion: what can be learned in a day is learned, the rest waits for the week.

Input   plays and skip_state of the day before, the champion      Output  the day's skip_features, skip_state; a release
Time    a release of day D knows plays up to the end of D; its mix and calibration learned from plays before D, and the
        plays of D judge it
Re-run  safe: the day's tables are replaced, the same inputs give the same release

    made anew     totals, rates, popularity, sessions and histories of listeners, tracks; the weights of the members and
                  the calibration, where the plays since training are enough and they do better on the newest of these
    as they were  the members themselves (networks, trees, regression, machine), cleaning, the regression behind reasons

The release goes through the same gate as a week's. Whatever fails, the champion stays and answers.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jobs import quality, tracking
from jobs.context import Context
from jobs.errors import CheckFailed, OvertureError
from jobs.release import bundle, files, gate, pointer, promote
from jobs.skip import contents, features, judging, read
from jobs.weeks import Week
from models.skip.blend import logistic
from models.skip.calibration import choose
from models.skip.metrics import auc_interval, brier
from models.skip.mix import Calibration, Mix, logit
from serving.skip.release import ANSWERS, CLEANING, EXPLAIN, MEMBERS, SkipRelease

if TYPE_CHECKING:
    from jobs.settings import Settings


def run(settings: Settings, day: date) -> dict[str, Any]:
    """Features of the day, a new release, its verdict, its promotion; the report for Airflow.

    Raises:
        CheckFailed: no champion, no plays of the day, or the gate says no: the champion stays.
    """
    context = of_day(settings, day)
    champion(context)  # before a session is started
    if not context.lake.exists("plays", day=str(day)):
        raise CheckFailed(f"plays: day={day} has not been written; ingest the day first")
    try:
        quality.run(context, list(judging.REQUIRED))
        with tracking.task(context, "features") as tracked:
            made = features.run(context, str(day), str(day))
            tracked.log_json(made, "report.json")
        built = bundle.run(context)
        judged = gate.run(context)
        moved = promote.run(context)
    except BaseException:
        with suppress(OvertureError):  # where MLflow is away too, the first error is the one to tell
            tracking.finish_week(context, failed=True)
        raise
    parent = tracking.finish_week(context, verdict=str(judged["verdict"]))
    return {
        "day": str(day), "rows": made["rows"], "release": built["release"], "verdict": judged["verdict"],
        "promoted": moved["promoted"], "why": moved["why"], **parent.links,
    }  # fmt: skip


def of_day(settings: Settings, day: date) -> Context:
    """Surroundings of an update: the skip engine's, with an experiment of its own."""
    context = Context.of(settings, Week.after(day), "skip")
    told = {"experiment": settings.mlflow.skip_daily_experiment}
    mlflow = context.settings.mlflow.model_copy(update=told)
    return replace(context, settings=context.settings.model_copy(update={"mlflow": mlflow}))


def champion(context: Context) -> SkipRelease:
    """The release in service, opened as the service opens it.

    Raises:
        CheckFailed: there is none, it is damaged, or of a later day.
    """
    now = pointer.read(context.release_home)
    if now is None:
        raise CheckFailed("skip update: there is no champion yet; run the weekly pipeline of the skip engine first")
    if now.week[:10] > str(context.week):
        raise CheckFailed(f"skip update: the champion is of {now.week} already, later than the end of this day")
    return SkipRelease(pointer.releases(context.release_home) / now.release, now)


def fill(context: Context, folder: Path) -> dict[str, object]:
    """Write an update's bundle: the champion's members, everything else as of the day's end."""
    old = champion(context)
    for file in sorted(path for path in old.folder.rglob("*") if path.is_file()):
        name = file.relative_to(old.folder)
        if name.parts[0] in (MEMBERS, EXPLAIN, CLEANING):
            files.write(folder / name, file.read_bytes())
    day = f"{context.week.as_of - timedelta(days=1):%Y-%m-%d}"
    mix, calibration, how = learned(context, old, day)
    names = [member.name for member in old.members]
    start = int(datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC).timestamp())
    log = contents.log_of(context, old.cleaning)
    memory = contents.write_memory(context, folder, log, [member.feeds.length for member in old.members])
    changed = {
        "method": mix.method, "bias": mix.bias, "members": contents.weighed(names, mix),
        "calibration": contents.as_json(calibration), "learned_until": start,
    }  # fmt: skip
    files.write(folder / ANSWERS, files.canonical(old.told | changed | memory))
    files.write(folder / "evaluation.json", files.canonical(evaluation(context, old, mix, calibration, day)))
    return {"updates": old.name, "members": names, "mix": how}


def learned(context: Context, old: SkipRelease, day: str) -> tuple[Mix, Calibration, dict[str, Any]]:
    """The mix and calibration for the day, and how it came to them.

    The last days before the day that no member was trained on: the earlier part learns weights and calibration, the
    newer part decides by Brier's score whether they replace the champion's.
    """
    chosen = context.settings.skip.update
    first = date.fromisoformat(day) - timedelta(days=chosen.window_days)
    as_it_was = {"kept": "the champion's"}
    if not [p for p in context.lake.partitions("skip_features") if str(first) <= p["day"] < day]:
        return old.mix, old.calibration, as_it_was | {"why": f"no plays in the {chosen.window_days} days before {day}"}
    plays, _ = read.load(context, old.names, "past", str(first), day, asked=False)
    plays = plays.rows(slice(int(np.searchsorted(plays.ts_N, old.told["trained_until"])), None))
    if len(plays) < chosen.min_plays:
        why = f"{len(plays)} plays since training, skip.update.min_plays asks for {chosen.min_plays}"
        return old.mix, old.calibration, as_it_was | {"why": why}
    heard_N = plays.labels()
    logits_NM = logit(judging.judged(context, old, plays).members_NM)
    cut = int((1 - chosen.decides) * len(plays))
    half = cut // 2
    if any(len(np.unique(part)) < 2 for part in (heard_N[:half], heard_N[half:cut], heard_N[cut:])):
        return old.mix, old.calibration, as_it_was | {"why": "the plays since training are of one class"}
    mix = logistic(logits_NM[:half], heard_N[:half])
    calibration = choose(heard_N[half:cut], mix(logits_NM[half:cut]))
    new = brier(heard_N[cut:], calibration(mix(logits_NM[cut:])))
    was = brier(heard_N[cut:], old.calibration(old.mix(logits_NM[cut:])))
    told = {"plays": len(plays), "brier": new, "brier_of_champion": was}
    if new >= was:
        return old.mix, old.calibration, as_it_was | told
    return mix, calibration, {"kept": "learned anew"} | told


def evaluation(
    context: Context, old: SkipRelease, mix: Mix, calibration: Calibration, day: str
) -> list[dict[str, Any]]:
    """AUC and Brier's score of the day's plays, as rows of skip_evaluation have them."""
    plays, _ = read.load(context, old.names, "past", day, contents.before(context), asked=False)
    heard_N = plays.labels()
    if len(np.unique(heard_N)) < 2:
        raise CheckFailed(f"skip update: the {len(plays)} labelled plays of {day} are not of both classes")
    listen_N = calibration(mix(logit(judging.judged(context, old, plays).members_NM)))
    found = auc_interval(heard_N, listen_N, plays.user_N)
    same = {"model": "blend", "split": "day", "slice": "all", "n": len(plays)}
    return [
        {**same, "metric": "auc", "value": found.value, "low": found.low, "high": found.high},
        {**same, "metric": "brier", "value": brier(heard_N, listen_N), "low": None, "high": None},
    ]
