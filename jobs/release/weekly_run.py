"""A week's run in MLflow: open it, keep one child run a task, close it with its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jobs.platform.context import Context
from jobs.release import engines
from jobs.tracking.tracker import Tracker


def begin(context: Context) -> dict[str, Any]:
    """Create the experiment and the week's parent run, once."""
    return {"week": context.week.name, **Tracker.start_week(context).links}


def tracked(context: Context, name: str, space: str | None, job: Callable[[Context], dict[str, Any]]) -> dict[str, Any]:
    """Run a job as a child of the week's run and log its report: numbers as metrics, lists of numbers as curves."""
    with Tracker.task(context, name, space) as run:
        report = job(context)
        numbers = dict(flat(report))
        run.log_metrics({key: value for key, value in numbers.items() if not isinstance(value, list)})
        run.log_batch(
            (key, value, step)
            for key, row in numbers.items()
            if isinstance(row, list)
            for step, value in enumerate(row)
        )
        run.log_json(report, "report.json")
        return {**report, **run.links}


def flat(report: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Numbers and lists of numbers of a nested report, with dotted names."""
    for key, value in report.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif is_number(value) or (isinstance(value, list) and value and all(map(is_number, value))):
            yield f"{prefix}{key}", value


def is_number(value: object) -> bool:
    """An int or a float, not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def complete(context: Context, failed: bool = False) -> dict[str, Any]:
    """End the parent run: with the engine's test metrics and the gate's verdict, or as failed."""
    metrics = engines.contents(context).summary(context)
    gate = context.work / "gate.json"
    verdict = json.loads(gate.read_text())["verdict"] if gate.is_file() and not context.week.backtest else None
    run = Tracker.finish_week(context, metrics, verdict, failed=failed)
    return {"week": context.week.name, "verdict": verdict, "metrics": len(metrics), **run.links}
