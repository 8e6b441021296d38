"""Publish the champion again if the store of known listeners lacks rows of it, as after a Redis lost its data.

| | |
|---|---|
| Reads | the champion's release, cold_first_day, the notices of the store |
| Writes | nothing, or what `release.publish` of `cold_start_weekly` writes |
| When | every ten minutes |
| Re-run | safe: rows replace themselves |
| Owner | recommendations |

A part is missing if the store does not name it, or if its rows were written by another version of Overture. While
another publication is running, the task ends without one. The task fails with exit code 1 if the store is unavailable.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, job

with DAG(
    "publish_missing",
    schedule=CronTriggerTimetable("*/10 * * * *", timezone="UTC"),
    doc_md=__doc__,
    tags=["cold start", "store"],
    **DAG_DEFAULTS,
):
    publish_missing = job("publish_missing", "release publish-missing")
