"""Backtest of one past week: the code of the weekly run, evaluated on the listeners who registered after it.

| | |
|---|---|
| Reads | users, tracks, events, playlists: training data before the Monday, evaluation data of the five weeks after |
| Writes | the week's backtest tables and one MLflow parent run; no release, and the champion does not change |
| When | by hand, once for each week |
| Re-run | safe: every task replaces its own week |
| Owner | recommendations |

The cohort registered in the seven days from the Monday on. The following thirty days of each listener are the ground
truth (the paper's protocol).
"""

from airflow.sdk import DAG
from tasks import DAG_DEFAULTS, WEEK, job, required_week, train_and_evaluate

with DAG(
    "backtest",
    schedule=None,
    params={"week": required_week()},
    doc_md=__doc__,
    tags=["cold start", "by hand"],
    **DAG_DEFAULTS,
):
    _, evaluations = train_and_evaluate(flags=" --backtest")
    complete = job("complete", f"complete --week {WEEK} --backtest")

    evaluations >> complete
