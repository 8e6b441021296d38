"""Realised quality: the lists that releases recommended to new users, compared with what these users streamed next.

Input   cold_lists and cold_first_day of seven days for each horizon; events after them; catalog of the releases' weeks
Output  realised_quality, partition day=<day>; a run in MLflow (mlflow.monitor_experiment)
Grain   one row per release, horizon, slice, metric and k
Time    as of the end of the day. A horizon of h days uses the new users whose first day ended with one of the seven
        days up to day - h, so that all their days 1 to h have ended. Nothing after the end of the day is read
Truth   distinct tracks of the release's catalogue streamed on days 1 to h (jobs/matrix/first_day.py). As in the table
        evaluation, listeners with fewer than `matrix.min_truth_tracks` are left out; of a shorter horizon than 30 days,
        fewer than ceil(min_truth_tracks * h / 30)
Rules   the rules of lists apply to both lists, the release's and Popularity's, as in the service

A horizon is measured only if all days of events from its first user's day 1 are in the lake and complete, and if enough
listeners remain (section `realised` of the settings). Otherwise its rows have a status and no numbers. Slices need
`evaluation.min_slice_users`. Late events change the result only if the day is run again.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.cold_start.evaluate import slices
from jobs.platform.context import Context
from jobs.platform.tables import format_number, make_table, wide_console
from jobs.platform.week import TRUTH_DAYS
from jobs.quality.completeness import incomplete_days
from jobs.settings.settings import Settings
from jobs.tracking.tracker import Tracker
from models.arrays import IdVector, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.ragged import Ragged
from models.evaluation.metrics import METRICS, bootstrap, paired_bootstrap, score

if TYPE_CHECKING:
    from rich.table import Table

HORIZONS = (3, 7, TRUTH_DAYS)
N_DAYS = 7
DAY = timedelta(days=1)
NUMBERS = ("value", "low", "high", "popularity", "ratio", "gain", "gain_low", "gain_high")
Row = dict[str, Any]
Partitions = dict[str, list[dict[str, str]]]


@dataclass(frozen=True)
class Window:
    """The new users of one horizon: those whose first day ended with one of the seven days up to `day` - `horizon`.

    Attributes:
        horizon: Number of days after the first day.
        day: Last day of events that is read.
    """

    horizon: int
    day: date

    @property
    def last(self) -> date:
        """Last day with which first days ended."""
        return self.day - self.horizon * DAY

    @property
    def days(self) -> list[date]:
        """The seven days with which first days ended."""
        return [self.last - n * DAY for n in range(N_DAYS - 1, -1, -1)]

    @property
    def as_of(self) -> datetime:
        """End of the last day of events."""
        return datetime.combine(self.day + DAY, time(), UTC)

    def event_days(self, first: date, ends_with_utc_day: bool) -> list[date]:
        """Return the days of events that contain days 1 to `horizon` of the users of `first` and later days."""
        first = first + DAY if ends_with_utc_day else first
        return [first + n * DAY for n in range((self.day - first).days + 1)]


def run(context: Context, day: date) -> dict[str, Any]:
    """Measure all horizons as of the end of a day.

    Raises:
        CheckFailed: The day has no events, or the catalogue of a release's week is no longer in the lake.
    """
    lake = context.lake
    if not lake.exists("events", day=str(day)):
        raise CheckFailed(f"events: day={day} has not been written; ingest the day first")
    tags = {"task": "realised", "day": str(day)}
    with Tracker.standalone_run(context, context.settings.mlflow.monitor_experiment, f"realised {day}", tags) as run:
        rows: list[Row] = []
        missing: dict[str, Any] = {}
        partitions: Partitions = {}
        for horizon in HORIZONS:
            window = Window(horizon, day)
            of_horizon, problems = measure_horizon(context, window, partitions)
            rows += of_horizon
            if problems:
                missing[f"{horizon} days"] = problems
        schema = arrow_schema(contracts.load("realised_quality"))
        inputs = {
            table: {"/".join(part.values()): lake.version(table, **part) for part in parts}
            for table, parts in partitions.items()
        }
        report = {"inputs": inputs, "missing": missing, "commit": context.commit}
        written = lake.write("realised_quality", pa.Table.from_pylist(rows, schema), report=report, day=str(day))
        for table, parts in partitions.items():
            run.log_partitions(table, parts, use="evaluation")
        run.log_metrics(headline(rows))
        run.log_table(rows, "realised_quality.json")
        for line in (f"horizon of {name}: {text}" for name, texts in missing.items() for text in texts):
            sys.stderr.write(f"overture: warning: {line}\n")
        wide_console().print(result_table(rows, day))
        result = {"day": str(day), "rows": written.rows, "path": written.path, "missing": missing}
        return {
            **result,
            "measured": sorted({r["horizon_days"] for r in rows if r["status"] == "measured"}),
            **run.links,
        }


def measure_horizon(context: Context, window: Window, partitions: Partitions) -> tuple[list[Row], list[str]]:
    """Return the rows of one horizon, and why days of users or of events are missing.

    Args:
        context: Lake and settings.
        window: The users.
        partitions: Table -> the partitions that were read; this function adds its own.
    """
    lake, first_day = context.lake, context.settings.matrix.first_day
    recorded = [d for d in window.days if lake.exists("cold_lists", day=str(d))]
    problems = []
    if absent := [str(d) for d in window.days if d not in recorded]:
        problems.append(f"no lists are recorded of the users of {', '.join(absent)}")
    if not recorded:
        return [], problems
    users = read_users(context, recorded)
    if lost := sum(lake.rows("cold_lists", day=str(d)) for d in recorded) - len(users):
        problems.append(f"{lost} lists are left out: no row in cold_first_day, or another list on a later day")
    for table in ("cold_lists", "cold_first_day"):
        _add(partitions, table, [{"day": str(d)} for d in recorded])
    needed = window.event_days(recorded[0], first_day.ends_with_utc_day)
    bad = bad_days(context, needed)
    if bad:
        problems.append(f"incomplete days of events: {', '.join(bad)}")
    else:
        _add(partitions, "events", [{"day": str(d)} for d in needed if lake.exists("events", day=str(d))])
    rows: list[Row] = []
    releases = sorted(
        {(str(week), str(release)) for week, release in zip(users["week"], users["release"], strict=True)}
    )
    for week, release in releases:
        group = users[users["release"] == release]
        common = {
            "release": release,
            "week": week,
            "horizon_days": window.horizon,
            "from_day": window.days[0],
            "to_day": window.last,
            "n_days": int(group["day"].nunique()),
        }
        if bad:
            rows += rows_without_numbers(context.settings, common, "incomplete", len(group), None)
            continue
        _add(partitions, "catalog", [{"week": week}])
        catalog = lake.read("catalog", columns=["track_idx", "track_id"], week=week).sort_by("track_idx")
        truth = read_truth(context, window, group, week)
        rows += release_rows(context, window, common, group, truth, catalog.column("track_id").to_numpy())
    return rows, problems


def read_users(context: Context, days: list[date]) -> pd.DataFrame:
    """Return lists and first days of the users of some days, by user_id; of a user with two days, the later one."""
    lake, parts = context.lake, []
    for day in days:
        lists = lake.read("cold_lists", day=str(day)).to_pandas()
        first_days = lake.read("cold_first_day", day=str(day)).to_pandas()
        parts.append(lists.merge(first_days, on="user_id").assign(day=day))
    users: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return users.drop_duplicates("user_id", keep="last").sort_values("user_id", ignore_index=True)


def bad_days(context: Context, needed: list[date]) -> list[str]:
    """Return the days of events that are not in the lake, or half-empty (jobs/quality/completeness.py)."""
    source = context.settings.source
    stored = {part["day"] for part in context.lake.partitions("events")}
    bad = {day for day in needed if str(day) not in stored and day not in source.accepted_days}
    bad |= {d.day for d in incomplete_days(context.lake, source, "events", needed[0], needed[-1])}
    return sorted(map(str, bad))


def read_truth(context: Context, window: Window, users: pd.DataFrame, week: str) -> dict[int, list[int]]:
    """Return user_id -> the distinct track_idx streamed on days 1 to `horizon`, of users with enough of them."""
    from pyspark.sql import functions as F

    from jobs.matrix.catalog import timestamp_literal
    from jobs.matrix.first_day import collect_truth, registration_days
    from jobs.matrix.first_day_bounds import add_days

    spark, lake, matrix = context.spark, context.lake, context.settings.matrix
    columns = ["user_id", "registered_at", "country", "age"]
    schema = pa.schema([arrow_schema(contracts.load("cold_first_day")).field(name) for name in columns])
    frame = spark.createDataFrame(pa.Table.from_pandas(users[columns], schema, preserve_index=False))
    end = add_days(F.col("end"), window.horizon, matrix.first_day)
    days = registration_days(frame, matrix.first_day).where(end <= timestamp_literal(window.as_of))
    start = datetime.combine(window.days[0], time(), UTC)
    events, catalog = lake.events(spark, start, window.as_of), lake.spark(spark, "catalog", week=week)
    n_tracks = min_truth_tracks(context.settings, window.horizon)
    truth = collect_truth(days, events, catalog, n_tracks, matrix.first_day, window.horizon).toPandas()
    return {int(user): list(map(int, tracks)) for user, tracks in zip(truth["user_id"], truth["truth"], strict=True)}


def min_truth_tracks(settings: Settings, horizon: int) -> int:
    """Return the number of distinct tracks that a listener must have streamed: in proportion to the days."""
    return math.ceil(settings.matrix.min_truth_tracks * horizon / TRUTH_DAYS)


def lengths(settings: Settings) -> list[int]:
    """Return the evaluated lengths of lists: those of `evaluation.k` that the recorded lists have.

    Raises:
        CheckFailed: All are longer than `store.list_length`.
    """
    chosen = [k for k in settings.evaluation.k if k <= settings.store.list_length]
    if not chosen:
        raise CheckFailed(
            f"realised: the stored lists have {settings.store.list_length} tracks (store.list_length), fewer than each "
            f"of evaluation.k ({', '.join(map(str, settings.evaluation.k))}); raise store.list_length"
        )
    return chosen


def release_rows(
    context: Context,
    window: Window,
    common: Row,
    users: pd.DataFrame,
    truth: dict[int, list[int]],
    track_id_N: IdVector,
) -> list[Row]:
    """Return the rows of one release in one horizon.

    Args:
        context: Settings and seed.
        window: The horizon.
        common: Values of all rows.
        users: Users with a list of the release, with cold_lists and cold_first_day in columns.
        truth: user_id -> distinct track_idx; users without one are not evaluated.
        track_id_N: Ids of the tracks by track_idx.
    """
    settings = context.settings
    min_users = getattr(settings.realised, f"min_users_{window.horizon}d")
    has_truth = users["user_id"].isin(list(truth)).to_numpy()
    if has_truth.sum() < min_users:
        return rows_without_numbers(settings, common, "too_few_users", len(users), int(has_truth.sum()))
    days = FirstDays.from_arrow(pa.Table.from_pandas(users, _first_day_schema(), preserve_index=False))
    masks = slices(days)
    chosen = users[has_truth]
    truths = Ragged.from_lists([truth[int(user)] for user in chosen["user_id"]])
    place = dict(zip(track_id_N.tolist(), range(len(track_id_N)), strict=True))
    seed, n = context.seed(f"realised/{window.day}"), settings.evaluation.n_bootstrap
    rows: list[Row] = []
    for k in lengths(settings):
        own, popular = (
            score(track_matrix(chosen[column].tolist(), place, k), truths, k) for column in ("tracks", "popular_tracks")
        )
        for name, mask in masks.items():
            of_slice = mask[has_truth]
            if of_slice.sum() < settings.evaluation.min_slice_users and name != "all":
                continue
            for metric in METRICS:
                values, base = own[metric][of_slice], popular[metric][of_slice]
                low, high = bootstrap(values, n, seed)
                gain, gain_low, gain_high = paired_bootstrap(values, base, n, seed)
                mean, popularity = float(values.mean()), float(base.mean())
                counts = {"n_placed": int(mask.sum()), "n_users": int(of_slice.sum())}
                ratio = mean / popularity if popularity else None
                numbers = (mean, low, high, popularity, ratio, gain, gain_low, gain_high)
                row = {**common, "slice": name, "metric": metric, "k": k, "status": "measured", **counts}
                rows.append({**row, **dict(zip(NUMBERS, numbers, strict=True))})
    return rows


def rows_without_numbers(settings: Settings, common: Row, status: str, n_placed: int, n_users: int | None) -> list[Row]:
    """Return one row of the slice `all` per metric and k, with a status instead of numbers."""
    counts = {"status": status, "n_placed": n_placed, "n_users": n_users}
    keys = [(metric, k) for k in lengths(settings) for metric in METRICS]
    empty = dict.fromkeys(NUMBERS)
    return [{**common, "slice": "all", "metric": metric, "k": k, **counts, **empty} for metric, k in keys]


def track_matrix(lists: list[Any], place: dict[int, int], k: int) -> IntMatrix:
    """Return lists of track ids as track_idx (B, k). Places without a track of the catalogue contain indices above."""
    matrix = np.tile(len(place) + np.arange(k, dtype=np.int32), (len(lists), 1))
    for row, ids in zip(matrix, lists, strict=True):
        row[: len(ids)] = [place.get(int(track), empty) for track, empty in zip(ids[:k], row, strict=False)]
    return matrix


def headline(rows: list[Row]) -> dict[str, float]:
    """Return the metrics of the newest release for MLflow, such as ndcg_at_50_3d and its ratio to Popularity."""
    newest = max(((row["week"], row["release"]) for row in rows), default=None)
    measured = [
        row
        for row in rows
        if (row["week"], row["release"]) == newest and row["slice"] == "all" and row["status"] == "measured"
    ]
    named: list[tuple[str, Callable[[Row], Any]]] = [("", lambda r: r["value"]), ("_ratio", lambda r: r["ratio"])]
    return {
        f"{row['metric']}_at_{row['k']}_{row['horizon_days']}d{suffix}": value(row)
        for row in measured
        for suffix, value in named
        if value(row) is not None
    }


def result_table(rows: list[Row], day: date) -> Table:
    """Return a table of NDCG at the largest k by release, horizon and slice."""
    numbers = ("users", "NDCG", "Popularity", "ratio")
    k = max((row["k"] for row in rows), default=0)
    title = f"Realised quality as of the end of {day}: NDCG@{k}"
    table = make_table(
        title, "release", "days", "first days", "slice", *numbers, "gain, 95 %", right=("days", *numbers)
    )
    for row in (row for row in rows if (row["metric"], row["k"]) == ("ndcg", k)):
        measured = row["status"] == "measured"
        users = "" if row["n_users"] is None else f"{row['n_users']:,}"
        table.add_row(
            row["release"][:12],
            str(row["horizon_days"]),
            f"{row['from_day']:%m-%d} to {row['to_day']:%m-%d}",
            row["slice"],
            f"{users} of {row['n_placed']:,}",
            *(format_number(row[name]) for name in ("value", "popularity", "ratio")),
            f"{row['gain_low']:+.3f} to {row['gain_high']:+.3f}" if measured else row["status"].replace("_", " "),
            style=None if measured else "yellow",
        )
    return table


def _first_day_schema() -> pa.Schema:
    return arrow_schema(contracts.load("first_day"))


def _add(partitions: Partitions, table: str, parts: list[dict[str, str]]) -> None:
    """Add partitions of a table that are not listed yet, in ascending order."""
    listed = partitions.setdefault(table, [])
    listed += [part for part in parts if part not in listed]
    listed.sort(key=lambda part: tuple(part.values()))
