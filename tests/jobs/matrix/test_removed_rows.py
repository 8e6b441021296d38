"""A user and a track that were removed from the raw tables are left out by every job; nobody else changes."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.cold_start import features, segment_cards
from jobs.matrix import catalog, first_day, track_pairs, user_track
from jobs.platform.list_columns import to_list_column
from jobs.quality import check
from tests.helpers.small_tables import DAY, event, fill, streams

HOUR = timedelta(hours=1)
WARM, GONE, COLD, COLD_GONE, GONE_TRACK = (1, 2, 3), 4, (50, 52), 51, 9


@pytest.fixture
def filled_context(spark, context):
    """Warm users 1 to 4 and cold users 50 to 52; then 4, 51 and track 9 are removed from their tables."""
    week, c = context.week, context.week.cohort_start
    users = [
        {"user_id": u, "registered_at": c - 20 * DAY + u * HOUR, "country": "FR", "age": 30} for u in (*WARM, GONE)
    ]
    users += [{"user_id": u, "registered_at": c + HOUR} for u in (*COLD, COLD_GONE)]
    events = []
    for user in users:
        start = user["registered_at"]
        events += streams(user["user_id"], [1, 2, GONE_TRACK, 3, 4], start + HOUR)
        kinds = [("favorite", "track"), ("search", "track"), ("favorite", "artist")]
        events += [event(user["user_id"], kind, entity, GONE_TRACK, start + 2 * HOUR) for kind, entity in kinds]
        events += streams(user["user_id"], [1, 2, 3, 5] * 4 + [GONE_TRACK], start + 4 * DAY)
    playlists = [
        {"playlist_id": p, "position": n, "track_id": t, "user_id": owner, "added_at": week.as_of - DAY}
        for p, owner, tracks in (
            (1, None, [1, 2, GONE_TRACK, 3]),
            (2, 1, [1, 2, GONE_TRACK]),
            (3, GONE, [1, 2, 3, 4, GONE_TRACK]),
            (4, None, [4, 5]),
            (5, None, [3, 4, 5]),
        )
        for n, t in enumerate(tracks)
    ]
    fill(context, users=users, events=events, playlists=playlists, min_tracks=4)
    matrix = context.settings.matrix.model_copy(update={"min_cooccurrences": 1, "window_days": 60})
    context.settings = context.settings.model_copy(update={"matrix": matrix})
    return context


def remove(context, *, users=(), tracks=()):
    for table, key, ids in (("users", "user_id", users), ("tracks", "track_id", tracks)):
        rows = context.lake.read(table)
        context.lake.write(table, rows.filter(pc.invert(pc.is_in(rows[key], pa.array(ids, pa.int64())))))


def vectors(context):
    """Write vectors of tracks and users in place of the factorisations."""
    week = context.week.name
    for table, index, rows in (
        ("track_vectors", "track_idx", context.lake.rows("catalog", week=week)),
        ("user_vectors", "user_idx", context.lake.rows("warm_users", week=week)),
    ):
        ids = pa.array(np.arange(rows, dtype=np.int32))
        values = to_list_column(np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32))
        context.lake.write(table, pa.table({index: ids, "vector": values}), week=week, space="tt_svd")


def test_check_warns_and_every_job_leaves_the_rows_out(filled_context):
    context, week = filled_context, filled_context.week.name
    remove(context, users=[GONE], tracks=[GONE_TRACK])
    report = check.run(context, ["users", "tracks", "events", "playlists"])
    assert {name: table["failed"] for name, table in report["tables"].items()} == dict.fromkeys(report["tables"], 0)
    remove(context, users=[COLD_GONE])
    for job in (catalog, user_track, track_pairs, first_day):
        job.run(context)
    read = lambda table, **more: context.lake.read(table, week=week, **more)  # noqa: E731
    assert sorted(read("warm_users")["user_id"].to_pylist()) == list(WARM)
    tracks = read("catalog").to_pylist()
    assert {row["track_id"]: row["n_listeners"] for row in tracks} == {1: 3, 2: 3, 3: 3, 4: 3, 5: 3}
    assert set(read("user_track")["user_idx"].to_pylist()) == {0, 1, 2}
    assert set(read("collections")["playlist_id"].to_pylist()) == {1, 2, 4, 5}  # 3 belongs to the removed user
    cohort = set(read("cohort")["user_id"].to_pylist())
    assert cohort == set(COLD)
    vectors(context)
    features.run(context, "tt_svd")
    listeners = {}
    for split in ("train", "validation", "test"):
        rows = read("first_day", split=split).to_pylist()
        listeners |= {row["user_id"]: row for row in rows}
        assert read("features", space="tt_svd", split=split)["user_id"].to_pylist() == [r["user_id"] for r in rows]
    assert set(listeners) == {*WARM, *COLD}
    for row in listeners.values():
        assert row["streamed_songs"] == [1, 2, 3, 4]
        assert row["favorite_songs"] == row["search_songs"] == []
        assert row["favorite_artists"] == [GONE_TRACK]


def test_a_user_and_a_track_may_leave_during_the_week_s_run(filled_context):
    """The tables are replaced after the task `catalog`: the indices of the week stay, the rest is unknown."""
    context, week = filled_context, filled_context.week.name
    catalog.run(context)
    remove(context, users=[GONE], tracks=[GONE_TRACK])
    for job in (user_track, track_pairs, first_day):
        job.run(context)
    train = context.lake.read("first_day", week=week, split="train").to_pylist()
    empty = next(row for row in train if row["user_id"] == GONE)
    assert sorted(row["user_id"] for row in train) == [*WARM, GONE]
    assert empty["country"] is None
    assert not any(value for name, value in empty.items() if name != "user_id")
    vectors(context)
    features.run(context, "tt_svd")
    people = segment_cards.warm_demographics(context)
    assert people.country.tolist() == ["FR", "FR", "FR", None]
