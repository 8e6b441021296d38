"""Run the SQL of the tables and check the rows.

Result   for each table a frame with the contract's columns, `_bad` (the first broken rule, or null), `_row` (the SQL's
         row as JSON) and, for tables with days, `_day` (the row's own day) and `_file_day`
Days     the SQL of `events` and `plays` runs once per day of files, with `{day}` as that day. Without an input with
         `{day}` it runs once, and the rows' own days decide. The SQL of other tables sees the newest day ingested
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import contracts
from contracts.errors import BadArgument
from contracts.loader import Contract
from jobs.ingest.tables.entity_ids import Form, form_of, is_canonical, is_id, is_id_type, kinds_of
from jobs.ingest.tables.inputs import Inputs, spark_errors
from jobs.ingest.tables.mapping import BAD, USER, Mapped, RowRules, check_columns, map_rows
from jobs.ingest.time_bounds import time_bounds
from jobs.settings.source import SourceSettings
from jobs.settings.tables import DAY_TABLES, TEXT_FORMATS, day_values, inputs_of, placeholders, substitute

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

OPTIONAL = {"plays": ("play_id",)}
ID_SAMPLE_ROWS = 100_000
TASKS_PER_CORE = 4
FILE = "_file"  # URI of the file of a row; empty where Spark does not know it


@dataclass
class Result:
    """The result of one table's SQL, before the rows are mapped.

    Attributes:
        contract: The table's contract.
        frame: Columns of the SQL; for tables with days also `_file_day`.
        newest: The rows of the newest day of files; all rows for other tables.
        matched: The frame's name of each column of the contract.
        has_day_files: Whether an input has files by day.
        is_mixed: Whether the SQL also reads inputs without days, so that rows of other days are no error.
    """

    contract: Contract
    frame: DataFrame
    newest: DataFrame
    matched: dict[str, str]
    has_day_files: bool = False
    is_mixed: bool = False


class TableReader:
    """Runs the SQL of the tables of one run."""

    def __init__(self, inputs: Inputs, source: SourceSettings, data: Path, floor: date | None = None) -> None:
        """Prepare to run SQL over the inputs.

        Args:
            inputs: The inputs.
            source: The mapping.
            data: The folder that `{data}` stands for.
            floor: First day of the log; rows of earlier days are bad. None: no bound.
        """
        self.inputs, self.source, self.data, self.floor = inputs, source, data, floor

    def result(self, table: str, days: Sequence[date], newest: date | None) -> Result:
        """Return the result of a table's SQL, with the columns checked against the contract.

        Args:
            table: Name of the table.
            days: Days of files to read, for a table with days.
            newest: The newest day ingested; the value of `{day}` for other tables.

        Raises:
            BadArgument: The SQL or its columns are wrong.
            CheckFailed: An input cannot be read.
        """
        from pyspark.sql import functions as F

        sql, contract = self.source.tables[table], contracts.load(table)
        names = inputs_of(sql, self.source.inputs)
        by_day = [name for name in names if self.source.inputs[name].has_day]
        runs: Sequence[date | None] = days if table in DAY_TABLES and (by_day or _uses_day(sql)) and days else [newest]
        frames = []
        for day in runs:
            columns = self.inputs.register(names, day)
            with spark_errors(f"source.tables.{table}", self.inputs.secrets):
                frame = self.inputs.spark.sql(self._substituted(sql, table, day))
                frame = _with_file(frame)
            if table in DAY_TABLES:
                frame = frame.withColumn("_file_day", F.lit(str(day) if by_day else None).cast("date"))
            frames.append((frame, columns))
        first, columns = frames[0]
        from_text = any(self.source.inputs[name].format in TEXT_FORMATS for name in names)
        matched = check_columns(contract, first, from_text, columns, OPTIONAL.get(table, ()))
        with spark_errors(f"source.tables.{table}", self.inputs.secrets):
            frame = reduce(lambda a, b: a.unionByName(b), [frame for frame, _ in frames])
            if len(frames) > 1:  # one task reads many small files: a task costs more than a small file
                frame = frame.coalesce(TASKS_PER_CORE * self.inputs.spark.sparkContext.defaultParallelism)
        return Result(contract, frame, frames[-1][0], matched, bool(by_day), bool(by_day) and len(by_day) < len(names))

    def mapped(self, result: Result, forms: dict[str, Form], rules: RowRules) -> Mapped:
        """Return the rows of the contract with `_bad`; for tables with days also with `_day`."""
        from pyspark.sql import functions as F

        table = result.contract.table
        frame = result.frame
        if table == "events" and "users" not in self.source.tables:
            frame = frame.withColumn(USER, F.col(f"`{result.matched['user_id']}`").cast("string"))
        mapped = map_rows(result.contract, frame, result.matched, forms, rules)
        frame = mapped.frame
        if table == "plays" and "play_id" not in result.matched:
            identity = F.xxhash64("user_id", "ts", "track_id", "_row").bitwiseAND(F.lit(2**63 - 1))
            frame = frame.withColumn("play_id", identity)
        if table in DAY_TABLES:
            frame = frame.withColumn("_day", F.to_date("ts"))
            if result.has_day_files:
                frame = frame.withColumn(BAD, F.coalesce(BAD, self._lateness(result.is_mixed)))
        return replace(mapped, frame=frame)

    def forms(self, results: Sequence[Result], known: dict[str, Form]) -> dict[str, Form]:
        """Return the form of each kind of id: the stored one, or the one that a sample of the ids has."""
        canonical: dict[str, list[int]] = {}
        for result in results:
            self._count_ids(result, result.newest, set(known), canonical)
        if not known:  # the first ingestion: kinds that the newest day lacks may occur on other days
            decided = {kind for kind, (_, total) in canonical.items() if total}
            for result in results:
                if result.has_day_files:
                    self._count_ids(result, result.frame, decided, canonical)
        limit = self.source.max_bad_share
        return {**{kind: form_of(n / total, limit) for kind, (n, total) in canonical.items() if total}, **known}

    def _count_ids(self, result: Result, frame: DataFrame, decided: set[str], canonical: dict[str, list[int]]) -> None:
        """Add the numbers of integer ids and of all ids of each undecided kind in a sample of a frame."""
        from pyspark.sql import functions as F

        types = {f.name: f.dataType.simpleString() for f in frame.schema.fields}
        wanted: list[tuple[str, Column]] = []
        for column in result.contract.columns.values():
            name = result.matched.get(column.name)
            if name is None or not is_id(column) or not is_id_type(types[name]):
                continue
            kinds = kinds_of(column)
            entity = F.col(f"`{result.matched['entity']}`") if len(kinds) > 1 else None
            for kind in kinds:
                if kind not in decided:
                    text = F.col(f"`{name}`").cast("string")
                    wanted.append((kind, text if entity is None else F.when(entity == kind, text)))
        if not wanted:
            return
        counts = [F.sum(F.when(is_canonical(text) | text.rlike("^-[0-9]+$"), 1).otherwise(0)) for _, text in wanted]
        totals = [F.count(F.when(F.trim(text) != "", 1)) for _, text in wanted]
        with spark_errors(f"source.tables.{result.contract.table}", self.inputs.secrets):
            row = frame.limit(ID_SAMPLE_ROWS).agg(*counts, *totals).collect()[0]
        for n, (kind, _) in enumerate(wanted):
            pair = canonical.setdefault(kind, [0, 0])
            pair[0] += row[n] or 0
            pair[1] += row[n + len(wanted)]

    def _lateness(self, is_mixed: bool) -> Column:
        from pyspark.sql import functions as F

        if is_mixed:  # an input without days contributes rows of any day to each day
            return F.lit(None).cast("string")
        age = F.datediff("_file_day", "_day")
        late = f"ts is more than {self.source.late_days} days before the day of its file"
        reason = F.when(age > self.source.late_days, F.lit(late)).when(
            age < 0, F.lit("ts is after the day of its file")
        )
        if self.floor is not None:
            reason = reason.when(F.col("_day") < F.lit(self.floor), F.lit("ts is before the first day of the log"))
        return reason

    def _substituted(self, sql: str, table: str, day: date | None) -> str:
        values: dict[str, str] = {"data": str(self.data.absolute()).replace("'", "\\'")}
        if day is not None:
            values |= day_values(day)
        elif _uses_day(sql):
            raise BadArgument(f"source.tables.{table}: {{day}} needs an input with {{day}}, or events in the lake")
        return substitute(sql, values)


def _with_file(frame: DataFrame) -> DataFrame:
    """Add the URI of the file of each row. It is empty where the SQL reads several sources, such as a join."""
    from pyspark.errors import AnalysisException
    from pyspark.sql import functions as F

    try:
        return frame.withColumn(FILE, F.input_file_name())
    except AnalysisException as error:
        if "MULTI_SOURCES" not in (error.getCondition() or ""):
            raise
        return frame.withColumn(FILE, F.lit(""))


def _uses_day(sql: str) -> bool:
    return bool({"day", "week"} & placeholders(sql))


def row_rules(source: SourceSettings, now: datetime) -> RowRules:
    """Return the bounds of the row rules: times may be at most one day after `now`."""
    return RowRules(time_bounds(source, now), source.max_id_bytes)


def good_rows(mapped: Mapped, contract: Contract, *more: str) -> Any:
    """Return the rows without a broken rule: the contract's columns, then `more`."""
    return mapped.frame.where(f"{BAD} IS NULL").select(*contract.columns, *more)
