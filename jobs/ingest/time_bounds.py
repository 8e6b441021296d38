"""The times that an event of real data may have; an event outside them is a bad row of every source."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.settings.source import SourceSettings

FUTURE = timedelta(days=1)  # clocks and time zones of senders differ


@dataclass(frozen=True)
class TimeBounds:
    """Bounds of event times, half-open.

    Attributes:
        earliest: Events before it are bad.
        latest: Events at or after it are bad.
    """

    earliest: datetime
    latest: datetime

    @property
    def too_early(self) -> str:
        """The reason of an event before `earliest`."""
        return f"is before {self.earliest:%Y-%m-%d}"

    @property
    def too_late(self) -> str:
        """The reason of an event at or after `latest`."""
        return "is in the future"


def time_bounds(source: SourceSettings, now: datetime | None = None) -> TimeBounds:
    """Return the bounds of event times: `source.earliest_day` 00:00 UTC, and one day after the time of ingestion.

    Args:
        source: Section `source` of the settings.
        now: The time of ingestion; None: the clock.
    """
    earliest = datetime.combine(source.earliest_day, time(), UTC)
    return TimeBounds(earliest, (now or datetime.now(UTC)) + FUTURE)


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
