"""Runs a daily update of the skip engine: features of one day, a new release, its gate and its promotion.

Input   plays and skip_state of the day before, the champion      Output  the day's skip_features, skip_state; a release
Time    the release of day D contains the state at the end of D; its members, weights and calibration are trained on
        plays before D, and it is evaluated on the plays of D
Re-run  safe: the tables of the day are replaced; a second run starts from the same release and gives the same result

The release passes the same gate as a weekly one. If any step fails, the champion stays in service. The contents of the
release are described in jobs/release/skip/update_bundle.py.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import date
from typing import TYPE_CHECKING, Any

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import bundle, gate, promote
from jobs.release.skip.gate import REQUIRED_TABLES
from jobs.release.skip.update_bundle import open_base_release
from jobs.skip import build_features
from jobs.tracking.tracker import Tracker

if TYPE_CHECKING:
    from jobs.settings.settings import Settings


def run(settings: Settings, day: date) -> dict[str, Any]:
    """Compute the features of a day, then build, evaluate and promote a release.

    Args:
        settings: all settings.
        day: the day of plays (UTC).

    Returns:
        The report for Airflow.

    Raises:
        CheckFailed: there is no champion, the day has no plays, or the gate fails; the champion stays.
    """
    context = Context.for_engine(settings, Week.after_day(day), "skip")
    open_base_release(context)  # raises before a Spark session is started
    if not context.lake.exists("plays", day=str(day)):
        raise CheckFailed(f"plays: day={day} has not been written; ingest the day first")
    try:
        check.run(context, list(REQUIRED_TABLES))
        with Tracker.task(context, "features") as tracked:
            features = build_features.run(context, str(day), str(day))
            tracked.log_json(features, "report.json")
        release = bundle.run(context)
        evaluated = gate.run(context)
        promoted = promote.run(context)
    except BaseException:
        with suppress(OvertureError):  # if MLflow is unavailable too, the first error is the one to report
            Tracker.finish_week(context, failed=True)
        raise
    parent = Tracker.finish_week(context, verdict=str(evaluated["verdict"]))
    return {
        "day": str(day),
        "rows": features["rows"],
        "release": release["release"],
        "verdict": evaluated["verdict"],
        "promoted": promoted["promoted"],
        "why": promoted["why"],
        **parent.links,
    }
