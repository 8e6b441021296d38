"""The days of a run."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.tables.days import Selection, plan_days

NOVEMBER = [str(date(2026, 11, 1) + timedelta(n)) for n in range(30)]


def day(number: int) -> date:
    return date(2026, 11, number)


def test_all_days_without_a_selection():
    plan = plan_days({"listens": NOVEMBER}, Selection(), 3)
    assert plan.selected == plan.read == tuple(day(n) for n in range(1, 31))
    assert (plan.days[0], plan.days[-1]) == (day(1), day(30))


def test_a_day_rewrites_the_days_that_its_late_rows_may_join():
    plan = plan_days({"listens": NOVEMBER}, Selection.parse("2026-11-10", "", ""), 3)
    assert plan.selected == (day(10),)
    assert plan.days == tuple(day(n) for n in range(7, 11))
    assert plan.read == tuple(day(n) for n in range(7, 14))


def test_late_rows_never_begin_the_log_earlier():
    plan = plan_days({"listens": NOVEMBER}, Selection.parse("2026-11-02", "", ""), 3)
    assert plan.days == (day(1), day(2))


def test_late_rows_join_days_of_the_lake_whose_files_are_gone():
    files = {"listens": NOVEMBER[9:]}
    plan = plan_days(files, Selection.parse("2026-11-10", "", ""), 3, first_in_lake=day(8))
    assert plan.days == (day(8), day(9), day(10))


def test_a_named_day_without_files_stops_the_run():
    days = {"listens": [d for d in NOVEMBER if d != "2026-11-05"]}
    with pytest.raises(CheckFailed, match=r"listens: no file of 2026-11-05"):
        plan_days(days, Selection.parse("", "2026-11-04", "2026-11-06"), 3)


def test_a_gap_is_reported_without_a_selection():
    plan = plan_days({"listens": [d for d in NOVEMBER if d != "2026-11-05"]}, Selection(), 3)
    assert plan.gaps == (day(5),)


def test_a_day_that_one_input_lacks_stops_the_run():
    with pytest.raises(CheckFailed, match=r"likes: no file of 2026-11-30, but another input has this day"):
        plan_days({"listens": NOVEMBER, "likes": NOVEMBER[:-1]}, Selection(), 0)


def test_no_file_at_all():
    with pytest.raises(CheckFailed, match="listens: no file matches"):
        plan_days({"listens": []}, Selection(), 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("2026-11-31", "", ""), "--from: '2026-11-31' is not a day"),
        (("2026-11-10", "2026-11-01", ""), "--day: cannot be combined"),
        (("", "2026-11-10", "2026-11-01"), "--from: 2026-11-10 is after --to 2026-11-01"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(BadArgument, match=message):
        Selection.parse(*options)
