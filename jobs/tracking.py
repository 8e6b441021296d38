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
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jobs.tracking_store import FORBIDDEN, away, flat, locked, probe  # sets MLflow's environment: must be first

# isort: split
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

import contracts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow.entities import Run as MlflowRun

    from jobs.context import Context

M = TypeVar("M", bound=Callable[..., Any])
LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"


def tracking_uri(context: Context) -> str:
    """The address of the tracking store."""
    chosen = context.settings.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return chosen or f"sqlite:///{context.home}/mlflow/mlflow.db"


@contextlib.contextmanager
def guard(uri: str) -> Iterator[None]:
    """Turn whatever MLflow's stores raise into an OvertureError that names the address."""
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise away(uri, error) from error


@dataclass(frozen=True)
class Tracker:
    """An open tracking store and the id of the experiment that everything goes to."""

    uri: str
    client: MlflowClient
    experiment_id: str


_OPEN: dict[tuple[str, str, str], Tracker] = {}


def connect(context: Context) -> Tracker:
    """Open the store; the first caller makes database and experiment, under a lock that the others wait for.

    Raises:
        OvertureError: the store is away.
    """
    uri, name = tracking_uri(context), context.settings.mlflow.experiment
    probe(uri)
    key = (uri, name, str(context.home))
    if key not in _OPEN:
        with guard(uri), locked(context.home / "mlflow" / "experiment.lock"):
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


def run_url(experiment_id: str, run_id: str) -> str:
    """Address of a run's page, for Airflow's link and for people; OVERTURE_MLFLOW_UI is its base."""
    base = os.environ.get("OVERTURE_MLFLOW_UI", LOCAL_MLFLOW_UI).rstrip("/")
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def _guarded(method: M) -> M:
    """Run a method of Run under guard()."""

    @wraps(method)
    def wrapper(self: Run, *args: Any, **kwargs: Any) -> object:
        with guard(self.tracker.uri):
            return method(self, *args, **kwargs)

    return cast("M", wrapper)


@dataclass(frozen=True)
class Run:
    """One MLflow run that is being written."""

    context: Context
    tracker: Tracker
    run_id: str

    @property
    def url(self) -> str:
        """The run's page."""
        return run_url(self.tracker.experiment_id, self.run_id)

    @property
    def links(self) -> dict[str, object]:
        """What a job adds to its last line of stdout, so that Airflow can link to the run."""
        return {"mlflow_run": self.run_id, "mlflow_url": self.url}

    @_guarded
    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters; nested mappings become dotted names, what the run already has stays."""
        known = self.tracker.client.get_run(self.run_id).data.params
        pairs = [Param(key, str(value)[:6000]) for key, value in flat(params) if key not in known]
        for start in range(0, len(pairs), 100):
            self.tracker.client.log_batch(self.run_id, params=pairs[start : start + 100])

    @_guarded
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one moment in one call; characters that MLflow refuses become underscores."""
        self.log_batch((name, value, step) for name, value in metrics.items())

    @_guarded
    def log_batch(self, metrics: Iterable[tuple[str, float, int]]) -> None:
        """Log a whole curve, (name, value, step) each, in as few calls as MLflow allows."""
        from time import time

        now = int(time() * 1000)
        rows = [Metric(FORBIDDEN.sub("_", name), float(value), now, int(step)) for name, value, step in metrics]
        for start in range(0, len(rows), 1000):
            self.tracker.client.log_batch(self.run_id, metrics=rows[start : start + 1000])

    @_guarded
    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags."""
        rows = [RunTag(key, str(value)[:5000]) for key, value in tags.items()]
        self.tracker.client.log_batch(self.run_id, tags=rows)

    @_guarded
    def log_figure(self, figure: Figure, path: str) -> None:
        """Keep a matplotlib figure, such as figures/loss.png."""
        self.tracker.client.log_figure(self.run_id, figure, path)

    @_guarded
    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep a file, or a whole folder, below `folder`."""
        if Path(path).is_dir():
            self.tracker.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.tracker.client.log_artifact(self.run_id, str(path), folder)

    @_guarded
    def log_json(self, data: object, path: str) -> None:
        """Keep a JSON document."""
        self.tracker.client.log_text(self.run_id, json.dumps(data, indent=1, sort_keys=True, default=str), path)

    @_guarded
    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Keep rows as a table that MLflow's page shows; `path` ends in .json. An earlier table is replaced."""
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        self.tracker.client.log_text(self.run_id, json.dumps(table, default=str), path)
        entry = [{"path": path, "type": "table"}]
        self.tracker.client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps(entry))

    def log_dataset(self, table: str, use: str = "training", **partition: str) -> None:
        """Note a partition of the lake as an input: its place, version, rows and contract."""
        self.log_parts(table, [partition], use)

    @_guarded
    def log_parts(self, table: str, parts: Sequence[Mapping[str, str]], use: str = "training") -> None:
        """Note several partitions of a table, such as its days, as one input."""
        lake, contract = self.context.lake, contracts.load(table)
        version = ",".join(lake.version(table, **part) for part in parts)
        columns = [{"name": column.name, "type": column.type} for column in contract.columns.values()]
        spans = [(key, parts[0][key], parts[-1][key]) for key in parts[0]]
        name = "/".join([table, *(f"{key}={low}" + (f"..{high}" if high != low else "") for key, low, high in spans)])
        place = lake.path(table, **parts[0]) if len(parts) == 1 else f"{lake.root}/{table}"
        dataset = Dataset(
            name=name,
            digest=hashlib.sha256(f"{name}@{version}".encode()).hexdigest()[:16],
            source_type="local",
            source=json.dumps({"uri": place, "contract": contract.version}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": sum(lake.rows(table, **part) for part in parts)}),
        )
        entry = DatasetInput(dataset, [InputTag("mlflow.data.context", use)])
        self.tracker.client.log_inputs(self.run_id, [entry])

    @_guarded
    def log_onnx(self, model: bytes, name: str) -> str:
        """Log an ONNX network of one input and one output with its signature; returns `models:/...`."""
        import onnx
        from mlflow.models import ModelSignature
        from mlflow.types import Schema, TensorSpec

        logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)  # it misses pip where uv installed
        network = onnx.load_model_from_string(model)

        def spec(value: onnx.ValueInfoProto) -> Schema:
            tensor = value.type.tensor_type
            shape = tuple(dim.dim_value or -1 for dim in tensor.shape.dim)  # a free dimension has a name, no value
            return Schema([TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)])

        logged = self.tracker.client.create_logged_model(
            self.tracker.experiment_id, name=name, source_run_id=self.run_id, model_type="onnx"
        )
        try:
            with _global_uri(self.tracker.uri):
                mlflow.onnx.log_model(
                    network,
                    name=name,
                    model_id=logged.model_id,
                    run_id=self.run_id,
                    signature=ModelSignature(spec(network.graph.input[0]), spec(network.graph.output[0])),
                    save_as_external_data=False,
                    pip_requirements=["onnx", "onnxruntime", "numpy"],
                )
            self.tracker.client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
        except BaseException:
            self.tracker.client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
            raise
        return f"models:/{logged.model_id}"


@contextlib.contextmanager
def _global_uri(uri: str) -> Iterator[None]:
    """MLflow's global address, for its one call that needs it; MLflow would leave it in the environment for good."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


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
    with guard(tracker.uri), locked(context.home / "mlflow" / "parents.lock"):
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
    mlflow_settings = context.settings.mlflow.model_copy(update={"experiment": experiment})
    context = replace(context, settings=context.settings.model_copy(update={"mlflow": mlflow_settings}))
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
