"""Promotion by hand: one release that is already built and judged becomes champion.

| | |
|---|---|
| Reads | the release's bundle and its verdict |
| Writes | the champion's pointer and MLflow's aliases |
| When | by hand: after a rejection that was a mistake, or when nobody answered in time |
| Re-run | safe: promoting the champion changes nothing |
| Owner | recommendations |

Naming a release is a person's yes: a verdict in the grey zone is accepted, a failed one is not.
"""

from airflow.sdk import DAG, Param
from tasks import DAG_DEFAULTS, RELEASE_SCHEMA, engine_choice, job

with DAG(
    "promote",
    schedule=None,
    params={
        "engine": engine_choice(),
        "release": Param(
            type="string",
            description="The release's digest, or its first twelve characters or more; `overture status` shows it.",
            **RELEASE_SCHEMA,
        ),
    },
    doc_md=__doc__,
    tags=["cold start", "skip", "by hand", "release"],
    **DAG_DEFAULTS,
):
    promote = job("promote", "release promote --engine {{ params.engine }} --release {{ params.release }}")
