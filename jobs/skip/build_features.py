"""Computes point-in-time features of plays: what was known of each play before it began.

Input   plays, days from..to; skip_state of the day before   Output  skip_features, partition variant, day; skip_state
Grain   exactly one row per play                             Re-run  safe: replaces its own days
Time    the features of a play count labelled plays of an earlier second; windows begin at midnight 7, 30 or 90 days
        before its day, or an hour before it; keys that many listeners share (genre, context ...) count earlier days
        only (jobs/skip/daily_counts.py)

Adding one day to the state of the day before gives bit-identical rows to computing all days at once, because all counts
are integers and rates are computed from them by one formula (models/skip). Rows without a label, such as a test table,
get features but are not counted, so that adding them changes no other row.

The state is written last. If a run fails, the days can be replaced and the old state is still there. The variant
`leaky` repeats the mistake of the DSG17 report: features of the whole table, which contain the label of the row itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.platform.table_schema import SPARK_TYPES, spark_schema
from jobs.skip import daily_counts, spark_groups
from jobs.skip.spark_groups import FeatureSettings
from models.skip.features import track, user

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from jobs.platform.context import Context
    from models.skip.features.shared import DailyCounts

PAST, LEAKY = "past", "leaky"
N_STORED_STATES = 8  # so that a week can be run again, day by day
EPOCH = date(1970, 1, 1)
TOTAL_COLUMNS = ("n_plays", "n_listened", "n_flow", "n_flow_listened", "last_ts")


@dataclass(frozen=True)
class BuildPlan:
    """The days to compute, and the state to start from.

    Attributes:
        days: days of plays, ascending, YYYY-MM-DD.
        state: the day whose state is the start; None: start without a state.
    """

    days: tuple[str, ...]
    state: str | None


def plan_build(context: Context, start: str | None, end: str | None) -> BuildPlan:
    """Return which days to compute and from which state.

    Args:
        context: lake and settings.
        start: first day, YYYY-MM-DD; None: the first day of plays.
        end: last day; None: the last day of plays.

    Raises:
        BadArgument: a day is not a date, or the last is before the first.
        CheckFailed: there are no plays, or no usable state of the day before.
    """
    lake = context.lake
    play_days = [p["day"] for p in lake.partitions("plays")]
    if not play_days:
        raise CheckFailed("plays: nothing has been written; run `overture ingest dsg17` first")
    first, last = parse_iso_day("--from", start or play_days[0]), parse_iso_day("--to", end or play_days[-1])
    if last < first:
        raise BadArgument(f"--to: {last} is before the first day {first}")
    days = tuple(day for day in play_days if first <= day <= last)
    if not days:
        raise CheckFailed(f"plays: no day from {first} to {last}; the table has {play_days[0]} to {play_days[-1]}")
    earlier = [day for day in play_days if day < first]
    if not earlier:
        return BuildPlan(days, None)
    states = [p["day"] for p in lake.partitions("skip_state") if earlier[-1] <= p["day"] < first]
    if not states:
        raise CheckFailed(
            f"skip_state: nothing for {earlier[-1]}, the day of plays before {first}; build from an earlier day, or "
            "all: overture skip features"
        )
    require_current_state(context, states[-1], earlier)
    return BuildPlan(days, states[-1])


def require_current_state(context: Context, day: str, play_days: Sequence[str]) -> None:
    """Raise unless the state of a day matches the settings and the plays in the lake.

    Args:
        context: lake and settings.
        day: the day of the state.
        play_days: all days of plays up to that day.

    Raises:
        CheckFailed: the state was computed with other settings, or plays were written again after it.
    """
    report = context.lake.report("skip_state", day=day)
    if report.get("settings") != state_settings(context):
        raise CheckFailed(
            f"skip_state: day {day} was computed with {report.get('settings')}, the settings are "
            f"{state_settings(context)}; build all days again: overture skip features"
        )
    if report.get("log") != plays_digest(context, play_days):
        raise CheckFailed(
            f"skip_state: plays of some day up to {play_days[-1]} were written again after the state of {day}; "
            "build all days again: overture skip features"
        )


def plays_digest(context: Context, days: Sequence[str]) -> str:
    """Return the SHA-256 of the versions of plays on these days."""
    versions = "\n".join(f"{day} {context.lake.version('plays', day=day)}" for day in days)
    return hashlib.sha256(versions.encode()).hexdigest()


def parse_iso_day(option: str, day: str) -> str:
    """Return a day as YYYY-MM-DD.

    Raises:
        BadArgument: it is not a date; the message names the option.
    """
    try:
        return date.fromisoformat(day).isoformat()
    except ValueError:
        raise BadArgument(f"{option}: '{day}' is not a date; write YYYY-MM-DD") from None


def state_settings(context: Context) -> dict[str, Any]:
    """Return the settings that features and state depend on, with the version of the contract of skip_state."""
    settings = context.settings.skip.features
    version = contracts.load("skip_state").version  # a state of an older version lacks kinds of keys
    return {"session_gap_min": settings.session_gap_min, "smoothing": settings.smoothing, "skip_state": version}


def read_plays(context: Context, days: tuple[str, ...]) -> DataFrame:
    """Return the plays of these days with the columns that groups receive (spark_groups.PLAY_COLUMNS)."""
    reader = context.spark.read.schema(spark_schema("plays"))
    plays = reader.parquet(*context.lake.spark_paths("plays", [{"day": day} for day in days]))
    return plays.withColumns(
        {
            "ts": F.unix_seconds("ts"),
            "release_day": F.unix_date("release_date").cast("double"),
            "listened": F.coalesce(F.col("is_listened").cast("bigint"), F.lit(-1).cast("bigint")),
            "daypart": F.floor(F.pmod(F.unix_seconds("ts"), F.lit(86_400)) / 21_600).cast("int"),
            "platform_flow": F.col("platform_name") * 2 + F.col("is_flow").cast("int"),
        }
    ).select(*(name for name, _ in spark_groups.PLAY_COLUMNS))


def prior_by_day(daily: dict[int, tuple[int, int]], before: tuple[int, int], leaky: bool) -> spark_groups.PriorByDay:
    """Return the share of plays listened to before each day since 1970, with one play of each class added.

    Args:
        daily: (labelled plays, of them listened to) of each day.
        before: the same of all earlier days together.
        leaky: the share of all days of `daily`, for each of them.
    """
    n, listened = before
    if leaky:
        n, listened = (sum(values) for values in zip(*daily.values(), strict=True))
        return {day: (listened + 1) / (n + 2) for day in daily}
    prior = {}
    for day in sorted(daily):
        prior[day] = (listened + 1) / (n + 2)
        n, listened = n + daily[day][0], listened + daily[day][1]
    return prior


def labelled_by_day(plays: DataFrame) -> dict[int, tuple[int, int]]:
    """Return (labelled plays, of them listened to) by day since 1970; one row per day is collected."""
    labelled = F.col("listened") >= 0
    by_day = plays.groupBy(F.floor(F.col("ts") / 86_400).alias("day")).agg(
        F.count(F.when(labelled, 1)).alias("n"), F.count(F.when(F.col("listened") == 1, 1)).alias("listened")
    )
    return {int(row["day"]): (int(row["n"]), int(row["listened"])) for row in by_day.collect()}


def write_features(
    plays: DataFrame,
    state: DataFrame,
    prior: spark_groups.PriorByDay,
    shared: dict[str, DailyCounts],
    n_groups: int,
    settings: FeatureSettings,
    destination: tuple[str, str],
) -> DataFrame:
    """Compute the features of plays; the tasks write them to a staging folder.

    Args:
        plays: result of `read_plays`.
        state: rows of skip_state before the plays.
        prior: result of `prior_by_day`.
        shared: daily counts of keys that many listeners share, by kind.
        n_groups: number of Spark groups.
        settings: settings of the features.
        destination: root of the lake and staging folder (Lake.replace_days).

    Returns:
        The number of rows that each group wrote, column `rows`.
    """
    schema = ", ".join(f"{name} {kind}" for name, kind in spark_groups.PLAY_COLUMNS)
    schema += "".join(f", {name} int" for name in spark_groups.TRACK_COUNTS)
    add_track_counts = partial(spark_groups.add_track_counts, leaky=settings.leaky)
    counted = spark_groups.cogroup(plays, state, "artist_id", track.KINDS, n_groups, add_track_counts, schema)
    compute = partial(spark_groups.compute_features, prior=prior, shared=shared, settings=settings)
    root, stage = destination
    write = partial(spark_groups.write_partitions, compute=compute, root=root, stage=stage)
    return spark_groups.cogroup(counted, state, "user_id", user.KINDS, n_groups, write, "rows bigint")


def state_after(plays: DataFrame, state: DataFrame, last_day: int, n_groups: int, gap_s: int) -> DataFrame:
    """Return the state of artists, albums, tracks and users at the end of a day.

    Args:
        plays: plays up to the day.
        state: rows of skip_state before the plays.
        last_day: the day, in days since 1970.
        n_groups: number of Spark groups.
        gap_s: a pause of at least so many seconds begins a new session.
    """
    columns = contracts.load("skip_state").columns.values()
    schema = ", ".join(f"{c.name} {SPARK_TYPES[c.type]}" for c in columns)
    keys = (("artist_id", track.KINDS, spark_groups.TRACK_INPUTS), ("user_id", user.KINDS, spark_groups.USER_INPUTS))
    parts = []
    for key, kinds, inputs in keys:
        function = partial(spark_groups.state_at_end, kinds=kinds, last_day=last_day, gap_s=gap_s)
        parts.append(spark_groups.cogroup(plays.select(*inputs), state, key, kinds, n_groups, function, schema))
    return parts[0].unionByName(parts[1])


def run(context: Context, start: str | None = None, end: str | None = None, *, leaky: bool = False) -> dict[str, Any]:
    """Write the features of the days and the state at their end.

    Args:
        context: lake, Spark session and settings.
        start: first day, YYYY-MM-DD; None: the first day of plays.
        end: last day; None: the last day of plays.
        leaky: write features of the whole table under the variant `leaky`, without a state.

    Returns:
        The report for Airflow: rows by table, days, path.

    Raises:
        BadArgument: a day is invalid, or `leaky` is combined with days.
        CheckFailed: there are no plays, or no usable state of the day before.
    """
    if leaky and (start or end):
        raise BadArgument("--leaky: covers the whole table; omit --from, --to and --day")
    lake, settings, plan = context.lake, context.settings.skip.features, plan_build(context, start, end)
    n_rows = sum(lake.rows("plays", day=day) for day in plan.days)
    spark = context.spark
    options = FeatureSettings(gap_s=settings.session_gap_min * 60, smoothing=settings.smoothing, leaky=leaky)
    state = spark.createDataFrame([], spark_schema("skip_state"))
    totals, n_state_rows = dict.fromkeys(TOTAL_COLUMNS, 0), 0
    if plan.state:
        state = lake.spark(spark, "skip_state", day=plan.state)
        n_state_rows = lake.rows("skip_state", day=plan.state)
        totals = state.where(F.col("kind") == "all").select(*TOTAL_COLUMNS).collect()[0].asDict()
    n_groups = max(context.settings.spark.partitions, math.ceil((n_rows + n_state_rows) / settings.rows_per_group))
    plays = read_plays(context, plan.days)
    prior = prior_by_day(labelled_by_day(plays), (totals["n_plays"], totals["n_listened"]), leaky)
    shared, shared_state = daily_counts.shared_counts_and_state(plays, state)
    variant = LEAKY if leaky else PAST
    provenance = {
        "days": [plan.days[0], plan.days[-1]],
        "rows_in": n_rows,
        "state": plan.state,
        "settings": state_settings(context),
        "commit": context.commit,
    }

    def fill(stage: str) -> None:
        written = write_features(plays, state, prior, shared, n_groups, options, (lake.root, stage))
        n_out = written.agg(F.sum("rows")).collect()[0][0] or 0
        if n_out != n_rows:
            raise AssertionError(f"{n_rows} plays became {n_out} rows of features")

    written = lake.replace_days(spark_groups.FEATURES_TABLE, fill, report=provenance, variant=variant)
    no_rows = arrow_schema(contracts.load("skip_features")).empty_table()
    for day in set(plan.days) - set(written):
        written[day] = lake.write("skip_features", no_rows, report=provenance, variant=variant, day=day)
    report: dict[str, Any] = {
        "variant": variant,
        "rows": {"skip_features": sum(partition.rows for partition in written.values())},
        "n_groups": n_groups,
        "days": {"written": len(written), "first": plan.days[0], "last": plan.days[-1]},
        "state_from": plan.state,
        "path": f"{lake.root}/skip_features/variant={variant}",
    }
    if leaky:
        leaky_days = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == LEAKY]
        for day in set(leaky_days) - set(plan.days):
            lake.drop("skip_features", variant=LEAKY, day=day)
        return report
    last_day = (date.fromisoformat(plan.days[-1]) - EPOCH).days
    total = total_row(plays, totals)
    keyed = state_after(plays, state, last_day, n_groups, options.gap_s)
    unkeyed = spark.createDataFrame([total], spark_schema("skip_state")).unionByName(
        spark.createDataFrame(spark_groups.to_state_table(shared_state), spark_schema("skip_state"))
    )
    days_up_to = [p["day"] for p in lake.partitions("plays") if p["day"] <= plan.days[-1]]
    provenance["log"] = plays_digest(context, days_up_to)
    new_state = lake.write("skip_state", keyed.unionByName(unkeyed), report=provenance, day=plan.days[-1])
    report["rows"]["skip_state"] = new_state.rows
    return report | drop_outdated_partitions(context, plan)


def total_row(plays: DataFrame, before: dict[str, Any]) -> dict[str, Any]:
    """Return the one state row of kind `all`: counts over all labelled plays.

    Args:
        plays: the plays to add.
        before: TOTAL_COLUMNS of the row before them.
    """
    labelled, flow, listened = F.col("listened") >= 0, F.col("is_flow"), F.col("listened") == 1
    added = (
        plays.where(labelled)
        .agg(
            F.count(F.lit(1)).alias("n_plays"),
            F.count(F.when(listened, 1)).alias("n_listened"),
            F.count(F.when(flow, 1)).alias("n_flow"),
            F.count(F.when(flow & listened, 1)).alias("n_flow_listened"),
            F.coalesce(F.max("ts"), F.lit(0)).alias("last_ts"),
        )
        .collect()[0]
        .asDict()
    )
    sums = {name: added[name] + before[name] for name in added if name != "last_ts"}
    last_ts = max(added["last_ts"], before["last_ts"])
    return {"kind": "all", "key": 0, "other": -1, **sums, "last_ts": last_ts, "days": [], "plays": []}


def drop_outdated_partitions(context: Context, plan: BuildPlan) -> dict[str, Any]:
    """Drop old states and the partitions of days without plays; return the dropped days and the later days.

    Features of later days were computed from the state that has been replaced; the report names these days.
    """
    lake = context.lake
    play_days = {p["day"] for p in lake.partitions("plays")}
    states = [p["day"] for p in lake.partitions("skip_state")]
    old = [day for day in states if day in play_days and day <= plan.days[-1]][:-N_STORED_STATES]
    for day in [day for day in states if day not in play_days] + old:
        lake.drop("skip_state", day=day)
    feature_days = [p["day"] for p in lake.partitions("skip_features") if p["variant"] == PAST]
    dropped = [day for day in feature_days if day not in play_days]
    for day in dropped:
        lake.drop("skip_features", variant=PAST, day=day)
    later = [day for day in feature_days if day > plan.days[-1] and day in play_days]
    return {"days_dropped": dropped, "later_days": later}
