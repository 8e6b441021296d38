"""Rollback: the previous release, or a former champion by its digest, becomes champion again.

| | |
|---|---|
| Reads | the champion's pointer |
| Writes | the pointer and MLflow's aliases |
| When | by hand |
| Re-run | with a digest: safe; without: a second rollback returns to the release before the first |
| Owner | recommendations |
"""

from airflow.sdk import DAG, Param
from tasks import DAG_DEFAULTS, RELEASE_SCHEMA, engine_choice, job

with DAG(
    "rollback",
    schedule=None,
    params={
        "engine": engine_choice(),
        "to": Param(
            None,
            type=["null", "string"],
            description="Digest of a former champion, or at least its first twelve characters. "
            "Empty: the previous champion.",
            **RELEASE_SCHEMA,
        ),
    },
    doc_md=__doc__,
    tags=["cold start", "skip", "by hand", "release"],
    **DAG_DEFAULTS,
):
    rollback = job(
        "rollback",
        "release rollback --engine {{ params.engine }}{{ ' --to ' ~ params.to if params.to else '' }}",
        retries=0,
    )
