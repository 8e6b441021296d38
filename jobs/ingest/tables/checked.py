"""What a run has read and checked before it writes anything."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from jobs.ingest.tables.checks import TableCounts
from jobs.ingest.tables.days import DayPlan, Selection
from jobs.ingest.tables.entity_ids import Form
from jobs.ingest.tables.frames import Result
from jobs.ingest.tables.mapping import Mapped

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

STATIC_TABLES = ("tracks", "users", "playlists")


@dataclass
class Checked:
    """The checked tables of one run.

    Attributes:
        selection: The days that the command names.
        plan: The days of the run; None if no input has files by day.
        newest: The newest day ingested, this run included; None if it is unknown.
        today: The day of the run.
        forms: Form of each kind of id.
        results: Results of the SQL by table.
        mapped: Rows with `_bad` by table. A table with days is absent if no day is new or changed.
        counts: Numbers by table.
        corrupt: Unreadable records by table: reason, row, source_file and day.
        digests: Digest of the inputs of each day of the run, by table; None where inputs have no files.
        unchanged: Days of the run that are neither read nor written, by table.
    """

    selection: Selection
    plan: DayPlan | None
    newest: date | None
    today: date
    forms: dict[str, Form]
    results: dict[str, Result] = field(default_factory=dict)
    mapped: dict[str, Mapped] = field(default_factory=dict)
    counts: dict[str, TableCounts] = field(default_factory=dict)
    corrupt: dict[str, list[DataFrame]] = field(default_factory=dict)
    digests: dict[str, dict[date, str | None]] = field(default_factory=dict)
    unchanged: dict[str, list[date]] = field(default_factory=dict)
