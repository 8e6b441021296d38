"""The anchor: the release that no later one may fall below, so that small losses cannot add up.

Every release is compared with the champion and with the anchor. The champion moves with each promotion; the anchor
stays where the first promotion set it, until a person moves it. After `gate.anchor_weeks` a person confirms that it is
still the right one, or moves it. MLflow knows it: the alias `anchor`, and a tag of its version (registry.py).
"""

from __future__ import annotations

from typing import Any

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.release import registry
from jobs.release.destination import read_champion, release_folder
from jobs.release.engines import engine_of
from jobs.tracking.tracker import Tracker


def run(context: Context, release: str | None = None, confirm: bool = False) -> dict[str, Any]:
    """Show, move or confirm the anchor.

    Args:
        context: engine and settings.
        release: digest of the new anchor; None: it stays.
        confirm: the present anchor is still the right one.

    Returns:
        The report: the anchor, since when, and the one before.

    Raises:
        CheckFailed: there is no champion or no anchor yet, or the release is damaged or not registered.
    """
    tracker, champion = Tracker.connect(context), read_champion(context)
    before = registry.read_anchor(context, tracker)
    anchor = before
    if release or confirm:
        if champion is None:
            raise CheckFailed("anchor: there is no champion yet; the first promotion sets the anchor")
        chosen = release or (before.release if before else None)
        if chosen is None:
            raise CheckFailed("anchor: there is none to confirm; name a release with --to")
        engine_of(context).gate.check_loads(release_folder(context, chosen))
        anchor = registry.set_anchor(context, tracker, chosen, champion.week)
    return {
        "anchor": anchor.release if anchor else None,
        "since": anchor.since if anchor else None,
        "before": before.release if before else None,
        "champion": champion.release if champion else None,
    }
