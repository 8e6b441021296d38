"""Simulate an A/B test: new listeners of the simulated service register, get lists, stream, and are logged.

Input   the champion, trained on the simulated service of the same settings
Output  a registered plan; exposures, exposure_contexts, outcomes of its days
Real    assignment, recommendations, exploration, exposure log and ingest are those of the service; listeners and
        calendar are simulated
Hidden  tastes stay in jobs/ingest/simulate/experiment_users.py. The output is what an app would report and, for tests
        of the estimates, the mean probability of a stream by arm
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
from jobs.ingest.simulate.experiment_users import NewListeners
from jobs.ingest.simulate.listeners import Span
from jobs.ingest.write_tables import day_name
from jobs.platform.context import Context
from jobs.platform.progress import progress
from jobs.platform.temp_dirs import temp_dir
from jobs.release.destination import read_champion, release_folder
from serving.experiment.assignment import ActiveExperiment
from serving.experiment.exposure_log import ExposureLog
from serving.recommend.signals import ListParameters, read_listener
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from serving.schema import Listener
from serving.settings import Experiment

MEAN_RETURNS = 1.0  # mean number of lists after a listener's first one, one per day
BATCH = 256


def run(context: Context, listeners: int, length: int, seed: int) -> dict[str, Any]:
    """Simulate the experiment of the settings.

    Args:
        context: Context with the settings.
        listeners: Approximate number of new listeners.
        length: Number of tracks in a list.
        seed: Random seed.

    Raises:
        BadArgument: The lake is not that of the simulated service, or the planned days contain real displays.
        CheckFailed: There is no champion.
    """
    if context.settings.source.kind != "simulate":
        raise BadArgument(
            f"ab-simulate: the source is {context.settings.source.kind}; only simulated listeners have a taste"
        )
    planned = context.settings.experiment
    span_days = days(planned)
    for day in span_days:
        if context.lake.exists("exposures", day=day):
            names = set(context.lake.read("exposures", columns=["experiment"], day=day)["experiment"].to_pylist())
            if names != {planned.name}:
                raise BadArgument(
                    f"ab-simulate: exposures of {day} contain {sorted(names)}; choose other days or a new home"
                )
    champion = read_champion(context)
    if champion is None:
        raise CheckFailed("ab-simulate: no release has been promoted; run `overture release promote`")
    ready = LoadedRelease(open_release(release_folder(context, champion.release)), champion)
    first = datetime.fromisoformat(planned.first_day).replace(tzinfo=UTC)
    registered = plan.register(context, first - timedelta(days=1), simulated=True)
    first_day = int(np.datetime64(planned.first_day, "D").astype(np.int64))
    # Lists are made from a complete first day: listeners who register on the eve of the experiment come first.
    new_listeners = NewListeners(context.settings.simulate, Span(first_day - 1, len(span_days)), listeners, seed)
    with temp_dir(context, "ingest") as folder:
        probabilities = simulate_days(
            ready, planned, new_listeners, range(first_day, first_day + len(span_days)), length, seed, folder
        )
        read = ingest.run(context, folder)
    return {
        **registered,
        **read,
        "listeners": len(new_listeners.members),
        "release": ready.name,
        "stream_probabilities": probabilities,
    }


def simulate_days(
    ready: LoadedRelease,
    planned: Experiment,
    new_listeners: NewListeners,
    calendar: range,
    length: int,
    seed: int,
    folder: Path,
) -> dict[str, float]:
    """Let the listeners return over the days of `calendar` and write the logs of the service and the app.

    A listener returns on the day after the registration and, in most cases, on some of the following days.

    Args:
        ready: The release that serves the lists.
        planned: The experiment.
        new_listeners: Simulated new listeners.
        calendar: Days since 1970.
        length: Number of tracks in a list.
        seed: Random seed.
        folder: Folder of the logs.

    Returns:
        Mean probability of a stream over all displays, by arm.
    """
    rng = np.random.default_rng(np.random.SeedSequence((seed, 300)))
    running = ActiveExperiment(
        Experiment.model_validate(planned.model_dump(include=set(Experiment.model_fields))), rng, True
    )
    coming: dict[int, list[int]] = defaultdict(list)
    for at, listener in enumerate(new_listeners.members):
        for visit in range(1 + rng.poisson(MEAN_RETURNS)):
            coming[listener.day + 1 + visit].append(at)
    options = ListParameters(k=length)
    log = ExposureLog(folder)
    probability: dict[str, list[np.ndarray]] = defaultdict(list)
    for day in progress(calendar, len(calendar), "days of the experiment"):
        outcomes = []
        visitors = coming.get(day, [])
        for start in range(0, len(visitors), BATCH):
            batch = visitors[start : start + BATCH]
            time = datetime.fromisoformat(day_name(day)).replace(tzinfo=UTC) + timedelta(
                seconds=int(rng.integers(60, 80_000))
            )
            listeners = [
                read_listener(
                    ready,
                    Listener.model_validate(
                        {**new_listeners.members[i].listener, "user_id": str(new_listeners.members[i].user_id)}
                    ),
                )
                for i in batch
            ]
            shown = running.recommend(ready, listeners, options, time)
            log.write(shown.lines)
            by_user = {line["user_id"]: line for line in shown.lines}
            for at in batch:
                line = by_user[str(new_listeners.members[at].user_id)]
                tracks = [int(track) for track in line["tracks"]]
                probability[line["arm"]].append(new_listeners.stream_probabilities(at, tracks))
                outcomes += outcome_lines(line, *new_listeners.react(at, tracks, rng), time)
        text = "".join(json.dumps(outcome) + "\n" for outcome in outcomes)
        (folder / f"outcomes-{day_name(day)}.jsonl").write_text(text)
    log.close()
    return {arm: float(np.mean(np.concatenate(values))) for arm, values in sorted(probability.items())}


def outcome_lines(
    line: dict[str, Any], streamed: np.ndarray, favoured: np.ndarray, at: datetime
) -> list[dict[str, Any]]:
    """Return lines of the app's log: a stream some seconds after the list was shown, a favourite after the stream."""
    lines = []
    for kind, which, delay in (("stream", streamed, 5), ("favorite", favoured, 35)):
        for place in np.flatnonzero(which).tolist():
            ts = (at + timedelta(seconds=delay + 200 * place)).isoformat()
            display = {"request_id": line["request_id"], "user_id": line["user_id"], "track_id": line["tracks"][place]}
            lines.append({**display, "ts": ts, "kind": kind})
    return lines
