"""Test the service as `make up` starts it: not ready without a champion, then it loads the first one."""

from __future__ import annotations

import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from contracts.errors import BadArgument, OvertureError
from jobs.local import services, store_servers
from jobs.local.processes import free_port
from jobs.local.service_state import describe_service, responds
from jobs.release import pointer, promote, publish
from jobs.settings.settings import load
from serving.stores import open_store
from serving.stores.interface import find_user
from tests.helpers import small_week
from tests.helpers.store_servers import FAST_START


@pytest.fixture
def up(home, monkeypatch):
    """The running service, and a context whose release is evaluated but not promoted."""
    monkeypatch.setattr(services, "JOBS_BIN", Path(sys.executable).parent)
    monkeypatch.setenv("PYTHONPATH", str(services.REPOSITORY))
    context = small_week.staged(home, "passed")
    state = services.Running(str(services.config_path()), 0, 0, free_port())
    started = services.start_service(state)
    try:
        health = f"http://127.0.0.1:{state.service_port}/healthz"
        services.wait(lambda: responds(health), {"service": started}, "the service")
        yield context, state
    finally:
        services.stop(state)


def printed(state) -> str:
    """Return the text that `services.show` prints."""
    console = Console(file=io.StringIO(), width=200)
    services.show(state, console)
    return console.file.getvalue()


def test_service_starts_without_a_champion_and_loads_the_first_one(up):
    context, state = up
    text = printed(state)
    assert f"http://127.0.0.1:{state.service_port}" in text
    assert "the service responds with 503: no release has been promoted" in text
    promote.run(context)
    publish.run(context)
    release = pointer.read(context.home).release[:12]
    expected = f"the service uses release {release} of {small_week.FIRST}; known listeners: warm 240"
    end = time.monotonic() + 60
    while (now := describe_service(state.service_port)) != expected:
        assert time.monotonic() < end, now
    assert expected in printed(state)
    assert services.running().alive().keys() == {"service"}
    services.down(Console(file=io.StringIO()))
    assert services.running() is None
    assert describe_service(state.service_port).startswith("the service does not respond")


@pytest.mark.parametrize("kind", ["redis", pytest.param("cassandra", marks=pytest.mark.slow)])
def test_service_and_publish_use_the_store_that_was_started(home, monkeypatch, kind, command, tmp_path):
    """`make up STORE=`: the rows are below OVERTURE_HOME and are there again after a restart on other ports."""
    monkeypatch.setattr(services, "JOBS_BIN", Path(sys.executable).parent)
    monkeypatch.setenv("PYTHONPATH", str(services.REPOSITORY))
    monkeypatch.setenv("JDK_JAVA_OPTIONS", FAST_START)
    context = small_week.staged(home, "champion")
    settings = tmp_path / "small.yaml"
    settings.write_text(json.dumps(small_week.settings().model_dump(mode="json", exclude={"service", "store"})))
    try:
        store_servers.command(kind, tmp_path / "unused", free_port())
    except OvertureError as error:
        pytest.skip(str(error))
    state = services.Running(str(services.config_path()), 0, 0, free_port(), kind, free_port())
    try:
        services.start_store(state)
        started = {"service": services.start_service(state)}
        health = f"http://127.0.0.1:{state.service_port}/healthz"
        services.wait(lambda: responds(health), started, "the service")
        assert f"127.0.0.1:{state.store_port}" in printed(state)
        for name, value in state.environment().items():
            if name.startswith("OVERTURE__"):
                monkeypatch.setenv(name, value)
        code, out, err = command("release", "publish", "--week", small_week.FIRST, "--config", settings)
        assert code == 0, err
        assert f"{kind} 127.0.0.1:{state.store_port}" in json.loads(out.splitlines()[-1])["store"]
        release = pointer.read(context.home).release
        expected = f"the service uses release {release[:12]} of {small_week.FIRST}; known listeners: warm 240"
        end = time.monotonic() + 60
        while (now := describe_service(state.service_port)) != expected:
            assert time.monotonic() < end, now
    finally:
        services.down(Console(file=io.StringIO()))
    assert not store_servers.is_ready(kind, state.store_port)
    state = services.Running(str(services.config_path()), 0, 0, 0, kind, free_port())
    try:
        services.start_store(state)
        for name, value in state.environment().items():
            if name.startswith("OVERTURE__"):
                monkeypatch.setenv(name, value)
        store = open_store(load(settings).store, context.home, publishing=True)
        ids, vectors = small_week.warm_users()
        np.testing.assert_array_equal(find_user(store, release, "tt_svd", int(ids[7])).vector_D, vectors[7])
        store.close()
    finally:
        services.stop(state)


def test_unknown_store_is_named_before_anything_starts(home):
    with pytest.raises(BadArgument, match="STORE: 'cassette' is not a kind of store; choose memory, redis, cassandra"):
        services.up(Console(file=io.StringIO()), "cassette")
    assert not services.state_file().exists()
