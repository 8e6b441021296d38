"""Publishes the champion to the service: verifies it and writes its known users to the store.

Order   1 the bundle: every byte, every network, a recommendation for a listener without any signal
        2 user_history of the release's week, from the events, if it is not up to date
        3 the store: the users that the release was trained on; then the new users of every day since the first day of
          its cohort, placed again by this release; each part becomes visible atomically when it is complete
        4 releases that are neither champion nor previous: marked as retired, and removed `store.grace_s` later
        5 releases/published.json
Crash   at any point, readers of this release see complete parts or none, and readers of other releases see no change;
        run it again
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from contracts.file_lock import file_lock
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import known_users, pointer, user_history
from jobs.release.destination import read_champion, release_folder
from jobs.release.place_new_users import place_day
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release import manifest
from serving.release.bundle import Release, open_release
from serving.release.loaded import LoadedRelease
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import retire_and_remove

PUBLISH_WAIT_S = 4 * 3_600.0  # longest wait for another publication, less than the time limit of a task


def run(context: Context, store: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Publish the champion to the store.

    Args:
        context: settings and folders.
        store: kind of store; None: store.kind of the settings.
        dry_run: return what would be written, and write nothing.

    Returns:
        The record of the publication, also in releases/published.json.

    Raises:
        BadArgument: there is no such kind of store.
        CheckFailed: there is no champion, it cannot be opened, or the week in the lake was run again since.
        StoreUnavailable: the store is unavailable.
    """
    context = _with_store(context, store)
    if dry_run:
        return dry_run_report(context)
    with publish_lock(context.home, PUBLISH_WAIT_S), Tracker.task(context, "publish") as tracked:
        champion = _read_champion(context)
        release = open_release(release_folder(context, champion.release))
        checked = check_release(release)
        stored = _write_store(context, release, champion)
        record = {**stored, **asdict(champion), **checked}
        file = pointer.releases(context.home) / pointer.PUBLISHED
        files.replace(file, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        tracked.log_json(record, pointer.PUBLISHED)
        tracked.set_tags({"release": champion.release, "store": stored["store"]})
        tracked.log_metrics({f"users/{kind}": users for kind, users in stored["users"].items()})
        return {**record, "path": str(file), **tracked.links}


def publish_lock(home: Path, wait_s: float) -> AbstractContextManager[None]:
    """Return the lock that one publication of this home has at a time.

    Raises:
        LockTaken: on entering it, another publication has had it for `wait_s` seconds.
    """
    return file_lock(pointer.releases(home) / ".publish.lock", wait_s)


def _with_store(context: Context, kind: str | None) -> Context:
    if kind is None:
        return context
    kinds = get_args(StoreSettings.model_fields["kind"].annotation)
    if kind not in kinds:
        raise BadArgument(f"--store: '{kind}' is not a kind of store; choose {', '.join(kinds)}")
    store = context.settings.store.model_copy(update={"kind": kind})
    return Context(context.settings.model_copy(update={"store": store}), context.week, context.home)


def _read_champion(context: Context) -> pointer.Pointer:
    now = read_champion(context)
    if now is None:
        raise CheckFailed("publish: there is no champion yet; run `overture release promote` first")
    return now


def check_release(release: Release) -> dict[str, Any]:
    """Open every network and recommend to a listener without any signal.

    Returns:
        Number and size of the files, and the first three tracks by space.

    Raises:
        CheckFailed: a network returns no valid vector.
    """
    no_signals = FirstDays.single(None, None, {})
    first_tracks: dict[str, list[str]] = {}
    answering_space, answering_method = release.space_and_method
    for name, space in release.spaces.items():
        vector_BD = space.predict(release.inputs(name, no_signals))
        if vector_BD.shape != (1, space.layout["d"]) or not np.isfinite(vector_BD).all():
            raise CheckFailed(f"release {release.folder.name[:12]}: {name}/network.onnx returns no vector of width d")
        method = space.method(answering_method if name == answering_space else "semi_pers")
        first = method.recommend(release.inputs(name, no_signals), 3, no_signals)[0]
        first_tracks[name] = release.external_ids.all_outside("track", release.track_ids[first])
    entries = manifest.read(release.folder)["files"].values()
    return {"files": len(entries), "bytes": sum(entry["bytes"] for entry in entries), "first_tracks": first_tracks}


def cold_days(context: Context) -> list[date]:
    """Return the days whose new users the release was not trained on; `context` is that of its week."""
    days = (date.fromisoformat(partition["day"]) for partition in context.lake.partitions("cold_first_day"))
    return sorted(day for day in days if day >= context.week.cohort_start.date())


def _write_store(context: Context, release: Release, champion: pointer.Pointer) -> dict[str, Any]:
    settings, context = context.settings.store, Context(context.settings, Week.parse(release.week), context.home)
    user_history.update(context)
    store = open_store(settings, context.home, publishing=True)
    part, blocks = known_users.read_part(context, release, settings.list_length)
    store.publish(part, blocks)
    days = cold_days(context)
    ready = LoadedRelease(release, champion)
    with user_history.opened(context) as histories:
        cold = sum(place_day(context, ready, store, day, histories)["users"] for day in days)
    tidied = retire_and_remove(
        store, [name for name in (champion.release, champion.previous) if name], settings.grace_s
    )
    store.close()
    users = {"warm": len(part.user_ids), "cold": cold}
    return {"store": store.name, "space": part.space, "users": users, "days": [str(day) for day in days], **tidied}


def dry_run_report(context: Context) -> dict[str, object]:
    """Return what would be written, without connecting to the store; `publication` is None without user_history."""
    champion = _read_champion(context)
    settings, release = context.settings.store, open_release(release_folder(context, champion.release))
    context = Context(context.settings, Week.parse(release.week), context.home)
    part, _ = known_users.read_part(context, release, settings.list_length)
    days = cold_days(context)
    cold = sum(context.lake.rows("cold_first_day", day=str(day)) for day in days)
    users = {"warm": len(part.user_ids), "cold": cold}
    row_bytes = 8 + 4 + 4 * part.d + 8 * part.n  # without the history, whose length differs
    return {
        "dry_run": True,
        "store": open_store(settings, context.home).name,
        "release": champion.release,
        "space": part.space,
        "users": users,
        "days": [str(day) for day in days],
        "bytes": row_bytes * sum(users.values()),
        "history_bytes_at_most": 8 * settings.max_heard * sum(users.values()),
        "publication": part.publication if context.lake.exists(user_history.TABLE, week=context.week.name) else None,
    }
