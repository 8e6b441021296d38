"""The first day ends at midnight of a time zone, also at clock changes, or after 24 hours; both jobs agree."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import ValidationError
from pyspark.sql import functions as F

from jobs.matrix import catalog, first_day
from jobs.matrix.first_day_bounds import add_days, end_of_day, start_of_day
from jobs.release.place_new_users import compute_first_days
from jobs.settings.matrix import FirstDaySettings
from tests.helpers.small_tables import DAY, SECOND, event, fill, streams, table

HOUR = timedelta(hours=1)
UTC_DAY = FirstDaySettings()
BERLIN = FirstDaySettings(time_zone="Europe/Berlin")
HAVANA = FirstDaySettings(time_zone="America/Havana")  # midnight is skipped in spring and occurs twice in autumn
CAIRO = FirstDaySettings(time_zone="Africa/Cairo")  # midnight is skipped in spring
APIA = FirstDaySettings(time_zone="Pacific/Apia")  # 30 December 2011 did not exist
HOURS = FirstDaySettings(length="24_hours")


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("settings", "registered", "start", "end", "day_30"),
    [
        (UTC_DAY, "2026-11-15T00:00", "2026-11-15T00:00", "2026-11-16T00:00", "2026-12-16T00:00"),
        (UTC_DAY, "2026-11-15T23:50", "2026-11-15T00:00", "2026-11-16T00:00", "2026-12-16T00:00"),
        (HOURS, "2026-11-15T23:50", "2026-11-15T23:50", "2026-11-16T23:50", "2026-12-16T23:50"),
        (HOURS, "2026-10-24T23:50", "2026-10-24T23:50", "2026-10-25T23:50", "2026-11-24T23:50"),
        # winter and summer
        (BERLIN, "2026-01-10T22:59:59", "2026-01-09T23:00", "2026-01-10T23:00", "2026-02-09T23:00"),
        (BERLIN, "2026-01-10T23:00", "2026-01-10T23:00", "2026-01-11T23:00", "2026-02-10T23:00"),
        (BERLIN, "2026-07-10T22:00", "2026-07-10T22:00", "2026-07-11T22:00", "2026-08-10T22:00"),
        # 29 March 2026 has 23 hours: the days before, of and after it
        (BERLIN, "2026-03-28T12:00", "2026-03-27T23:00", "2026-03-28T23:00", "2026-04-27T22:00"),
        (BERLIN, "2026-03-29T12:00", "2026-03-28T23:00", "2026-03-29T22:00", "2026-04-28T22:00"),
        (BERLIN, "2026-03-29T22:00", "2026-03-29T22:00", "2026-03-30T22:00", "2026-04-29T22:00"),
        # 25 October 2026 has 25 hours; 02:30 occurs twice
        (BERLIN, "2026-10-24T22:00", "2026-10-24T22:00", "2026-10-25T23:00", "2026-11-24T23:00"),
        (BERLIN, "2026-10-25T00:30", "2026-10-24T22:00", "2026-10-25T23:00", "2026-11-24T23:00"),
        (BERLIN, "2026-10-25T01:30", "2026-10-24T22:00", "2026-10-25T23:00", "2026-11-24T23:00"),
        (BERLIN, "2026-10-24T21:59", "2026-10-23T22:00", "2026-10-24T22:00", "2026-11-23T23:00"),
        # the day begins at 01:00, which is 05:00 UTC
        (HAVANA, "2026-03-07T12:00", "2026-03-07T05:00", "2026-03-08T05:00", "2026-04-07T04:00"),
        (HAVANA, "2026-03-08T12:00", "2026-03-08T05:00", "2026-03-09T04:00", "2026-04-08T04:00"),
        # midnight occurs at 04:00 and at 05:00 UTC; the day begins at the first
        (HAVANA, "2026-10-31T12:00", "2026-10-31T04:00", "2026-11-01T04:00", "2026-12-01T05:00"),
        (HAVANA, "2026-11-01T05:30", "2026-11-01T04:00", "2026-11-02T05:00", "2026-12-02T05:00"),
        (CAIRO, "2026-04-23T12:00", "2026-04-22T22:00", "2026-04-23T22:00", "2026-05-23T21:00"),
        (CAIRO, "2026-04-24T12:00", "2026-04-23T22:00", "2026-04-24T21:00", "2026-05-24T21:00"),
        (APIA, "2011-12-29T20:00", "2011-12-29T10:00", "2011-12-30T10:00", "2012-01-29T10:00"),
    ],
)
def test_start_and_end_of_the_first_day_and_of_day_30(spark, settings, registered, start, end, day_30):
    frame = spark.createDataFrame([(at(registered),)], "moment timestamp")
    ended = end_of_day(F.col("moment"), settings)
    row = frame.select(
        *(F.unix_micros(column) for column in (start_of_day(F.col("moment"), settings), ended)),
        F.unix_micros(add_days(ended, 30, settings)),
    ).first()
    found = [datetime.fromtimestamp(micros / 1e6, UTC) for micros in row]
    assert found == [at(start), at(end), at(day_30)]


def test_an_unknown_time_zone_is_refused():
    with pytest.raises(ValidationError, match="there is no time zone 'Europe/Berln'"):
        FirstDaySettings(time_zone="Europe/Berln")


@pytest.mark.parametrize("settings", [UTC_DAY, BERLIN, FirstDaySettings(time_zone="America/Los_Angeles"), HOURS])
def test_the_daily_job_sees_the_first_day_of_training_once(spark, settings):
    """Every user is placed on one day, by events of that day and earlier, with the signals of the weekly job."""
    start = at("2026-10-23T00:00")
    users = [{"user_id": n, "registered_at": start + n * 5 * HOUR + 7 * SECOND} for n in range(20)]
    events = [
        event(user["user_id"], "stream", "track", hour % 20, start + hour * HOUR)
        for user in users
        for hour in range(24 * 8)
    ]
    users, events = (spark.createDataFrame(table(name, rows)) for name, rows in (("users", users), ("events", events)))
    tracks = [{"track_id": n, "artist_id": n, "album_id": n} for n in range(20)]
    tracks = spark.createDataFrame(table("tracks", tracks))
    signals = ["user_id", "streamed_songs"]
    days = first_day.registration_days(users, settings)
    weekly = first_day.collect_first_days(days, events, tracks).select(signals).collect()
    daily = []
    for n in range(8):
        day = start + n * DAY
        known = events.where(F.col("ts") < F.lit((day + DAY).isoformat()).cast("timestamp"))
        daily += compute_first_days(users, known, tracks, day.date(), settings).select(signals).collect()
    assert sorted(map(tuple, daily)) == sorted(map(tuple, weekly))
    hours = {len(row["streamed_songs"]) for row in weekly}
    assert hours == {24} if settings is HOURS else min(hours) < 10 < max(hours)


def test_first_days_and_truth_of_24_hours(spark, context):
    """The truth begins where the first day ends; who cannot have thirty days before as_of is not in the cohort."""
    week, c = context.week, context.week.cohort_start
    late = week.cohort_end - DAY
    users = [
        {"user_id": 1, "registered_at": c - 90 * DAY},
        {"user_id": 50, "registered_at": c + 20 * HOUR},
        {"user_id": 51, "registered_at": late},
        {"user_id": 52, "registered_at": late + SECOND},
    ]
    seen = c - 4 * DAY + 6 * HOUR
    events = [
        *streams(1, [3, 4], seen),
        {"user_id": 1, "entity_id": 5, "ts": seen + DAY - SECOND},
        {"user_id": 1, "entity_id": 6, "ts": seen + DAY},
        *streams(1, [1, 2, 7], week.as_of - DAY),
        {"user_id": 50, "entity_id": 2, "ts": c + 20 * HOUR},
        {"user_id": 50, "entity_id": 3, "ts": c + 44 * HOUR - SECOND},
        {"user_id": 50, "entity_id": 4, "ts": c + 44 * HOUR},
        {"user_id": 50, "entity_id": 5, "ts": c + 44 * HOUR + 30 * DAY - SECOND},
        {"user_id": 50, "entity_id": 6, "ts": c + 44 * HOUR + 30 * DAY},
        *streams(51, [1], week.as_of - SECOND),
        *streams(52, [1], week.as_of - SECOND),
    ]
    fill(context, users=users, events=events, min_tracks=2)
    matrix = context.settings.matrix.model_copy(update={"first_day": HOURS})
    context.settings = context.settings.model_copy(update={"matrix": matrix})
    catalog.run(context)
    first_day.run(context)
    ids = {r["track_idx"]: r["track_id"] for r in context.lake.read("catalog", week=week.name).to_pylist()}
    cohort = context.lake.read("cohort", week=week.name).to_pylist()
    assert {r["user_id"]: sorted(ids[t] for t in r["truth"]) for r in cohort} == {50: [4, 5], 51: [1]}
    dropped = context.lake.report("cohort", week=week.name)["dropped"]
    assert dropped == {
        "fewer than 1 catalogue tracks on days 1 to 30": 0, f"days 1 to 30 end after {week.as_of:%Y-%m-%d}": 1,
    }  # fmt: skip
    rows = {}
    for split in ("train", "validation", "test"):
        part = context.lake.read("first_day", week=week.name, split=split).to_pylist()
        rows |= {row["user_id"]: row["streamed_songs"] for row in part}
    assert rows == {1: [3, 4, 5], 50: [2, 3], 51: []}
