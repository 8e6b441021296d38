"""Merge rows with equal keys, so that the order of files and of partitions does not matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def one_row_per_key(frame: DataFrame, key: Sequence[str]) -> DataFrame:
    """Return one row of each key and day, with the columns of the frame: the one with the greatest other values.

    Args:
        frame: Rows with a column `day`.
        key: Columns that identify a row within its day.
    """
    from pyspark.sql import functions as F

    rest = [name for name in frame.columns if name not in (*key, "day")]
    best = frame.groupBy("day", *key).agg(F.max(F.struct(*rest)).alias("_best"))
    return best.select("day", *key, "_best.*").select(*frame.columns)
