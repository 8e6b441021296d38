"""The jobs' only door to MLflow: one parent run a week, one child run a task.

Where       settings.mlflow.tracking_uri, else MLFLOW_TRACKING_URI, else a SQLite file under OVERTURE_HOME
Tags        week, dag_id, run_id (Airflow's), commit, kind = parent | task; a child also has task and space
Parents     one for each (week, dag_id, run_id): a task that runs again in the same Airflow run joins the same parent,
            another run of the same week gets a parent of its own
Experiment  created once, under a file lock; everything after that passes its id
Away        an unreachable store is noticed within seconds and becomes one sentence with its address; exit code 1
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from jobs.platform.locks import file_lock
from jobs.tracking.run_logger import Run, Tracker, guard, run_url  # sets MLflow's environment: must be first
from jobs.tracking.store import probe

# isort: split
from mlflow import MlflowClient
from mlflow.entities import ViewType

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

    from jobs.platform.context import Context


def tracking_uri(context: Context) -> str:
    """The address of the tracking store."""
    chosen = context.settings.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return chosen or f"sqlite:///{context.home}/mlflow/mlflow.db"


_OPEN: dict[tuple[str, str, str], Tracker] = {}


def connect(context: Context) -> Tracker:
    """Open the store; the first caller makes database and experiment, under a lock that the others wait for.

    Raises:
        OvertureError: the store is away.
    """
    uri, name = tracking_uri(context), context.mlflow_names.experiment
    probe(uri)
    key = (uri, name, str(context.home))
    if key not in _OPEN:
        with guard(uri), file_lock(context.home / "mlflow" / "experiment.lock"):
            client = MlflowClient(uri)
            found = client.get_experiment_by_name(name)
            if found is None:
                local = uri == f"sqlite:///{context.home}/mlflow/mlflow.db"
                folder = (context.home / "mlflow" / "artifacts").as_uri() if local else None
                found = client.get_experiment(client.create_experiment(name, artifact_location=folder))
            elif found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            _OPEN[key] = Tracker(uri, client, found.experiment_id)
    return _OPEN[key]


def start_week(context: Context, dag_run: str | None = None) -> str:
    """Find or make the week's parent run and mark it as running; returns its id. Safe to repeat.

    `dag_run` is Airflow's run id; left out, it is read from OVERTURE_DAG_RUN_ID, and is `manual` without one.
    """
    tracker = connect(context)
    run_id: str = _parent(context, tracker, dag_run).info.run_id
    with guard(tracker.uri):
        tracker.client.update_run(run_id, status="RUNNING")
    return run_id


def _parent(context: Context, tracker: Tracker, dag_run: str | None) -> MlflowRun:
    """This Airflow run's parent, made when there is none; under a lock, so that tasks at once share one."""
    with guard(tracker.uri), file_lock(context.home / "mlflow" / "parents.lock"):
        found = _find_parent(context, tracker, dag_run)
        if found is None:
            tags = _common_tags(context, dag_run) | {"kind": "parent"}
            name = f"{tags['dag_id']} {context.week.name}"
            found = tracker.client.create_run(tracker.experiment_id, run_name=name, tags=tags)
            run = Run(context, tracker, found.info.run_id)
            run.log_params(
                context.settings.model_dump(
                    mode="json",
                    exclude={"mlflow": {"tracking_uri"}, "service": True, "experiment": True, "store": True},
                )
            )
        return found


@contextlib.contextmanager
def task(context: Context, name: str, space: str | None = None) -> Iterator[Run]:
    """A child run around one task: FINISHED at the end, FAILED with the error as a tag when it raises.

    An earlier run of the same task under the same parent is tagged `superseded_by`.
    """
    tracker = connect(context)
    parent_id = _parent(context, tracker, None).info.run_id
    with guard(tracker.uri):
        title = name if space is None else f"{name} {space}"
        tags = _common_tags(context) | {"kind": "task", "task": name, "mlflow.parentRunId": parent_id}
        tags |= {"space": space} if space else {}
        same: dict[str, str] = {key: tags[key] for key in ("mlflow.parentRunId", "task", "space") if key in tags}
        earlier = _search(tracker, same)
        run_id = tracker.client.create_run(tracker.experiment_id, run_name=title, tags=tags).info.run_id
        for old in earlier:
            if "superseded_by" not in old.data.tags:
                tracker.client.set_tag(old.info.run_id, "superseded_by", run_id)
                if old.info.status == "RUNNING":
                    tracker.client.set_terminated(old.info.run_id, "KILLED")
    with _open(Run(context, tracker, run_id)) as run:
        try:
            yield run
        except BaseException:
            with contextlib.suppress(Exception):
                tracker.client.set_tag(parent_id, "failed_task", title)
            raise


@contextlib.contextmanager
def trial(parent: Run, name: str) -> Iterator[Run]:
    """A child run of a task's own run, for one of many tries."""
    tracker = parent.tracker
    tags = _common_tags(parent.context) | {"kind": "trial", "mlflow.parentRunId": parent.run_id}
    with guard(tracker.uri):
        run_id = tracker.client.create_run(tracker.experiment_id, run_name=name, tags=tags).info.run_id
    with _open(Run(parent.context, tracker, run_id)) as run:
        yield run


@contextlib.contextmanager
def _open(run: Run) -> Iterator[Run]:
    """FINISHED at the end; FAILED, or KILLED from outside, with the error as a tag."""
    try:
        yield run
    except BaseException as error:
        with contextlib.suppress(Exception):
            run.set_tags({"error": str(error) or repr(error), "error_type": type(error).__name__})
            run.tracker.client.set_terminated(run.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with guard(run.tracker.uri):
        run.tracker.client.set_terminated(run.run_id, "FINISHED")


@contextlib.contextmanager
def experiment(context: Context, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """A run of its own in another experiment, of no week: FINISHED at the end, FAILED when it raises."""
    context = replace(context, experiment=experiment)
    tracker = connect(context)
    common = {key: value for key, value in _common_tags(context).items() if key not in ("week", "dag_id", "run_id")}
    with guard(tracker.uri):
        run_id = tracker.client.create_run(tracker.experiment_id, run_name=name, tags=common | dict(tags)).info.run_id
    with _open(Run(context, tracker, run_id)) as run:
        yield run


def finish_week(
    context: Context,
    metrics: Mapping[str, float] | None = None,
    verdict: str | None = None,
    tags: Mapping[str, object] | None = None,
    failed: bool = False,
) -> Run:
    """End the week's parent run with its summary, FINISHED or FAILED; safe to repeat. Returns the parent."""
    run = Run(context, connect(context), start_week(context))
    run.log_metrics(metrics or {})
    said = {"verdict": verdict} if verdict else {}
    run.set_tags({**said, **({} if failed else {"failed_task": ""}), **(tags or {})})
    with guard(run.tracker.uri):
        run.tracker.client.set_terminated(run.run_id, "FAILED" if failed else "FINISHED")
    return run


def latest_parent(context: Context, week: str | None = None) -> dict[str, object] | None:
    """The newest parent run of a week (the context's, when none is named), for people; None when there is none."""
    tracker = connect(context)
    with guard(tracker.uri):
        found = _search(tracker, {"week": week or context.week.name, "kind": "parent"})
    if not found:
        return None
    info, tags = found[0].info, found[0].data.tags
    url = run_url(tracker.experiment_id, info.run_id)
    return {"run": info.run_id, "url": url, "status": info.status, "verdict": tags.get("verdict")}


def _dag(dag_run: str | None = None) -> dict[str, str]:
    """Which Airflow run this is, from the environment that the DAG sets."""
    return {
        "dag_id": os.environ.get("OVERTURE_DAG_ID") or "manual",
        "run_id": dag_run or os.environ.get("OVERTURE_DAG_RUN_ID") or "manual",
    }


def _common_tags(context: Context, dag_run: str | None = None) -> dict[str, str]:
    tags = {"week": context.week.name, "commit": context.commit, "config": context.settings.name}
    return tags | _dag(dag_run) | {"mlflow.source.name": "overture", "mlflow.source.git.commit": context.commit}


def _find_parent(context: Context, tracker: Tracker, dag_run: str | None) -> MlflowRun | None:
    """This Airflow run's parent; for a command typed by hand, the week's newest parent whatever began it."""
    wanted = {"week": context.week.name, "kind": "parent"}
    dag = _dag(dag_run)
    found = _search(tracker, wanted | dag)
    if not found and dag["run_id"] == "manual":
        found = _search(tracker, wanted)
    return found[0] if found else None


def _search(tracker: Tracker, tags: Mapping[str, str]) -> list[MlflowRun]:
    """Runs that bear all these tags, the newest first."""
    wanted = " and ".join(f"tags.`{key}` = '{value.replace(chr(39), '')}'" for key, value in tags.items())
    order = ["attributes.start_time DESC"]
    found = tracker.client.search_runs([tracker.experiment_id], wanted, ViewType.ACTIVE_ONLY, 200, order)
    return list(found)
