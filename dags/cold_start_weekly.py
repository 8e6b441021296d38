"""Weekly cold-start models: train spaces, segments and the first-day network, evaluate them, and promote a release.

| | |
|---|---|
| Reads | users, tracks, events, playlists: only rows before the week's Monday, 00:00 UTC |
| Writes | the week's tables, one MLflow parent run, a release, possibly a new champion |
| When | Mondays 00:00 UTC; by hand for any past Monday; for many: `airflow backfill create --max-active-runs 1` |
| Re-run | safe: every task replaces its own week |
| Owner | recommendations |

**ready** waits until all days of the window are in the lake; a day that is missing or half-empty after its deadline
(`source.deadline_h`) fails the run. **check** stops the run before another task reads invalid data. **gate** compares
the release with Popularity and with the champion. If it passes, **promote** makes it the champion. If it fails (exit
code 3), the old champion stays. In the grey zone **approve** waits for a person's decision; without one within three
days the release is rejected. **complete** closes the week's MLflow run in each case.
"""

from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup
from tasks import DAG_DEFAULTS, WEEK, job, optional_week, release, train_and_evaluate, wait_for_input

with DAG(
    "cold_start_weekly",
    schedule=CronTriggerTimetable("0 0 * * 1", timezone="UTC"),
    params={"week": optional_week()},
    doc_md=__doc__,
    tags=["cold start", "weekly"],
    **DAG_DEFAULTS,
):
    begin, evaluations = train_and_evaluate()
    with TaskGroup("release", tooltip="Build, evaluate and promote the release"):
        bundle, promote = release()
        publish = job("publish", f"release publish --week {WEEK}")
    complete = job("complete", f"complete --week {WEEK}", trigger_rule="none_failed")

    wait_for_input(f"--week {WEEK}") >> begin
    evaluations >> bundle
    promote >> publish >> complete
