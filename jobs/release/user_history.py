"""What is known of listeners at a week's as-of time, for the rows of the store: streams, bans, country and age.

Input   warm_users, users; events of all days before the as-of time
Output  user_history, partition week=<week>
Grain   one row per user: the warm users, and those who registered since the first day of the cohort (the cold users
        that a publication places again)
Time    streams: as_of - window_days <= ts < as_of (UTC, half-open); bans: ts < as_of, however old
Memory  Spark computes the table; `opened` copies its lists to files below OVERTURE_HOME/scratch and maps them

A publication computes the table if the week has none, or if `warm_users`, `users` or `store.max_heard` changed since.
A release of an older version is therefore published like any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jobs.platform.context import Context
from jobs.platform.temp_dirs import temp_dir
from models.arrays import IdVector
from models.cold_start.ragged import Ragged
from serving.stores.interface import HISTORY, UNKNOWN

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

TABLE = "user_history"
BLOCK = 8_192  # users in memory at once
LEVELS = ("track", "artist", "album")


def update(context: Context) -> None:
    """Write user_history of the context's week, unless it is up to date."""
    lake, week = context.lake, context.week
    source = {
        "warm_users": lake.version("warm_users", week=week.name),
        "users": lake.version("users") if lake.exists("users") else None,
        "max_heard": context.settings.store.max_heard,
        "window_days": context.settings.matrix.window_days,
    }
    if lake.exists(TABLE, week=week.name) and lake.report(TABLE, week=week.name).get("source") == source:
        return
    from pyspark.sql import functions as F

    from jobs.matrix.catalog import timestamp_literal

    spark = context.spark
    registered = F.col("registered_at")
    is_new = (registered >= timestamp_literal(week.cohort_start)) & (registered < timestamp_literal(week.as_of))
    users = lake.spark(spark, "warm_users", week=week.name).select("user_id")
    profiles = lake.spark(spark, "users")
    users = users.union(profiles.where(is_new).select("user_id")).distinct()
    users = users.join(profiles.select("user_id", "country", "age"), "user_id", "left")
    days = [partition["day"] for partition in lake.partitions("events")]
    first = datetime.fromisoformat(min(days, default=str(week.as_of.date()))).replace(tzinfo=UTC)
    frame = compute_history(
        lake.events(spark, week.window_start(context.settings.matrix.window_days), week.as_of),
        lake.events(spark, min(first, week.as_of), week.as_of),
        users,
        context.settings.store.max_heard,
    )
    lake.write(TABLE, frame, report={"source": source, "commit": context.commit}, week=week.name)


def compute_history(recent: DataFrame, events: DataFrame, users: DataFrame, max_heard: int) -> DataFrame:
    """Return user_history of these users.

    Args:
        recent: events of the window; their streams of tracks count as heard.
        events: all events; their bans count.
        users: the columns user_id (distinct), country and age.
        max_heard: number of heard tracks to keep for each user, the last ones.
    """
    from pyspark.sql import Window
    from pyspark.sql import functions as F

    streams = recent.where((F.col("kind") == "stream") & (F.col("entity") == "track"))
    last_streams = (
        streams.join(users, "user_id", "left_semi").groupBy("user_id", "entity_id").agg(F.max("ts").alias("ts"))
    )
    order = Window.partitionBy("user_id").orderBy(F.col("ts").desc(), F.col("entity_id"))
    heard = last_streams.withColumn("place", F.row_number().over(order)).where(F.col("place") <= max_heard)
    heard = heard.groupBy("user_id").agg(F.sort_array(F.collect_list(F.struct("place", "entity_id"))).alias("heard"))
    bans = events.where((F.col("kind") == "ban") & F.col("entity").isin(*LEVELS)).join(users, "user_id", "left_semi")
    banned = bans.groupBy("user_id").agg(
        *(
            F.sort_array(F.collect_set(F.when(F.col("entity") == level, F.col("entity_id")))).alias(f"banned_{level}s")
            for level in LEVELS
        )
    )
    first, second = (F.ascii(F.substring("country", place, 1)) - ord("A") for place in (1, 2))
    numbers = (26 * first + second, F.col("age"))  # as country_number
    known = F.array(*(F.coalesce(number.cast("bigint"), F.lit(UNKNOWN).cast("bigint")) for number in numbers))
    lists = {"heard_tracks": F.col("heard")["entity_id"], "demographics": known}
    lists |= {name: F.col(name) for name in HISTORY if name not in lists}
    empty = F.array().cast("array<bigint>")
    return (
        users.join(heard, "user_id", "left")
        .join(banned, "user_id", "left")
        .select("user_id", *(F.coalesce(lists[name], empty).alias(name) for name in HISTORY))
    )


class Histories:
    """The lists of user_history of a week by user id."""

    def __init__(self, user_ids: IdVector, lists: Mapping[str, Ragged]) -> None:
        """Index the lists.

        Args:
            user_ids: (H,), distinct, in the order of the lists.
            lists: H lists of ids for each name of HISTORY.
        """
        self._order = np.argsort(user_ids)
        self._sorted = np.append(user_ids[self._order], np.int64(-1))  # the end is no user's place
        # One more list, which is empty, for users without a row.
        self._lists = {name: Ragged(np.append(one.offsets, one.offsets[-1]), one.ids) for name, one in lists.items()}

    def of(self, user_ids: IdVector, default: Mapping[str, Ragged] | None = None) -> dict[str, Ragged]:
        """Return the lists of users (B,); of those without a row the lists of `default`, or empty ones."""
        n = len(self._order)
        at = np.searchsorted(self._sorted[:n], user_ids)
        known_B = self._sorted[at] == user_ids
        places_B = np.where(known_B, np.append(self._order, n)[at], n)
        lists = {name: one.take(places_B) for name, one in self._lists.items()}
        if default is None:
            return lists
        return {
            name: Ragged.from_lists([(one if known else default[name]).row(b) for b, known in enumerate(known_B)])
            for name, one in lists.items()
        }


NO_HISTORIES = Histories(np.zeros(0, np.int64), {name: Ragged.from_lists([]) for name in HISTORY})


@contextlib.contextmanager
def opened(context: Context) -> Iterator[Histories]:
    """Yield the histories of the context's week; ids are mapped from temporary files.

    Raises:
        CheckFailed: the week has no user_history.
    """
    with temp_dir(context, "history") as folder:
        user_ids, lengths = [], {name: [np.zeros(1, np.int64)] for name in HISTORY}
        with contextlib.ExitStack() as stack:
            files = {name: stack.enter_context((folder / name).open("wb")) for name in HISTORY}
            for table in context.lake.batches(TABLE, BLOCK, week=context.week.name):
                user_ids.append(table.column("user_id").to_numpy())
                for name in HISTORY:
                    lists = Ragged.from_arrow(table.column(name), f"{TABLE}.{name}")
                    lengths[name].append(lists.lengths)
                    files[name].write(lists.ids.tobytes())
        ids = np.concatenate([np.zeros(0, np.int64), *user_ids])
        offsets = {name: np.cumsum(np.concatenate(lengths[name])) for name in HISTORY}
        yield Histories(ids, {name: Ragged(offsets[name], _mapped(folder / name)) for name in HISTORY})


def _mapped(path: Path) -> IdVector:
    return np.memmap(path, np.int64, "r") if path.stat().st_size else np.zeros(0, np.int64)
