"""MLflow tracking: one parent run per week, one child run per task.

Tags        week, dag_id, run_id (of Airflow), commit, kind = parent | task; a child also has task and space
Parents     one for each (week, dag_id, run_id). A task that runs again in the same Airflow run joins the same parent.
            Another Airflow run of the same week has its own parent.
Experiment  created once, under a file lock; later calls pass its id
Errors      an unavailable store is detected within seconds and raises OvertureError with its address; exit code 1

Read from top to bottom: connect, open a run, log to it, close it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypedDict, TypeVar, cast

import contracts
from jobs.tracking import store
from jobs.tracking.onnx_model import log_onnx_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

    from jobs.platform.context import Context

M = TypeVar("M", bound=Callable[..., Any])
MAX_PARAMS_PER_CALL, MAX_METRICS_PER_CALL = 100, 1000  # limits of MLflow's log_batch
MAX_PARAM_LENGTH, MAX_TAG_LENGTH = 6000, 5000
MAX_SEARCH_RESULTS = 200
_FORBIDDEN_CHARACTERS = re.compile(r"[^\w./\- ]")
_UNLOGGED_SETTINGS: dict[str, Any] = {"mlflow": {"tracking_uri"}, "service": True, "experiment": True, "store": True}
_connections: dict[tuple[str, str, str], tuple[MlflowClient, str]] = {}


class WeekRunSummary(TypedDict):
    """Summary of a week's parent run for `overture status`."""

    run: str
    url: str
    status: str
    verdict: str | None


def _translated(method: M) -> M:
    """Run a method of Tracker under `store.translate_errors`."""

    @wraps(method)
    def wrapper(self: Tracker, *args: Any, **kwargs: Any) -> object:
        with store.translate_errors(self.uri):
            return method(self, *args, **kwargs)

    return cast("M", wrapper)


@dataclass(frozen=True)
class Tracker:
    """Connection to the tracking store and the run that it writes to.

    Attributes:
        context: Settings, week and lake of the job.
        uri: Address of the tracking store.
        client: MLflow's client of that address.
        experiment_id: Experiment of all runs of this tracker.
        run_id: Run that the log methods write to. Empty after `connect`.
    """

    context: Context
    uri: str
    client: MlflowClient
    experiment_id: str
    run_id: str = ""

    @classmethod
    def connect(cls, context: Context) -> Self:
        """Connect to the tracking store. The first caller creates the database and the experiment, under a lock.

        Raises:
            OvertureError: The store is unavailable.
        """
        uri = store.tracking_uri(context)
        store.check_reachable(uri)
        key = (uri, context.mlflow_names.experiment, str(context.home))
        if key not in _connections:
            store.import_mlflow()
            from mlflow import MlflowClient

            with store.translate_errors(uri):
                client = MlflowClient(uri)
                _connections[key] = client, store.prepare_experiment(context, client, uri)
        return cls(context, uri, *_connections[key])

    @classmethod
    def start_week(cls, context: Context, dag_run: str | None = None) -> Self:
        """Open the week's parent run and mark it as running. Repeated calls open the same run.

        Args:
            context: Context of the week.
            dag_run: Airflow's run id. Default: OVERTURE_DAG_RUN_ID, or `manual` when it is not set.
        """
        parent = cls.connect(context)._open_parent(dag_run)
        with store.translate_errors(parent.uri):
            parent.client.update_run(parent.run_id, status="RUNNING")
        return parent

    @classmethod
    @contextlib.contextmanager
    def task(cls, context: Context, name: str, space: str | None = None) -> Iterator[Self]:
        """Open a child run for one task while the block runs.

        The run ends as FINISHED. If the block raises, it ends as FAILED with the error as a tag, and the parent run
        gets the tag `failed_task`. An earlier run of the same task under the same parent gets the tag
        `superseded_by`; if it is still marked as running, it ends as KILLED.

        Args:
            context: Context of the week.
            name: Task, such as `train`.
            space: Space of the task, such as `tt_svd`, or None.
        """
        parent = cls.connect(context)._open_parent(None)
        title = name if space is None else f"{name} {space}"
        identity = {"mlflow.parentRunId": parent.run_id, "task": name} | ({"space": space} if space else {})
        with store.translate_errors(parent.uri):
            earlier_runs = parent.search_runs(identity)
            run = parent._create_run(title, _common_tags(context) | {"kind": "task"} | identity)
            for earlier in earlier_runs:
                if "superseded_by" not in earlier.data.tags:
                    run.client.set_tag(earlier.info.run_id, "superseded_by", run.run_id)
                    if earlier.info.status == "RUNNING":
                        run.client.set_terminated(earlier.info.run_id, "KILLED")
        try:
            with run._ending():
                yield run
        except BaseException:
            with contextlib.suppress(Exception):
                run.client.set_tag(parent.run_id, "failed_task", title)
            raise

    @contextlib.contextmanager
    def trial(self, name: str) -> Iterator[Self]:
        """Open a child run of this run, for one of many trials, while the block runs."""
        tags = _common_tags(self.context) | {"kind": "trial", "mlflow.parentRunId": self.run_id}
        with store.translate_errors(self.uri):
            run = self._create_run(name, tags)
        with run._ending():
            yield run

    @classmethod
    @contextlib.contextmanager
    def standalone_run(cls, context: Context, experiment: str, name: str, tags: Mapping[str, str]) -> Iterator[Self]:
        """Open a run that belongs to no week, in an experiment of its own, while the block runs.

        Args:
            context: Context of the job.
            experiment: Name of the MLflow experiment.
            name: Name of the run.
            tags: Tags of the run, besides commit and settings name.
        """
        context = replace(context, experiment=experiment)
        tracker = cls.connect(context)
        common = {key: value for key, value in _common_tags(context).items() if key not in ("week", "dag_id", "run_id")}
        with store.translate_errors(tracker.uri):
            run = tracker._create_run(name, common | dict(tags))
        with run._ending():
            yield run

    @property
    def url(self) -> str:
        """Address of the run's page in the MLflow UI."""
        return store.run_url(self.experiment_id, self.run_id)

    @property
    def links(self) -> dict[str, object]:
        """Fields `mlflow_run` and `mlflow_url` of a job's last line of stdout; Airflow links to the run with them."""
        return {"mlflow_run": self.run_id, "mlflow_url": self.url}

    @_translated
    def log_params(self, params: Mapping[str, object]) -> None:
        """Log parameters that the run does not have yet. Nested mappings become dotted names."""
        from mlflow.entities import Param

        logged = self.client.get_run(self.run_id).data.params
        rows = [Param(key, str(value)[:MAX_PARAM_LENGTH]) for key, value in flatten(params) if key not in logged]
        for start in range(0, len(rows), MAX_PARAMS_PER_CALL):
            self.client.log_batch(self.run_id, params=rows[start : start + MAX_PARAMS_PER_CALL])

    @_translated
    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Log metrics of one step in one call. Characters that MLflow rejects become underscores."""
        self.log_batch((name, value, step) for name, value in metrics.items())

    @_translated
    def log_batch(self, metrics: Iterable[tuple[str, float, int]]) -> None:
        """Log metrics of many steps, such as a loss curve, in as few calls as MLflow allows.

        Args:
            metrics: (name, value, step) of each point.
        """
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        rows = [Metric(clean_name(name), float(value), now_ms, int(step)) for name, value, step in metrics]
        for start in range(0, len(rows), MAX_METRICS_PER_CALL):
            self.client.log_batch(self.run_id, metrics=rows[start : start + MAX_METRICS_PER_CALL])

    @_translated
    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set tags of the run."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(key, str(tags[key])[:MAX_TAG_LENGTH]) for key in tags])

    @_translated
    def log_figure(self, figure: Figure, path: str) -> None:
        """Log a matplotlib figure as an artifact, such as figures/loss.png."""
        self.client.log_figure(self.run_id, figure, path)

    @_translated
    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Log a file, or all files of a folder, below the artifact folder `folder`."""
        if Path(path).is_dir():
            self.client.log_artifacts(self.run_id, str(path), folder)
        else:
            self.client.log_artifact(self.run_id, str(path), folder)

    @_translated
    def log_json(self, data: object, path: str) -> None:
        """Log a JSON document as an artifact."""
        self.client.log_text(self.run_id, json.dumps(data, indent=1, sort_keys=True, default=str), path)

    @_translated
    def log_table(self, rows: Sequence[Mapping[str, object]], path: str) -> None:
        """Log rows as a table that the MLflow UI shows. `path` ends in .json; an earlier table is replaced."""
        columns = list(rows[0]) if rows else []
        table = {"columns": columns, "data": [[row[column] for column in columns] for row in rows]}
        self.client.log_text(self.run_id, json.dumps(table, default=str), path)
        entry = [{"path": path, "type": "table"}]
        self.client.set_tag(self.run_id, "mlflow.loggedArtifacts", json.dumps(entry))

    def log_dataset(self, table: str, use: str = "training", **partition: str) -> None:
        """Log one partition of a table of the lake as an input of the run.

        Args:
            table: Name of the table.
            use: MLflow's context of the dataset, such as `training` or `evaluation`.
            **partition: Partition keys and their values, such as week="2026-11-16".
        """
        self.log_partitions(table, [partition], use)

    @_translated
    def log_partitions(self, table: str, partitions: Sequence[Mapping[str, str]], use: str = "training") -> None:
        """Log several partitions of a table, such as its days, as one input: location, version, rows and contract.

        Args:
            table: Name of the table.
            partitions: Partition keys and their values, in ascending order.
            use: MLflow's context of the dataset, such as `training` or `evaluation`.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        lake, contract = self.context.lake, contracts.load(table)
        version = ",".join(lake.version(table, **partition) for partition in partitions)
        columns = [{"name": column.name, "type": column.type} for column in contract.columns.values()]
        spans = [(key, partitions[0][key], partitions[-1][key]) for key in partitions[0]]
        name = "/".join([table, *(f"{key}={low}" + (f"..{high}" if high != low else "") for key, low, high in spans)])
        dataset = Dataset(
            name=name,
            digest=hashlib.sha256(f"{name}@{version}".encode()).hexdigest()[:16],
            source_type="local",
            source=json.dumps({"uri": f"{lake.root}/{table}", "version": version, "contract": contract.version}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": sum(lake.rows(table, **partition) for partition in partitions)}),
        )
        self.client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", use)])])

    @_translated
    def log_onnx(self, model: bytes, name: str) -> str:
        """Log an ONNX model of one input and one output with its signature.

        Args:
            model: The serialized ONNX graph.
            name: Name of the logged model.

        Returns:
            The model's address, `models:/...`.
        """
        return log_onnx_model(self.client, self.uri, self.experiment_id, self.run_id, model, name)

    @classmethod
    def finish_week(
        cls,
        context: Context,
        metrics: Mapping[str, float] | None = None,
        verdict: str | None = None,
        tags: Mapping[str, object] | None = None,
        failed: bool = False,
    ) -> Self:
        """End the week's parent run with its summary. Repeated calls end the same run.

        Args:
            context: Context of the week.
            metrics: Summary metrics of the week.
            verdict: Verdict of the gate, logged as a tag.
            tags: More tags.
            failed: End the run as FAILED instead of FINISHED.
        """
        parent = cls.start_week(context)
        parent.log_metrics(metrics or {})
        verdict_tag = {"verdict": verdict} if verdict else {}
        parent.set_tags({**verdict_tag, **({} if failed else {"failed_task": ""}), **(tags or {})})
        with store.translate_errors(parent.uri):
            parent.client.set_terminated(parent.run_id, "FAILED" if failed else "FINISHED")
        return parent

    @classmethod
    def latest_week_run(cls, context: Context, week: str | None = None) -> WeekRunSummary | None:
        """Return the newest parent run of a week (default: the context's week), or None if it has none."""
        tracker = cls.connect(context)
        with store.translate_errors(tracker.uri):
            parents = tracker.search_runs({"week": week or context.week.name, "kind": "parent"})
        if not parents:
            return None
        info, tags = parents[0].info, parents[0].data.tags
        url = store.run_url(tracker.experiment_id, info.run_id)
        return {"run": info.run_id, "url": url, "status": info.status, "verdict": tags.get("verdict")}

    def search_runs(self, tags: Mapping[str, str]) -> list[MlflowRun]:
        """Return the experiment's runs that have all of these tags, newest first."""
        from mlflow.entities import ViewType

        condition = " and ".join(f"tags.`{key}` = '{value.replace(chr(39), '')}'" for key, value in tags.items())
        order = ["attributes.start_time DESC"]
        return list(
            self.client.search_runs([self.experiment_id], condition, ViewType.ACTIVE_ONLY, MAX_SEARCH_RESULTS, order)
        )

    def _create_run(self, name: str, tags: Mapping[str, str]) -> Self:
        """Create a run in the experiment and return the tracker that writes to it."""
        run = self.client.create_run(self.experiment_id, run_name=name, tags=dict(tags))
        return replace(self, run_id=run.info.run_id)

    def _open_parent(self, dag_run: str | None) -> Self:
        """Return the tracker of this Airflow run's parent; create the parent if there is none.

        A lock makes tasks that start together share one parent.
        """
        with store.translate_errors(self.uri), store.lock_store(self.context, "parents"):
            run_id = self._find_parent(dag_run)
            if run_id is not None:
                return replace(self, run_id=run_id)
            tags = _common_tags(self.context, dag_run) | {"kind": "parent"}
            parent = self._create_run(f"{tags['dag_id']} {self.context.week.name}", tags)
            parent.log_params(self.context.settings.model_dump(mode="json", exclude=_UNLOGGED_SETTINGS))
            return parent

    def _find_parent(self, dag_run: str | None) -> str | None:
        """Return the run id of this Airflow run's parent. A manual command gets the week's newest parent."""
        tags = {"week": self.context.week.name, "kind": "parent"}
        dag_tags = _dag_tags(dag_run)
        parents = self.search_runs(tags | dag_tags)
        if not parents and dag_tags["run_id"] == "manual":
            parents = self.search_runs(tags)
        return parents[0].info.run_id if parents else None

    @contextlib.contextmanager
    def _ending(self) -> Iterator[None]:
        """End the run after the block: FINISHED; after an exception FAILED, or KILLED by an interrupt."""
        try:
            yield
        except BaseException as error:
            with contextlib.suppress(Exception):
                self.set_tags({"error": str(error) or repr(error), "error_type": type(error).__name__})
                self.client.set_terminated(self.run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
            raise
        with store.translate_errors(self.uri):
            self.client.set_terminated(self.run_id, "FINISHED")


def clean_name(name: str) -> str:
    """Return the name with an underscore for each character that MLflow rejects."""
    return _FORBIDDEN_CHARACTERS.sub("_", name)


def flatten(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Yield the values of nested mappings as (dotted name, value)."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield clean_name(f"{prefix}{key}"), value


def _dag_tags(dag_run: str | None = None) -> dict[str, str]:
    """Return the tags of the Airflow run, from the environment that the DAG sets."""
    return {
        "dag_id": os.environ.get("OVERTURE_DAG_ID") or "manual",
        "run_id": dag_run or os.environ.get("OVERTURE_DAG_RUN_ID") or "manual",
    }


def _common_tags(context: Context, dag_run: str | None = None) -> dict[str, str]:
    """Return the tags of every run."""
    tags = {"week": context.week.name, "commit": context.commit, "config": context.settings.name}
    return tags | _dag_tags(dag_run) | {"mlflow.source.name": "overture", "mlflow.source.git.commit": context.commit}
