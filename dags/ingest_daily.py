"""Daily ingestion of your own data: read the files of the day before into the raw tables.

| | |
|---|---|
| Reads | the inputs of the settings (`source.inputs`) in the folder `source.data` |
| Writes | events and plays of the day and the `source.late_days` days before it, users, tracks, playlists, block list |
| When | every day 00:30 UTC for the day before; by hand for any past day; for many: `airflow backfill create` |
| Re-run | safe: a day replaces itself |
| Owner | recommendations |

It needs `source.kind: tables`; a simulated service or a public dataset is loaded at once (exit code 2). **ready** waits
until every input has files of the day, at most until the deadline (`source.deadline_h`). Exit code 3 of
**ingest_daily**: the files break the contract; nothing is written. **block_refresh** takes tracks that are no longer
available (`tracks.available` is false) out of all lists, within seconds. The tables are Airflow assets, which the
weekly pipelines read.
"""

from airflow.sdk import DAG, CronTriggerTimetable
from tasks import DAG_DEFAULTS, DAY, RAW_TABLES, job, optional_day, wait_for_input

with DAG(
    "ingest_daily",
    schedule=CronTriggerTimetable("30 0 * * *", timezone="UTC"),
    params={"day": optional_day()},
    doc_md=__doc__,
    tags=["data", "daily"],
    **DAG_DEFAULTS,
):
    ready = wait_for_input(f"--day {DAY} --files")
    ingest_daily = job("ingest_daily", f"ingest tables --day {DAY}", outlets=list(RAW_TABLES.values()))

    block_refresh = job("block_refresh", "block refresh")

    ready >> ingest_daily >> block_refresh
