"""The first day of the event log, which single rows with a wrong time do not move.

A listener's registration day is in the log only if it is not before the log's first day. The earliest partition of
`events` cannot be that day: one row with a wrong clock would make it, and every listener who registered between it and
the real start would lose the first-day signals.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from statistics import median_low
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jobs.platform.lake import Lake

MIN_SHARE = 1 / 3  # of the events of an average day
MAX_RATIO = 20  # of a day to the median day


def find_log_start(rows_by_day: Mapping[str, int]) -> date:
    """Return the first day with at least a third of the events of an average day.

    One row on a day of its own moves it only in a log with three events a day or fewer. In the average a day counts as
    at most 20 median days, so that one huge day does not move it either. The small first days of a
    service that has grown are before the log's start, too: jobs/matrix/first_day.py keeps the registration day of
    listeners who have events on it.

    Args:
        rows_by_day: Number of events by day, YYYY-MM-DD; at least one day.
    """
    largest = MAX_RATIO * median_low(rows_by_day.values())
    needed = MIN_SHARE * sum(min(n, largest) for n in rows_by_day.values()) / len(rows_by_day)
    return date.fromisoformat(min(day for day, n in rows_by_day.items() if n >= needed))


def log_start(lake: Lake) -> date:
    """Return the first day of the event log of a lake with at least one day of events."""
    return find_log_start({state.partition["day"]: state.rows for state in lake.states("events")})
