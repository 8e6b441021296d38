"""Makes an evaluated release the champion: MLflow's aliases first, the pointer last.

Order        1 the lock  2 read the pointer  3 verify every byte of the bundle  4 aliases `previous` and `champion`
             5 write the pointer
Crash        between any two writes the pointer still names the old champion, which stays in service; running promote
             again sets the aliases and finishes
Concurrency  one process has the lock; the other one stops, because its verdict refers to an older champion
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import gate, pointer, registry
from jobs.release.rules import FAIL, GREY
from jobs.tracking.tracker import Tracker
from serving.release import manifest


def run(context: Context, release: str | None = None, approved: bool = False) -> dict[str, object]:
    """Promote the week's own release, or the named one.

    Args:
        context: settings, week, home.
        release: digest of an evaluated bundle, or its first characters. As an operator chose it, a grey verdict is
            accepted and an older week may replace a newer one. None: the week's own release.
        approved: an operator accepted a grey verdict.

    Returns:
        The report for Airflow: whether the release was promoted, and why.

    Raises:
        BadArgument: there is no such release, or the week is a backtest.
        CheckFailed: the verdict is fail, or grey without approval; the bundle is damaged; or the champion has moved
            since the gate.
    """
    if context.week.backtest:
        raise BadArgument("promote: the release of a backtest cannot be promoted")
    if release is not None:
        context = _context_of_release(context, resolve_release(context, release))
    with Tracker.task(context, "promote") as tracked, pointer.move_lock(context.release_home):
        champion = pointer.read(context.release_home)
        record = gate.read_record(context, resolve_release(context, release) if release else None)
        digest, week = record["release"], record["week"]
        _require_verdict(record, approved or release is not None)
        tracked.set_tags({"release": digest})
        if champion and champion.release == digest:
            n_moved = registry.align_aliases(context, champion.release, champion.previous, tracked)
            return _report(tracked, champion, False, f"already the champion; {n_moved} aliases moved")
        if (
            release is None and champion and champion.week[:10] > week[:10]
        ):  # a daily update has its end in its name too
            registry.align_aliases(context, champion.release, champion.previous, tracked)
            why = (
                f"the champion is of the later week {champion.week} and stays; use --release {digest[:12]} to force it"
            )
            return _report(tracked, champion, False, why)
        expected = pointer.revision(champion) if release else record["revision"]
        if pointer.revision(champion) != expected:
            raise CheckFailed(
                f"promote: the champion has moved to revision {pointer.revision(champion)} since the gate compared "
                f"release {digest[:12]} with revision {expected}; run `overture release gate --week {week}` again"
            )
        manifest.verify(pointer.releases(context.release_home) / digest)
        registry.align_aliases(context, digest, champion.release if champion else None, tracked)
        moved = pointer.move(context.release_home, expected, digest, week)
        return _report(tracked, moved, True, "promoted")


def resolve_release(context: Context, release: str) -> str:
    """Return the full digest of the release whose digest starts with `release`.

    Raises:
        BadArgument: there is none, or there are several.
    """
    folder = pointer.releases(context.release_home)
    matches = sorted(path.name for path in folder.glob(f"{release}*") if (path / manifest.NAME).is_file())
    if not release.isalnum() or len(matches) != 1:
        known = ", ".join(sorted(path.parent.name[:12] for path in folder.glob(f"*/{manifest.NAME}"))) or "none yet"
        raise BadArgument(f"release: '{release}' matches {len(matches)} releases; there are {known}")
    return matches[0]


def _context_of_release(context: Context, digest: str) -> Context:
    """Return the context of the week that built the release."""
    provenance = json.loads((pointer.releases(context.release_home) / digest / "provenance.json").read_text())
    return replace(context, week=Week.from_name(str(provenance["week"])))


def _require_verdict(record: dict[str, Any], approved: bool) -> None:
    short = record["release"][:12]
    if record["verdict"] == FAIL:
        failed = ", ".join(line["rule"] for line in record["lines"] if line["verdict"] == FAIL)
        raise CheckFailed(f"promote: the gate failed release {short} of week {record['week']} ({failed})")
    if record["verdict"] == GREY and not approved:
        raise CheckFailed(
            f"promote: release {short} of week {record['week']} is in the grey zone; approve it with --approved"
        )


def _report(tracked: Tracker, champion: pointer.Pointer, promoted: bool, why: str) -> dict[str, object]:
    tracked.set_tags({"promoted": promoted, "why": why, "revision": champion.revision})
    return {"promoted": promoted, "why": why, "champion": champion.release, **asdict(champion), **tracked.links}
