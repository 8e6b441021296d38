"""Tests of jobs/quality/completeness.py: missing and half-empty days, the deadline, and who awaits them."""

import json
from datetime import UTC, date, datetime, timedelta

import pytest

from contracts.errors import CheckFailed, NotReady
from jobs.platform.week import Week
from jobs.quality import check
from jobs.quality.completeness import IncompleteDay, incomplete_days, ready
from jobs.settings.source import SourceSettings
from tests.helpers.small_tables import table

FIRST, LAST = date(2026, 10, 5), date(2026, 11, 15)  # six weeks before the Monday of the context's week
DAY = timedelta(days=1)
TABLES = {
    "kind": "tables",
    "inputs": {"e": {"format": "csv", "path": "{data}/{day}/e.csv"}},
    "tables": {"tracks": "SELECT * FROM e", "events": "SELECT * FROM e"},
}
DEADLINE = datetime(2026, 11, 16, 12, tzinfo=UTC)  # of the last day, with the default of 12 hours


def write_day(context, day, n_rows):
    """Write n events of one day."""
    noon = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
    rows = [
        {"user_id": 1, "ts": noon + timedelta(seconds=n), "kind": "stream", "entity": "track", "entity_id": 7}
        for n in range(n_rows)
    ]
    context.lake.write("events", table("events", rows), day=str(day))


def drop_days(context, first, last):
    """Remove the events of a range of days."""
    for n in range((last - first).days + 1):
        context.lake.drop("events", day=str(first + n * DAY))


def with_source(context, **changes):
    """Set fields of the section `source`."""
    source = SourceSettings.model_validate({**TABLES, **changes})
    context.settings = context.settings.model_copy(update={"source": source})


@pytest.fixture
def full_context(context):
    """A context of the source `tables`, whose lake has ten events on each day of six weeks."""
    with_source(context)
    registered_at = datetime(2026, 7, 1, tzinfo=UTC)
    context.lake.write("users", table("users", [{"user_id": 1, "registered_at": registered_at}]))
    context.lake.write("tracks", table("tracks", [{"track_id": 7, "artist_id": 3, "album_id": 4}]))
    for n in range((LAST - FIRST).days + 1):
        write_day(context, FIRST + n * DAY, 10)
    return context


def incomplete(context, first=FIRST, last=LAST):
    """Return the incomplete days of events."""
    return incomplete_days(context.lake, context.settings.source, "events", first, last)


def test_a_complete_range_has_no_incomplete_day_and_earlier_days_are_not_missing(full_context):
    assert incomplete(full_context) == []
    assert incomplete(full_context, first=date(2026, 1, 1)) == []


def test_a_missing_day_is_incomplete_with_the_usual_rows_of_its_weekday(full_context):
    full_context.lake.drop("events", day="2026-11-11")
    assert incomplete(full_context) == [IncompleteDay(date(2026, 11, 11), 0, 5)]


@pytest.mark.parametrize(("n_rows", "is_complete"), [(4, False), (5, True), (100, True)])
def test_a_day_needs_half_of_the_rows_of_its_weekday(full_context, n_rows, is_complete):
    write_day(full_context, LAST, n_rows)
    expected = [] if is_complete else [IncompleteDay(LAST, n_rows, 5)]
    assert incomplete(full_context) == expected


def test_the_reference_is_the_median_of_the_four_weeks_before(full_context):
    for n_weeks, n_rows in ((1, 100), (2, 40), (3, 20), (4, 1), (5, 1000)):
        write_day(full_context, LAST - 7 * n_weeks * DAY, n_rows)
    write_day(full_context, LAST, 14)
    assert incomplete(full_context, first=LAST) == [IncompleteDay(LAST, 14, 15)]  # half of the median 30
    write_day(full_context, LAST, 15)
    assert incomplete(full_context, first=LAST) == []


def test_without_an_earlier_week_a_day_only_has_to_be_present(full_context):
    write_day(full_context, FIRST + DAY, 1)
    full_context.lake.drop("events", day=str(FIRST + 2 * DAY))
    assert incomplete(full_context, last=FIRST + 6 * DAY) == [IncompleteDay(FIRST + 2 * DAY, 0, None)]


def test_a_weekday_is_compared_with_its_own_weekday(full_context):
    for day in (date(2026, 10, 10), date(2026, 10, 17), date(2026, 10, 24), date(2026, 10, 31), date(2026, 11, 7)):
        write_day(full_context, day, 2)  # Saturdays are quiet
    write_day(full_context, date(2026, 11, 14), 1)
    assert incomplete(full_context) == []


def test_an_accepted_day_is_complete_and_no_reference_for_later_days(full_context):
    write_day(full_context, date(2026, 11, 8), 1)
    write_day(full_context, LAST, 4)
    for n_weeks in (2, 3, 4):
        full_context.lake.drop("events", day=str(LAST - 7 * n_weeks * DAY))
    with_source(full_context, accepted_days=["2026-11-08", "2026-11-01", "2026-10-25", "2026-10-18"])
    assert incomplete(full_context) == []  # nothing to compare the last day with
    with_source(full_context, accepted_days=["2026-11-01", "2026-10-25", "2026-10-18"])
    assert incomplete(full_context) == [IncompleteDay(date(2026, 11, 8), 1, 5)]


def test_a_range_before_the_first_day_and_an_empty_table_are_missing(full_context):
    assert len(incomplete(full_context, date(2026, 9, 1), date(2026, 9, 7))) == 7
    drop_days(full_context, FIRST, LAST)
    assert len(incomplete(full_context, first=LAST)) == 1


def test_a_week_without_its_newest_days_stops_at_check(full_context, capsys):
    assert check.run(full_context, ["events"])["tables"]["events"]["failed"] == 0
    drop_days(full_context, date(2026, 11, 13), LAST)
    with pytest.raises(CheckFailed) as error:
        check.run(full_context, ["users", "events"])
    message = str(error.value)
    assert "  events: 3 incomplete days, 2026-11-13 to 2026-11-15" in message
    assert "e.g. day=2026-11-13 rows=0 expected=5\n" in message
    assert "overture ingest tables --from 2026-11-13 --to 2026-11-15" in message
    assert "source.accepted_days: [2026-11-13, 2026-11-14, 2026-11-15]" in message
    drop_days(full_context, date(2026, 11, 4), date(2026, 11, 12))
    with pytest.raises(CheckFailed, match="events: 12 incomplete days, 2026-11-04 to 2026-11-15"):
        check.run(full_context, ["events"])
    with_source(full_context, accepted_days=[f"2026-11-{day:02}" for day in range(4, 16)])
    check.run(full_context, ["events"])
    result = json.loads((full_context.home / "quality" / "2026-11-16" / "events.json").read_text())
    assert result["scope"].endswith("accepted days: 2026-11-04 to 2026-11-15")


def test_a_half_empty_day_stops_a_backtest_up_to_the_end_of_its_ground_truth(full_context):
    full_context.week = Week.parse("2026-10-26", backtest=True)
    with pytest.raises(CheckFailed, match="events: 16 incomplete days, 2026-11-16 to 2026-12-01"):
        check.run(full_context, ["events"])
    full_context.week = Week.parse("2026-10-26")
    check.run(full_context, ["events"])


def test_the_cohort_is_read_even_if_the_window_is_shorter():
    assert Week.parse("2026-11-16").event_days(7) == (date(2026, 10, 10), LAST)
    assert Week.parse("2026-11-16").event_days(90) == (date(2026, 8, 18), LAST)


def test_the_rule_is_off_for_a_source_that_is_loaded_at_once_and_the_report_says_so(full_context):
    full_context.settings = full_context.settings.model_copy(update={"source": SourceSettings(kind="simulate")})
    drop_days(full_context, date(2026, 11, 13), LAST)
    assert check.run(full_context, ["events"])["tables"]["events"]["success"]
    result = json.loads((full_context.home / "quality" / "2026-11-16" / "events.json").read_text())
    (rule,) = [c for c in result["checks"] if c["rule"] == "complete_days"]
    assert (rule["verdict"], rule["text"]) == ("not run", "days are not checked: source simulate is loaded at once")
    report, error = ready(full_context, "events", FIRST, LAST)
    assert error is None
    assert report["note"] == rule["text"]


def test_ready_accepts_a_complete_range_at_any_time(full_context):
    for now in (DEADLINE - timedelta(days=9), DEADLINE + timedelta(days=9)):
        report, error = ready(full_context, "events", FIRST, LAST, now)
        assert (report["complete"], report["incomplete"], error) == (True, {}, None)


def test_a_day_is_awaited_until_its_deadline_and_missing_from_then_on(full_context):
    write_day(full_context, LAST, 2)
    report, error = ready(full_context, "events", FIRST, LAST, DEADLINE - timedelta(seconds=1))
    assert report["incomplete"] == {"2026-11-15": {"rows": 2, "expected": 5}}
    assert isinstance(error, NotReady)
    assert "2026-11-15: 2 rows of at least 5 expected), awaited until 2026-11-16 12:00 UTC" in str(error)
    report, error = ready(full_context, "events", FIRST, LAST, DEADLINE)
    assert not report["complete"]
    assert isinstance(error, CheckFailed)
    assert str(error).startswith("events: 1 incomplete day, 2026-11-15 (2026-11-15: 2 rows of at least 5 expected)")
    assert "overture ingest tables --day 2026-11-15" in str(error)
    with_source(full_context, deadline_h=13)
    assert isinstance(ready(full_context, "events", FIRST, LAST, DEADLINE)[1], NotReady)


def test_an_older_missing_day_is_not_awaited_again(full_context):
    drop_days(full_context, date(2026, 11, 14), LAST)
    _, error = ready(full_context, "events", FIRST, LAST, datetime(2026, 11, 16, tzinfo=UTC))
    assert isinstance(error, CheckFailed)
    assert "1 incomplete day, 2026-11-14" in str(error)
