"""Counts plays by day for keys that many listeners share, on the driver, from where every task receives them.

Grain   exactly one row per (kind, key, other, day) with a labelled play
Size    grows with the number of genres, contexts, genders, ages and days, not with listeners or plays
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from jobs.skip import spark_groups
from models.skip.features import counter_state
from models.skip.features.counters import NO_KEY, TOTALS
from models.skip.features.shared import KEYS, KINDS, DailyCounts, update_shared_counters

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def counts_by_day(plays: DataFrame) -> DataFrame:
    """Return the counts of labelled plays by kind, key and day since 1970 (TOTALS), and the last second of play."""
    labelled = plays.where(F.col("listened") >= 0)
    listened, flow = F.col("listened"), F.col("is_flow").cast("bigint")
    totals = dict(zip(TOTALS, (F.count(F.lit(1)), F.sum(listened), F.sum(flow), F.sum(flow * listened)), strict=True))

    def counts_of_kind(kind: str) -> DataFrame:
        first, second = KEYS[kind]
        keys = {
            "kind": F.lit(kind),
            "key": F.col(first).cast("bigint"),
            "other": (F.lit(NO_KEY) if second is None else F.col(second)).cast("bigint"),
            "day": F.floor(F.col("ts") / 86_400),
        }
        columns = [value.alias(name) for name, value in totals.items()]
        grouped = labelled.groupBy(*(value.alias(name) for name, value in keys.items()))
        return grouped.agg(*columns, F.max("ts").alias("last_ts"))

    return reduce(lambda left, right: left.unionByName(right), map(counts_of_kind, KINDS))


def shared_counts_and_state(
    plays: DataFrame, state: DataFrame
) -> tuple[dict[str, DailyCounts], list[counter_state.Rows]]:
    """Return the daily counts of each kind of shared key, and the state of these keys after the plays.

    Args:
        plays: plays as groups receive them (spark_groups.PLAY_COLUMNS).
        state: rows of skip_state before the plays.

    Returns:
        Counts by kind, for models.skip.features.shared.shared_counts; and one part of state rows per kind.
    """
    counted = counts_by_day(plays).toArrow()
    kind_N = np.asarray(counted.column("kind").to_numpy().astype(object))
    columns = spark_groups.to_arrays(counted, ("key", "other", "day", *TOTALS, "last_ts"))
    rows_before = spark_groups.to_state_rows(state.where(F.col("kind").isin(*KINDS)).toArrow())
    daily: dict[str, DailyCounts] = {}
    rows_after: list[counter_state.Rows] = []
    for kind in KINDS:
        entries = {name: values[kind_N == kind] for name, values in columns.items()}
        before = counter_state.from_rows(rows_before, kind)
        daily[kind] = DailyCounts.from_entries(entries, before)
        rows_after.append(counter_state.to_rows(kind, update_shared_counters(entries, before)))
    return daily, rows_after
