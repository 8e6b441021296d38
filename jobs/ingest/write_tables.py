"""The last step of sources that are loaded at once: write users, tracks, playlists, events and the quarantine.

A source replaces the whole log: days of the lake that it did not write come from an earlier source or other settings;
they are dropped last and named in the report. A second run leaves the same rows.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from jobs.ingest.bad_lines import BadLines
from jobs.ingest.event_buffer import DAY_US, EventBuffer, event_table, sort_day
from jobs.ingest.quarantine import replace_quarantine
from jobs.platform.progress import progress

if TYPE_CHECKING:
    from jobs.platform.context import Context

Frame: TypeAlias = "pa.Table | Iterable[pa.RecordBatch]"


def day_name(day: int) -> str:
    """Return a number of days since 1970 as YYYY-MM-DD."""
    return str(np.datetime64(day, "D"))


def write_source(
    context: Context,
    *,
    users: Frame,
    tracks: Frame,
    playlists: Frame,
    events: EventBuffer,
    facts: dict[str, Any],
    bad: dict[str, list[BadLines]] | None = None,
) -> dict[str, Any]:
    """Write the four tables, all days of events in one commit, and replace the quarantine.

    Args:
        context: settings and lake.
        users: rows of users.
        tracks: rows of tracks.
        playlists: rows of playlists.
        events: events by day since 1970.
        facts: entries for the report.
        bad: bad lines by raw table.

    Returns:
        Rows and paths by table, `facts`, the number of exact repeats dropped, and the days of the lake that were
        dropped.
    """
    lake, report = context.lake, {"source": facts.get("source"), "commit": context.commit}
    written = {
        "users": lake.write("users", users, report=report),
        "tracks": lake.write("tracks", tracks, report=report),
        "playlists": lake.write("playlists", playlists, report=report),
    }
    repeats: dict[str, int] = {}

    def fill(stage: str) -> None:
        for day, group in progress(events.groups(), len(events.keys()), "events by day"):
            part, repeated = sort_day(group)
            if int(part["ts"].min()) // DAY_US != day or int(part["ts"].max()) // DAY_US != day:
                raise AssertionError(f"the group {day_name(day)} contains events of another day")
            repeats[day_name(day)] = repeated
            lake.stage_day("events", stage, day_name(day), "part-00000", event_table(part))

    days = lake.replace_days("events", fill, report=lambda day: report | {"repeats": repeats[day]})
    dropped = [p["day"] for p in lake.partitions("events") if p["day"] not in days]
    for name in dropped:
        lake.drop("events", day=name)
    bad_rows = {table: pa.concat_tables(lines.rows() for lines in of_table) for table, of_table in (bad or {}).items()}
    bad_rows = {table: rows for table, rows in bad_rows.items() if rows.num_rows}
    newest = max(days, default=str(context.week.as_of.date()))
    quarantined = replace_quarantine(lake, bad_rows, newest, report)
    return {
        **facts,
        "rows": {table: w.rows for table, w in written.items()} | {"events": sum(day.rows for day in days.values())},
        "paths": {table: w.path for table, w in written.items()},
        "days": {"written": len(days), "first": min(days, default=None), "last": max(days, default=None)},
        "events_repeated": sum(repeats.values()),
        "quarantined": quarantined,
        "days_dropped": dropped,
    }
