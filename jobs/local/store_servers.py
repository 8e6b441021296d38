"""Servers of the store of known listeners on this machine: Redis or Cassandra, for `make up STORE=` and for tests.

Both listen on 127.0.0.1 alone. Their memory is bounded (Redis: REDIS_MAX_MEMORY; Cassandra: jobs/local/cassandra.py).
"""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Literal, get_args

from contracts.errors import BadArgument, OvertureError
from jobs.local import cassandra
from jobs.local.processes import free_port

StoreServer = Literal["redis", "cassandra"]
PORTS: dict[StoreServer, int] = {"redis": 6379, "cassandra": 9042}
STORAGE_PORT = 7000
REDIS_MAX_MEMORY = "1gb"


def parse_kind(name: str) -> StoreServer | None:
    """Return the kind of server that STORE names; None for an empty text or `memory`, which need no server.

    Raises:
        BadArgument: no such kind.
    """
    if name in ("", "memory"):
        return None
    for kind in PORTS:
        if name == kind:
            return kind
    raise BadArgument(f"STORE: '{name}' is not a kind of store; choose memory, {', '.join(get_args(StoreServer))}")


def command(kind: StoreServer, folder: Path, port: int, *, password: str = "") -> list[str]:
    """Return the command that runs a server in the foreground.

    Args:
        kind: redis or cassandra.
        folder: all files of the server; data that are already there are used.
        port: port for clients.
        password: password of Redis; empty: none.

    Raises:
        OvertureError: a program that the server needs is not installed, or Cassandra could not be downloaded.
        CheckFailed: a downloaded file of Cassandra is not the listed one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "cassandra":
        cassandra.configure(folder, port, free_port(STORAGE_PORT))
        return cassandra.command(folder)
    if shutil.which("redis-server") is None:
        raise OvertureError("redis-server is not installed (Debian: apt install redis-server)")
    options = {
        "port": str(port),
        "bind": "127.0.0.1",
        "dir": str(folder),
        "appendonly": "yes",
        "save": "",
        "maxmemory": REDIS_MAX_MEMORY,
        "maxmemory-policy": "noeviction",  # an evicted listener is an unknown one
        **({"requirepass": password} if password else {}),
    }
    return ["redis-server", *(word for name, value in options.items() for word in (f"--{name}", value))]


def environment(kind: StoreServer, port: int) -> dict[str, str]:
    """Return the settings of the store as environment variables, which override the settings file."""
    if kind == "redis":
        settings = {"KIND": kind, "REDIS_URL": f"redis://127.0.0.1:{port}/0"}
    else:
        settings = {
            "KIND": kind,
            "CASSANDRA_HOSTS": json.dumps(["127.0.0.1"]),
            "CASSANDRA_PORT": str(port),
            "CASSANDRA_DATACENTER": cassandra.DATACENTER,
            "CASSANDRA_REPLICAS": "1",
            "CASSANDRA_USER": "",
        }
    return {f"OVERTURE__STORE__{name}": value for name, value in settings.items()}


def is_ready(kind: StoreServer, port: int) -> bool:
    """Return whether a server is ready for clients.

    Cassandra opens its port when it is; Redis opens it before it has read its data, and responds LOADING until then.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            if kind == "cassandra":
                return True
            connection.sendall(b"PING\r\n")
            return connection.recv(64).startswith((b"+PONG", b"-NOAUTH"))
    except OSError:
        return False
