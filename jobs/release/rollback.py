"""Returns to the previous champion, or to a named former one: the same lock, order and pointer as promote.

The pointer decides what serves, so a rollback does not wait for MLflow: where it is away the pointer moves all the
same, and the aliases are set right by the next promote or rollback.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import engines, pointer, registry
from jobs.release.promote import find
from jobs.tracking.tracker import Tracker


def run(context: Context, to: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Roll back to `to` (a digest or its first characters), or to the pointer's previous release.

    Raises:
        BadArgument: `to` names no release.
        CheckFailed: there is nothing to return to, or that bundle is damaged.
    """
    with pointer.moving(context.release_home):
        now = pointer.read(context.release_home)
        if now is None:
            raise CheckFailed("rollback: there is no champion yet; run the weekly pipeline first")
        target = find(context, to) if to else now.previous
        if target is None:
            raise CheckFailed(f"rollback: champion {now.release[:12]} is the first one; there is no previous release")
        if target == now.release:
            return {"rolled_back": False, "why": f"{target[:12]} is the champion already", **asdict(now)}
        folder = pointer.releases(context.release_home) / target
        engines.judging(context).check(folder)
        week = str(json.loads((folder / "provenance.json").read_text())["week"])
        change = {"from": now.release, "to": target, "week": week}
        if dry_run:
            return {"rolled_back": False, "why": "dry run: nothing was changed", **change}
        aliases = "moved"
        try:
            registry.follow(context, target, now.release)
        except OvertureError as error:
            aliases = f"not moved: {error}"
            sys.stderr.write(f"overture: warning: the champion moves, MLflow's aliases do not: {error}\n")
        moved = pointer.move(context.release_home, now.revision, target, week)
    report = {"rolled_back": True, "aliases": aliases, **change, **asdict(moved)}
    return report | _note(context, report)


def _note(context: Context, report: dict[str, object]) -> dict[str, object]:
    """Keep what was done as a run of the week returned to, where MLflow answers."""
    week = replace(context, week=Week.from_name(str(report["week"])))
    try:
        with Tracker.task(week, "rollback") as tracked:
            tracked.set_tags({f"rollback.{key}": value for key, value in report.items()})
            return tracked.links
    except OvertureError:
        return {}
