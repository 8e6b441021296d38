"""Run the tasks of a full week in sequence, and the daily task of the day before its Monday."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from jobs.cold_start import evaluate, features, segments, train
from jobs.factorize import als, svd
from jobs.matrix import catalog, first_day, track_pairs, user_track
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.quality import check
from jobs.release import bundle, gate, place_new_users, promote, publish, signing, weekly_run
from jobs.settings.base import SPACES

ROOT = Path(__file__).parents[2]
TINY = ROOT / "configs" / "tiny.yaml"
NEW_USERS_DAY = date(2026, 11, 15)
SOURCES = ["users", "tracks", "events", "playlists"]


def spark_stage(context: Context) -> None:
    """Run the Spark jobs, in the order of the DAG."""
    for name, job in (("catalog", catalog), ("user_track", user_track), ("track_pairs", track_pairs)):
        weekly_run.run_tracked(context, name, None, job.run)
    weekly_run.run_tracked(context, "first_day", None, first_day.run)
    weekly_run.run_tracked(context, "svd", "tt_svd", svd.run)
    weekly_run.run_tracked(context, "als", "ut_als", als.run)


def whole_week(context: Context) -> dict[str, object]:
    """Run all tasks of cold_start_weekly, then cold_users_daily."""
    signing.create_keys(signing.signing_key(context))
    weekly_run.begin(context)
    check.run(context, SOURCES)
    spark_stage(context)
    for space in SPACES:
        for job in (segments, features, train, evaluate):
            job.run(context, space)
    bundle.run(context)
    gate.run(context)
    promoted = promote.run(context)
    publish.run(context)
    weekly_run.complete(context)
    place_new_users.run(Context(context.settings, Week.containing(NEW_USERS_DAY), context.home), NEW_USERS_DAY)
    return promoted
