"""Promotion by hand: a release that is already built and evaluated becomes the champion.

| | |
|---|---|
| Reads | the release's bundle and its verdict |
| Writes | the champion's pointer and MLflow's aliases |
| When | by hand: to overrule a rejection in the grey zone, or when nobody decided in time |
| Re-run | safe: promoting the champion changes nothing |
| Owner | recommendations |

Naming a release counts as a person's approval: a release with the verdict grey is accepted, a failed one is not.
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
            description="Digest of the release, or at least its first twelve characters; `overture status` shows it.",
            **RELEASE_SCHEMA,
        ),
    },
    doc_md=__doc__,
    tags=["cold start", "skip", "by hand", "release"],
    **DAG_DEFAULTS,
):
    promote = job("promote", "release promote --engine {{ params.engine }} --release {{ params.release }}")
