"""Publishes the champion again if the store lacks rows of it: after a loss of its data, or an update of Overture.

Input   the champion's pointer; cold_first_day (the days whose new users the release places); the notices of the store
Output  as `overture release publish` if the warm users are missing; else the missing days of new users, or nothing
When    the DAG `publish_missing`, every ten minutes. Another publication that is running is left alone: it writes the
        same rows
"""

from __future__ import annotations

from datetime import date
from typing import Any

from contracts.errors import CheckFailed
from contracts.file_lock import LockTaken
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import publish
from jobs.release.destination import read_champion, release_folder
from jobs.release.place_new_users import load_champion, place_with_history
from serving.release.bundle import open_release
from serving.stores import open_store
from serving.stores.interface import WARM, UserStore, find_user


def run(context: Context) -> dict[str, Any]:
    """Publish the champion if a part of it is missing.

    Returns:
        The report: `missing` has the names of the missing parts; if the warm users are among them, also the record of
        the publication.

    Raises:
        CheckFailed: the release cannot be published.
        StoreUnavailable: the store is unavailable.
    """
    champion = read_champion(context)
    if champion is None:
        return {"missing": [], "why": "there is no champion yet"}
    context = Context(context.settings, Week.parse(champion.week), context.home)
    missing = missing_parts(context, champion.release)
    report = {"release": champion.release, "missing": missing}
    if not missing:
        return report
    try:
        with publish.publish_lock(context.home, 0):
            if WARM not in missing:
                return {**report, "users": place_days(context, [date.fromisoformat(day) for day in missing])}
    except LockTaken:
        return {**report, "why": "another publication is running"}
    return {**publish.run(context), "missing": missing}


def place_days(context: Context, days: list[date]) -> dict[str, int]:
    """Publish the new users of these days; return their number by day."""
    ready = load_champion(context)
    store = open_store(context.settings.store, context.home, publishing=True)
    try:
        return {str(day): place_with_history(context, ready, store, day)["users"] for day in days}
    finally:
        store.close()


def missing_parts(context: Context, name: str) -> list[str]:
    """Return the parts of a release that the store lacks, or whose rows are damaged or of another version.

    Args:
        context: the context of the release's week.
        name: digest of the release.
    """
    release = open_release(release_folder(context, name), check=False)
    space, _ = release.space_and_method
    store: UserStore = open_store(context.settings.store, context.home, publishing=True)
    try:
        wanted = [WARM, *map(str, publish.cold_days(context))]
        missing = [part for part in wanted if part not in store.notices(name, space)]
        if WARM not in missing and not _is_readable(context, store, name, space):
            missing.insert(0, WARM)
        return missing
    finally:
        store.close()


def _is_readable(context: Context, store: UserStore, name: str, space: str) -> bool:
    """Return whether the row of a warm user can be read; a user whom the release does not know has none."""
    batch = next(context.lake.batches("warm_users", 1, week=context.week.name))
    try:
        find_user(store, name, space, int(batch.column("user_id")[0].as_py()))
    except CheckFailed:
        return False
    return True
