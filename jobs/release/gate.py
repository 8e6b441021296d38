"""Evaluates the release of a week and records the verdict; promotion needs `pass`, or an approved `grey`.

Input   the week's bundle, those of the champion and of the anchor, and the evaluation data of the engine
        (jobs/release/<engine>/gate.py)
Output  work/<week>/gate.json, releases/verdicts/<release>.json; a table in MLflow and on stderr, metrics
Exit    3 if the verdict is fail, after everything has been recorded
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.tables import gate_table, wide_console
from jobs.release import bundle, pointer, registry, rules
from jobs.release.destination import read_champion
from jobs.release.engines import engine_of
from jobs.release.rules import FAIL, GateLine
from jobs.tracking.tracker import Tracker


def run(context: Context) -> dict[str, object]:
    """Evaluate the week's release against the champion and record the verdict.

    Returns:
        The record with the lines of the gate, and links for Airflow.

    Raises:
        CheckFailed: the verdict is fail; the message names the lines that failed.
    """
    engine_gate = engine_of(context).gate
    with Tracker.task(context, "gate") as tracked:
        release = pointer.releases(context.release_home) / bundle.release_of_week(context)
        champion = read_champion(context)
        lines = engine_gate.evaluate(context, release, champion, registry.read_anchor(context, tracked))
        verdict = rules.overall_verdict(lines)
        record = {
            "release": release.name,
            "week": context.week.name,
            "champion": champion.release if champion else None,
            "revision": pointer.revision(champion),
            "verdict": verdict,
            "lines": [asdict(line) for line in lines],
        }
        for file in (_record_file(context, release.name), context.work / "gate.json"):
            file.parent.mkdir(exist_ok=True)
            files.replace(file, json.dumps(record, indent=1).encode() + b"\n")
        print_verdict(lines, verdict)
        tracked.log_table([asdict(line) for line in lines], "gate.json")
        tracked.log_metrics({f"gate/{line.rule}": line.measured for line in lines if line.measured is not None})
        tracked.set_tags({"verdict": verdict, "release": release.name})
        if verdict == FAIL:
            reasons = "; ".join(f"{line.rule}: {line.why}" for line in lines if line.verdict == FAIL)
            raise CheckFailed(f"gate: release {release.name[:12]} of week {context.week.name} fails: {reasons}")
        return {**record, "path": str(context.work / "gate.json"), **tracked.links}


def _record_file(context: Context, release: str) -> Path:
    return pointer.releases(context.release_home) / "verdicts" / f"{release}.json"


def read_record(context: Context, release: str | None = None) -> dict[str, Any]:
    """Return the last record of the gate.

    Args:
        context: week and folders.
        release: name of the release; None: the week's own.

    Raises:
        CheckFailed: the release has not been evaluated.
    """
    file = _record_file(context, release) if release else context.work / "gate.json"
    try:
        record: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        name = f"release {release[:12]}" if release else f"week {context.week.name}"
        raise CheckFailed(f"gate: {name} has no verdict; run `overture release gate` for its week") from None
    return record


def print_verdict(lines: list[GateLine], verdict: str) -> None:
    """Print the lines and the verdict as a table on stderr."""
    wide_console(stderr=True).print(gate_table([asdict(line) for line in lines], verdict))
