"""First-day signals and ground truth by hand, with events on both sides of each day boundary."""

import hashlib
from datetime import timedelta

import pytest

from contracts.errors import CheckFailed
from jobs.matrix import catalog, first_day
from tests.helpers.small_tables import DAY, SECOND, event, fill, streams, table

HOUR = timedelta(hours=1)


@pytest.fixture
def filled_context(spark, context):
    """User 1 is warm, registered before the first event; 2 is warm, registered later; 50 to 53 may be in the cohort."""
    week = context.week
    c = week.cohort_start
    log = c - 5 * DAY
    late = week.as_of - 2 * DAY
    users = [
        {"user_id": 1, "registered_at": log - 100 * DAY, "country": "FR", "age": 30},
        {"user_id": 2, "registered_at": log + 10 * HOUR},
        {"user_id": 3, "registered_at": log - DAY},
        {"user_id": 50, "registered_at": c + 20 * HOUR, "country": "BR", "age": 20},
        {"user_id": 51, "registered_at": c + 7 * DAY - SECOND},
        {"user_id": 52, "registered_at": c + 7 * DAY},
        {"user_id": 53, "registered_at": c + DAY},
    ]
    events = [
        {"user_id": 2, "entity_id": 1, "ts": log},  # first event of all; before this user registered
        *streams(2, [4, 5], log + 11 * HOUR),
        {"user_id": 2, "entity_id": 6, "ts": log + DAY},
        *streams(1, [3, 3, 1], log + 2 * DAY + HOUR),
        *streams(1, [9], log + 3 * DAY),
        *[e for u in (1, 2, 3) for e in streams(u, range(1, 8), late)],
        # user 50, registration day
        {"user_id": 50, "entity_id": 2, "ts": c + 20 * HOUR - SECOND},
        {"user_id": 50, "entity_id": 7, "ts": c + 20 * HOUR},
        {"user_id": 50, "entity_id": 6, "ts": c + DAY - timedelta(microseconds=1)},
        event(50, "stream", "track", 4, c + 21 * HOUR),
        event(50, "stream", "track", 3, c + 21 * HOUR),
        event(50, "skip", "track", 5, c + 22 * HOUR),
        event(50, "ban", "track", 8, c + 22 * HOUR),
        event(50, "favorite", "track", 1, c + 22 * HOUR),
        event(50, "favorite", "album", 777, c + 22 * HOUR),
        event(50, "favorite", "artist", 778, c + 22 * HOUR),
        event(50, "favorite", "playlist", 779, c + 22 * HOUR),
        event(50, "onboarding", "artist", 104, c + 22 * HOUR),
        event(50, "onboarding", "artist", 103, c + 21 * HOUR),
        event(50, "search", "track", 11, c + 22 * HOUR),
        event(50, "search", "album", 12, c + 22 * HOUR),
        event(50, "search", "artist", 13, c + 22 * HOUR),
        event(50, "search", "playlist", 14, c + 22 * HOUR),
        # user 50, truth: days 1 to 30
        {"user_id": 50, "entity_id": 2, "ts": c + DAY},
        {"user_id": 50, "entity_id": 2, "ts": c + 2 * DAY},
        {"user_id": 50, "entity_id": 1, "ts": c + 31 * DAY - timedelta(microseconds=1)},
        {"user_id": 50, "entity_id": 3, "ts": c + 31 * DAY},
        event(50, "skip", "track", 4, c + 3 * DAY),
        {"user_id": 50, "entity_id": 19, "ts": c + 4 * DAY},
        *streams(51, [5, 6], week.as_of - HOUR),
        *streams(52, [5, 6], week.as_of - HOUR),
        *streams(53, [5], week.as_of - HOUR),
    ]
    fill(context, users=users, events=events, n_catalog=7, min_tracks=5, min_truth_tracks=2)
    catalog.run(context)
    return context


def read(filled_context, split):
    return {
        r["user_id"]: r
        for r in filled_context.lake.read("first_day", week=filled_context.week.name, split=split).to_pylist()
    }


def expected_split(user_id):
    return "validation" if int(hashlib.md5(str(user_id).encode()).hexdigest()[:8], 16) % 3 < 2 else "test"


def test_cohort_is_selected_by_registration_and_truth(filled_context):
    report = first_day.run(filled_context)
    ids = {
        r["track_idx"]: r["track_id"]
        for r in filled_context.lake.read("catalog", week=filled_context.week.name).to_pylist()
    }
    rows = filled_context.lake.read("cohort", week=filled_context.week.name).to_pylist()
    got = {r["user_id"]: (r["split"], sorted(ids[t] for t in r["truth"])) for r in rows}
    assert got == {50: (expected_split(50), [1, 2]), 51: (expected_split(51), [5, 6])}
    assert all(r["truth"] == sorted(r["truth"]) for r in rows)
    assert report["cohort"] == {"registered": 3, "selected": 2}


def test_registration_day_of_a_cold_user(filled_context):
    first_day.run(filled_context)
    row = read(filled_context, expected_split(50))[50]
    assert row == {
        "user_id": 50,
        "country": "BR",
        "age": 20,
        "favorite_songs": [1],
        "favorite_artists": [778],
        "favorite_albums": [777],
        "favorite_playlists": [779],
        "onboarding_like_artists": [103, 104],
        "skipped_songs": [5],
        "skipped_artists": [102],
        "skipped_albums": [202],
        "streamed_songs": [7, 3, 4, 6],
        "streamed_artists": [103, 101, 102, 103],
        "streamed_albums": [203, 201, 202, 203],
        "banned_songs": [8],
        "banned_artists": [104],
        "banned_albums": [204],
        "search_songs": [11],
        "search_artists": [13],
        "search_albums": [12],
        "search_playlists": [14],
    }
    assert read(filled_context, expected_split(51))[51]["streamed_songs"] == []


def test_first_day_of_warm_users(filled_context):
    """The first day is the registration day, or the first day with events if registration precedes the first event."""
    first_day.run(filled_context)
    rows = read(filled_context, "train")
    assert set(rows) == {1, 2, 3}
    assert rows[1]["streamed_songs"] == [3, 3, 1]
    assert (rows[1]["country"], rows[1]["age"], rows[2]["country"]) == ("FR", 30, None)
    assert rows[2]["streamed_songs"] == [4, 5]
    assert rows[3]["streamed_songs"] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("days_before", [1, 3, 40, 2000])
def test_one_event_with_a_wrong_time_moves_no_first_day(filled_context, days_before):
    """User 1 registered before the log; one event of another user must not make it begin earlier."""
    first_day.run(filled_context)
    before = read(filled_context, "train")
    ts = filled_context.week.cohort_start - (5 + days_before) * DAY
    stray = {"kind": "stream", "entity": "track", "user_id": 2, "entity_id": 9, "ts": ts}
    filled_context.lake.write("events", table("events", [stray]), day=str(ts.date()))
    first_day.run(filled_context)
    assert read(filled_context, "train") == before
    log_start = str((filled_context.week.cohort_start - 5 * DAY).date())
    week = filled_context.week.name
    assert filled_context.lake.report("first_day", week=week, split="train")["log_start"] == log_start


def test_later_events_do_not_change_first_days(filled_context):
    first_day.run(filled_context)
    splits = ("train", "validation", "test")
    before = [read(filled_context, s) for s in splits]
    poison = [
        {
            "kind": "stream",
            "entity": "track",
            "user_id": u,
            "entity_id": t,
            "ts": filled_context.week.as_of + n * SECOND,
        }
        for u in (1, 2, 50)
        for n, t in enumerate(range(20))
    ]
    filled_context.lake.write("events", table("events", poison), day=str(filled_context.week.monday))
    first_day.run(filled_context)
    assert [read(filled_context, s) for s in splits] == before


def test_an_empty_cohort_raises(filled_context):
    matrix = filled_context.settings.matrix.model_copy(update={"min_truth_tracks": 20})
    filled_context.settings = filled_context.settings.model_copy(update={"matrix": matrix})
    with pytest.raises(CheckFailed, match=r"cohort: of 3 users registered in \[2026-10-10, 2026-10-17\)"):
        first_day.run(filled_context)


def test_the_split_is_two_to_one_and_stable(spark):
    frame = spark.range(3000).select(first_day.split_of("id").alias("split"), "id")
    got = {r["id"]: r["split"] for r in frame.collect()}
    assert got == {n: expected_split(n) for n in range(3000)}
    assert 0.63 < sum(s == "validation" for s in got.values()) / 3000 < 0.70
