"""One MLflow run that is being written: what can be kept in it. jobs/tracking/runs.py opens and ends runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from jobs.tracking.store import FORBIDDEN, away, flat  # sets MLflow's environment: must be first

# isort: split
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

import contracts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jobs.platform.context import Context

M = TypeVar("M", bound=Callable[..., Any])
LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"


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
