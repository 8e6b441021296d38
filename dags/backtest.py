"""Backtest of one past week: the code of the weekly run, evaluated on the listeners who registered after it.

| | |
|---|---|
| Reads | users, tracks, events, playlists: trains on what happened before the Monday, evaluates on the five weeks after
it |
| Writes | the week's backtest tables and one MLflow parent run; no release, the champion does not change |
| When | by hand; for many weeks, start it once for each |
| Re-run | safe: every task replaces its own week |
| Owner | recommendations |

The cohort registered in the seven days from the Monday on; their next thirty days are the ground truth (the paper's
protocol).
"""

from airflow.sdk import DAG
from tasks import DAG_DEFAULTS, WEEK, job, learn, required_week

with DAG(
    "backtest",
    schedule=None,
    params={"week": required_week()},
    doc_md=__doc__,
    tags=["cold start", "by hand"],
    **DAG_DEFAULTS,
):
    evaluations = learn(flags=" --backtest")
    complete = job("complete", f"complete --week {WEEK} --backtest")

    evaluations >> complete
