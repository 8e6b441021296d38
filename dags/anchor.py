"""Anchor: a person moves or confirms the release that no later one may fall below.

| | |
|---|---|
| Reads | the champion's pointer |
| Writes | MLflow's alias `anchor` |
| When | by hand: after a loss that was accepted on purpose, or when the gate's line about the anchor is grey |
| Re-run | safe |
| Owner | recommendations |

The gate compares every release with the champion and with the anchor, so that small losses cannot add up. The first
promotion sets the anchor. After `gate.anchor_weeks` the gate asks a person to confirm or move it.
"""

from airflow.sdk import DAG, Param
from tasks import DAG_DEFAULTS, RELEASE_SCHEMA, engine_choice, job

with DAG(
    "anchor",
    schedule=None,
    params={
        "engine": engine_choice(),
        "to": Param(
            None,
            type=["null", "string"],
            description="Digest of the release that becomes the anchor, or at least its first twelve characters. "
            "Empty: the present anchor is confirmed.",
            **RELEASE_SCHEMA,
        ),
    },
    doc_md=__doc__,
    tags=["cold start", "skip", "by hand", "release"],
    **DAG_DEFAULTS,
):
    anchor = job(
        "anchor", "anchor --engine {{ params.engine }}{{ ' --to ' ~ params.to if params.to else ' --confirm' }}"
    )
