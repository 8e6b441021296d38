"""Weekly cold-start models: learn the spaces, the segments and the first-day network, judge them, promote a release.

| | |
|---|---|
| Reads | users, tracks, events, playlists: only what happened before the week's Monday, 00:00 UTC |
| Writes | the week's tables, one MLflow parent run, a release, perhaps a new champion |
| When | Mondays 00:00 UTC; by hand for any past Monday; for many: `airflow backfill create --max-active-runs 1` |
| Re-run | safe: every task replaces its own week |
| Owner | recommendations |

**check** stops the run before anything downstream sees bad data. **gate** compares the release with Popularity and with
the champion: it passes, it fails (exit code 3, the old champion stays), or it lands in the grey zone, and then a person
is asked in **approve**; no answer within three days means no. **complete** closes the week's MLflow run, after a no
too.
"""

from datetime import timedelta

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import BranchPythonOperator
from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup
from tasks import DAG_DEFAULTS, WEEK, branch, job, learn, optional_week

GATE = "ti.xcom_pull(task_ids='release.gate')"
# Only a person's yes puts the flag there: a no skips the promotion.
APPROVED = "{{ ' --approved' if ti.xcom_pull(task_ids='release.approve') else '' }}"

with DAG(
    "cold_start_weekly",
    schedule=CronTriggerTimetable("0 0 * * 1", timezone="UTC"),
    params={"week": optional_week()},
    doc_md=__doc__,
    tags=["cold start", "weekly"],
    **DAG_DEFAULTS,
):
    evaluations = learn()
    with TaskGroup("release", tooltip="Bundle, judge, promote"):
        bundle = job("bundle", f"release bundle --week {WEEK}")
        gate = job("gate", f"release gate --week {WEEK}")
        verdict = BranchPythonOperator(
            task_id="verdict", python_callable=branch, op_args=["{{ " + GATE + "['verdict'] }}"]
        )
        approve = ApprovalOperator(
            task_id="approve",
            subject="Promote the release of " + WEEK + "? The gate is not sure.",
            body="```json\n{{ " + GATE + " | tojson(indent=2) }}\n```",
            defaults="Reject",
            response_timeout=timedelta(days=3),
            execution_timeout=None,
        )
        promote = job(
            "promote",
            f"release promote --week {WEEK}{APPROVED}",
            trigger_rule="none_failed_min_one_success",
        )
        publish = job("publish", f"release publish --week {WEEK}")
    complete = job("complete", f"complete --week {WEEK}", trigger_rule="none_failed")

    evaluations >> bundle >> gate >> verdict >> [approve, promote]
    approve >> promote >> publish >> complete
