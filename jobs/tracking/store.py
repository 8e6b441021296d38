"""Reaching MLflow's store: the settings of its client, a quick sign of life, a lock, addresses without passwords.

MLflow itself is not imported here: importing this module first puts its settings into the environment.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sqlite3
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from contracts.errors import BadArgument, OvertureError

os.environ.update(
    MLFLOW_ALLOW_PICKLE_DESERIALIZATION="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT="true",
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false",
)
for _name, _value in {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "GIT_PYTHON_REFRESH": "quiet",
}.items():
    os.environ.setdefault(_name, _value)

WAIT_S = 3.0
FORBIDDEN = re.compile(r"[^\w./\- ]")


def shown(uri: str) -> str:
    """The address without its password."""
    parts = urlsplit(uri)
    if not parts.password:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")))


def away(uri: str, why: object) -> OvertureError:
    """The error for a store that does not answer."""
    first = str(why).strip().splitlines()[:1]
    return OvertureError(
        f"MLflow does not answer at {shown(uri)}: {first[0] if first else type(why).__name__}. "
        "Start it, or set mlflow.tracking_uri (or MLFLOW_TRACKING_URI), and run the task again; nothing was promoted"
    )


def probe(uri: str) -> None:
    """Ask the store for a sign of life, once, within seconds: MLflow itself retries for minutes.

    Raises:
        OvertureError: the store does not answer or cannot be written.
        BadArgument: the address is neither a server nor a database.
    """
    parts = urlsplit(uri)
    try:
        if parts.scheme in ("http", "https"):
            try:
                urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=WAIT_S).close()
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
            port = parts.port or {"mysql": 3306, "mssql": 1433}.get(parts.scheme.split("+")[0], 5432)
            socket.create_connection((parts.hostname, port), timeout=WAIT_S).close()
        else:
            raise BadArgument(f"mlflow.tracking_uri: {shown(uri)} is neither http(s)://... nor a database address")
    except (OSError, sqlite3.Error, urllib.error.URLError) as error:
        raise away(uri, error) from error


def flat(params: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested mappings as (dotted name, value)."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield FORBIDDEN.sub("_", f"{prefix}{key}"), value
