"""Judges the week's release, line by line; nothing is promoted without its `pass`, or a person's word when grey.

Input   the week's bundle, the champion's bundle, and what the engine judges them with (jobs/<engine>/judging.py)
Output  work/<week>/gate.json, releases/verdicts/<release>.json; a table in MLflow and on the console, metrics
Exit    3 when the verdict is fail, after everything is recorded
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
from jobs.release import bundle, engines, pointer, rules
from jobs.release.rules import FAIL, Line
from jobs.tracking.tracker import Tracker


def run(context: Context) -> dict[str, object]:
    """Judge the week's release.

    Raises:
        CheckFailed: the verdict is fail; the message names the lines.
    """
    with Tracker.task(context, "gate") as tracked:
        release = pointer.releases(context.release_home) / bundle.of_week(context)
        seen = pointer.read(context.release_home)
        lines = engines.judging(context).judge(context, release, seen)
        verdict = rules.verdict(lines)
        record = {
            "release": release.name,
            "week": context.week.name,
            "champion": seen.release if seen else None,
            "revision": pointer.revision(seen),
            "verdict": verdict,
            "lines": [asdict(line) for line in lines],
        }
        for file in (_by_release(context, release.name), context.work / "gate.json"):
            file.parent.mkdir(exist_ok=True)
            files.replace(file, json.dumps(record, indent=1).encode() + b"\n")
        show(lines, verdict)
        tracked.log_table([asdict(line) for line in lines], "gate.json")
        tracked.log_metrics({f"gate/{line.rule}": line.measured for line in lines if line.measured is not None})
        tracked.set_tags({"verdict": verdict, "release": release.name})
        if verdict == FAIL:
            reasons = "; ".join(f"{line.rule}: {line.why}" for line in lines if line.verdict == FAIL)
            raise CheckFailed(f"gate: release {release.name[:12]} of week {context.week.name} fails: {reasons}")
        return {**record, "path": str(context.work / "gate.json"), **tracked.links}


def _by_release(context: Context, release: str) -> Path:
    return pointer.releases(context.release_home) / "verdicts" / f"{release}.json"


def record_of(context: Context, release: str | None = None) -> dict[str, Any]:
    """What the gate said last about a release; about the week's own when none is named.

    Raises:
        CheckFailed: it has not spoken.
    """
    file = _by_release(context, release) if release else context.work / "gate.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        what = f"release {release[:12]}" if release else f"week {context.week.name}"
        raise CheckFailed(f"gate: no verdict about {what}; run `overture release gate` for its week") from None
    return found


def show(lines: list[Line], verdict: str) -> None:
    """The verdict as a table on stderr."""
    wide_console(stderr=True).print(gate_table([asdict(line) for line in lines], verdict))
