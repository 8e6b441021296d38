"""Choose the days of a run: which days of files are read, and which days of the lake are written.

An event joins its own day if its file is at most `source.late_days` days younger. So a run that brings the files of day
D writes the days D - late_days to D, each from its own file and those of the next `late_days` days. The result depends
on the files alone, not on the order in which days are ingested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from contracts.errors import BadArgument, CheckFailed


@dataclass(frozen=True)
class Selection:
    """The days that `--day`, `--from` and `--to` name.

    Attributes:
        first: First day; None: no bound.
        last: Last day, included; None: no bound.
    """

    first: date | None = None
    last: date | None = None

    @classmethod
    def parse(cls, day: str, first: str, last: str) -> Selection:
        """Return the selection of the three options; an empty text is an option that is not given.

        Raises:
            BadArgument: A text is not a day, the first day is after the last, or `--day` comes with another option.
        """
        if day and (first or last):
            raise BadArgument("--day: cannot be combined with --from and --to")
        bounds = [_parse(option, text) for option, text in (("--from", day or first), ("--to", day or last))]
        if bounds[0] and bounds[1] and bounds[0] > bounds[1]:
            raise BadArgument(f"--from: {bounds[0]} is after --to {bounds[1]}")
        return cls(*bounds)

    def contains(self, day: date) -> bool:
        """Return whether a day is selected."""
        return (self.first is None or day >= self.first) and (self.last is None or day <= self.last)

    @property
    def is_all(self) -> bool:
        """Whether no day is named."""
        return self.first is None and self.last is None


@dataclass(frozen=True)
class DayPlan:
    """The days of one run.

    Attributes:
        selected: Days whose files are new in this run.
        read: Days whose files are read, ascending.
        days: Days of the lake that are written, ascending.
        floor: Rows of earlier days are bad: it is the first day of the files and of the lake.
        gaps: Days between the first and the last selected day without files.
    """

    selected: tuple[date, ...]
    read: tuple[date, ...]
    days: tuple[date, ...]
    floor: date
    gaps: tuple[date, ...]


def plan_days(
    days_of_input: Mapping[str, Sequence[str]], selection: Selection, late_days: int, first_in_lake: date | None = None
) -> DayPlan:
    """Return the days of a run.

    Args:
        days_of_input: Days with files, by input; at least one input.
        selection: The days that the command names.
        late_days: `source.late_days`.
        first_in_lake: The first day in the lake; None if it is empty.

    Raises:
        CheckFailed: A named day has no files in one of the inputs, or no input has any day.
    """
    by_input = {name: {date.fromisoformat(day) for day in days} for name, days in days_of_input.items()}
    for name, days in by_input.items():
        if not days:
            raise CheckFailed(f"source.inputs.{name}: no file matches for any day; check {{day}} in the path")
    every = sorted(set.union(*by_input.values()))
    selected = [day for day in every if selection.contains(day)]
    first = selection.first or (selected[0] if selected else None)
    last = selection.last or (selected[-1] if selected else None)
    is_named = selection.first is not None and selection.last is not None
    if first is None or last is None or not (selected or is_named):
        raise CheckFailed(f"no input has files of the selected days; the days found are {every[0]} to {every[-1]}")
    span = [first + timedelta(n) for n in range((last - first).days + 1)]
    if not selection.is_all:
        for name, days in by_input.items():
            missing = [day for day in span if day not in days]
            if missing:
                raise CheckFailed(
                    f"source.inputs.{name}: no file of {_list(missing)}; days found are {min(days)} to {max(days)}. "
                    "Nothing was written; run again when the files are there, or choose other days"
                )
    else:
        for name, days in by_input.items():
            missing = [day for day in selected if day not in days]
            if missing:
                raise CheckFailed(f"source.inputs.{name}: no file of {_list(missing)}, but another input has this day")
    floor = min(every[0], first_in_lake or every[0])
    start = max(first - timedelta(late_days), floor)
    written = tuple(start + timedelta(n) for n in range((last - start).days + 1))
    read = [day for day in every if start <= day <= last + timedelta(late_days)]
    gaps = tuple(day for day in span if day not in set(every))
    return DayPlan(tuple(selected), tuple(read), written, floor, gaps)


def _parse(option: str, text: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise BadArgument(f"{option}: '{text}' is not a day; write YYYY-MM-DD, such as 2026-11-15") from None


def _list(days: Sequence[date]) -> str:
    shown = ", ".join(str(day) for day in days[:3])
    return shown + (f" and {len(days) - 3} more days" if len(days) > 3 else "")
