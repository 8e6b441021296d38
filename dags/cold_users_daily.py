"""Daily vectors, segments and lists for yesterday's new listeners by the champion, and the quality of earlier lists.

| | |
|---|---|
| Reads | users, tracks, events, the champion's release; nothing after the end of the day, 24:00 UTC |
| Writes | cold_first_day, cold_users, cold_lists, realised_quality of the day, its part of the store, two MLflow runs |
| When | every day 02:00 UTC for the day before; by hand for any past day; many: `airflow backfill create` |
| Re-run | safe: a day replaces itself, in the lake and in the store |
| Owner | recommendations |

New listeners are those whose first day ended with the day, by default at midnight UTC (`matrix.first_day`).

**ready** waits until the day's events are in the lake, at most until the deadline (`source.deadline_h`). The task
**cold_users_daily** fails with exit code 3 if there is no champion. Under a new champion, `release.publish` of the
weekly pipeline computes the new listeners of the last weeks again.

**realised** compares the lists that were recorded 3 to 9, 7 to 13 and 30 to 36 days ago with what their listeners
streamed in the 3, 7 and 30 days after. A horizon without all its days of events, or with too few listeners, has no
numbers; the task does not fail.
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

    realised = job("realised", f"realised --day {DAY}")

    ready >> cold_users_daily >> realised
