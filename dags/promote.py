"""Promotion by hand: one release that is already built and judged becomes champion.

| | |
|---|---|
| Reads | the release's bundle and its verdict |
| Writes | the champion's pointer and MLflow's aliases |
| When | by hand: after a rejection that was a mistake, or when nobody answered in time |
| Re-run | safe: promoting the champion changes nothing |
| Owner | recommendations |
"""

from airflow.sdk import DAG, Param
from tasks import DAG_DEFAULTS, RELEASE_SCHEMA, job

APPROVED = "{{ ' --approved' if params.approved else '' }}"

with DAG(
    "promote",
    schedule=None,
    params={
        "release": Param(
            type="string",
            description="The release's digest, or its first twelve characters or more; `overture status` shows it.",
            **RELEASE_SCHEMA,
        ),
        "approved": Param(
            False,
            type="boolean",
            title="I accept the grey zone",
            description="Needed when the gate was not sure about this release; a verdict that failed stays failed.",
        ),
    },
    doc_md=__doc__,
    tags=["cold start", "by hand", "release"],
    **DAG_DEFAULTS,
):
    promote = job("promote", f"release promote --release {{{{ params.release }}}}{APPROVED}")
