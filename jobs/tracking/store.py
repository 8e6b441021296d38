"""The MLflow tracking store: environment of its client, address, reachability check, experiment, locks, errors.

Nothing here runs at import. `import_mlflow` is the only place that sets MLflow's environment variables: some of them
are read while mlflow is imported, so every module imports mlflow inside functions that run after `import_mlflow`.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from contracts.errors import BadArgument, OvertureError
from contracts.file_lock import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from jobs.platform.context import Context

CONNECT_TIMEOUT_S = 3.0
LOCAL_MLFLOW_UI = "http://127.0.0.1:5000"
REQUIRED_ENVIRONMENT = {
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
DEFAULT_ENVIRONMENT = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}
_DEFAULT_PORTS = {"mysql": 3306, "mssql": 1433}
_POSTGRESQL_PORT = 5432


def configure_environment() -> None:
    """Set the environment variables of MLflow's client.

    REQUIRED_ENVIRONMENT replaces what is set; DEFAULT_ENVIRONMENT keeps values that the caller has chosen.
    """
    os.environ.update(REQUIRED_ENVIRONMENT)
    for name, value in DEFAULT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def import_mlflow() -> None:
    """Configure the environment and import MLflow. Repeated calls cost nothing."""
    configure_environment()
    import mlflow  # noqa: F401 - imported for its effect


def tracking_uri(context: Context) -> str:
    """Return the address of the tracking store.

    The first of: setting mlflow.tracking_uri, environment variable MLFLOW_TRACKING_URI, a SQLite file under
    OVERTURE_HOME.
    """
    configured = context.settings.mlflow.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    return configured or local_uri(context)


def local_uri(context: Context) -> str:
    """Return the address of the SQLite database under OVERTURE_HOME."""
    return f"sqlite:///{context.home}/mlflow/mlflow.db"


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page in the MLflow UI. OVERTURE_MLFLOW_UI is its base."""
    base = os.environ.get("OVERTURE_MLFLOW_UI", LOCAL_MLFLOW_UI).rstrip("/")
    return f"{base}/#/experiments/{experiment_id}/runs/{run_id}"


def hide_password(uri: str) -> str:
    """Return an address with `***` in place of its password."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))


def unavailable_error(uri: str, reason: object) -> OvertureError:
    """Return the error for an unavailable tracking store, with its address and the first line of the reason."""
    lines = str(reason).strip().splitlines()
    return OvertureError(
        f"MLflow is unavailable at {hide_password(uri)}: {lines[0] if lines else type(reason).__name__}. "
        "Start the MLflow server, or set mlflow.tracking_uri (or MLFLOW_TRACKING_URI), and run the task again; "
        "nothing was promoted"
    )


@contextlib.contextmanager
def translate_errors(uri: str) -> Iterator[None]:
    """Raise the errors of MLflow's stores as an OvertureError that names the address."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise unavailable_error(uri, error) from error


def check_reachable(uri: str) -> None:
    """Check once, within seconds, that the tracking store is available. MLflow itself would retry for minutes.

    An HTTP server must respond, a SQLite file must be writable, another database must accept a connection. The
    folder of a SQLite file is created.

    Raises:
        OvertureError: The store is unavailable or read-only.
        BadArgument: The address is neither a server nor a database.
    """
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            try:
                urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=CONNECT_TIMEOUT_S).close()
            except urllib.error.HTTPError as error:
                if error.code >= 500:
                    raise
        elif parts.scheme.startswith("sqlite"):
            file = Path(uri.split(":///", 1)[1].split("?", 1)[0])
            file.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(file, timeout=20)) as database:
                database.execute("BEGIN IMMEDIATE").close()
                database.execute("SELECT count(*) FROM sqlite_master").close()
                database.rollback()
        elif parts.hostname:
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme.split("+")[0], _POSTGRESQL_PORT)
            socket.create_connection((parts.hostname, port), timeout=CONNECT_TIMEOUT_S).close()
        else:
            raise BadArgument(
                f"mlflow.tracking_uri: {hide_password(uri)} is neither http(s)://... nor a database address"
            )
    except (OSError, sqlite3.Error, urllib.error.URLError) as error:
        raise unavailable_error(uri, error) from error


@contextlib.contextmanager
def lock_store(context: Context, name: str) -> Iterator[None]:
    """Keep the lock `name` between all processes of one OVERTURE_HOME while the block runs."""
    with file_lock(context.home / "mlflow" / f"{name}.lock"):
        yield


def prepare_experiment(context: Context, client: MlflowClient, uri: str) -> str:
    """Return the id of the context's experiment; create it, or restore it when it was deleted.

    One process at a time runs this, under a lock, so that an experiment is created once. The local database gets an
    artifact folder beside it.
    """
    name = context.mlflow_names.experiment
    with lock_store(context, "experiment"):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            is_local = uri == local_uri(context)
            location = (context.home / "mlflow" / "artifacts").as_uri() if is_local else None
            return str(client.create_experiment(name, artifact_location=location))
        if experiment.lifecycle_stage == "deleted":
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
