"""Removes old releases that nothing refers to any more, at the destination and on this machine.

Retained     the `keep` releases that were built last; the champion, the release that a rollback returns to and the
             anchor; the release whose users are in the store (releases/published.json); the releases of experiments
             (table exposures), because `overture ab-estimate` opens them again
Order        by the time of the last build; building a release again makes it the newest
Lock         that of promote and rollback, so that neither selects a release while it is removed. A service that still
             serves a removed release keeps its open files
Crash        a release is renamed first and then deleted (in S3: its signature and manifest are deleted first); the next
             run deletes what remains of it, and what interrupted promotions left
MLflow       keeps its version and the verdict; `overture release bundle` builds the release of a week again
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.release import pointer, registry
from jobs.release.destination import all_places, read_champion
from jobs.release.destination_folder import StoredRelease
from jobs.tracking.tracker import Tracker


def run(context: Context, keep: int, dry_run: bool = False) -> dict[str, Any]:
    """Remove the releases that nothing refers to, except the `keep` newest.

    Args:
        context: engine and folders.
        keep: number of releases to retain by age, at least 1.
        dry_run: show what would be removed, and remove nothing.

    Returns:
        The report: removed and retained releases, and bytes freed.

    Raises:
        CheckFailed: the pointer or the record of the last publication is damaged; nothing is removed.
        OvertureError: a folder cannot be removed, or MLflow, which names the anchor, is unavailable.
    """
    removed: dict[str, int] = {}
    kept: dict[str, str] = {}
    for place in all_places(context):
        with place.lock():
            stored = sorted(place.releases(), key=lambda one: (one.written_at, one.name), reverse=True)
            why = {one.name: f"one of the {keep} built last" for one in stored[:keep]} | referenced_releases(context)
            outdated = [one for one in stored if one.name not in why]
            print_releases(context, place.name, stored, why, dry_run)
            if not dry_run:
                place.remove([one.name for one in outdated])
        removed |= {one.name: one.n_bytes for one in outdated}
        kept |= {one.name: why[one.name] for one in stored if one.name in why}
    return {"removed": list(removed), "kept": kept, "bytes": sum(removed.values()), "dry_run": dry_run}


def referenced_releases(context: Context) -> dict[str, str]:
    """Return the releases that are needed at any age, with the reason.

    Raises:
        CheckFailed: the pointer or the record of the last publication is damaged.
        OvertureError: MLflow is unavailable.
    """
    reasons: dict[str, str] = {}
    if context.engine == "cold_start":
        for partition in context.lake.partitions("exposures"):
            column = context.lake.read("exposures", columns=["release"], **partition)["release"]
            reasons |= {release: "used by an experiment" for release in column.unique().to_pylist()}
        file = pointer.releases(context.home) / pointer.PUBLISHED
        try:
            reasons[json.loads(file.read_text())["release"]] = "its users are in the store"
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise CheckFailed(f"{file} is damaged ({error!r}); run `overture release publish` again") from None
    anchor = registry.read_anchor(context, Tracker.connect(context))
    if anchor:
        reasons[anchor.release] = "the anchor"
    champion = read_champion(context)
    if champion:
        reasons |= {champion.previous: "target of a rollback"} if champion.previous else {}
        reasons[champion.release] = "the champion"
    return reasons


def print_releases(
    context: Context, place: str, stored: list[StoredRelease], why: dict[str, str], dry_run: bool
) -> None:
    """Print every release of a place and whether it is removed, as a table on stdout."""
    title = f"Releases in {place}, the newest first" + ("; dry run: nothing is removed" if dry_run else "")
    table = make_table(title, "release", "week", "written (UTC)", "MB", "retained because", right=("MB",))
    for one in stored:
        at = datetime.fromtimestamp(one.written_at, UTC)
        reason = why.get(one.name, "[red]would be removed[/]" if dry_run else "[red]removed[/]")
        week = _week(pointer.releases(context.release_home) / one.name)
        table.add_row(one.name[:12], week, f"{at:%F %T}", f"{one.n_bytes / 1e6:,.1f}", reason)
    wide_console().print(table)


def _week(folder: Path) -> str:
    try:
        return str(json.loads((folder / "provenance.json").read_text())["week"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable"
