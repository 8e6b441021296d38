"""Manages the MLflow run of a week: opens it, logs each task as a child run, and closes it with a summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.platform.context import Context
from jobs.release import signing
from jobs.release.engines import engine_of
from jobs.tracking.tracker import Tracker


def begin(context: Context) -> dict[str, Any]:
    """Create the experiment and the parent run of the week, if they do not exist.

    Raises:
        CheckFailed: there is no key to sign the week's release with.
    """
    if not context.week.backtest:
        signing.require_key(signing.signing_key(context))
    return {"week": context.week.name, **Tracker.start_week(context).links}


def run_tracked(
    context: Context, name: str, space: str | None, job: Callable[[Context], dict[str, Any]]
) -> dict[str, Any]:
    """Run a job as a child of the week's run and log its report.

    Args:
        context: week and settings.
        name: name of the child run.
        space: the space that the job works on, if any.
        job: takes the context and returns a report: numbers become metrics, lists of numbers become curves.

    Returns:
        The report with links to the run.
    """
    with Tracker.task(context, name, space) as run:
        report = job(context)
        numbers = dict(flatten(report))
        run.log_metrics({key: value for key, value in numbers.items() if not isinstance(value, list)})
        run.log_batch(
            (key, value, step)
            for key, row in numbers.items()
            if isinstance(row, list)
            for step, value in enumerate(row)
        )
        run.log_json(report, "report.json")
        return {**report, **run.links}


def flatten(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the numbers and lists of numbers of a nested report, with dotted names."""
    for key, value in report.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        elif is_number(value) or (isinstance(value, list) and value and all(map(is_number, value))):
            yield f"{prefix}{key}", value


def is_number(value: object) -> bool:
    """Return whether a value is an int or a float, but not a bool."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def complete(context: Context, failed: bool = False) -> dict[str, Any]:
    """End the parent run with the test metrics of the engine and the verdict of the gate, or as failed."""
    metrics = engine_of(context).contents.summary(context)
    gate = context.work / "gate.json"
    verdict = json.loads(gate.read_text())["verdict"] if gate.is_file() and not context.week.backtest else None
    run = Tracker.finish_week(context, metrics, verdict, failed=failed)
    return {"week": context.week.name, "verdict": verdict, "metrics": len(metrics), **run.links}
