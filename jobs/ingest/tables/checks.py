"""Count bad rows by table and reason, with examples, and stop a run that has too many.

A reference to a row that does not exist, such as an event of a track that is not in `tracks`, makes a row bad too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed
from contracts.expectations import expectations
from contracts.loader import Contract
from jobs.ingest.tables.mapping import BAD, LONGEST_EXAMPLE, ROW

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


def check_references(contract: Contract, frame: DataFrame, ids: Mapping[str, DataFrame]) -> DataFrame:
    """Mark rows whose ids do not exist in another table as bad.

    Args:
        contract: The table's contract.
        frame: Rows with `_bad`.
        ids: The existing ids by table, one column each, distinct. Tables that are not in it are not checked.
    """
    from pyspark.sql import functions as F

    for e in expectations(contract):
        if e.rule not in ("references", "track_exists") or e.args["table"] not in ids:
            continue
        column, table, where = e.columns[0], e.args["table"], e.args["where"]
        known = ids[table].select(F.col(e.args["key"]).alias("_known")).distinct()
        concerned = F.col(column).isNotNull() & F.col(BAD).isNull()
        if where:
            concerned = concerned & (F.col(where[0]) == where[1])
        joined = frame.join(known, (F.col(column) == F.col("_known")), "left")
        reason = F.lit(f"{column} is not in {table}")
        frame = joined.withColumn(BAD, F.coalesce(BAD, F.when(concerned & F.col("_known").isNull(), reason))).drop(
            "_known"
        )
    return frame


def repeated_keys(contract: Contract, frame: DataFrame) -> list[str]:
    """Return up to three keys of a table that occur more than once in its good rows, with different values."""
    from pyspark.sql import functions as F

    grain = [F.col(c) for c in contract.grain]
    repeated = frame.where(F.col(BAD).isNull()).select(*contract.columns, ROW).dropDuplicates(list(contract.columns))
    rows = repeated.groupBy(*grain).agg(F.count("*").alias("n"), F.min(ROW).alias("row")).where("n > 1").limit(3)
    return [str(row["row"])[:LONGEST_EXAMPLE] for row in rows.collect()]
