"""Decide whether the files of a day are there, so that `ingest_daily` waits for files that arrive late.

Only the presence of files is checked, without Spark: at least one for each input of `source.inputs` whose path contains
`{day}` or `{week}` and that the SQL of a table reads. Tables of a database are not checked.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from contracts.errors import BadArgument, CheckFailed, NotReady, OvertureError
from jobs.ingest.tables.paths import resolve
from jobs.quality.completeness import deadline
from jobs.settings.source import SourceSettings
from jobs.settings.tables import inputs_of, placeholders


def ready(
    source: SourceSettings, day: date, now: datetime | None = None
) -> tuple[dict[str, Any], OvertureError | None]:
    """Return the report about the files of a day, and the error of the command if some are missing.

    Args:
        source: Settings of the source.
        day: The day.
        now: The time, with a time zone; None: the clock.

    Returns:
        The report, and None or an error: NotReady until the deadline of the day, CheckFailed after it.

    Raises:
        BadArgument: The source is loaded at once, or `source.data` is not a folder.
    """
    if source.kind != "tables":
        raise BadArgument(
            f"source.kind: {source.kind} is loaded at once, by `overture ingest {source.kind}`; it has no files by day"
        )
    data = Path(source.data)
    if not source.data or not data.is_dir():
        raise BadArgument(f"source.data: not a folder: '{source.data}'; set it to the folder of the source's files")
    used = {name for sql in source.tables.values() for name in inputs_of(sql, source.inputs)}
    paths = {name: one.path for name, one in source.inputs.items() if name in used}
    by_day = [name for name, path in paths.items() if placeholders(path) & {"day", "week"}]
    missing = [name for name in by_day if not resolve(paths[name], data, day)]
    report = {"day": str(day), "inputs": by_day, "missing": missing, "complete": not missing}
    if not missing:
        return report, None
    until = deadline(day, source.deadline_h)
    text = "; ".join(f"source.inputs.{name}: no file of {day} matches {paths[name]}" for name in missing)
    text = f"{text}; awaited until {until:%Y-%m-%d %H:%M} UTC (source.deadline_h)"
    if (now or datetime.now(UTC)) < until:
        return report, NotReady(text)
    return report, CheckFailed(f"{text}; when they are there: overture ingest tables --day {day}")
