"""Test the service as `make up` starts it: not ready without a champion, then it loads the first one."""

from __future__ import annotations

import io
import sys
import time
from pathlib import Path

import pytest
from rich.console import Console

from jobs.local import services
from jobs.release import pointer, promote, publish
from tests.helpers import small_week


@pytest.fixture
def up(home, monkeypatch):
    """The running service, and a context whose release is evaluated but not promoted."""
    monkeypatch.setattr(services, "JOBS_BIN", Path(sys.executable).parent)
    monkeypatch.setenv("PYTHONPATH", str(services.REPOSITORY))
    context = small_week.staged(home, "passed")
    state = services.Running(str(services.config_path()), 0, 0, services.free_port())
    started = services.start_service(state)
    try:
        health = f"http://127.0.0.1:{state.service_port}/healthz"
        services.wait(lambda: services.responds(health), {"service": started}, "the service")
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
    while (now := services.describe_service(state.service_port)) != expected:
        assert time.monotonic() < end, now
    assert expected in printed(state)
    assert services.running().alive().keys() == {"service"}
    services.down(Console(file=io.StringIO()))
    assert services.running() is None
    assert services.describe_service(state.service_port).startswith("the service does not respond")
