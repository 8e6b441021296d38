"""Catalogue and warm users on a lake of a few rows."""

from datetime import UTC, datetime, timedelta

import pytest

from contracts.errors import CheckFailed
from jobs.matrix import catalog
from jobs.settings.matrix import NewReleaseSettings
from tests.helpers.small_tables import DAY, SECOND, fill, streams, table


@pytest.fixture
def filled_context(spark, context):
    week = context.week
    old = week.cohort_start - 10 * DAY
    inside = week.as_of - DAY
    users = [{"user_id": u, "registered_at": old} for u in (7, 3, 900_000_000_000)]
    users.append({"user_id": 5, "registered_at": week.cohort_start - SECOND})
    users.append({"user_id": 8, "registered_at": week.cohort_start})
    events = [
        *streams(7, [1, 2, 2, 2], inside),
        *streams(3, [2, 9], inside + DAY / 4),
        *streams(900_000_000_000, [1, 4], inside + DAY / 3),
        *streams(5, [2], inside),
        *streams(8, [4, 5, 6, 1], inside),
        {"user_id": 5, "entity_id": 9, "ts": week.window_start(90)},
        {"user_id": 5, "entity_id": 1, "ts": week.window_start(90) - SECOND},
        {"user_id": 5, "entity_id": 1, "ts": week.as_of},
        {"user_id": 5, "entity_id": 4, "ts": week.as_of - timedelta(microseconds=1), "kind": "skip"},
    ]
    fill(context, users=users, events=events, n_catalog=3)
    return context


def test_tracks_are_ranked_by_listeners_then_id_within_the_window(filled_context):
    catalog.run(filled_context)
    got = filled_context.lake.read("catalog", week=filled_context.week.name).to_pylist()
    assert [(r["track_idx"], r["track_id"], r["n_listeners"]) for r in got] == [(0, 2, 3), (1, 1, 2), (2, 9, 2)]
    assert got[0]["artist_id"] == 101


def test_warm_users_are_indexed_in_the_order_of_user_id(filled_context):
    report = catalog.run(filled_context)
    got = filled_context.lake.read("warm_users", week=filled_context.week.name).sort_by("user_idx").to_pydict()
    assert got == {"user_idx": [0, 1, 2], "user_id": [3, 5, 7], "n_tracks": [2, 2, 2]}
    assert report["rows"] == {"catalog": 3, "warm_users": 3}
    stored = filled_context.lake.report("warm_users", week=filled_context.week.name)
    assert (stored["rows_in"], stored["rows_out"]) == (4, 3)


def test_a_second_run_gives_the_same_rows(filled_context):
    catalog.run(filled_context)
    first = [filled_context.lake.read(t, week=filled_context.week.name) for t in ("catalog", "warm_users")]
    catalog.run(filled_context)
    second = [filled_context.lake.read(t, week=filled_context.week.name) for t in ("catalog", "warm_users")]
    assert [t.sort_by(t.column_names[0]) for t in first] == [t.sort_by(t.column_names[0]) for t in second]


@pytest.mark.parametrize("keys", [[5], [0, 1, 2, 3], [10**18, 3, 5, 2**62, 7], list(range(1000, 5000, 7))])
def test_the_dense_index_follows_the_key_for_any_distribution(spark, keys):
    frame = spark.createDataFrame([(k,) for k in keys], "user_id long").repartition(3)
    rows = catalog.add_dense_index(frame, "user_id", "user_idx").collect()
    assert {r["user_id"]: r["user_idx"] for r in rows} == {k: n for n, k in enumerate(sorted(keys))}


def test_an_empty_week_raises_with_table_and_window(filled_context):
    from jobs.platform.week import Week

    filled_context.week = Week.parse("2025-03-03")
    with pytest.raises(CheckFailed, match=r"events: no day of week 2025-03-03.*2024-12-03 <= ts < 2025-03-03"):
        catalog.run(filled_context)


def test_no_warm_user_raises_and_writes_no_table(filled_context):
    matrix = filled_context.settings.matrix.model_copy(update={"min_tracks": 50})
    filled_context.settings = filled_context.settings.model_copy(update={"matrix": matrix})
    with pytest.raises(CheckFailed, match="warm_users: no user streamed 50 distinct"):
        catalog.run(filled_context)
    assert not filled_context.lake.exists("warm_users", week=filled_context.week.name)


def test_streams_of_cohort_users_do_not_change_the_catalogue(filled_context):
    catalog.run(filled_context)
    before = filled_context.lake.read("catalog", week=filled_context.week.name)
    poison = streams(8, range(20), datetime(2026, 11, 12, tzinfo=UTC))
    rows = [{"kind": "stream", "entity": "track", **e} for e in poison]
    filled_context.lake.write("events", table("events", rows), day="2026-11-12")
    catalog.run(filled_context)
    assert filled_context.lake.read("catalog", week=filled_context.week.name) == before


def with_releases(context, **changes):
    """Allow new releases of two listeners or more, and fill a week with some."""
    week = context.week
    day = week.as_of.date()
    old = week.cohort_start - 10 * DAY
    users = [{"user_id": u, "registered_at": old} for u in (1, 2, 3, 4)]
    users.append({"user_id": 9, "registered_at": week.cohort_start})
    events = [event for user in (1, 2, 3, 4) for event in streams(user, [0, 1], week.as_of - DAY)]
    events += [event for user in (1, 2, 3) for event in streams(user, [2, 10, 15], week.as_of - DAY / 2)]
    events += [event for user in (1, 2) for event in streams(user, [11, 12, 13, 3, 16], week.as_of - DAY / 3)]
    events += streams(4, [14], week.as_of - DAY / 3)
    events += [event for user in (9, 3) for event in streams(user, [14], week.as_of + (DAY if user == 3 else -DAY))]
    released = {
        10: day - 28 * DAY,
        11: day - DAY,
        12: day - 29 * DAY,  # too old
        13: day,  # not yet released: a wrong date
        14: day - DAY,  # of one listener; others are of the cohort or of the future
        15: day - 5 * DAY,
        16: day - 9 * DAY,
    }
    tracks = [{"track_id": t, "artist_id": 1, "album_id": 1, "release_date": released.get(t)} for t in range(20)]
    fill(context, users=users, events=events, tracks=tracks, n_catalog=4)
    update = {
        "new_releases": NewReleaseSettings(enabled=True, **changes),
        "groups": context.settings.groups.model_copy(update={"min_users": 2}),
    }
    context.settings = context.settings.model_copy(update=update)


def test_new_releases_follow_the_other_tracks(spark, context):
    with_releases(context)
    catalog.run(context)
    got = context.lake.read("catalog", week=context.week.name).to_pylist()
    # Track 10 is a new release, but has enough listeners for the catalogue; 15 has as many and a larger id.
    want = [(0, 4, False), (1, 4, False), (2, 3, False), (10, 3, False), (15, 3, True), (11, 2, True), (16, 2, True)]
    assert [(r["track_id"], r["n_listeners"], r["is_new"]) for r in got] == want
    assert [r["track_idx"] for r in got] == list(range(7))


def test_new_releases_are_bounded_and_off_by_default(spark, context):
    with_releases(context, max_tracks=2)
    catalog.run(context)
    got = context.lake.read("catalog", week=context.week.name)
    assert got["track_id"].to_pylist()[4:] == [15, 11]
    context.settings = context.settings.model_copy(update={"new_releases": NewReleaseSettings()})
    catalog.run(context)
    off = context.lake.read("catalog", week=context.week.name)
    assert off["track_id"].to_pylist() == [0, 1, 2, 10]
    assert off["is_new"].null_count == 4
