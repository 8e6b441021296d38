"""A whole A/B test on listeners of the made-up service: registered, shown, streamed, logged, and read into the lake.

Input   the champion of this home, learned from the made-up service of the same settings
Output  a registered plan; exposures, exposure_contexts, outcomes of its days
Real    assignment, answers, exploring, exposure log and ingest are those of the service; people and calendar are not
Hidden  tastes stay in jobs/ingest/simulate/experiment_users.py; what goes out is what an app would report, and, for those who test the
        estimates, the mean chance of a stream by arm
Re-run  the same seed gives the same rows
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.experiments import ingest, plan
from jobs.experiments.exposures import days
from jobs.ingest.simulate.experiment_users import Newcomers
from jobs.ingest.simulate.listeners import Span
from jobs.ingest.write_tables import day_name
from jobs.platform.context import Context
from jobs.platform.progress import progress
from jobs.platform.temp_dirs import temp_dir
from serving.experiment.assignment import Running
from serving.experiment.exposure_log import ExposureLog
from serving.release.loaded import Ready
from serving.release.watcher import Champion
from serving.schema import Listener, ListOptions
from serving.settings import Experiment

VISITS = 1.0  # mean of the lists after a listener's first one, one a day
BATCH = 256


def run(context: Context, listeners: int, length: int, seed: int) -> dict[str, Any]:
    """Simulate the experiment of the settings with about so many new listeners and lists of this length.

    Raises:
        BadArgument: the lake is not that of the made-up service, or real displays lie on the planned days.
        CheckFailed: there is no champion.
    """
    if context.settings.source.kind != "simulate":
        raise BadArgument(
            f"ab-simulate: the source is {context.settings.source.kind}; only made-up listeners have a taste"
        )
    planned = context.settings.experiment
    span_days = days(planned)
    for day in span_days:
        if context.lake.exists("exposures", day=day):
            names = set(context.lake.read("exposures", columns=["experiment"], day=day)["experiment"].to_pylist())
            if names != {planned.name}:
                raise BadArgument(
                    f"ab-simulate: exposures of {day} hold {sorted(names)}; choose other days or a fresh home"
                )
    champion = Champion(context.home)
    champion.refresh()
    ready = champion.current
    if ready is None:
        raise CheckFailed(f"ab-simulate: {champion.problem}")
    first = datetime.fromisoformat(planned.first_day).replace(tzinfo=UTC)
    registered = plan.register(context, first - timedelta(days=1), simulated=True)
    first_day = int(np.datetime64(planned.first_day, "D").astype(np.int64))
    # Lists are made from a whole first day: who registers on the eve of the experiment is its first listener.
    people = Newcomers(context.settings.simulate, Span(first_day - 1, len(span_days)), listeners, seed)
    with temp_dir(context, "ingest") as folder:
        told = show(ready, planned, people, range(first_day, first_day + len(span_days)), length, seed, folder)
        read = ingest.run(context, folder)
    return {**registered, **read, "listeners": len(people.people), "release": ready.name, "chances": told}


def show(
    ready: Ready, planned: Experiment, people: Newcomers, calendar: range, length: int, seed: int, folder: Path
) -> dict[str, float]:
    """Let the listeners come back over the days of `calendar` (since 1970); write the logs of service and app.

    A listener comes on the day after the registration and, mostly, on some of the days that follow.

    Returns:
        Mean chance of a stream of all displays, by arm.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 300)))
    running = Running(Experiment.model_validate(planned.model_dump(include=set(Experiment.model_fields))), rng, True)
    coming: dict[int, list[int]] = defaultdict(list)
    for at, one in enumerate(people.people):
        for visit in range(1 + rng.poisson(VISITS)):
            coming[one.day + 1 + visit].append(at)
    asked = ListOptions(k=length)
    log = ExposureLog(folder)
    chance: dict[str, list[np.ndarray]] = defaultdict(list)
    for day in progress(calendar, len(calendar), "days of the experiment"):
        told = []
        here = coming.get(day, [])
        for start in range(0, len(here), BATCH):
            some = here[start : start + BATCH]
            moment = datetime.fromisoformat(day_name(day)).replace(tzinfo=UTC) + timedelta(
                seconds=int(rng.integers(60, 80_000))
            )
            said = [
                Listener.model_validate({**people.people[i].listener, "user_id": people.people[i].user_id})
                for i in some
            ]
            shown = running.recommend(ready, said, asked, moment)
            log.write(shown.lines)
            by_user = {line["user_id"]: line for line in shown.lines}
            for at in some:
                line = by_user[people.people[at].user_id]
                chance[line["arm"]].append(people.chances(at, line["tracks"]))
                told += reported(line, *people.react(at, line["tracks"], rng), moment)
        text = "".join(json.dumps(one) + "\n" for one in told)
        (folder / f"outcomes-{day_name(day)}.jsonl").write_text(text)
    log.close()
    return {arm: float(np.mean(np.concatenate(found))) for arm, found in sorted(chance.items())}


def reported(line: dict[str, Any], streamed: np.ndarray, favoured: np.ndarray, at: datetime) -> list[dict[str, Any]]:
    """Lines of the app's log: a stream some seconds after the list came, a favourite after the stream."""
    found = []
    for kind, which, delay in (("stream", streamed, 5), ("favorite", favoured, 35)):
        for place in np.flatnonzero(which).tolist():
            ts = (at + timedelta(seconds=delay + 200 * place)).isoformat()
            same = {"request_id": line["request_id"], "user_id": line["user_id"], "track_id": line["tracks"][place]}
            found.append({**same, "ts": ts, "kind": kind})
    return found
