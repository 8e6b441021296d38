"""The logical week."""

from datetime import UTC, date, datetime, timedelta

import pytest

from contracts.errors import BadArgument
from jobs.platform.week import Week


def test_week_covers_the_time_before_its_monday():
    week = Week.parse("2026-11-16")
    assert week.as_of == datetime(2026, 11, 16, tzinfo=UTC)
    assert week.cohort_start == datetime(2026, 10, 10, tzinfo=UTC)
    assert week.cohort_end == datetime(2026, 10, 17, tzinfo=UTC)
    assert week.truth_end <= week.as_of
    assert week.window_start(7) == week.previous.as_of


def test_cohort_of_a_backtest_registers_after_the_monday():
    week = Week.parse("2026-11-16", backtest=True)
    assert week.cohort_start == week.as_of
    assert week.truth_end == week.as_of + timedelta(days=37)
    assert week.name != Week.parse("2026-11-16").name


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2026-11-18", "a Wednesday; a week is named by its Monday: 2026-11-16 or 2026-11-23"),
        ("2026-02-30", "'2026-02-30' is not a date"),
        ("", "'' is not a date"),
    ],
)
def test_days_other_than_mondays_raise(text, message):
    with pytest.raises(BadArgument, match=message):
        Week.parse(text)


def test_week_names_are_parsed_back():
    for week in (Week.parse("2026-11-16"), Week.after_day(date(2026, 11, 18))):
        assert Week.from_name(week.name) == week
    assert Week.after_day(date(2026, 11, 18)).name == "2026-11-19-daily"
    assert Week.containing(date(2026, 11, 22)) == Week.parse("2026-11-16")
