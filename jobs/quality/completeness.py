"""Find days of `events` or `plays` that are missing or half-empty, and decide whether a pipeline waits for them.

Rule     a day is complete if its partition is in the lake and has at least `source.min_day_share` of the rows that its
         weekday usually has: the median of the same weekday in those of the four weeks before that are in the lake.
         Without any of them, the partition is enough
Exempt   days before the table's first day, and `source.accepted_days`
Sources  source.kind `tables`, which is ingested day by day. Other sources are loaded at once, so that no day is awaited

`overture check` stops a week with incomplete days. `overture ready` is what pipelines wait for before they begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from statistics import median
from typing import Any

from contracts.errors import CheckFailed, NotReady, OvertureError
from jobs.platform.context import Context
from jobs.platform.lake import Lake
from jobs.quality.measures import TableMeasures
from jobs.settings.source import SourceSettings

RULE = "complete_days"
N_REFERENCE_WEEKS = 4
N_COMMANDS = 3
DAY = timedelta(days=1)


@dataclass(frozen=True)
class IncompleteDay:
    """A day that is missing or half-empty.

    Attributes:
        day: The day (UTC).
        rows: Number of rows in the lake.
        expected: Smallest number of rows of a complete day; None: unknown, because no earlier week is in the lake.
    """

    day: date
    rows: int
    expected: int | None

    @property
    def reason(self) -> str:
        """Day, rows and expected rows in words."""
        expected = "" if self.expected is None else f" of at least {self.expected} expected"
        return f"{self.day}: {self.rows} rows{expected}"


def deadline(day: date, hours: float) -> datetime:
    """Return the time until which a day is awaited, `hours` after its end (UTC)."""
    return datetime.combine(day + DAY, time(), UTC) + timedelta(hours=hours)


def skipped_reason(source: SourceSettings) -> str:
    """Return why days are not checked with these settings; empty if they are."""
    return "" if source.kind == "tables" else f"days are not checked: source {source.kind} is loaded at once"


def incomplete_days(lake: Lake, source: SourceSettings, table: str, first: date, last: date) -> list[IncompleteDay]:
    """Return the incomplete days of a range, ascending; none for a source that is loaded at once.

    Args:
        lake: Lake with the table.
        source: Settings of the source.
        table: `events` or `plays`.
        first: First day. Days before the table's first day are not missing, unless the whole range is before it.
        last: Last day, included.
    """
    if skipped_reason(source):
        return []
    stored = {date.fromisoformat(state.partition["day"]): state.rows for state in lake.states(table)}
    accepted = set(source.accepted_days)
    start = min(stored, default=first)
    start = max(first, start) if start <= last else first
    result = []
    for day in (start + n * DAY for n in range((last - start).days + 1)):
        if day in accepted:
            continue
        reference = [day - 7 * n * DAY for n in range(1, N_REFERENCE_WEEKS + 1)]
        usual = [stored[d] for d in reference if d in stored and d not in accepted]
        expected = math.ceil(source.min_day_share * median(usual)) if usual else None
        rows = stored.get(day, 0)
        if day not in stored or rows < (expected or 0):
            result.append(IncompleteDay(day, rows, expected))
    return result


def measure(context: Context, measured: TableMeasures) -> None:
    """Add the number of incomplete days in the week's range, and examples, if the table's contract has this check."""
    if not measured.partitions or all(e.rule != RULE for e in measured.expectations):
        return
    source = context.settings.source
    reason = skipped_reason(source)
    if reason:
        measured.blocked[RULE] = reason
        return
    first, last = context.week.event_days(context.settings.matrix.window_days)
    days = incomplete_days(context.lake, source, measured.contract.table, first, last)
    measured.measures[""][RULE] = float(len(days))
    if days:
        measured.blocked[RULE] = f"{_summary(days)} ({_remedy(days)})"
        measured.examples[RULE] = [
            {"day": str(d.day), "rows": d.rows, "expected": "unknown" if d.expected is None else d.expected}
            for d in days
        ]
    accepted = [day for day in source.accepted_days if first <= day <= last]
    if accepted:
        measured.scope += f"; accepted days: {_ranges(accepted)}"


def ready(
    context: Context, table: str, first: date, last: date, now: datetime | None = None
) -> tuple[dict[str, Any], OvertureError | None]:
    """Return the report about a range of days, and the error of the command if it is not complete.

    Args:
        context: Lake and settings.
        table: `events` or `plays`.
        first: First day.
        last: Last day, included.
        now: The time, with a time zone; None: the clock.

    Returns:
        The report, and None or an error: NotReady while every incomplete day is awaited, CheckFailed after the deadline
        of one of them.
    """
    now = now or datetime.now(UTC)
    source = context.settings.source
    days = incomplete_days(context.lake, source, table, first, last)
    report: dict[str, Any] = {
        "table": table,
        "first_day": str(first),
        "last_day": str(last),
        "complete": not days,
        "incomplete": {str(d.day): {"rows": d.rows, "expected": d.expected} for d in days},
        "accepted_days": sorted(str(day) for day in source.accepted_days if first <= day <= last),
    }
    reason = skipped_reason(source)
    if reason:
        report["note"] = reason
    late = [d for d in days if now >= deadline(d.day, source.deadline_h)]
    if late:
        until = f"awaited until {deadline(late[0].day, source.deadline_h):%Y-%m-%d %H:%M} UTC"
        text = f"{table}: {_summary(late)} ({_list(late)}), {until} (source.deadline_h); {_remedy(late)}"
        return report, CheckFailed(text)
    if days:
        until = f"awaited until {deadline(days[0].day, source.deadline_h):%Y-%m-%d %H:%M} UTC"
        return report, NotReady(f"{table}: input is not complete yet: {_summary(days)} ({_list(days)}), {until}")
    return report, None


def _summary(days: Sequence[IncompleteDay]) -> str:
    return f"{len(days)} incomplete day{'s' if len(days) > 1 else ''}, {_ranges([d.day for d in days])}"


def _list(days: Sequence[IncompleteDay]) -> str:
    more = f" and {len(days) - N_COMMANDS} more" if len(days) > N_COMMANDS else ""
    return "; ".join(d.reason for d in days[:N_COMMANDS]) + more


def _remedy(days: Sequence[IncompleteDay]) -> str:
    """Return the commands that ingest the days, and the setting that accepts them."""
    runs = _runs([d.day for d in days])
    commands = [
        f"overture ingest tables --day {a}" if a == b else f"overture ingest tables --from {a} --to {b}"
        for a, b in runs[:N_COMMANDS]
    ]
    accepted = ", ".join(str(d.day) for d in days[:N_COMMANDS]) + (", ..." if len(days) > N_COMMANDS else "")
    more = ", and so on" if len(runs) > N_COMMANDS else ""
    return f"ingest: {'; '.join(commands)}{more}; or accept: source.accepted_days: [{accepted}]"


def _ranges(days: Sequence[date]) -> str:
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in _runs(sorted(days)))


def _runs(days: Sequence[date]) -> list[tuple[date, date]]:
    """Return first and last day of each run of consecutive days."""
    runs: list[tuple[date, date]] = []
    for day in days:
        if runs and day - runs[-1][1] == DAY:
            runs[-1] = (runs[-1][0], day)
        else:
            runs.append((day, day))
    return runs
