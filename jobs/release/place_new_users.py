"""Places the users whose first day ended with a day: vector, segment and list by the champion, lake and store.

Input   users, events, tracks; the champion's bundle
Output  cold_first_day, cold_users, cold_lists, partition day=<day>; the store, part <day> of the champion's release
History of a listener: the first day's; when a release is published, everything before its as-of time (user_history)
Time    first days that end in (day, day + 1] UTC; nothing after the end of the day is read. By default first days end
        at midnight UTC: users who registered on the day. With another `matrix.first_day` users of the day before
Code    first days are computed by the functions of the weekly job, inputs, vectors and lists by those of the service

The champion is the release in service when the job runs, also for a past day. When another release is published, it
places the users of the days since its cohort's first day again, from cold_first_day. Otherwise everybody who registered
in the last weeks would be missing from it. cold_users then contains the new lists. cold_lists keeps those of the day's
first run, with the list of the most popular tracks beside each: jobs/monitor/realised.py compares both with what the
users did afterwards. A release of a later week than the day is not recorded, because it may have learned from that.
A day without events has not been ingested and is refused. A day on which nobody registered becomes an empty partition
and an empty part of the store, which replaces the users of an earlier run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column, to_matrix
from jobs.platform.week import Week
from jobs.release import user_history
from jobs.release.banned_tracks import banned_tracks
from jobs.release.destination import read_champion, release_folder
from jobs.release.user_history import NO_HISTORIES, Histories
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import INTERACTIONS, FirstDays
from models.cold_start.ragged import Ragged
from serving.block.entries import EMPTY
from serving.recommend import recommender
from serving.recommend.ruled_list import NO_FILTERS, SPARE, audience, build_list
from serving.release.bundle import open_release
from serving.release.loaded import LoadedRelease
from serving.stores import open_store
from serving.stores.interface import HISTORY, UNKNOWN, Block, History, StorePart, UserStore, country_number

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.settings.matrix import FirstDaySettings

CHUNK = 4_096  # users placed at once
LONGEST = timedelta(days=2)  # a first day is shorter


def run(context: Context, day: date) -> dict[str, Any]:
    """Place the new users of a day and publish them.

    Returns:
        The report for Airflow.

    Raises:
        CheckFailed: there is no champion, a part of it is unusable, or the day has not been ingested.
    """
    daily = replace(context, experiment=context.settings.mlflow.names(context.engine, daily=True).experiment)
    try:
        with Tracker.task(daily, f"cold_users {day}") as tracked:
            ready = load_champion(context)  # raises before a Spark session is started
            store = open_store(context.settings.store, context.home, publishing=True)
            report = write_first_days(context, day)
            tracked.log_dataset("cold_first_day", "inference", day=str(day))
            report |= place_with_history(context, ready, store, day)
            # A release that was promoted in the meantime did not contain this day when it was published.
            while (now := load_champion(context, ready)).name != ready.name:
                ready = now
                report |= place_with_history(context, ready, store, day)
            report["lists_recorded"] = record_lists(context, ready, day)
            store.close()
            tracked.set_tags({"day": day, "release": ready.name, "store": store.name})
            tracked.log_metrics({"users": report["users"], "without_interaction": report["without_interaction"]})
            tracked.log_json(report, "report.json")
    except BaseException:
        with suppress(OvertureError):  # if MLflow is unavailable too, the first error is the one to report
            Tracker.finish_week(daily, failed=True)
        raise
    Tracker.finish_week(daily)
    return {**report, **tracked.links}


def place_with_history(context: Context, ready: LoadedRelease, store: UserStore, day: date) -> dict[str, Any]:
    """Place the users of one day again with what a publication of the release knew of them, if it was before."""
    week = Week.parse(ready.week)
    if day >= week.as_of.date() or not context.lake.exists(user_history.TABLE, week=week.name):
        return place_day(context, ready, store, day)
    with user_history.opened(Context(context.settings, week, context.home)) as histories:
        return place_day(context, ready, store, day, histories)


def load_champion(context: Context, loaded: LoadedRelease | None = None) -> LoadedRelease:
    """Return the release in service, opened as the service opens it.

    Args:
        context: folders.
        loaded: returned again if it is still the release in service.

    Raises:
        CheckFailed: there is no champion, or a part of it is unusable.
    """
    now = read_champion(context)
    if now is None:
        raise CheckFailed("cold users: there is no champion yet; run the weekly pipeline first")
    if loaded is not None and loaded.name == now.release:
        return loaded
    ready = LoadedRelease(open_release(release_folder(context, now.release)), now)
    if ready.problems:
        parts = "; ".join(f"{part}: {why}" for part, why in ready.problems.items())
        raise CheckFailed(f"cold users: champion {ready.name[:12]} has unusable parts ({parts})")
    return ready


def write_first_days(context: Context, day: date) -> dict[str, Any]:
    """Write cold_first_day of a day; returns rows and paths.

    Raises:
        CheckFailed: events have no such day, or not the day before where first days begin on it.
    """
    lake = context.lake
    first_day, (start, end) = context.settings.matrix.first_day, day_bounds(day)
    for needed in [day] if first_day.ends_with_utc_day else [day, day - timedelta(days=1)]:
        if not lake.exists("events", day=str(needed)):
            raise CheckFailed(f"events: day={needed} has not been written; ingest the day first")
    frame = compute_first_days(
        lake.spark(context.spark, "users"),
        lake.events(context.spark, start if first_day.ends_with_utc_day else start - LONGEST, end),
        lake.spark(context.spark, "tracks"),
        day,
        first_day,
    )
    written = lake.write("cold_first_day", frame, report={"commit": context.commit}, day=str(day))
    return {"day": str(day), "rows": {"cold_first_day": written.rows}, "paths": {"cold_first_day": written.path}}


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """Return the first moment of a day and of the next day (UTC)."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def compute_first_days(
    users: DataFrame, events: DataFrame, tracks: DataFrame, day: date, first_day: FirstDaySettings
) -> DataFrame:
    """Return cold_first_day of the users whose first day ended with a day: after its start, at its end included."""
    from pyspark.sql import functions as F

    from jobs.matrix.catalog import timestamp_literal
    from jobs.matrix.first_day import collect_first_days, registration_days

    start, end = day_bounds(day)
    registered, ended = F.col("registered_at"), F.col("end")
    recent = (registered >= timestamp_literal(start - LONGEST)) & (registered < timestamp_literal(end))
    new = users.where(recent)
    has_ended = (ended > timestamp_literal(start)) & (ended <= timestamp_literal(end))
    days = registration_days(new, first_day).where(has_ended)
    first_days = collect_first_days(days, events, tracks).join(new.select("user_id", "registered_at"), "user_id")
    ts, entity_id = F.col("ts"), F.col("entity_id")
    bans = events.where(F.col("kind") == "ban").join(days.select("user_id", "start", "end"), "user_id")
    lists = bans.where((ts >= F.col("start")) & (ts < F.col("end"))).groupBy("user_id")
    levels = {"artist": "artist_bans", "album": "album_bans"}
    chosen = (F.collect_set(F.when(F.col("entity") == level, entity_id)) for level in levels)
    bans = lists.agg(*(F.sort_array(ids).alias(name) for ids, name in zip(chosen, levels.values(), strict=True)))
    empty = F.array().cast("array<bigint>")
    with_bans = first_days.join(bans, "user_id", "left")
    return with_bans.withColumns({name: F.coalesce(name, empty) for name in levels.values()})


def place_day(
    context: Context, ready: LoadedRelease, store: UserStore, day: date, histories: Histories = NO_HISTORIES
) -> dict[str, Any]:
    """Place the users of cold_first_day of one day, write cold_users and publish them.

    Args:
        context: lake and settings.
        ready: the release that places them.
        store: the store to publish to.
        day: the day; cold_first_day must exist.
        histories: what users did before the as-of time of the release's week. A user without a row, and every user of a
            day that ended later, has the history of the first day.

    Returns:
        The report: users, users without a signal, path.
    """
    lake, n = context.lake, min(context.settings.store.list_length, len(ready.tracks))
    first_days = lake.read("cold_first_day", day=str(day)).sort_by("user_id")
    history = first_day_history(first_days, context.settings.store.max_heard)
    if day < Week.parse(ready.week).as_of.date():
        history = histories.of(first_days.column("user_id").to_numpy(), history)
    report = {"release": ready.name, "store": store.name, "commit": context.commit}
    written = lake.write("cold_users", place_users(ready, first_days, n, history), report=report, day=str(day))
    rows = lake.read("cold_users", day=str(day)).sort_by("user_id")
    store.publish(*store_part(ready, rows, day, n, history))
    n_silent = sum(not any(lists) for lists in zip(*signal_lists(first_days), strict=True))
    return {
        "release": ready.name,
        "store": store.name,
        "users": written.rows,
        "without_interaction": n_silent,
        "path": written.path,
        **({} if written.rows else {"why": f"nobody registered on {day}"}),
    }


def record_lists(context: Context, ready: LoadedRelease, day: date) -> int:
    """Write cold_lists of a day from cold_users; return the number of lists, 0 if the day is not recorded.

    The first release that is recorded stays. A re-run under the same release replaces its lists.

    Args:
        context: lake and settings.
        ready: the release that placed the day's users.
        day: the day; cold_first_day and cold_users must exist.

    Raises:
        OvertureError: another release has placed the users meanwhile; run the day again.
    """
    lake, name = context.lake, str(day)
    if day < Week.parse(ready.week).as_of.date():
        return 0
    if lake.exists("cold_lists", day=name) and lake.report("cold_lists", day=name)["release"] != ready.name:
        return 0
    rows = lake.read("cold_users", day=name).sort_by("user_id")
    first_days = lake.read("cold_first_day", day=name).sort_by("user_id")
    if set(rows.column("release").to_pylist()) - {ready.name}:
        raise OvertureError(f"cold users: another release has placed the users of {day} meanwhile; run the day again")
    n = min(context.settings.store.list_length, len(ready.tracks))
    history = first_day_history(first_days, context.settings.store.max_heard)
    popular = place_users(ready, first_days, n, history, recommender.POPULAR)
    lists = rows.select(["user_id", "release", "method", "tracks"])
    lists = lists.append_column("week", pa.array([ready.week] * len(rows), pa.string()))
    lists = lists.append_column("popular_tracks", popular.column("tracks"))
    schema = arrow_schema(contracts.load("cold_lists"))
    report = {"release": ready.name, "commit": context.commit}
    return lake.write("cold_lists", lists.select(schema.names).cast(schema), report=report, day=name).rows


def signal_lists(first_days: pa.Table) -> list[list[list[int]]]:
    """Return the columns of first-day ids, one list of ids per user each."""
    return [first_days.column(name).to_pylist() for name in INTERACTIONS]


def first_day_history(first_days: pa.Table, max_heard: int) -> dict[str, Ragged]:
    """Return the lists of HISTORY from the first days; rows of an older version lack bans of artists and albums."""
    heard = [list(dict.fromkeys(reversed(ids)))[:max_heard] for ids in first_days.column("streamed_songs").to_pylist()]
    lists = {"heard_tracks": Ragged.from_lists(heard)}
    columns = {"banned_tracks": "banned_songs", "banned_artists": "artist_bans", "banned_albums": "album_bans"}
    for name, column in columns.items():
        lists[name] = Ragged.from_lists([sorted(set(ids or ())) for ids in first_days.column(column).to_pylist()])
    people = zip(first_days.column("country").to_pylist(), first_days.column("age").to_pylist(), strict=True)
    numbers = [[country_number(country), UNKNOWN if age is None else age] for country, age in people]
    lists["demographics"] = Ragged.from_lists(numbers)
    return lists


def place_users(
    ready: LoadedRelease, first_days: pa.Table, n: int, history: dict[str, Ragged], method: str = ""
) -> pa.Table:
    """Return the rows of cold_users, computed as the service computes them.

    Args:
        ready: the release.
        first_days: rows of cold_first_day.
        n: length of the lists; shorter where there are fewer tracks.
        history: lists of HISTORY, one per row; nothing that they ban is in a list.
        method: method of the lists; empty: the one that the release serves.

    Raises:
        CheckFailed: the network or the method is unusable; a list from a fallback is not stored.
    """
    schema = arrow_schema(contracts.load("cold_users"))
    return pa.concat_tables(
        [schema.empty_table(), *_place_chunks(ready, first_days, n, history, method or ready.configured)]
    )


def _place_chunks(
    ready: LoadedRelease, first_days: pa.Table, n: int, history: dict[str, Ragged], method: str
) -> Iterator[pa.Table]:
    banned = [
        banned_tracks(ready.facts, ready.track_idx, History(**{name: lists.row(u) for name, lists in history.items()}))
        for u in range(first_days.num_rows)
    ]
    for start in range(0, first_days.num_rows, CHUNK):
        part = first_days.slice(start, CHUNK)
        days = FirstDays.from_arrow(part)
        placed = recommender.place(ready, days)
        segment_B = ready.space.segments_of(placed.vectors_BD)
        asked = n + SPARE
        ranked, methods, fallbacks = recommender.rank(ready, method, asked, days, placed, segment_B)
        if placed.why or any(fallbacks):
            why = placed.why or next(filter(None, fallbacks))["reason"]
            raise CheckFailed(f"cold users: release {ready.name[:12]} uses a fallback: {why}")
        lists = [
            build_list(
                ready,
                n,
                partial(recommender.longer_list, ready, methods[b], days, placed, segment_B, b, ranked[b], asked),
                ready.rules,
                ready.facts.excluded(ready.rules, tracks=banned[start + b], heard=heard_tracks(ready, days, b)),
                audience(ready, ready.rules, days.country[b], _age(days, b), NO_FILTERS, EMPTY),
            ).tracks
            for b in range(len(days))
        ]
        schema = arrow_schema(contracts.load("cold_users"))
        yield pa.table(
            {
                "user_id": part.column("user_id").combine_chunks(),
                "release": pa.array([ready.name] * len(days)),
                "space": pa.array([ready.space_name] * len(days)),
                "method": pa.array(methods),
                "vector": to_list_column(placed.vectors_BD.astype(np.float32)),
                "segment_id": pa.array(segment_B, pa.int32()),
                "tracks": pa.array([[ready.tracks[i].track_id for i in idx] for idx in lists], pa.list_(pa.int64())),
            }
        ).cast(schema)


def heard_tracks(ready: LoadedRelease, days: FirstDays, b: int) -> list[int]:
    """Return the track_idx of the tracks that listener b streamed on the first day."""
    streamed = days.blocks.get("streamed_songs")
    ids = [] if streamed is None else streamed.row(b).tolist()
    return [ready.track_idx[track] for track in ids if track in ready.track_idx]


def _age(days: FirstDays, b: int) -> int | None:
    return None if days.age[b] < 0 else int(days.age[b])


def store_part(
    ready: LoadedRelease, rows: pa.Table, day: date, n: int, history: dict[str, Ragged]
) -> tuple[StorePart, list[Block]]:
    """Return cold_users of a day as a part of the store; a list that is shorter than n is padded with -1."""
    user_ids = rows.column("user_id").to_numpy().astype(np.int64)
    tracks_Bn = np.full((len(user_ids), n), -1, np.int64)
    for b, ids in enumerate(rows.column("tracks").to_pylist()):
        tracks_Bn[b, : len(ids)] = ids
    vectors_BD = to_matrix(rows).reshape(len(user_ids), ready.space.d)
    segments_B = rows.column("segment_id").to_numpy().astype(np.int32)
    content = hashlib.sha256()
    lists = [array for name in HISTORY for array in (history[name].offsets, history[name].ids)]
    for array in (user_ids, vectors_BD, segments_B, tracks_Bn, *lists):
        content.update(np.ascontiguousarray(array).tobytes())
    part = StorePart(ready.name, ready.space_name, str(day), str(day), user_ids, ready.space.d, n, content.hexdigest())
    return part, [Block(user_ids, vectors_BD, segments_B, tracks_Bn, history)]
