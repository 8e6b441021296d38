"""Log an ONNX model to MLflow with its signature."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx
    from mlflow import MlflowClient
    from mlflow.types import Schema


def log_onnx_model(client: MlflowClient, uri: str, experiment_id: str, run_id: str, model: bytes, name: str) -> str:
    """Log an ONNX model of one input and one output.

    Args:
        client: MLflow's client of `uri`.
        uri: Address of the tracking store.
        experiment_id: Experiment of the run.
        run_id: Run that produced the model.
        model: The serialized ONNX graph.
        name: Name of the logged model.

    Returns:
        The model's address, `models:/...`.
    """
    import mlflow
    import onnx
    from mlflow.entities import LoggedModelStatus
    from mlflow.models import ModelSignature

    # MLflow warns that pip is missing when uv installed the environment.
    logging.getLogger("mlflow.utils.environment").setLevel(logging.ERROR)
    network = onnx.load_model_from_string(model)
    signature = ModelSignature(tensor_schema(network.graph.input[0]), tensor_schema(network.graph.output[0]))
    logged = client.create_logged_model(experiment_id, name=name, source_run_id=run_id, model_type="onnx")
    try:
        with _global_uri(uri):
            mlflow.onnx.log_model(
                network,
                name=name,
                model_id=logged.model_id,
                run_id=run_id,
                signature=signature,
                save_as_external_data=False,
                pip_requirements=["onnx", "onnxruntime", "numpy"],
            )
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    return f"models:/{logged.model_id}"


def tensor_schema(value: onnx.ValueInfoProto) -> Schema:
    """Return MLflow's schema of an ONNX input or output; a dynamic dimension is -1."""
    import onnx
    from mlflow.types import Schema, TensorSpec

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value or -1 for dim in tensor.shape.dim)  # a dynamic dimension has a name, no value
    return Schema([TensorSpec(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type), shape)])


@contextlib.contextmanager
def _global_uri(uri: str) -> Iterator[None]:
    """Set MLflow's global tracking address while the block runs, and restore the environment afterwards.

    `mlflow.onnx.log_model` needs it. MLflow itself would leave the address in the environment.
    """
    import mlflow

    previous = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        if previous is not None:
            os.environ["MLFLOW_TRACKING_URI"] = previous
