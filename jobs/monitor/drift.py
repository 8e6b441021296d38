"""Weekly drift report: the week's new listeners against the listeners that the champion was trained on.

Input   cold_first_day of the seven days before the Monday; inputs.json of the champion
Output  a table, a run in MLflow (mlflow.monitor_experiment) with psi/<feature> and drift.json
Time    listeners who registered in [week - 7 d, week); the champion is the one in service when the job runs
Method  population stability index (PSI) of each feature (serving/release/input_drift.py); every new listener has equal
        weight. A feature has drifted if its PSI is above monitor.psi_threshold and above the level that sampling noise
        reaches with probability monitor.false_positive_rate. Without drift, PSI is distributed as chi-squared with
        (classes - 1) degrees of freedom times (1 / new listeners + 1 / training listeners) (Yurdakul, Naranjo 2020)
Warning on stderr. Drift is not an error: a person reads the report and may decide to train more often
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
from jobs.release.destination import read_champion, release_folder
from jobs.settings.cold_start import MonitorSettings
from jobs.tracking.tracker import Tracker
from models.cold_start.input_vector import FirstDays
from serving.release import input_drift
from serving.release.bundle import open_release

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class FeatureDrift:
    """Drift of one feature.

    Attributes:
        feature: Name of the feature.
        psi: Population stability index.
        noise_threshold: PSI that is exceeded without drift with probability monitor.false_positive_rate.
        verdict: `same` or `drifted`.
    """

    feature: str
    psi: float
    noise_threshold: float
    verdict: str


def run(context: Context) -> dict[str, Any]:
    """Compare the week's new listeners with the champion's training data.

    Raises:
        CheckFailed: There is no champion, it contains no description of its training data, or the week has no row in
            cold_first_day.
    """
    current = read_champion(context)
    if current is None:
        raise CheckFailed("monitor: there is no champion yet; run the weekly pipeline first")
    reference = open_release(release_folder(context, current.release)).training_inputs
    if reference is None:
        raise CheckFailed(f"monitor: release {current.release[:12]} is too old: it does not contain {input_drift.NAME}")
    days = [str(context.week.monday - timedelta(days=n)) for n in range(7, 0, -1)]
    missing = [day for day in days if not context.lake.exists("cold_first_day", day=day)]
    parts = [context.lake.read("cold_first_day", day=day) for day in days if day not in missing]
    n_new = sum(part.num_rows for part in parts)
    if not n_new:
        raise CheckFailed(
            f"monitor: no new listener from {days[0]} to {days[-1]}; run `overture cold-users --day {days[0]}` "
            "and the same for each day"
        )
    try:
        features = measure_drift(reference, FirstDays.from_arrow(pa.concat_tables(parts)), context.settings.monitor)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckFailed(f"monitor: release {current.release[:12]}: {error}") from None
    drifted = [feature.feature for feature in features if feature.verdict == "drifted"]
    report = {
        "week": context.week.name,
        "release": current.release,
        "release_week": current.week,
        "new_listeners": n_new,
        "training_listeners": reference["n_users"],
        "missing_days": missing,
        "drifted": drifted,
    }
    tags = {"task": "monitor", "week": context.week.name, "release": current.release}
    name = f"monitor {context.week.name}"
    with Tracker.standalone_run(context, context.settings.mlflow.monitor_experiment, name, tags) as run:
        run.log_metrics({f"psi/{feature.feature}": feature.psi for feature in features} | {"new_listeners": n_new})
        run.log_table([asdict(feature) for feature in features], "drift.json")
        run.set_tags({"verdict": "drifted" if drifted else "same", "missing_days": ", ".join(missing)})
        _print(features, report)
        return {**report, **run.links}


def measure_drift(reference: dict[str, Any], days: FirstDays, settings: MonitorSettings) -> list[FeatureDrift]:
    """Return the drift of every feature, the largest PSI first.

    Raises:
        ValueError: The reference has another format or other classes.
    """
    features = []
    for name, value in input_drift.compare(reference, days).items():
        classes = len(reference["features"][name]["classes"])
        spread = 1 / len(days) + 1 / reference["n_users"]
        noise_threshold = float(chi2.isf(settings.false_positive_rate, classes - 1)) * spread
        verdict = "drifted" if value > max(settings.psi_threshold, noise_threshold) else "same"
        features.append(FeatureDrift(name, value, noise_threshold, verdict))
    return sorted(features, key=lambda feature: -feature.psi)


def _print(features: list[FeatureDrift], report: dict[str, Any]) -> None:
    wide_console().print(drift_table(features, report))
    if report["missing_days"]:
        sys.stderr.write(f"overture: warning: days without data: {', '.join(report['missing_days'])}\n")
    if report["drifted"]:
        sys.stderr.write(f"overture: warning: new listeners have drifted in {', '.join(report['drifted'])}\n")


def drift_table(features: list[FeatureDrift], report: dict[str, Any]) -> Table:
    """Return a table of the features and their PSI."""
    numbers = ("PSI", "noise below")
    title = (
        f"Week {report['week']}: {report['new_listeners']:,} new listeners and the {report['training_listeners']:,} "
        f"training listeners of release {report['release'][:12]}"
    )
    table = make_table(title, "feature", *numbers, "verdict", right=numbers)
    for feature in features:
        style = "yellow" if feature.verdict == "drifted" else None
        table.add_row(
            feature.feature, f"{feature.psi:.3f}", f"{feature.noise_threshold:.3f}", feature.verdict, style=style
        )
    return table
