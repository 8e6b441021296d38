"""Removes old releases: folders that nothing refers to any more.

Retained     the `keep` releases that were built last; the champion and the release that a rollback returns to; the
             release whose users are in the store (releases/published.json); the releases of experiments (table
             exposures), because `overture ab-estimate` opens them again
Order        by the time of the last build; building a release again makes it the newest
Lock         that of promote and rollback, so that neither selects a release while it is removed. A service that still
             serves a removed release keeps its open files
Crash        a release is renamed first and then deleted; the next run deletes what remains of it
MLflow       keeps its version and the verdict; `overture release bundle` builds the release of a week again
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed, OvertureError
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.release import pointer
from serving.release import manifest

REMOVED = ".removed-"


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
        OvertureError: a folder cannot be removed.
    """
    folder = pointer.releases(context.release_home)
    with pointer.move_lock(context.release_home):
        paths = releases_by_age(folder)
        why = {path.name: f"one of the {keep} built last" for path in paths[:keep]} | referenced_releases(context)
        outdated = [path for path in paths if path.name not in why]
        sizes = {path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in paths}
        print_releases(paths, why, sizes, dry_run)
        if not dry_run:
            for path in outdated:
                os.rename(path, folder / f"{REMOVED}{path.name[:12]}-{uuid.uuid4().hex[:8]}")
            _delete_renamed(folder)
    return {
        "removed": [path.name for path in outdated],
        "kept": {path.name: why[path.name] for path in paths if path.name in why},
        "bytes": sum(sizes[path.name] for path in outdated),
        "dry_run": dry_run,
    }


def releases_by_age(folder: Path) -> list[Path]:
    """Return the folders of all releases, the one that was built last first."""
    paths = [file.parent for file in folder.glob(f"*/{manifest.NAME}") if not file.parent.name.startswith(".")]
    return sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def referenced_releases(context: Context) -> dict[str, str]:
    """Return the releases that are needed at any age, with the reason.

    Raises:
        CheckFailed: the pointer or the record of the last publication is damaged.
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
    champion = pointer.read(context.release_home)
    if champion:
        reasons |= {champion.previous: "target of a rollback"} if champion.previous else {}
        reasons[champion.release] = "the champion"
    return reasons


def _delete_renamed(folder: Path) -> None:
    """Delete the renamed folders, and damaged bundles that an interrupted build left behind."""
    files.sync(folder)
    for left in [*folder.glob(f"{REMOVED}*"), *folder.glob(".damaged-*")]:
        shutil.rmtree(left, ignore_errors=True)
        if left.exists():
            raise OvertureError(f"{left} cannot be deleted; check its owner and permissions, then run this again")


def print_releases(paths: list[Path], why: dict[str, str], sizes: dict[str, int], dry_run: bool) -> None:
    """Print every release and whether it is removed, as a table on stdout."""
    title = "Releases, the newest first" + ("; dry run: nothing is removed" if dry_run else "")
    table = make_table(title, "release", "week", "built (UTC)", "MB", "retained because", right=("MB",))
    for path in paths:
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        reason = why.get(path.name, "[red]would be removed[/]" if dry_run else "[red]removed[/]")
        table.add_row(path.name[:12], _week(path), f"{at:%F %T}", f"{sizes[path.name] / 1e6:,.1f}", reason)
    wide_console().print(table)


def _week(folder: Path) -> str:
    try:
        return str(json.loads((folder / "provenance.json").read_text())["week"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unreadable"
