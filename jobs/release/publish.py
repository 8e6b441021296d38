"""Hands the champion to the service: verified, and its known listeners written to the store.

Order   1 the bundle: every byte, every network, an answer for a listener of whom nothing is known
        2 the store: listeners that the release learned from; then the newcomers of every day since its cohort's first,
          placed again by this release; each part becomes readable at once, at its end
        3 releases that are neither champion nor previous: marked, and removed `store.grace_s` later
        4 releases/published.json
Crash   anywhere: readers of this release see whole parts or none, readers of others see no change; run it again
"""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any, get_args

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import known_users, manifest, pointer
from jobs.release.place_new_users import answer_day
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release.bundle import Release, open_release
from serving.release.loaded import Ready
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import tidy


def run(context: Context, store: str | None = None, dry_run: bool = False) -> dict[str, object]:
    """Publish the champion to the settings' store, or to the one named.

    Raises:
        BadArgument: there is no such kind of store.
        CheckFailed: there is no champion, it cannot be opened, or the lake's week is no longer its own.
        StoreAway: the store does not answer.
    """
    context = _with_store(context, store)
    if dry_run:
        return _would(context)
    with Tracker.task(context, "publish") as tracked:
        now = _champion(context)
        folder = pointer.releases(context.home) / now.release
        release = open_release(folder)
        checked = check(release)
        stored = _store(context, release, now)
        record = {**stored, **asdict(now), **checked}
        file = pointer.releases(context.home) / pointer.PUBLISHED
        files.replace(file, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")
        tracked.log_json(record, pointer.PUBLISHED)
        tracked.set_tags({"release": now.release, "store": stored["store"]})
        tracked.log_metrics({f"users/{kind}": users for kind, users in stored["users"].items()})
        return {**record, "path": str(file), **tracked.links}


def _with_store(context: Context, kind: str | None) -> Context:
    if kind is None:
        return context
    kinds = get_args(StoreSettings.model_fields["kind"].annotation)
    if kind not in kinds:
        raise BadArgument(f"--store: '{kind}' is no store; choose {', '.join(kinds)}")
    chosen = context.settings.store.model_copy(update={"kind": kind})
    found = Context(context.settings.model_copy(update={"store": chosen}), context.week, context.home)
    return found


def _champion(context: Context) -> pointer.Pointer:
    now = pointer.read(context.home)
    if now is None:
        raise CheckFailed("publish: there is no champion yet; run `overture release promote` first")
    return now


def check(release: Release) -> dict[str, Any]:
    """Open every network and answer for a listener of whom nothing is known.

    Raises:
        CheckFailed: the release does not answer.
    """
    nobody = FirstDays.single(None, None, {})
    answers: dict[str, list[int]] = {}
    answering_space, answering_method = release.answers
    for name, space in release.spaces.items():
        vector_BD = space.predict(release.inputs(name, nobody))
        if vector_BD.shape != (1, space.layout["d"]) or not np.isfinite(vector_BD).all():
            raise CheckFailed(f"release {release.folder.name[:12]}: {name}/network.onnx gives no vector of width d")
        method = space.method(answering_method if name == answering_space else "semi_pers")
        first = method.recommend(release.inputs(name, nobody), 3, nobody)[0]
        answers[name] = [int(track) for track in release.track_ids[first]]
    entries = manifest.read(release.folder)["files"].values()
    return {"files": len(entries), "bytes": sum(entry["bytes"] for entry in entries), "first_tracks": answers}


def _of_week(context: Context, release: Release) -> Context:
    """The surroundings of the week that the release was learned in."""
    return Context(context.settings, Week.parse(release.week), context.home)


def cold_days(context: Context) -> list[date]:
    """Days whose newcomers the release cannot have learned from; `context` is of its week."""
    kept = (date.fromisoformat(partition["day"]) for partition in context.lake.partitions("cold_first_day"))
    return sorted(day for day in kept if day >= context.week.cohort_start.date())


def _store(context: Context, release: Release, now: pointer.Pointer) -> dict[str, Any]:
    settings, context = context.settings.store, _of_week(context, release)
    store = open_store(settings, context.home, publishing=True)
    part, blocks = known_users.filling(context, release, settings.list_length)
    store.publish(part, blocks)
    days = cold_days(context)
    ready = Ready(release, now)
    cold = sum(answer_day(context, ready, store, day)["users"] for day in days)
    done = tidy(store, [name for name in (now.release, now.previous) if name], settings.grace_s)
    store.close()
    users = {"warm": len(part.user_ids), "cold": cold}
    return {"store": store.name, "space": part.space, "users": users, "days": [str(day) for day in days], **done}


def _would(context: Context) -> dict[str, object]:
    """What would be written; nothing is, not even a connection is made."""
    now = _champion(context)
    folder: Path = pointer.releases(context.home) / now.release
    settings, release = context.settings.store, open_release(folder)
    context = _of_week(context, release)
    part, _ = known_users.filling(context, release, settings.list_length)
    days = cold_days(context)
    cold = sum(context.lake.rows("cold_first_day", day=str(day)) for day in days)
    users = {"warm": len(part.user_ids), "cold": cold}
    row = 8 + 4 + 4 * part.d + 8 * part.n
    return {
        "dry_run": True,
        "store": open_store(settings, context.home).name,
        "release": now.release,
        "space": part.space,
        "users": users,
        "days": [str(day) for day in days],
        "bytes": row * sum(users.values()),
        "publication": part.publication,
    }
