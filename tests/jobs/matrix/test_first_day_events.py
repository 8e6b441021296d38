"""first_day from the stored events of first days equals first_day from the whole log, after every kind of change."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pyarrow.compute as pc
import pytest
from pyspark.sql import functions as F

from jobs.matrix import catalog, first_day
from jobs.matrix.first_day_events import ACTIVE_USERS, FIRST_DAY_EVENTS, digest_by_day, split_by_day
from jobs.platform.context import Context
from jobs.platform.log_start import log_start
from jobs.platform.table_digest import digest_rows, digest_table
from jobs.platform.week import Week
from jobs.settings.settings import load
from tests.helpers.small_tables import DAY, SECOND, fill, streams, table

ROOT = Path(__file__).parents[3]
HOUR = timedelta(hours=1)
LATER_TRACK = 30  # not in the tracks table at first
SPLITS = ("train", "validation", "test")
STREAM = {"kind": "stream", "entity": "track"}


@pytest.fixture(scope="module")
def first_run(spark, tmp_path_factory):
    """A context and its report after a first run of the job.

    Warm users 1, 3 and 9 registered before the log, 2 in its first day; user 50 is the cohort.
    """
    home = tmp_path_factory.mktemp("first_run")
    context = Context(load(ROOT / "configs" / "tiny.yaml"), Week.parse("2026-11-16"), home)
    c, log, late = context.week.cohort_start, log_of(context), context.week.as_of - 2 * DAY
    users = [
        {"user_id": 1, "registered_at": log - 100 * DAY, "country": "FR", "age": 30},
        {"user_id": 2, "registered_at": log + 10 * HOUR, "country": "DE"},
        {"user_id": 3, "registered_at": log - DAY},
        {"user_id": 9, "registered_at": log - 200 * DAY},
        {"user_id": 50, "registered_at": c + 20 * HOUR},
    ]
    events = [
        *[e for n in range(5) for e in streams(9, [1, 2, 3, 4, 5], log + n * DAY + 20 * HOUR)],
        *streams(2, [1], log),  # before this user registered
        *streams(2, [4, 5, LATER_TRACK], log + 11 * HOUR),
        *streams(2, [6], log + DAY),
        *streams(1, [3, 3, 1], log + 2 * DAY + HOUR),
        *streams(1, [9], log + 3 * DAY),
        *[e for user in (1, 2, 3, 9) for e in streams(user, range(1, 8), late)],
        *streams(50, [7], c + 20 * HOUR),
        *streams(50, [2, 1], c + DAY),
    ]
    fill(context, users=users, events=events, n_catalog=7, min_tracks=5, min_truth_tracks=2)
    catalog.run(context)
    return context, first_day.run(context)


@pytest.fixture
def after_first_run(first_run, tmp_path):
    """A context over a copy of the lake after the first run."""
    shutil.copytree(first_run[0].home / "lake", tmp_path / "lake")
    return replace(first_run[0], home=tmp_path)


def log_of(context):
    return context.week.cohort_start - 5 * DAY


def change_day(context, day, *, add=(), remove_user=None):
    """Write one day of events again."""
    name = str(day.date())
    rows = context.lake.read("events", day=name).to_pylist() if context.lake.exists("events", day=name) else []
    kept = [row for row in rows if row["user_id"] != remove_user]
    context.lake.write("events", table("events", kept + [STREAM | row for row in add]), day=name)


def change_rows(context, name, key, changes):
    """Replace, add (a new key) or remove (None) rows of `users` or `tracks`."""
    rows = {row[key]: row for row in context.lake.read(name).to_pylist()}
    for value, change in changes.items():
        if change is None:
            del rows[value]
        else:
            rows[value] = rows.get(value, {key: value}) | change
    context.lake.write(name, table(name, list(rows.values())))


def read(context):
    """Return the rows of all splits by user."""
    parts = [context.lake.read("first_day", week=context.week.name, split=split).to_pylist() for split in SPLITS]
    return {row["user_id"]: row for part in parts for row in part}


def assert_equals_the_whole_log(context):
    """Compute the three splits from all events, without the stored ones, and compare the digests."""
    lake, week, spark, settings = context.lake, context.week, context.spark, context.settings.matrix.first_day
    first = datetime.combine(date.fromisoformat(lake.partitions("events")[0]["day"]), time(), UTC)
    events = lake.events(spark, first, max(week.as_of, week.cohort_end + DAY))
    users, tracks = lake.spark(spark, "users"), lake.spark(spark, "tracks")
    warm = lake.spark(spark, "warm_users", week=week.name).select("user_id").join(users, "user_id", "left")
    as_of = F.lit(week.as_of.isoformat()).cast("timestamp")
    registered = first_day.registration_days(warm, settings)
    warm_days = first_day.move_to_first_seen_day(
        registered, events.where(F.col("ts") < as_of), log_start(lake), settings
    )
    warm_days = warm_days.withColumn("end", F.least("end", as_of))
    cohort = lake.spark(spark, "cohort", week=week.name)
    for split in SPLITS:
        members = users.join(cohort.where(F.col("split") == split).select("user_id"), "user_id")
        days = warm_days if split == "train" else first_day.registration_days(members, settings)
        whole = first_day.collect_first_days(days, events, tracks).toArrow()
        stored = lake.read("first_day", week=week.name, split=split)
        assert digest_rows("first_day", stored) == digest_rows("first_day", whole), split


def add_late_rows(context):
    log = log_of(context)
    change_day(context, log, add=streams(2, [10], log + 12 * HOUR))
    change_day(context, log + DAY, add=streams(1, [8], log + DAY + 2 * HOUR))
    change_day(context, log + 4 * DAY, add=streams(3, [12], log + 4 * DAY))


def remove_rows(context):
    change_day(context, log_of(context) + 2 * DAY, remove_user=1)


def remove_day(context):
    context.lake.drop("events", day=str((log_of(context) + 2 * DAY).date()))


def move_log_start_back(context):
    older = log_of(context) - 2 * DAY
    change_day(context, older, add=[*streams(9, [1, 2, 3, 4], older), *streams(1, [14], older + HOUR)])


def change_registrations(context):
    log = log_of(context)
    changes = {2: {"registered_at": log + 11 * HOUR + SECOND}, 1: {"registered_at": log + 3 * DAY}}
    change_rows(context, "users", "user_id", changes)


def change_profiles(context):
    change_rows(context, "users", "user_id", {1: {"country": "BR"}, 2: {"age": 41}})


def remove_user(context):
    change_rows(context, "users", "user_id", {2: None})


def change_tracks(context):
    changes = {3: None, 4: {"artist_id": 999}, LATER_TRACK: {"artist_id": 5, "album_id": 6}}
    change_rows(context, "tracks", "track_id", changes)


CASES = {
    # change: (days of events read for active_users and first_day_events, streamed songs of users 1, 2 and 3)
    add_late_rows: ((3, 5), [8], [4, 5, 10], [12]),
    remove_rows: ((1, 2), [9], [4, 5], [1, 2, 3, 4, 5, 6, 7]),
    remove_day: ((0, 1), [9], [4, 5], [1, 2, 3, 4, 5, 6, 7]),
    move_log_start_back: ((1, 4), [14], [4, 5], []),
    change_registrations: ((0, 3), [9], [5], [1, 2, 3, 4, 5, 6, 7]),
    change_profiles: ((0, 0), [3, 3, 1], [4, 5], [1, 2, 3, 4, 5, 6, 7]),
    remove_user: ((0, 1), [3, 3, 1], [], [1, 2, 3, 4, 5, 6, 7]),
    change_tracks: ((0, 0), [1], [4, 5, LATER_TRACK], [1, 2, 4, 5, 6, 7]),
}


@pytest.mark.parametrize("change", CASES, ids=lambda change: change.__name__)
def test_after_a_change_the_result_is_that_of_the_whole_log(after_first_run, change):
    before = read(after_first_run)
    assert [before[u]["streamed_songs"] for u in (1, 2, 3, 50)] == [[3, 3, 1], [4, 5], [1, 2, 3, 4, 5, 6, 7], [7]]
    change(after_first_run)
    report = first_day.run(after_first_run)
    rows = read(after_first_run)
    n_days, *songs = CASES[change]
    assert [rows[u]["streamed_songs"] for u in (1, 2, 3)] == songs
    assert tuple(report["days_read"].values()) == n_days
    assert_equals_the_whole_log(after_first_run)
    if change is change_profiles:
        assert [(rows[u]["country"], rows[u]["age"]) for u in (1, 2)] == [("BR", 30), ("DE", 41)]
    if change is change_tracks:
        assert rows[2]["streamed_artists"] == [999, 102, 5]


def test_tables_after_many_changes_are_those_of_a_first_run(after_first_run):
    for change in CASES:
        change(after_first_run)
    first_day.run(after_first_run)
    assert_equals_the_whole_log(after_first_run)
    lake = after_first_run.lake
    names = (ACTIVE_USERS, FIRST_DAY_EVENTS)
    digests = [digest_table(lake, name).sha256 for name in names]
    for name in names:
        for partition in lake.partitions(name):
            lake.drop(name, **partition)
    report = first_day.run(after_first_run)
    assert set(report["days_read"].values()) == {len(lake.partitions("events"))}
    assert [digest_table(lake, name).sha256 for name in names] == digests


def test_a_second_run_opens_no_event_before_the_cohort(first_run, after_first_run):
    lake, start = after_first_run.lake, after_first_run.week.cohort_start
    assert set(first_run[1]["days_read"].values()) == {len(lake.partitions("events"))}
    digest = digest_table(lake, "first_day").sha256
    for partition in lake.partitions("events"):
        if partition["day"] < str(start.date()):
            for file in lake.files("events", **partition):
                Path(file).unlink()
    report = first_day.run(after_first_run)
    assert set(report["days_read"].values()) == {0}
    assert digest_table(lake, "first_day").sha256 == digest


def test_the_next_week_reads_its_own_days_and_an_earlier_week_stays(after_first_run):
    week, lake = after_first_run.week, after_first_run.lake
    digest = digest_table(lake, "first_day", week.name).sha256
    added = {60: {"registered_at": week.cohort_end + HOUR}, 4: {"registered_at": log_of(after_first_run) - 300 * DAY}}
    change_rows(after_first_run, "users", "user_id", added)
    change_day(after_first_run, week.cohort_end, add=streams(60, [5, 6], week.cohort_end + 2 * HOUR))
    change_day(after_first_run, week.as_of, add=streams(60, [5, 6], week.as_of + HOUR))
    change_day(after_first_run, week.as_of + 6 * DAY, add=streams(4, range(1, 8), week.as_of + 6 * DAY))
    following = replace(after_first_run, week=Week(week.monday + 7 * DAY))
    catalog.run(following)
    report = first_day.run(following)
    assert report["days_read"] == {"active_users": 3, "first_day_events": 3}
    rows = read(following)
    assert rows[4]["streamed_songs"] == [1, 2, 3, 4, 5, 6, 7]
    assert rows[60]["streamed_songs"] == [5, 6]
    assert_equals_the_whole_log(following)
    change_rows(after_first_run, "users", "user_id", {4: None, 60: None})
    report = first_day.run(after_first_run)
    assert report["days_read"] == {"active_users": 0, "first_day_events": 1}  # the day of user 60
    assert digest_table(lake, "first_day", week.name).sha256 == digest


def test_stored_days_contain_the_events_of_first_days_only(after_first_run):
    lake, log = after_first_run.lake, log_of(after_first_run)
    rows = {p["day"]: lake.read(FIRST_DAY_EVENTS, **p) for p in lake.partitions(FIRST_DAY_EVENTS)}
    assert sorted(rows) == [p["day"] for p in lake.partitions("events")]
    songs = {
        (day, user): rows[day].filter(pc.field("user_id") == user)["entity_id"].to_pylist()
        for day in rows
        for user in set(rows[day]["user_id"].to_pylist())
    }
    day = lambda time: str(time.date())  # noqa: E731
    assert {key: sorted(ids) for key, ids in songs.items()} == {
        (day(log), 2): [4, 5, LATER_TRACK],
        (day(log), 9): [1, 2, 3, 4, 5],
        (day(log + 2 * DAY), 1): [1, 3, 3],
        (day(after_first_run.week.as_of - 2 * DAY), 3): [1, 2, 3, 4, 5, 6, 7],
        (day(after_first_run.week.cohort_start), 50): [7],
    }


def test_spans_are_cut_at_midnights_and_their_digest_is_that_of_the_day(spark):
    noon = datetime(2026, 10, 1, 12, tzinfo=UTC)

    def split(*spans):
        return split_by_day(
            spark.createDataFrame([(u, s, e) for u, s, e in spans], "user_id long, start timestamp, end timestamp")
        )

    whole = split((1, noon, noon + DAY), (1, noon, noon + DAY), (2, noon, noon + 12 * HOUR))
    seconds = whole.select("user_id", F.col("day").cast("string"), *[F.col(c).cast("long") for c in ("start", "end")])
    noon_s, midnight_s = int(noon.timestamp()), int(noon.timestamp()) + 12 * 3600
    assert sorted(map(tuple, seconds.collect())) == [
        (1, "2026-10-01", noon_s, midnight_s),
        (1, "2026-10-02", midnight_s, noon_s + 86400),
        (2, "2026-10-01", noon_s, midnight_s),
    ]
    digests = digest_by_day(whole)
    assert digests == digest_by_day(whole.orderBy(F.desc("user_id")))
    longer = digest_by_day(split((1, noon, noon + DAY + SECOND), (2, noon, noon + 12 * HOUR)))
    assert longer["2026-10-01"] == digests["2026-10-01"]
    assert longer["2026-10-02"] != digests["2026-10-02"]
    other_user = digest_by_day(split((3, noon, noon + DAY), (2, noon, noon + 12 * HOUR)))
    assert all(other_user[day] != digests[day] for day in digests)
