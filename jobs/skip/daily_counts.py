"""Counts of keys that many listeners share, by day: brought to the driver once, and from there to every task.

Grain   exactly one row per (kind, key, other, day) with a labelled play
Size    grows with genres by contexts, genders and ages and by days, not with listeners or plays
"""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
from pyspark.sql import functions as F

from jobs.skip import spark_groups
from models.skip.features import counter_state
from models.skip.features.counters import NO_KEY, TOTALS
from models.skip.features.shared import KEYS, KINDS, Daily, carry_shared

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def by_day(plays: DataFrame) -> DataFrame:
    """Pure: labelled plays of each kind of key on each day since 1970, of them listened to, Flow, and the last."""
    known = plays.where(F.col("listened") >= 0)
    heard, flow = F.col("listened"), F.col("is_flow").cast("bigint")
    counted = dict(zip(TOTALS, (F.count(F.lit(1)), F.sum(heard), F.sum(flow), F.sum(flow * heard)), strict=True))

    def of_kind(kind: str) -> DataFrame:
        first, second = KEYS[kind]
        keys = {
            "kind": F.lit(kind),
            "key": F.col(first).cast("bigint"),
            "other": (F.lit(NO_KEY) if second is None else F.col(second)).cast("bigint"),
            "day": F.floor(F.col("ts") / 86_400),
        }
        columns = [value.alias(name) for name, value in counted.items()]
        grouped = known.groupBy(*(value.alias(name) for name, value in keys.items()))
        return grouped.agg(*columns, F.max("ts").alias("last_ts"))

    return reduce(lambda some, more: some.unionByName(more), map(of_kind, KINDS))


def known_of(plays: DataFrame, before: DataFrame) -> tuple[dict[str, Daily], list[counter_state.Rows]]:
    """What plays may see of each kind, and the state that they leave behind, from the state before them."""
    found = by_day(plays).toArrow()
    kinds = np.asarray(found.column("kind").to_numpy().astype(object))
    columns = spark_groups.arrays(found, ("key", "other", "day", *TOTALS, "last_ts"))
    old = spark_groups.carried_rows(before.where(F.col("kind").isin(*KINDS)).toArrow())
    seen, after = {}, []
    for kind in KINDS:
        entries = {name: value[kinds == kind] for name, value in columns.items()}
        carried = counter_state.unpack(old, kind)
        seen[kind] = Daily.of(entries, carried)
        after.append(counter_state.pack(kind, carry_shared(entries, carried)))
    return seen, after
