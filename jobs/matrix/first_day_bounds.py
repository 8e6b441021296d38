"""Where a listener's first day ends, and where days 1 to 30 end: `matrix.first_day` of the settings.

calendar_day  the first day ends at the next midnight in the service's time zone. A day has 23 or 25 hours where the
              clocks change, and begins later where midnight does not exist
24_hours      the first day ends 24 hours after the registration, the n-th day after it 24 n hours later

Times are UTC; the Spark session's time zone is UTC, so a local time is a timestamp that shows it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from jobs.settings.matrix import FirstDaySettings

if TYPE_CHECKING:
    from pyspark.sql import Column


def end_of_day(moment: Column, first_day: FirstDaySettings) -> Column:
    """Return the end, excluded, of the first day of listeners who registered at `moment`."""
    if first_day.length == "24_hours":
        return moment + F.expr("interval 24 hours")
    local_day = F.date_trunc("day", F.from_utc_timestamp(moment, first_day.time_zone))
    return F.to_utc_timestamp(local_day + F.expr("interval 1 day"), first_day.time_zone)


def start_of_day(moment: Column, first_day: FirstDaySettings) -> Column:
    """Return the start of the day that stands for the registration day of listeners first seen at `moment`."""
    if first_day.length == "24_hours":
        return moment
    local_day = F.date_trunc("day", F.from_utc_timestamp(moment, first_day.time_zone))
    return F.to_utc_timestamp(local_day, first_day.time_zone)


def add_days(end: Column, n: int, first_day: FirstDaySettings) -> Column:
    """Return the end of the n-th day after the first day, which ended at `end`."""
    if first_day.length == "24_hours":
        return end + F.expr(f"interval {24 * n} hours")
    local = F.from_utc_timestamp(end, first_day.time_zone)
    # The end is the start of a day, later than midnight where midnight does not exist.
    return F.to_utc_timestamp(F.date_trunc("day", local) + F.expr(f"interval {n} days"), first_day.time_zone)
