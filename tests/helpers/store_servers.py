"""Stores to test: the embedded store, a temporary Redis server, and a temporary Cassandra server or a given cluster."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from pathlib import Path

import pytest

from contracts.errors import OvertureError
from jobs.local import store_servers
from jobs.local.processes import free_port
from jobs.local.store_servers import StoreServer
from serving.settings import StoreSettings

START_S = 120
FAST_START = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""JDK_JAVA_OPTIONS of a Cassandra that runs for seconds: two thirds of the start's CPU time."""


class Server:
    """A store server on a free loopback port, as `make up STORE=` starts it."""

    def __init__(self, kind: StoreServer, folder: Path, password: str = "", options: tuple[str, ...] = ()) -> None:
        """Start the server; skip the test if a program or download that it needs is unavailable."""
        self.kind, self.folder, self.password, self.port = kind, folder, password, free_port()
        self.options = options
        self.process: subprocess.Popen | None = None
        self.start()

    @property
    def url(self) -> str:
        """The address of a Redis server."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        try:
            command = store_servers.command(self.kind, self.folder, self.port, password=self.password)
            command += self.options
        except OvertureError as error:
            if error.exit_code != 1:  # such as a jar that is not the listed one
                raise
            pytest.skip(str(error))
        with (self.folder / "log.txt").open("ab") as log:
            env = {**os.environ, "JDK_JAVA_OPTIONS": FAST_START}
            self.process = subprocess.Popen(command, env=env, cwd=self.folder, stdout=log, stderr=log)
        end = time.monotonic() + START_S
        while not (store_servers.is_ready(self.kind, self.port) and self._has_loaded()):
            printed = (self.folder / "log.txt").read_text()[-3000:]
            assert self.process.poll() is None, printed
            assert time.monotonic() < end, printed
            time.sleep(0.02)

    def _has_loaded(self) -> bool:
        """Return whether a Redis has read its data: with a password it refuses strangers before it has."""
        import redis

        if self.kind != "redis":
            return True
        with redis.Redis.from_url(self.url) as client:
            try:
                return bool(client.ping())
            except redis.BusyLoadingError:
                return False

    def stop(self) -> None:
        """Kill the server."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


def redis_server(folder: Path) -> Server:
    """Return a running server, or skip the test if redis-server is not installed."""
    return Server("redis", folder, password="sesame")


def redis_cluster(folder: Path) -> Server:
    """Return a Redis Cluster of one node, which has all slots, or skip the test if redis-server is not installed."""
    import redis as client

    options = ("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    server = Server("redis", folder, password="sesame", options=options)
    node = client.Redis.from_url(server.url)
    node.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16_383)
    end = time.monotonic() + START_S
    while node.cluster("INFO")["cluster_state"] != "ok":
        assert time.monotonic() < end, "the slots are not served"
        time.sleep(0.02)
    node.close()
    return server


def cassandra_settings(server: Server | None) -> StoreSettings:
    """Return settings with a new keyspace.

    Args:
        server: a running server; None: the cluster of CASSANDRA_CONTACT_POINTS.
    """
    chosen: dict[str, object] = {"cassandra_keyspace": f"test_{uuid.uuid4().hex[:12]}"}
    if server is not None:
        return StoreSettings(kind="cassandra", timeout_s=10, cassandra_port=server.port, **chosen)
    chosen["cassandra_hosts"] = tuple(os.environ["CASSANDRA_CONTACT_POINTS"].split(","))
    if port := os.environ.get("CASSANDRA_PORT"):
        chosen["cassandra_port"] = int(port)
    if datacenter := os.environ.get("CASSANDRA_DATACENTER"):
        chosen["cassandra_datacenter"] = datacenter
    return StoreSettings(kind="cassandra", timeout_s=10, **chosen)


def drop_keyspace(settings: StoreSettings) -> None:
    """Drop the test's keyspace."""
    from cassandra.cluster import Cluster

    # Without refreshes of the schema, which the driver would schedule after its shutdown.
    cluster = Cluster(list(settings.cassandra_hosts), settings.cassandra_port, schema_event_refresh_window=-1)
    cluster.connect().execute(f"DROP KEYSPACE IF EXISTS {settings.cassandra_keyspace}", timeout=60)
    cluster.shutdown()
