"""Stores to test: the embedded store, a temporary Redis server, and a Cassandra cluster if one is configured."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from serving.settings import StoreSettings


class RedisServer:
    """Debian's redis-server on a free loopback port, without persistence."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://:sesame@127.0.0.1:{self.port}/0"
        self.folder = folder
        self.process: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "requirepass": "sesame"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        self.process = subprocess.Popen(
            ["redis-server", *words], cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                assert self.process.poll() is None
                assert time.monotonic() < end
                time.sleep(0.02)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def redis_server(folder: Path) -> RedisServer:
    """Return a running server, or skip the test if redis-server is not installed."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (Debian: apt install redis-server)")
    return RedisServer(folder)


def cassandra_settings() -> StoreSettings:
    """Return settings with a new keyspace in the cluster of CASSANDRA_CONTACT_POINTS, or skip the test if it is not
    set.
    """
    hosts = os.environ.get("CASSANDRA_CONTACT_POINTS", "")
    if not hosts:
        pytest.skip("CASSANDRA_CONTACT_POINTS is not set")
    chosen = {"cassandra_hosts": tuple(hosts.split(",")), "cassandra_keyspace": f"test_{uuid.uuid4().hex[:12]}"}
    if port := os.environ.get("CASSANDRA_PORT"):
        chosen["cassandra_port"] = int(port)
    if datacenter := os.environ.get("CASSANDRA_DATACENTER"):
        chosen["cassandra_datacenter"] = datacenter
    return StoreSettings(kind="cassandra", timeout_s=10, **chosen)


def drop_keyspace(settings: StoreSettings) -> None:
    """Drop the test's keyspace."""
    from cassandra.cluster import Cluster

    cluster = Cluster(list(settings.cassandra_hosts), settings.cassandra_port)
    cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {settings.cassandra_keyspace}", timeout=60)
    cluster.shutdown()
