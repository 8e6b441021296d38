"""The logical week of a run, and the times that follow from it.

A week is named by its Monday. Its as-of time is that Monday, 00:00 UTC; a run uses only events before it. Nothing in
this module reads the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from contracts.errors import BadArgument

COHORT_AGE_DAYS = 37  # days between the start of the cohort's registrations and the as-of time
COHORT_DAYS = 7
TRUTH_DAYS = 30
DAILY = "-daily"
BACKTEST = "-backtest"


@dataclass(frozen=True, order=True)
class Week:
    """One logical week, or one daily update.

    Attributes:
        monday: The week's Monday. For a daily update: the day after the last day that it uses.
        backtest: The cohort registers in [as_of, as_of + 7 days), as in the paper, instead of before the as-of time.
        daily: This is a daily update, which uses everything before the end of a day.
    """

    monday: date
    backtest: bool = False
    daily: bool = False

    @classmethod
    def parse(cls, text: str, *, backtest: bool = False) -> Week:
        """Return the week of a Monday, given as `YYYY-MM-DD`.

        Raises:
            BadArgument: The text is not a date, or the day is not a Monday. The message names the nearest Mondays.
        """
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise BadArgument(
                f"week: '{text}' is not a date; write a Monday as YYYY-MM-DD, such as 2026-11-16"
            ) from None
        if day.weekday() != 0:
            before = day - timedelta(days=day.weekday())
            raise BadArgument(
                f"week: {day} is a {day:%A}; a week is named by its Monday: {before} or {before + timedelta(days=7)}"
            )
        return cls(day, backtest)

    @classmethod
    def after_day(cls, day: date) -> Week:
        """Return the daily update that uses everything up to the end of `day`."""
        return cls(day + timedelta(days=1), daily=True)

    @classmethod
    def from_name(cls, name: str) -> Week:
        """Return the week or the daily update with this `name`. Names of backtests are refused.

        Raises:
            BadArgument: The name does not begin with a date, or a week's date is not a Monday.
        """
        if name.endswith(DAILY):
            return cls(parse_day(name.removesuffix(DAILY)), daily=True)
        return cls.parse(name)

    @classmethod
    def containing(cls, day: date) -> Week:
        """Return the week that contains a day."""
        return cls(day - timedelta(days=day.weekday()))

    def __str__(self) -> str:
        return self.monday.isoformat()

    @property
    def name(self) -> str:
        """The value of the partition key `week`; backtests and daily updates have partitions of their own."""
        if self.daily:
            return f"{self.monday}{DAILY}"
        return f"{self.monday}{BACKTEST}" if self.backtest else str(self.monday)

    @property
    def previous(self) -> Week:
        """The week before."""
        return Week(self.monday - timedelta(days=7), self.backtest)

    @property
    def as_of(self) -> datetime:
        """The as-of time: models are trained only on events before it."""
        return datetime(self.monday.year, self.monday.month, self.monday.day, tzinfo=UTC)

    @property
    def cohort_start(self) -> datetime:
        """Start of the cohort's registrations, included."""
        return self.as_of if self.backtest else self.as_of - timedelta(days=COHORT_AGE_DAYS)

    @property
    def cohort_end(self) -> datetime:
        """End of the cohort's registrations, excluded."""
        return self.cohort_start + timedelta(days=COHORT_DAYS)

    @property
    def truth_end(self) -> datetime:
        """End of the cohort's ground truth, excluded: thirty days after the last registration day."""
        return self.cohort_end + timedelta(days=TRUTH_DAYS)

    def window_start(self, window_days: int) -> datetime:
        """Return the start of the training window, `window_days` days before the as-of time."""
        return self.as_of - timedelta(days=window_days)

    def event_days(self, window_days: int) -> tuple[date, date]:
        """Return the first and the last day, included, of the events that the week reads.

        These are the training window and the cohort with its ground truth.
        """
        start = min(self.window_start(window_days), self.cohort_start)
        return start.date(), max(self.as_of, self.truth_end).date() - timedelta(days=1)


def parse_day(text: str) -> date:
    """Return the day given as `YYYY-MM-DD`.

    Raises:
        BadArgument: The text is not a date.
    """
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadArgument(f"day: '{text}' is not a date; write it as YYYY-MM-DD, such as 2026-11-15") from None
