"""Returns to the previous champion, or to a named former one, with the same lock, order and pointer as promote.

The pointer decides which release is served, so a rollback does not wait for MLflow. If MLflow is unavailable, the
pointer is moved anyway, and the next promote or rollback sets the aliases.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import registry
from jobs.release.destination import open_destination, release_folder
from jobs.release.engines import engine_of
from jobs.release.promote import publish_release, resolve_release
from jobs.tracking.tracker import Tracker


def run(context: Context, to: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Roll back to an earlier release.

    Args:
        context: engine and folders.
        to: digest of a release, or its first characters; None: the previous release.
        dry_run: check the release and change nothing.

    Returns:
        The report: whether the champion was changed, from which release to which.

    Raises:
        BadArgument: there is no release `to`.
        CheckFailed: there is no release to return to, its bundle is damaged, or there is no signing key.
    """
    destination = open_destination(context)
    with destination.lock():
        champion = destination.read_pointer()
        if champion is None:
            raise CheckFailed("rollback: there is no champion yet; run the weekly pipeline first")
        target = resolve_release(context, to) if to else champion.previous
        if target is None:
            raise CheckFailed(
                f"rollback: champion {champion.release[:12]} is the first one; there is no previous release"
            )
        if target == champion.release:
            return {"rolled_back": False, "why": f"{target[:12]} is the champion already", **asdict(champion)}
        folder = release_folder(context, target)
        engine_of(context).gate.check_loads(folder)
        week = str(json.loads((folder / "provenance.json").read_text())["week"])
        change = {"from": champion.release, "to": target, "week": week}
        if dry_run:
            return {"rolled_back": False, "why": "dry run: nothing was changed", **change}
        publish_release(context, destination, target)
        aliases = "moved"
        try:
            registry.align_aliases(context, target, champion.release)
        except OvertureError as error:
            aliases = f"not moved: {error}"
            sys.stderr.write(f"overture: warning: the champion is moved, the aliases in MLflow are not: {error}\n")
        moved = destination.move(champion.revision, target, week)
    report = {"rolled_back": True, "aliases": aliases, **change, **asdict(moved)}
    return report | _log_rollback(context, report)


def _log_rollback(context: Context, report: dict[str, object]) -> dict[str, object]:
    """Log the rollback as a run of the week returned to, if MLflow is available; returns the links of the run."""
    week = replace(context, week=Week.from_name(str(report["week"])))
    try:
        with Tracker.task(week, "rollback") as tracked:
            tracked.set_tags({f"rollback.{key}": value for key, value in report.items()})
            return tracked.links
    except OvertureError:
        return {}
