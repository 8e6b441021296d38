"""Were a week's newcomers like the listeners that the champion learned from? What the service watches, over a week.

Input   cold_first_day of the seven days before the Monday; inputs.json of the champion
Output  a table, a run in MLflow (mlflow.monitor_experiment) with psi/<feature> and drift.json
Time    newcomers registered in [week - 7 d, week); the champion is the one in service when the job runs
Judged  population stability index by feature (serving/release/input_drift.py), every newcomer counting the same: `others` where it
        is above monitor.psi_threshold and above what chance gives so many listeners. Where nothing changed the index is
        chi-squared of (classes - 1) times (1 / newcomers + 1 / listeners of training) (Yurdakul, Naranjo 2020)
Warns   on stderr; others are no error: what a person does about them is to look, and perhaps to train more often
"""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from scipy.stats import chi2

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.platform.tables import make_table, wide_console
from jobs.release import pointer
from jobs.settings.cold_start import MonitorSettings
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release import input_drift
from serving.release.bundle import open_release

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Feature:
    """One feature's index, what chance alone stays below, and the verdict: same or others."""

    feature: str
    psi: float
    by_chance: float
    verdict: str


def run(context: Context) -> dict[str, Any]:
    """Compare the week's newcomers with the champion's training.

    Raises:
        CheckFailed: there is no champion, it does not tell of its training, or no newcomer of the week was placed.
    """
    now = pointer.read(context.home)
    if now is None:
        raise CheckFailed("monitor: there is no champion yet; run the weekly pipeline first")
    reference = open_release(pointer.releases(context.home) / now.release).training_inputs
    if reference is None:
        raise CheckFailed(f"monitor: release {now.release[:12]} is too old to hold {input_drift.NAME}")
    days = [str(context.week.monday - timedelta(days=n)) for n in range(7, 0, -1)]
    missing = [day for day in days if not context.lake.exists("cold_first_day", day=day)]
    parts = [context.lake.read("cold_first_day", day=day) for day in days if day not in missing]
    people = sum(part.num_rows for part in parts)
    if not people:
        raise CheckFailed(
            f"monitor: no newcomer from {days[0]} to {days[-1]}; run `overture cold-users --day {days[0]}` and so on"
        )
    try:
        found = judged(reference, FirstDays.from_arrow(pa.concat_tables(parts)), context.settings.monitor)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"monitor: release {now.release[:12]}: {error}") from None
    others = [one.feature for one in found if one.verdict == "others"]
    report = {
        "week": context.week.name,
        "release": now.release,
        "release_week": now.week,
        "newcomers": people,
        "learned_from": reference["n_users"],
        "missing_days": missing,
        "others": others,
    }
    tags = {"task": "monitor", "week": context.week.name, "release": now.release}
    name = f"monitor {context.week.name}"
    with Tracker.standalone_run(context, context.settings.mlflow.monitor_experiment, name, tags) as tracked:
        tracked.log_metrics({f"psi/{one.feature}": one.psi for one in found} | {"newcomers": people})
        tracked.log_table([asdict(one) for one in found], "drift.json")
        tracked.set_tags({"verdict": "others" if others else "same", "missing_days": ", ".join(missing)})
        _print(found, report)
        return {**report, **tracked.links}


def judged(reference: dict[str, Any], days: FirstDays, settings: MonitorSettings) -> list[Feature]:
    """Every feature, the largest index first.

    Raises:
        ValueError: the reference is of another format or has other classes.
    """
    found = []
    for name, value in input_drift.compare(reference, days).items():
        classes = len(reference["features"][name]["classes"])
        spread = 1 / len(days) + 1 / reference["n_users"]
        by_chance = float(chi2.isf(settings.false_positive_rate, classes - 1)) * spread
        verdict = "others" if value > max(settings.psi_threshold, by_chance) else "same"
        found.append(Feature(name, value, by_chance, verdict))
    return sorted(found, key=lambda one: -one.psi)


def _print(found: list[Feature], report: dict[str, Any]) -> None:
    wide_console().print(table(found, report))
    if report["missing_days"]:
        sys.stderr.write(f"overture: warning: not placed and not counted: {', '.join(report['missing_days'])}\n")
    if report["others"]:
        sys.stderr.write(f"overture: warning: newcomers are others in {', '.join(report['others'])}\n")


def table(found: list[Feature], report: dict[str, Any]) -> Table:
    """Features with their index, for people."""
    numbers = ("stability index", "by chance below")
    title = (
        f"Week {report['week']}: {report['newcomers']:,} newcomers against the {report['learned_from']:,} listeners of "
        f"release {report['release'][:12]}"
    )
    made = make_table(title, "feature", *numbers, "verdict", right=numbers)
    for one in found:
        style = "yellow" if one.verdict == "others" else None
        made.add_row(one.feature, f"{one.psi:.3f}", f"{one.by_chance:.3f}", one.verdict, style=style)
    return made
