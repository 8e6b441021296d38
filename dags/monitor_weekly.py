"""Weekly drift report: compare last week's new listeners with the champion's training data.

| | |
|---|---|
| Reads | cold_first_day of the seven days before the week's Monday, the champion's release |
| Writes | one MLflow run: a population stability index (PSI) for each input, and a table of them |
| When | Mondays 04:00 UTC, after `cold_users_daily` of Sunday; by hand for any past Monday |
| Re-run | safe: it only writes its MLflow run |
| Owner | recommendations |

Drift is a warning, not a failure: the run gets the tag `verdict` = `drifted`, and the task's log names the inputs.
The task fails with exit code 3 if there is no champion, or if `cold_users_daily` has not run for any day of the week.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, WEEK, job, optional_week

with DAG(
    "monitor_weekly",
    schedule=CronTriggerTimetable("0 4 * * 1", timezone="UTC"),
    params={"week": optional_week()},
    doc_md=__doc__,
    tags=["cold start", "weekly"],
    **DAG_DEFAULTS,
):
    monitor_weekly = job("monitor_weekly", f"monitor --week {WEEK}")
