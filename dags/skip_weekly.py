"""Weekly skip models: point-in-time features, every model, their ensemble, the gate, possibly a new champion.

| | |
|---|---|
| Reads | plays: only rows before the week's Monday, 00:00 UTC |
| Writes | skip_features, skip_state, the week's models and ensemble, one MLflow parent run, a release |
| When | Mondays 03:00 UTC; by hand for any past Monday; for many: `airflow backfill create --max-active-runs 1` |
| Re-run | safe: every task replaces its own days, models or week |
| Owner | recommendations |

**ready** waits until all days of the window are in the lake; a day that is missing or half-empty after its deadline
(`source.deadline_h`) fails the run. **check** stops the run before another task reads invalid data. Models are trained
one after the other, because each may use the whole machine. **gate** compares the release with the listener's listening
rate and with the champion on the newest plays. If it passes, **promote** makes it the champion. If it fails (exit code
3), the old champion stays. In the grey zone **approve** waits for a person's decision; without one within three days
the release is rejected. The service loads a new champion without a restart.
"""

from airflow.sdk import DAG, CronTriggerTimetable, TaskGroup, chain
from tasks import DAG_DEFAULTS, RAW_TABLES, SKIP_MODELS, WEEK, job, optional_week, release, wait_for_input

OPTIONS = f"--week {WEEK}"
ENGINE = " --engine skip"

with DAG(
    "skip_weekly",
    schedule=CronTriggerTimetable("0 3 * * 1", timezone="UTC"),
    params={"week": optional_week()},
    doc_md=__doc__,
    tags=["skip", "weekly"],
    **DAG_DEFAULTS,
):
    ready = wait_for_input(f"{OPTIONS}{ENGINE}")
    begin = job("begin", f"begin {OPTIONS}{ENGINE}")
    check = job("check", f"check plays {OPTIONS}{ENGINE}")
    features = job("features", f"skip features {OPTIONS}", inlets=[RAW_TABLES["plays"]])
    with TaskGroup("train", tooltip="Trains the models one after the other"):
        models = [job(name, f"skip train --model {name} {OPTIONS}") for name in SKIP_MODELS]
    blend = job("blend", f"skip blend {OPTIONS}")
    evaluate = job("evaluate", f"skip evaluate {OPTIONS}")
    with TaskGroup("release", tooltip="Build, evaluate and promote the release"):
        bundle, promote = release(ENGINE)
    complete = job("complete", f"complete {OPTIONS}{ENGINE}", trigger_rule="none_failed")

    chain(ready, begin, check, features, *models, blend, evaluate, bundle)
    promote >> complete
