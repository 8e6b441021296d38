"""The newcomers of one day: vector, segment and list by the champion, into the lake and the store.

Input   users, events, tracks; the champion's bundle
Output  cold_first_day, cold_users, partition day=<day>; the store, part <day> of the champion's release
Time    registered_at and ts in [day, day + 1) UTC: nothing after the day's end is seen
Code    first days are made by the weekly job's functions, inputs, vectors and lists by the service's own

The champion is the one in service when the job runs, also for a day long past. When another release is published, it
answers for the days since its cohort's first one again, from cold_first_day: without this, everybody who registered in
the last weeks would be unknown to it.
A day without events has not been ingested and is refused. A day on which nobody registered is an empty partition and an
empty part: whoever an earlier run put there is gone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column, to_matrix
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.recommend import recommender
from serving.release import pointer
from serving.release.bundle import open_release
from serving.release.loaded import Ready
from serving.stores import open_store
from serving.stores.interface import Block, Filling, UserStore

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CHUNK = 4_096  # listeners placed at once


def run(context: Context, day: date) -> dict[str, Any]:
    """Place the day's newcomers and publish them; the report for Airflow.

    Raises:
        CheckFailed: there is no champion, it does not answer whole, or the day has not been ingested.
    """
    daily = replace(context, experiment=context.settings.mlflow.names(context.engine, daily=True).experiment)
    try:
        with Tracker.task(daily, f"cold_users {day}") as tracked:
            ready = champion(context)  # before a session is started
            store = open_store(context.settings.store, context.home, publishing=True)
            report = keep_first_days(context, day)
            tracked.log_dataset("cold_first_day", "inference", day=str(day))
            report |= answer_day(context, ready, store, day)
            # A release promoted meanwhile did not find this day when it was published.
            while (now := champion(context, ready)).name != ready.name:
                ready = now
                report |= answer_day(context, ready, store, day)
            store.close()
            tracked.set_tags({"day": day, "release": ready.name, "store": store.name})
            tracked.log_metrics({"users": report["users"], "without_interaction": report["without_interaction"]})
            tracked.log_json(report, "report.json")
    except BaseException:
        with suppress(OvertureError):  # where MLflow is away too, the first error is the one to tell
            Tracker.finish_week(daily, failed=True)
        raise
    Tracker.finish_week(daily)
    return {**report, **tracked.links}


def champion(context: Context, seen: Ready | None = None) -> Ready:
    """The release in service, opened as the service opens it; `seen` again while it is still the one.

    Raises:
        CheckFailed: there is none, or it is not whole.
    """
    now = pointer.read(context.home)
    if now is None:
        raise CheckFailed("cold users: there is no champion yet; run the weekly pipeline first")
    if seen is not None and seen.name == now.release:
        return seen
    ready = Ready(open_release(pointer.releases(context.home) / now.release), now)
    if ready.problems:
        parts = "; ".join(f"{part}: {why}" for part, why in ready.problems.items())
        raise CheckFailed(f"cold users: champion {ready.name[:12]} is not whole ({parts})")
    return ready


def keep_first_days(context: Context, day: date) -> dict[str, Any]:
    """Write the day's cold_first_day.

    Raises:
        CheckFailed: the log has no such day.
    """
    lake = context.lake
    if not lake.exists("events", day=str(day)):
        raise CheckFailed(f"events: day={day} has not been written; ingest the day first")
    frame = first_days_of(
        lake.spark(context.spark, "users"),
        lake.events(context.spark, *span(day)),
        lake.spark(context.spark, "tracks"),
        day,
    )
    written = lake.write("cold_first_day", frame, report={"commit": context.commit}, day=str(day))
    return {"day": str(day), "rows": {"cold_first_day": written.rows}, "paths": {"cold_first_day": written.path}}


def span(day: date) -> tuple[datetime, datetime]:
    """First moment of a day, and of the next."""
    start = datetime.combine(day, time(), UTC)
    return start, start + timedelta(days=1)


def first_days_of(users: DataFrame, events: DataFrame, tracks: DataFrame, day: date) -> DataFrame:
    """Pure: cold_first_day of those who registered on the day, from the moment of registration to its end."""
    from pyspark.sql import functions as F

    from jobs.matrix.catalog import timestamp_literal
    from jobs.matrix.first_day import collect_first_days, registration_days

    start, end = span(day)
    new = users.where(
        (F.col("registered_at") >= timestamp_literal(start)) & (F.col("registered_at") < timestamp_literal(end))
    )
    return collect_first_days(registration_days(new), events, tracks).join(
        new.select("user_id", "registered_at"), "user_id"
    )


def answer_day(context: Context, ready: Ready, store: UserStore, day: date) -> dict[str, Any]:
    """Write a kept day's cold_users by this release, and publish them under it."""
    lake, n = context.lake, min(context.settings.store.list_length, len(ready.tracks))
    people = lake.read("cold_first_day", day=str(day)).sort_by("user_id")
    report = {"release": ready.name, "store": store.name, "commit": context.commit}
    written = lake.write("cold_users", answered(ready, people, n), report=report, day=str(day))
    rows = lake.read("cold_users", day=str(day)).sort_by("user_id")
    store.publish(*filling(ready, rows, day, n))
    silent = sum(not any(lists) for lists in zip(*signals(people), strict=True))
    return {
        "release": ready.name,
        "store": store.name,
        "users": written.rows,
        "without_interaction": silent,
        "path": written.path,
        **({} if written.rows else {"why": f"nobody registered on {day}"}),
    }


def signals(people: pa.Table) -> list[list[list[int]]]:
    """The lists of first-day ids, a column each."""
    return [people.column(f.name).to_pylist() for f in people.schema if pa.types.is_list(f.type)]


def answered(ready: Ready, people: pa.Table, n: int) -> pa.Table:
    """The rows of cold_users for rows of cold_first_day: the service's placing and its lists, n tracks where there are.

    Raises:
        CheckFailed: something had to stand in for the release's network or method: a list to be kept is not made so.
    """
    schema = arrow_schema(contracts.load("cold_users"))
    return pa.concat_tables([schema.empty_table(), *_answered(ready, people, n)])


def _answered(ready: Ready, people: pa.Table, n: int) -> Iterator[pa.Table]:
    for start in range(0, people.num_rows, CHUNK):
        part = people.slice(start, CHUNK)
        days = FirstDays.from_arrow(part)
        placed = recommender.place(ready, days)
        segment_B = ready.space.segments_of(placed.vectors_BD)
        taken = [taken_tracks(ready, days, b) for b in range(len(days))]
        lists, methods, stand_ins = recommender.make_lists(ready, ready.configured, n, days, placed, segment_B, taken)
        if placed.why or any(stand_ins):
            why = placed.why or next(filter(None, stand_ins))["reason"]
            raise CheckFailed(f"cold users: release {ready.name[:12]} does not answer whole: {why}")
        chosen = [recommender.filled_up(lists[b], taken[b], n, len(ready.tracks))[0] for b in range(len(days))]
        schema = arrow_schema(contracts.load("cold_users"))
        yield pa.table(
            {
                "user_id": part.column("user_id").combine_chunks(),
                "release": pa.array([ready.name] * len(days)),
                "space": pa.array([ready.space_name] * len(days)),
                "method": pa.array(methods),
                "vector": to_list_column(placed.vectors_BD.astype(np.float32)),
                "segment_id": pa.array(segment_B, pa.int32()),
                "tracks": pa.array([[ready.tracks[i].track_id for i in one] for one in chosen], pa.list_(pa.int64())),
            }
        ).cast(schema)


def taken_tracks(ready: Ready, days: FirstDays, b: int) -> set[int]:
    """track_idx that are in no list of listener b: banned ones, and streams where the release leaves them out."""
    blocks = ["banned_songs", *(["streamed_songs"] if ready.leave_out_first_day else [])]
    ids = [track for name in blocks if name in days.blocks for track in days.blocks[name].row(b).tolist()]
    return {ready.track_at[track] for track in ids if track in ready.track_at}


def filling(ready: Ready, rows: pa.Table, day: date, n: int) -> tuple[Filling, list[Block]]:
    """A day's cold_users as a part of the store; a list that is shorter than n ends in -1."""
    user_ids = rows.column("user_id").to_numpy().astype(np.int64)
    tracks_Bn = np.full((len(user_ids), n), -1, np.int64)
    for b, ids in enumerate(rows.column("tracks").to_pylist()):
        tracks_Bn[b, : len(ids)] = ids
    vectors_BD = to_matrix(rows).reshape(len(user_ids), ready.space.d)
    segments_B = rows.column("segment_id").to_numpy().astype(np.int32)
    content = hashlib.sha256()
    for array in (user_ids, vectors_BD, segments_B, tracks_Bn):
        content.update(np.ascontiguousarray(array).tobytes())
    part = Filling(ready.name, ready.space_name, str(day), str(day), user_ids, ready.space.d, n, content.hexdigest())
    return part, [Block(user_ids, vectors_BD, segments_B, tracks_Bn)]
