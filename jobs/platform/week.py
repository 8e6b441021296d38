"""The logical week of a run, and what may be seen in it.

A week is named by its Monday. `as_of` is that Monday, 00:00 UTC; a run sees events strictly before it.
Nothing here reads the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from contracts.errors import BadArgument

COHORT_AGE_DAYS = 37
COHORT_DAYS = 7
TRUTH_DAYS = 30
DAILY = "-daily"


@dataclass(frozen=True, order=True)
class Week:
    """One logical week; `backtest` moves the cohort to [as_of, as_of + 7 d), the paper's protocol.

    A daily update is about everything before the end of a day: `monday` is then the day after, whichever it is.
    """

    monday: date
    backtest: bool = False
    daily: bool = False

    @classmethod
    def parse(cls, text: str, *, backtest: bool = False) -> Week:
        """Read `YYYY-MM-DD`; anything but a Monday is refused with the nearest Mondays named."""
        try:
            day = date.fromisoformat(text)
        except ValueError:
            raise BadArgument(f"week: '{text}' is no date; write a Monday as YYYY-MM-DD, such as 2026-11-16") from None
        if day.weekday() != 0:
            before = day - timedelta(days=day.weekday())
            raise BadArgument(
                f"week: {day} is a {day:%A}; a week is named by its Monday: {before} or {before + timedelta(days=7)}"
            )
        return cls(day, backtest)

    @classmethod
    def after(cls, day: date) -> Week:
        """What an update on top of a day is about."""
        return cls(day + timedelta(days=1), daily=True)

    @classmethod
    def named(cls, name: str) -> Week:
        """The one with this name, of a week or of a daily update."""
        if name.endswith(DAILY):
            return cls(parse_day(name.removesuffix(DAILY)), daily=True)
        return cls.parse(name)

    @classmethod
    def of(cls, day: date) -> Week:
        """The week that a day lies in."""
        return cls(day - timedelta(days=day.weekday()))

    def __str__(self) -> str:
        return self.monday.isoformat()

    @property
    def name(self) -> str:
        """The value of the `week` partition: a backtest, or a daily update, keeps to its own."""
        if self.daily:
            return f"{self.monday}{DAILY}"
        return f"{self.monday}-backtest" if self.backtest else str(self.monday)

    @property
    def previous(self) -> Week:
        """The week before."""
        return Week(self.monday - timedelta(days=7), self.backtest)

    @property
    def as_of(self) -> datetime:
        """Nothing at or after this moment is learned from."""
        return datetime(self.monday.year, self.monday.month, self.monday.day, tzinfo=UTC)

    @property
    def cohort_start(self) -> datetime:
        """First moment at which a cohort user may have registered."""
        return self.as_of if self.backtest else self.as_of - timedelta(days=COHORT_AGE_DAYS)

    @property
    def cohort_end(self) -> datetime:
        """First moment at which a cohort user may no longer have registered."""
        return self.cohort_start + timedelta(days=COHORT_DAYS)

    @property
    def truth_end(self) -> datetime:
        """End of the ground truth of the cohort's last user: registration day, then thirty days."""
        return self.cohort_end + timedelta(days=TRUTH_DAYS)

    def window_start(self, window_days: int) -> datetime:
        """Start of the trailing window that is learned from."""
        return self.as_of - timedelta(days=window_days)


def parse_day(text: str) -> date:
    """Read `YYYY-MM-DD`."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadArgument(f"day: '{text}' is no date; write it as YYYY-MM-DD, such as 2026-11-15") from None
