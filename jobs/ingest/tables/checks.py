"""Count bad rows by table and reason, with examples, and stop a run that has too many, or ids that collide."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.entity_ids import EXTERNAL_COLUMNS
from contracts.errors import CheckFailed
from contracts.loader import Contract
from jobs.ingest.tables.mapping import BAD, LONGEST_EXAMPLE, ROW, USER

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

EXAMPLES = 3


@dataclass
class TableCounts:
    """Numbers of one table.

    Attributes:
        rows: All rows of the SQL, bad ones included.
        bad: Number of bad rows by reason.
        examples: Up to `EXAMPLES` bad rows by reason, as JSON.
        by_day: Good rows by day, for a table with days.
    """

    rows: int = 0
    bad: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    by_day: dict[str, int] = field(default_factory=dict)

    @property
    def good(self) -> int:
        """Number of rows without a broken rule."""
        return self.rows - sum(self.bad.values())

    def add_unreadable(self, reason: str, n: int, examples: list[str]) -> None:
        """Add records that could not be read at all."""
        if n:
            self.rows += n
            self.bad[reason] = self.bad.get(reason, 0) + n
            self.examples.setdefault(reason, []).extend(examples[:EXAMPLES])

    def report(self) -> dict[str, Any]:
        """Return the entries of the job's report."""
        return {"rows": self.rows, "bad": dict(sorted(self.bad.items()))}


def count(frame: DataFrame) -> TableCounts:
    """Return the numbers of a frame with `_bad`, `_row` and, for a table with days, `_day`."""
    from pyspark.sql import functions as F

    day = F.col("_day").cast("string") if "_day" in frame.columns else F.lit(None).cast("string")
    example = F.when(F.col(BAD).isNotNull(), F.substring(ROW, 1, LONGEST_EXAMPLE))
    groups = frame.groupBy(F.col(BAD).alias("reason"), F.when(F.col(BAD).isNull(), day).alias("day"))
    result = TableCounts()
    for row in groups.agg(F.count("*").alias("n"), F.min(example).alias("a"), F.max(example).alias("b")).collect():
        result.rows += row["n"]
        if row["reason"] is None:
            if row["day"] is not None:
                result.by_day[row["day"]] = result.by_day.get(row["day"], 0) + row["n"]
            continue
        result.bad[row["reason"]] = row["n"]
        result.examples[row["reason"]] = list(dict.fromkeys([row["a"], row["b"]]))
    result.by_day = dict(sorted(result.by_day.items()))
    return result


def enforce(table: str, counts: TableCounts, max_bad_share: float) -> None:
    """Stop a run whose table has no good row, or too many bad ones for one reason.

    Raises:
        CheckFailed: The message names table, reason, numbers and examples.
    """
    if counts.rows == 0:
        raise CheckFailed(f"source.tables.{table}: the SQL returns no row; nothing was written")
    excessive = {reason: n for reason, n in counts.bad.items() if n > max_bad_share * counts.rows}
    if excessive or not counts.good:
        lines = [
            f"\n  {n} of {counts.rows} rows: {reason}" + "".join(f"\n    {e}" for e in counts.examples.get(reason, []))
            for reason, n in sorted((excessive or counts.bad).items(), key=lambda item: -item[1])
        ]
        raise CheckFailed(
            f"source.tables.{table}: more bad rows than source.max_bad_share = {max_bad_share:g} allows; nothing was "
            f"written. Mend the data, or the SQL, or raise the setting{''.join(lines)}"
        )


def collisions(contract: Contract, frame: DataFrame) -> str:
    """Return two ids of the source that have one hash, in words; empty if there are none.

    Args:
        contract: The table's contract.
        frame: Rows with `_bad`.
    """
    from pyspark.sql import functions as F

    columns = {column: name for (table, column), name in EXTERNAL_COLUMNS.items() if table == contract.table}
    if USER in frame.columns:
        columns["user_id"] = USER
    for column, external in columns.items():
        pairs = frame.where(F.col(BAD).isNull() & F.col(external).isNotNull()).groupBy(column)
        ends = pairs.agg(F.min(external).alias("a"), F.max(external).alias("b")).where("a <> b").limit(1).collect()
        if ends:
            return f"{column}: the ids '{ends[0]['a']}' and '{ends[0]['b']}' have the same hash {ends[0][column]}"
    return ""


def repeated_keys(contract: Contract, frame: DataFrame) -> list[str]:
    """Return up to three keys of a table that occur more than once in its good rows, with different values."""
    from pyspark.sql import functions as F

    grain = [F.col(c) for c in contract.grain]
    repeated = frame.where(F.col(BAD).isNull()).select(*contract.columns, ROW).dropDuplicates(list(contract.columns))
    rows = repeated.groupBy(*grain).agg(F.count("*").alias("n"), F.min(ROW).alias("row")).where("n > 1").limit(3)
    return [str(row["row"])[:LONGEST_EXAMPLE] for row in rows.collect()]
