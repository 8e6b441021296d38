"""Daily update of the skip engine: add yesterday's plays to features and state, and fine-tune the champion's members.

| | |
|---|---|
| Reads | the day's plays, skip_state of the day before, the champion of the skip engine |
| Writes | skip_features and skip_state of the day, one MLflow run, a release, possibly a new champion |
| When | every day 02:30 UTC for the day before; by hand for any later day than the champion's |
| Re-run | safe: a day replaces itself, and the same inputs give the same release |
| Owner | recommendations |

**ready** waits until the day's plays are in the lake, at most until the deadline (`source.deadline_h`).

Members, ensemble weights and calibration are fine-tuned on plays before the day. A change is used only if it predicts
newer plays better. The release must pass the gate of the weekly pipeline, evaluated on the day's own plays. Exit code
3: there is no champion, or the verdict is grey or fail. The champion then stays in service.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, DAY, job, optional_day, wait_for_input

with DAG(
    "skip_daily",
    schedule=CronTriggerTimetable("30 2 * * *", timezone="UTC"),
    params={"day": optional_day()},
    doc_md=__doc__,
    tags=["skip", "daily"],
    **DAG_DEFAULTS,
):
    ready = wait_for_input(f"--day {DAY} --engine skip")
    skip_daily = job("skip_daily", f"skip update --day {DAY}")

    ready >> skip_daily
