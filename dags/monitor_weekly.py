"""Were last week's newcomers like the listeners that the champion learned from?

| | |
|---|---|
| Reads | cold_first_day of the seven days before the week's Monday; the champion's release |
| Writes | one MLflow run: a stability index for each input, and a table of them |
| When | Mondays 04:00 UTC, after the newcomers of Sunday were placed; by hand for any past Monday |
| Re-run | safe: it writes nothing but its run |
| Owner | recommendations |

Other newcomers are a warning, not a failure: the run's tag `verdict` says `others` and the task's log names the inputs.
Fails with exit code 3 when there is no champion, or when no newcomer of the week was placed (`cold_users_daily`).
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
