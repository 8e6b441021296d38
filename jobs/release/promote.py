"""Makes an evaluated release the champion: the release and MLflow's aliases first, the pointer last.

Order        1 the lock  2 read the pointer  3 verify every byte of the bundle, sign it  4 write it to the destination:
             files, manifest, signature  5 aliases `previous` and `champion`, and `anchor` if there is none
             6 write the pointer
Crash        between any two writes the pointer still names the old champion, which stays in service; running promote
             again finishes
Concurrency  one process of a machine has the lock, and the pointer is only replaced if it is the one that was read; the
             other one stops, because its verdict refers to an older champion
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

from contracts.errors import BadArgument, CheckFailed
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import gate, pointer, registry, signing
from jobs.release.destination import all_places, open_destination, release_folder
from jobs.release.destination_folder import Destination
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
        CheckFailed: the verdict is fail, or grey without approval; the bundle is damaged; there is no signing key; or
            the champion has moved since the gate.
    """
    if context.week.backtest:
        raise BadArgument("promote: the release of a backtest cannot be promoted")
    if release is not None:
        context = _context_of_release(context, resolve_release(context, release))
    destination = open_destination(context)
    with Tracker.task(context, "promote") as tracked, destination.lock():
        champion = destination.read_pointer()
        record = gate.read_record(context, resolve_release(context, release) if release else None)
        digest, week = record["release"], record["week"]
        _require_verdict(record, approved or release is not None)
        tracked.set_tags({"release": digest})
        if champion and champion.release == digest:
            publish_release(context, destination, digest)
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
        publish_release(context, destination, digest)
        registry.align_aliases(context, digest, champion.release if champion else None, tracked)
        if registry.read_anchor(context, tracked) is None:
            registry.set_anchor(context, tracked, digest, week)
        moved = destination.move(expected, digest, week)
        return _report(tracked, moved, True, "promoted")


def publish_release(context: Context, destination: Destination, release: str) -> None:
    """Verify a release, sign it, and write it to the destination; what is there already is not written again.

    Raises:
        CheckFailed: it is damaged, or there is no signing key.
        OvertureError: the destination is unavailable.
    """
    folder = release_folder(context, release)
    manifest.verify(folder)
    signing.sign(signing.signing_key(context), folder)
    destination.write_release(folder)


def resolve_release(context: Context, release: str) -> str:
    """Return the full digest of the release whose digest starts with `release`.

    Raises:
        BadArgument: there is none, or there are several.
    """
    names = {stored.name for place in all_places(context) for stored in place.releases()}
    matches = sorted(name for name in names if name.startswith(release))
    if not release or len(matches) != 1:
        known = ", ".join(sorted(name[:12] for name in names)) or "none yet"
        raise BadArgument(f"release: '{release}' matches {len(matches)} releases; there are {known}")
    return matches[0]


def _context_of_release(context: Context, digest: str) -> Context:
    """Return the context of the week that built the release."""
    provenance = json.loads((release_folder(context, digest) / "provenance.json").read_text())
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
