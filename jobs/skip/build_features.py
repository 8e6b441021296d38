"""Point-in-time features of plays: what was known of each before it began.

Input   plays, days from..to; skip_state of the day before   Output  skip_features, partition variant, day; skip_state
Grain   exactly one row a play                               Re-run  safe: replaces its own days
Time    a play sees labelled plays of an earlier second; windows reach back to midnight 7, 30 or 90 days before its day,
        or an hour; of keys that many listeners share (genre, context ...) it sees earlier days (jobs/skip/daily_counts.py)

A day on top of the state of the day before gives, bit for bit, what all days at once give: everything that is counted
is a whole number, and rates come from the numbers by one formula (models/skip). Rows without a label, such as a test
table, are questions: they get features and are in nobody else's, whatever else is known of them; so no row changes when
questions are added.

The state is written last: a run that died leaves days to be replaced and the old state. `leaky` repeats the report's
mistake, features of the whole table with the row's own label in them, under a variant of its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.platform.table_schema import SPARK_TYPES, spark_schema
from jobs.skip import daily_counts as shared
from jobs.skip import spark_groups
from models.skip.features import track, user

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context
    from models.skip.features.shared import Daily

PAST, LEAKY = "past", "leaky"
KEPT_STATES = 8  # a week can be run again, day by day
EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Span:
    """The days to do, ascending, and the day whose state they begin from (None: from nothing)."""

    days: tuple[str, ...]
    state: str | None


def span(context: Context, start: str | None, end: str | None) -> Span:
    """Which days to do, and from which state.

    Raises:
        BadArgument: a day is no date, or the last is before the first.
        CheckFailed: no plays, or no state to go on from.
    """
    lake = context.lake
    every = [p["day"] for p in lake.partitions("plays")]
    if not every:
        raise CheckFailed("plays: nothing has been written; run `overture ingest dsg17` first")
    first, last = (checked(name, day) for name, day in (("--from", start or every[0]), ("--to", end or every[-1])))
    if last < first:
        raise BadArgument(f"--to: {last} is before the first day {first}")
    days = tuple(day for day in every if first <= day <= last)
    if not days:
        raise CheckFailed(f"plays: no day from {first} to {last}; the log has {every[0]} to {every[-1]}")
    earlier = [day for day in every if day < first]
    if not earlier:
        return Span(days, None)
    states = [p["day"] for p in lake.partitions("skip_state") if earlier[-1] <= p["day"] < first]
    if not states:
        raise CheckFailed(
            f"skip_state: nothing for {earlier[-1]}, the day of plays before {first}; build from an earlier day, or "
            "all: overture skip features"
        )
    made_with = lake.report("skip_state", day=states[-1]).get("settings")
    if made_with != settings_of(context):
        raise CheckFailed(
            f"skip_state: day {states[-1]} was made with {made_with}, the settings say {settings_of(context)}; "
            "build all days again: overture skip features"
        )
    if lake.report("skip_state", day=states[-1]).get("log") != log_of(context, earlier):
        raise CheckFailed(
            f"skip_state: plays of some day up to {earlier[-1]} were written again after the state of {states[-1]}; "
            "build all days again: overture skip features"
        )
    return Span(days, states[-1])


def log_of(context: Context, days: Sequence[str]) -> str:
    """A digest of which versions of plays these days hold."""
    versions = "\n".join(f"{day} {context.lake.version('plays', day=day)}" for day in days)
    return hashlib.sha256(versions.encode()).hexdigest()


def checked(name: str, day: str) -> str:
    """A day as it is, or a refusal."""
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError:
        raise BadArgument(f"{name}: '{day}' is no date; write YYYY-MM-DD") from None


def settings_of(context: Context) -> dict[str, Any]:
    """What features depend on."""
    chosen = context.settings.skip.features
    made_for = contracts.load("skip_state").version  # what is carried; an older state lacks kinds of keys
    return {"session_gap_min": chosen.session_gap_min, "smoothing": chosen.smoothing, "skip_state": made_for}


def plays_of(context: Context, days: tuple[str, ...]) -> DataFrame:
    """The plays of these days as the groups take them (jobs/skip/spark_groups.py, ROW)."""
    reader = context.spark.read.schema(spark_schema("plays"))
    plays = reader.parquet(*[context.lake.path("plays", day=day) for day in days])
    return plays.withColumns(
        {
            "ts": F.unix_seconds("ts"),
            "release_day": F.unix_date("release_date").cast("double"),
            "listened": F.coalesce(F.col("is_listened").cast("bigint"), F.lit(-1).cast("bigint")),
            "daypart": F.floor(F.pmod(F.unix_seconds("ts"), F.lit(86_400)) / 21_600).cast("int"),
            "platform_flow": F.col("platform_name") * 2 + F.col("is_flow").cast("int"),
        }
    ).select(*(name for name, _ in spark_groups.ROW))


def everybody(daily: dict[int, tuple[int, int]], carried: tuple[int, int], leaky: bool) -> dict[int, float]:
    """Share listened to before each day (leaky: on all days), with one play of either kind added; by day since 1970."""
    n, listened = carried
    if leaky:
        n, listened = (sum(values) for values in zip(*daily.values(), strict=True))
        return {day: (listened + 1) / (n + 2) for day in daily}
    found = {}
    for day in sorted(daily):
        found[day] = (listened + 1) / (n + 2)
        n, listened = n + daily[day][0], listened + daily[day][1]
    return found


def daily_counts(plays: DataFrame) -> dict[int, tuple[int, int]]:
    """(labelled plays, of them listened to) by day since 1970; one row a day comes to the driver."""
    known = F.col("listened") >= 0
    by_day = plays.groupBy(F.floor(F.col("ts") / 86_400).alias("day")).agg(
        F.count(F.when(known, 1)).alias("n"), F.count(F.when(F.col("listened") == 1, 1)).alias("listened")
    )
    return {int(row["day"]): (int(row["n"]), int(row["listened"])) for row in by_day.collect()}


def features(
    plays: DataFrame,
    before: DataFrame,
    prior: dict[int, float],
    seen: dict[str, Daily],
    n_groups: int,
    gap_s: int,
    smoothing: float,
    leaky: bool,
    place: tuple[str, str],
) -> DataFrame:
    """Plays and the state before them to features, which tasks write at `place` (lake, folder); numbers of rows."""
    schema = ", ".join(f"{name} {kind}" for name, kind in spark_groups.ROW)
    schema += "".join(f", {name} int" for name in spark_groups.TRACK_COUNTS)
    counted = spark_groups.together(
        plays, before, "artist_id", track.KINDS, n_groups, spark_groups.by_artist(leaky), schema
    )
    finish = spark_groups.put_away(spark_groups.by_user(prior, seen, gap_s, smoothing, leaky), *place)
    return spark_groups.together(counted, before, "user_id", user.KINDS, n_groups, finish, "rows bigint")


def state_after(plays: DataFrame, before: DataFrame, last_day: int, n_groups: int, gap_s: int) -> DataFrame:
    """Pure: the state at the end of last_day, of tracks and users and what is theirs."""
    columns = contracts.load("skip_state").columns.values()
    schema = ", ".join(f"{c.name} {SPARK_TYPES[c.type]}" for c in columns)
    todo = (("artist_id", track.KINDS, spark_groups.TRACK_NEEDED), ("user_id", user.KINDS, spark_groups.USER_NEEDED))
    parts = [
        spark_groups.together(
            plays.select(*needed),
            before,
            key,
            kinds,
            n_groups,
            spark_groups.left_behind(kinds, last_day, gap_s),
            schema,
        )
        for key, kinds, needed in todo
    ]
    return parts[0].unionByName(parts[1])


def run(context: Context, start: str | None = None, end: str | None = None, *, leaky: bool = False) -> dict[str, Any]:
    """Write features of the days and the state at their end; returns rows and days.

    Args:
        context: surroundings.
        start: first day, YYYY-MM-DD; None: the log's first.
        end: last day; None: the log's last.
        leaky: features that know the future, of all days at once, under the variant `leaky`; no state.
    """
    if leaky and (start or end):
        raise BadArgument("--leaky: is about the whole table; leave out --from, --to and --day")
    lake, chosen, todo = context.lake, context.settings.skip.features, span(context, start, end)
    n_rows = sum(lake.rows("plays", day=day) for day in todo.days)
    spark, gap_s = context.spark, chosen.session_gap_min * 60
    before = spark.createDataFrame([], spark_schema("skip_state"))
    carried, n_carried = {"n_plays": 0, "n_listened": 0, "n_flow": 0, "n_flow_listened": 0, "last_ts": 0}, 0
    if todo.state:
        before = lake.spark(spark, "skip_state", day=todo.state)
        n_carried = lake.rows("skip_state", day=todo.state)
        carried = before.where(F.col("kind") == "all").select(*carried).collect()[0].asDict()
    n_groups = max(context.settings.spark.partitions, math.ceil((n_rows + n_carried) / chosen.rows_per_group))
    plays = plays_of(context, todo.days)
    daily = daily_counts(plays)
    prior = everybody(daily, (carried["n_plays"], carried["n_listened"]), leaky)
    seen, shared_after = shared.known_of(plays, before)
    variant = LEAKY if leaky else PAST
    report = {
        "days": [todo.days[0], todo.days[-1]],
        "rows_in": n_rows,
        "state": todo.state,
        "settings": settings_of(context),
        "commit": context.commit,
    }

    def fill(stage: str) -> None:
        done = features(plays, before, prior, seen, n_groups, gap_s, chosen.smoothing, leaky, (lake.root, stage))
        n_out = done.agg(F.sum("rows")).collect()[0][0] or 0
        if n_out != n_rows:
            raise AssertionError(f"{n_rows} plays became {n_out} rows of features")

    written = lake.replace_days(spark_groups.TABLE, fill, report=report, variant=variant)
    nothing = arrow_schema(contracts.load("skip_features")).empty_table()
    for day in set(todo.days) - set(written):
        written[day] = lake.write("skip_features", nothing, report=report, variant=variant, day=day)
    found: dict[str, Any] = {
        "variant": variant,
        "rows": {"skip_features": sum(w.rows for w in written.values())},
        "n_groups": n_groups,
        "days": {"written": len(written), "first": todo.days[0], "last": todo.days[-1]},
        "state_from": todo.state,
        "path": f"{lake.root}/skip_features/variant={variant}",
    }
    if leaky:
        every = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == LEAKY]
        for day in set(every) - set(todo.days):
            lake.drop("skip_features", variant=LEAKY, day=day)
        return found
    last = (date.fromisoformat(todo.days[-1]) - EPOCH).days
    total = totals_of(plays, carried)
    rest = state_after(plays, before, last, n_groups, gap_s)
    whole = spark.createDataFrame([total], spark_schema("skip_state")).unionByName(
        spark.createDataFrame(spark_groups.state_table(shared_after), spark_schema("skip_state"))
    )
    upto = [p["day"] for p in lake.partitions("plays") if p["day"] <= todo.days[-1]]
    report["log"] = log_of(context, upto)
    state = lake.write("skip_state", rest.unionByName(whole), report=report, day=todo.days[-1])
    found["rows"]["skip_state"] = state.rows
    return found | tidy(context, todo)


def totals_of(plays: DataFrame, carried: dict[str, Any]) -> dict[str, Any]:
    """The one row of kind `all`."""
    known, flow, heard = F.col("listened") >= 0, F.col("is_flow"), F.col("listened") == 1
    here = (
        plays.where(known)
        .agg(
            F.count(F.lit(1)).alias("n_plays"),
            F.count(F.when(heard, 1)).alias("n_listened"),
            F.count(F.when(flow, 1)).alias("n_flow"),
            F.count(F.when(flow & heard, 1)).alias("n_flow_listened"),
            F.coalesce(F.max("ts"), F.lit(0)).alias("last_ts"),
        )
        .collect()[0]
        .asDict()
    )
    summed = {name: here[name] + carried[name] for name in here if name != "last_ts"}
    last = max(here["last_ts"], carried["last_ts"])
    return {"kind": "all", "key": 0, "other": -1, **summed, "last_ts": last, "days": [], "plays": []}


def tidy(context: Context, done: Span) -> dict[str, Any]:
    """Drop old states, and what is of no day of the log; name later days, which saw what has been replaced."""
    lake = context.lake
    log = {p["day"] for p in lake.partitions("plays")}
    states = [p["day"] for p in lake.partitions("skip_state")]
    old = [d for d in states if d in log and d <= done.days[-1]][:-KEPT_STATES]
    for day in [d for d in states if d not in log] + old:
        lake.drop("skip_state", day=day)
    written = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == PAST]
    gone = [day for day in written if day not in log]
    for day in gone:
        lake.drop("skip_features", variant=PAST, day=day)
    later = [day for day in written if day > done.days[-1] and day in log]
    return {"days_dropped": gone, "later_days": later}
