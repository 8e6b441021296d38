"""Yesterday's plays and skips on top of the skip engine's champion: memory, and what its members can learn on.

| | |
|---|---|
| Reads | the day's plays, skip_state of the day before, the champion of the skip engine |
| Writes | skip_features and skip_state of the day, one MLflow run, a release, perhaps a new champion |
| When | every day 02:30 UTC about the day before; by hand for any later day than the champion's |
| Re-run | safe: a day replaces itself, and the same inputs give the same release |
| Owner | recommendations |

Members, what mixes and what calibrates them learn from plays before the day, and each change stays only where newer
plays are forecast better. The release goes through the gate of the weekly pipeline, judged by the day's own plays. Exit
code 3: there is no champion, the day's plays have not been ingested, or the gate said no, a grey verdict included; the
champion stays and answers.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, DAY, job, optional_day

with DAG(
    "skip_daily",
    schedule=CronTriggerTimetable("30 2 * * *", timezone="UTC"),
    params={"day": optional_day()},
    doc_md=__doc__,
    tags=["skip", "daily"],
    **DAG_DEFAULTS,
):
    skip_daily = job("skip_daily", f"skip update --day {DAY}")
