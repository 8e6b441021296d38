"""Makes a judged release the champion: MLflow's aliases first, the pointer last.

Order     1 the lock  2 the pointer as it is now  3 every byte of the bundle  4 `previous`, `champion`  5 the pointer
Crash     between any two writes the pointer still names the old champion, which goes on serving; running promote again
          sets the aliases right and ends the work
Two       at once: one holds the lock; the other then finds its verdict was about an older champion, and stops
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import gate, manifest, pointer, registry
from jobs.release.rules import FAIL, GREY
from jobs.tracking.tracker import Tracker


def run(context: Context, release: str | None = None, approved: bool = False) -> dict[str, object]:
    """Promote the week's own release, or the named one.

    Args:
        context: settings, week, home.
        release: digest of a judged bundle, or its first characters: a person's choice, so a grey verdict is accepted
            and an older week may replace a newer one. None: the week's own release.
        approved: a person accepted a grey verdict.

    Raises:
        BadArgument: no such release, or a backtest.
        CheckFailed: the verdict forbids it, the bundle is damaged, or the champion has moved since the gate.
    """
    if context.week.backtest:
        raise BadArgument("promote: a backtest judges, it promotes nothing")
    if release is not None:
        context = _of_release(context, find(context, release))
    with Tracker.task(context, "promote") as tracked, pointer.moving(context.release_home):
        now = pointer.read(context.release_home)
        record = gate.record_of(context, find(context, release) if release else None)
        digest, week = record["release"], record["week"]
        _allowed(record, approved or release is not None)
        tracked.set_tags({"release": digest})
        if now and now.release == digest:
            repaired = registry.follow(context, now.release, now.previous, tracked)
            return _report(tracked, now, False, f"already the champion; {repaired} aliases set right")
        if release is None and now and now.week[:10] > week[:10]:  # an update of a day is named by its end too
            registry.follow(context, now.release, now.previous, tracked)
            why = f"the champion is of the later week {now.week} and stays; --release {digest[:12]} would force it"
            return _report(tracked, now, False, why)
        seen = pointer.revision(now) if release else record["revision"]
        if pointer.revision(now) != seen:
            raise CheckFailed(
                f"promote: the champion has moved to revision {pointer.revision(now)} since the gate judged release "
                f"{digest[:12]} against revision {seen}; run `overture release gate --week {week}` again"
            )
        manifest.verify(pointer.releases(context.release_home) / digest)
        registry.follow(context, digest, now.release if now else None, tracked)
        moved = pointer.move(context.release_home, seen, digest, week)
        return _report(tracked, moved, True, "promoted")


def find(context: Context, release: str) -> str:
    """The full digest that starts like this.

    Raises:
        BadArgument: none does, or several do.
    """
    folder = pointer.releases(context.release_home)
    found = sorted(path.name for path in folder.glob(f"{release}*") if (path / manifest.NAME).is_file())
    if not release.isalnum() or len(found) != 1:
        known = ", ".join(sorted(path.parent.name[:12] for path in folder.glob(f"*/{manifest.NAME}"))) or "none yet"
        raise BadArgument(f"release: '{release}' names {len(found)} releases; there are {known}")
    return found[0]


def _of_release(context: Context, digest: str) -> Context:
    """The surroundings of the week that the release was learned in."""
    provenance = json.loads((pointer.releases(context.release_home) / digest / "provenance.json").read_text())
    return replace(context, week=Week.from_name(str(provenance["week"])))


def _allowed(record: dict[str, Any], approved: bool) -> None:
    short = record["release"][:12]
    if record["verdict"] == FAIL:
        failed = ", ".join(line["rule"] for line in record["lines"] if line["verdict"] == FAIL)
        raise CheckFailed(f"promote: the gate failed release {short} of week {record['week']} ({failed})")
    if record["verdict"] == GREY and not approved:
        raise CheckFailed(
            f"promote: release {short} of week {record['week']} is in the grey zone; a person must say --approved"
        )


def _report(tracked: Tracker, now: pointer.Pointer, promoted: bool, why: str) -> dict[str, object]:
    tracked.set_tags({"promoted": promoted, "why": why, "revision": now.revision})
    return {"promoted": promoted, "why": why, "champion": now.release, **asdict(now), **tracked.links}
