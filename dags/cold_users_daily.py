"""Daily vectors, segments and lists for the listeners whose first day ended yesterday, computed with the champion.

| | |
|---|---|
| Reads | users, tracks, the day's events, the champion's release; nothing after the end of the day, 24:00 UTC |
| Writes | cold_first_day and cold_users of the day, the day's part of the store, one MLflow run |
| When | every day 02:00 UTC for the day before; by hand for any past day; many: `airflow backfill create` |
| Re-run | safe: a day replaces itself, in the lake and in the store |
| Owner | recommendations |

By default first days end at midnight UTC, so these are yesterday's new listeners; `matrix.first_day` changes it.

**ready** waits until the day's events are in the lake, at most until the deadline (`source.deadline_h`). The task
**cold_users_daily** fails with exit code 3 if there is no champion. Under a new champion, `release.publish` of the
weekly pipeline computes the new listeners of the last weeks again.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, DAY, job, optional_day, wait_for_input

with DAG(
    "cold_users_daily",
    schedule=CronTriggerTimetable("0 2 * * *", timezone="UTC"),
    params={"day": optional_day()},
    doc_md=__doc__,
    tags=["cold start", "daily"],
    **DAG_DEFAULTS,
):
    ready = wait_for_input(f"--day {DAY}")
    cold_users_daily = job("cold_users_daily", f"cold-users --day {DAY}")

    ready >> cold_users_daily
