"""Removes old releases: folders that nothing names any more.

Stays   the `keep` that were built last; the champion and the release that a rollback returns to; the one whose
        listeners are in the store (releases/published.json); those that answered in an experiment (table exposures),
        because `overture ab-estimate` opens them again
Order   when a release was built last: the same inputs again make it the newest
Lock    that of promote and rollback, so that none of them names a release while it goes. A service that still answers
        from one keeps its open files
Crash   a release goes out of sight in one step and then from the disk; the next run removes what is left of it
MLflow  keeps its version and the verdict; `overture release bundle` builds the release of a week again
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
from jobs.release import manifest, pointer

REMOVED = ".removed-"


def run(context: Context, keep: int, dry_run: bool = False) -> dict[str, Any]:
    """Remove what nothing names but the `keep` newest; `keep` is 1 or more.

    Raises:
        CheckFailed: the pointer or the record of the last publication is damaged; nothing is removed.
        OvertureError: a folder cannot be removed.
    """
    folder = pointer.releases(context.release_home)
    with pointer.moving(context.release_home):
        found = built(folder)
        why = {path.name: f"one of the {keep} built last" for path in found[:keep]} | named(context)
        gone = [path for path in found if path.name not in why]
        sizes = {path.name: sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) for path in found}
        show(found, why, sizes, dry_run)
        if not dry_run:
            for path in gone:
                os.rename(path, folder / f"{REMOVED}{path.name[:12]}-{uuid.uuid4().hex[:8]}")
            _sweep(folder)
    return {
        "removed": [path.name for path in gone],
        "kept": {path.name: why[path.name] for path in found if path.name in why},
        "bytes": sum(sizes[path.name] for path in gone),
        "dry_run": dry_run,
    }


def built(folder: Path) -> list[Path]:
    """All releases, the one that was built last first."""
    found = [file.parent for file in folder.glob(f"*/{manifest.NAME}") if not file.parent.name.startswith(".")]
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name), reverse=True)


def named(context: Context) -> dict[str, str]:
    """What is needed however old it is: release -> why."""
    found: dict[str, str] = {}
    if context.engine == "cold_start":
        for partition in context.lake.partitions("exposures"):
            column = context.lake.read("exposures", columns=["release"], **partition)["release"]
            found |= {release: "answered in an experiment" for release in column.unique().to_pylist()}
        file = pointer.releases(context.home) / pointer.PUBLISHED
        try:
            found[json.loads(file.read_text())["release"]] = "its listeners are in the store"
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise CheckFailed(f"{file} is damaged ({error!r}); run `overture release publish` again") from None
    now = pointer.read(context.release_home)
    if now:
        found |= {now.previous: "a rollback returns to it"} if now.previous else {}
        found[now.release] = "the champion"
    return found


def _sweep(folder: Path) -> None:
    """Remove from the disk what is out of sight; also a damaged bundle that a builder put aside and died."""
    files.sync(folder)
    for left in [*folder.glob(f"{REMOVED}*"), *folder.glob(".damaged-*")]:
        shutil.rmtree(left, ignore_errors=True)
        if left.exists():
            raise OvertureError(f"{left} cannot be removed whole; see who owns it, then run this again")


def show(found: list[Path], why: dict[str, str], sizes: dict[str, int], dry_run: bool) -> None:
    """Every release and what becomes of it, as a table on stdout."""
    numbers = ("MB",)
    title = "Releases, the newest first" + ("; dry run: nothing is removed" if dry_run else "")
    table = make_table(title, "release", "week", "built (UTC)", *numbers, "stays because", right=numbers)
    for path in found:
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        reason = why.get(path.name, "[red]would go[/]" if dry_run else "[red]removed[/]")
        table.add_row(path.name[:12], _week(path), f"{at:%F %T}", f"{sizes[path.name] / 1e6:,.1f}", reason)
    wide_console().print(table)


def _week(folder: Path) -> str:
    try:
        return str(json.loads((folder / "provenance.json").read_text())["week"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cannot be read"
