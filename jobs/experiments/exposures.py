"""Displays of an experiment with what came of them: exposures joined to outcomes, a day at a time.

Counts   an outcome belongs to a display of the same request, track and listener, from its moment on and no later than
         `attribution_hours`; what fits no display is counted by reason
Memory   a day of exposures and the outcomes of the days that can belong to them
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
from models.evaluation.assignment import arm_index, bucket_bounds

EXPOSED = [
    "request_id",
    "user_id",
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


def days(plan: ExperimentSettings) -> list[str]:
    """The planned days."""
    first, last = date.fromisoformat(plan.first_day), date.fromisoformat(plan.last_day)
    return [str(first + timedelta(days=n)) for n in range((last - first).days + 1)]


@dataclass
class Displays:
    """Reads one experiment; `missing`, `untold` and `unused` fill up while days are read.

    missing: planned days without a display; untold: days with displays of which the app has told nothing.
    """

    lake: Lake
    plan: ExperimentSettings
    missing: list[str] = field(default_factory=list)
    untold: list[str] = field(default_factory=list)
    unused: Counter[str] = field(default_factory=Counter)

    def by_day(self, arm: str | None = None) -> Iterator[tuple[str, pd.DataFrame]]:
        """Each planned day with its displays: EXPOSED columns, and for each kind of outcome whether it came (bool)."""
        for day in days(self.plan):
            if not self.lake.exists("exposures", day=day):
                self.missing.append(day)
                continue
            shown = self.lake.read("exposures", columns=EXPOSED, day=day).to_pandas()
            shown = shown[shown["experiment"] == self.plan.name]
            if arm is not None:
                shown = shown[shown["arm"] == arm]
            if shown.empty:
                self.missing.append(day)
                continue
            yield day, self._with_outcomes(day, shown.reset_index(drop=True))

    def _with_outcomes(self, day: str, shown: pd.DataFrame) -> pd.DataFrame:
        if not self.lake.exists("outcomes", day=day):
            self.untold.append(day)
        reach = timedelta(hours=self.plan.attribution_hours)
        later = [str(date.fromisoformat(day) + timedelta(days=n)) for n in range(1 + -(-reach // timedelta(days=1)))]
        there = [
            self.lake.read("outcomes", day=one).to_pandas() for one in later if self.lake.exists("outcomes", day=one)
        ]
        for kind in KINDS:
            shown[kind] = False
        if not there:
            return shown
        shown["row"] = shown.index
        found = pd.concat(there).merge(shown[[*KEY, "user_id", "ts", "row"]], on=KEY, suffixes=("", "_shown"))
        other = found["user_id"] != found["user_id_shown"]
        gap = found["ts"] - found["ts_shown"]
        late = ~other & ((gap < timedelta()) | (gap > reach))
        self.unused["of another listener than the display"] += int(other.sum())
        self.unused[f"before the display or more than {self.plan.attribution_hours} hours after it"] += int(late.sum())
        for kind, rows in found[~other & ~late].groupby("kind")["row"]:
            shown.loc[rows, str(kind)] = True
        return shown.drop(columns="row")


@dataclass(frozen=True)
class Counted:
    """An experiment by listener: frame with user_id, arm, displays and a column of counts for each kind."""

    users: pd.DataFrame
    first: pd.Timestamp | None
    missing: list[str]
    untold: list[str]
    unused: dict[str, int]
    requests: int
    stood_in: int  # displays that the arm's method could not make


def count(lake: Lake, plan: ExperimentSettings) -> Counted:
    """Read the planned days.

    Raises:
        CheckFailed: nobody was shown anything.
    """
    displays, parts, requests, stood_in = Displays(lake, plan), [], 0, 0
    own = {arm.name: arm.method for arm in plan.arms}
    for _, shown in displays.by_day():
        requests += shown["request_id"].nunique()
        stood_in += int((shown["method"] != shown["arm"].map(own)).sum())
        sums = shown.groupby(["user_id", "arm"], as_index=False).agg(
            displays=("position", "size"), **{kind: (kind, "sum") for kind in KINDS}
        )
        parts.append(sums)
    if not parts:
        raise CheckFailed(
            f"experiment {plan.name}: no exposures from {plan.first_day} to {plan.last_day}; "
            "run `overture ab-ingest` over the exposure log first"
        )
    users = pd.concat(parts).groupby(["user_id", "arm"], as_index=False).sum()
    return Counted(
        users, first_exposure(lake, plan), displays.missing, displays.untold, dict(displays.unused), requests, stood_in
    )


def first_exposure(lake: Lake, plan: ExperimentSettings) -> pd.Timestamp | None:
    """The first moment at which this experiment showed something, planned day or not."""
    for partition in lake.partitions("exposures"):
        shown = lake.read("exposures", columns=["experiment", "ts"], **partition).to_pandas()
        mine = shown.loc[shown["experiment"] == plan.name, "ts"]
        if len(mine):
            return pd.Timestamp(mine.min())
    return None


def misplaced(users: pd.DataFrame, plan: ExperimentSettings) -> int:
    """Listeners who were shown another arm than the one that the hash says, or several."""
    ends = bucket_bounds([arm.share for arm in plan.arms])
    place = {arm.name: n for n, arm in enumerate(plan.arms)}
    wrong = [
        place.get(arm) != arm_index(plan.name, plan.salt, user, ends)
        for user, arm in zip(users["user_id"].tolist(), users["arm"].tolist(), strict=True)
    ]
    return int(users.loc[wrong, "user_id"].nunique())
