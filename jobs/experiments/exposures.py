"""Displays of an experiment with their outcomes: exposures joined to outcomes, one day at a time.

Match    an outcome belongs to a display of the same request, track and listener, if it is not earlier and at most
         `attribution_hours` later. Outcomes without a display are counted by reason
Memory   one day of exposures, and the outcomes of the days that can belong to them
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta

import pandas as pd

from contracts.errors import CheckFailed
from jobs.experiments.ingest import KINDS
from jobs.platform.lake import Lake
from jobs.settings.experiments import ExperimentSettings
from models.cold_start.methods.country_age import CountryAge
from models.evaluation.assignment import arm_index, bucket_bounds
from serving.release.bundle import WITH_COUNTRY_AGE

EXPOSURE_COLUMNS = [
    "request_id",
    "user_id",
    "user_external_id",
    "ts",
    "experiment",
    "arm",
    "position",
    "track_id",
    "propensity",
    "method",
    "release",
]
KEY = ["request_id", "track_id"]
USER = ["user_id", "user_external_id", "arm"]


def days(plan: ExperimentSettings) -> list[str]:
    """Return the planned days."""
    first, last = date.fromisoformat(plan.first_day), date.fromisoformat(plan.last_day)
    return [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]


@dataclass
class Displays:
    """Reader of one experiment. `missing`, `without_outcome` and `unmatched` are filled while days are read.

    Attributes:
        lake: Lake with exposures and outcomes.
        plan: The experiment's plan.
        missing: Planned days without a display.
        without_outcome: Days with displays and without any outcome.
        unmatched: Reason -> number of outcomes that match no display.
    """

    lake: Lake
    plan: ExperimentSettings
    missing: list[str] = field(default_factory=list)
    without_outcome: list[str] = field(default_factory=list)
    unmatched: Counter[str] = field(default_factory=Counter)

    def by_day(self, arm: str | None = None) -> Iterator[tuple[str, pd.DataFrame]]:
        """Yield each planned day with its displays.

        Args:
            arm: Yield the displays of this arm only.

        Yields:
            The day, and a frame with EXPOSURE_COLUMNS and one bool column for each kind of outcome.
        """
        for day in days(self.plan):
            if not self.lake.exists("exposures", day=day):
                self.missing.append(day)
                continue
            shown = self.lake.read("exposures", columns=EXPOSURE_COLUMNS, day=day).to_pandas()
            shown = shown[shown["experiment"] == self.plan.name]
            if arm is not None:
                shown = shown[shown["arm"] == arm]
            if shown.empty:
                self.missing.append(day)
                continue
            yield day, self._with_outcomes(day, shown.reset_index(drop=True))

    def _with_outcomes(self, day: str, shown: pd.DataFrame) -> pd.DataFrame:
        if not self.lake.exists("outcomes", day=day):
            self.without_outcome.append(day)
        window = timedelta(hours=self.plan.attribution_hours)
        outcome_days = [
            str(date.fromisoformat(day) + timedelta(days=n)) for n in range(1 + -(-window // timedelta(days=1)))
        ]
        outcomes = [
            self.lake.read("outcomes", day=outcome_day).to_pandas()
            for outcome_day in outcome_days
            if self.lake.exists("outcomes", day=outcome_day)
        ]
        for kind in KINDS:
            shown[kind] = False
        if not outcomes:
            return shown
        shown["row"] = shown.index
        joined = pd.concat(outcomes).merge(shown[[*KEY, "user_id", "ts", "row"]], on=KEY, suffixes=("", "_shown"))
        other_listener = joined["user_id"] != joined["user_id_shown"]
        delay = joined["ts"] - joined["ts_shown"]
        late = ~other_listener & ((delay < timedelta()) | (delay > window))
        self.unmatched["other listener than the display"] += int(other_listener.sum())
        self.unmatched[f"before the display or more than {self.plan.attribution_hours} hours after it"] += int(
            late.sum()
        )
        for kind, rows in joined[~other_listener & ~late].groupby("kind")["row"]:
            shown.loc[rows, str(kind)] = True
        return shown.drop(columns="row")


@dataclass(frozen=True)
class ExperimentCounts:
    """Displays and outcomes of an experiment by listener.

    Attributes:
        users: Frame with user_id, user_external_id (null where it is the id), arm, displays, and a count for each kind
            of outcome.
        first: Time of the first display, or None.
        missing: Planned days without a display.
        without_outcome: Days with displays and without any outcome.
        unmatched: Reason -> number of outcomes that match no display.
        requests: Number of requests.
        fallback_displays: Displays that came from a fallback instead of the arm's method.
    """

    users: pd.DataFrame
    first: pd.Timestamp | None
    missing: list[str]
    without_outcome: list[str]
    unmatched: dict[str, int]
    requests: int
    fallback_displays: int


def count_displays(lake: Lake, plan: ExperimentSettings) -> ExperimentCounts:
    """Count displays and outcomes of the planned days.

    Raises:
        CheckFailed: There is no display.
    """
    displays, parts, requests, fallback_displays = Displays(lake, plan), [], 0, 0
    method_of = {arm.name: arm.method for arm in plan.arms}
    for _, shown in displays.by_day():
        requests += shown["request_id"].nunique()
        fallback_displays += int(from_fallback(shown["method"], shown["arm"].map(method_of)).sum())
        sums = shown.groupby(USER, as_index=False, dropna=False).agg(
            displays=("position", "size"), **{kind: (kind, "sum") for kind in KINDS}
        )
        parts.append(sums)
    if not parts:
        raise CheckFailed(
            f"experiment {plan.name}: no exposures from {plan.first_day} to {plan.last_day}; "
            "run `overture ab-ingest` on the exposure log first"
        )
    users = pd.concat(parts).groupby(USER, as_index=False, dropna=False).sum()
    return ExperimentCounts(
        users,
        first_exposure(lake, plan),
        displays.missing,
        displays.without_outcome,
        dict(displays.unmatched),
        requests,
        fallback_displays,
    )


def from_fallback(method: pd.Series, of_arm: pd.Series) -> pd.Series:
    """Return which displays came from a fallback.

    Lists by country and age are part of the methods that use them for listeners without a known interaction.

    Args:
        method: Method of each displayed list.
        of_arm: Method of the arm.
    """
    part_of_method = (method == CountryAge.name) & of_arm.isin(WITH_COUNTRY_AGE)
    return (method != of_arm) & ~part_of_method


def first_exposure(lake: Lake, plan: ExperimentSettings) -> pd.Timestamp | None:
    """Return the time of the experiment's first display, on a planned day or not, or None."""
    for partition in lake.partitions("exposures"):
        shown = lake.read("exposures", columns=["experiment", "ts"], **partition).to_pandas()
        times = shown.loc[shown["experiment"] == plan.name, "ts"]
        if len(times):
            return pd.Timestamp(times.min())
    return None


def n_misassigned(users: pd.DataFrame, plan: ExperimentSettings) -> int:
    """Return the number of listeners who were shown an arm other than the one of their hash, or several arms."""
    bounds = bucket_bounds([arm.share for arm in plan.arms])
    texts = users["user_external_id"].where(users["user_external_id"].notna(), users["user_id"].astype(str))
    index_of = {arm.name: n for n, arm in enumerate(plan.arms)}
    is_wrong = [
        index_of.get(arm) != arm_index(plan.name, plan.salt, user, bounds)
        for user, arm in zip(texts.tolist(), users["arm"].tolist(), strict=True)
    ]
    return int(users.loc[is_wrong, "user_id"].nunique())
