"""The service as `make up` starts it: without a champion it says why it does not answer, and takes the first one."""

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
    """The service alone, over a home whose release waits for its promotion."""
    monkeypatch.setattr(services, "JOBS_BIN", Path(sys.executable).parent)
    monkeypatch.setenv("PYTHONPATH", str(services.REPOSITORY))
    context = small_week.staged(home, "judged")
    state = services.Running(str(services.config_path()), 0, 0, services.free_port())
    started = services.start_service(state)
    try:
        health = f"http://127.0.0.1:{state.service_port}/healthz"
        services.wait(lambda: services.answers(health), {"service": started}, "the service")
        yield context, state
    finally:
        services.stop(state)


def shown(state) -> str:
    console = Console(file=io.StringIO(), width=200)
    services.show(state, console)
    return console.file.getvalue()


def test_it_runs_without_a_champion_and_takes_the_first_one(up):
    context, state = up
    said = shown(state)
    assert f"http://127.0.0.1:{state.service_port}" in said
    assert "the service answers 503: no release has been promoted" in said
    promote.run(context)
    publish.run(context)
    release = pointer.read(context.home).release[:12]
    wanted = f"the service answers from release {release} of {small_week.FIRST}; known listeners: warm 240"
    end = time.monotonic() + 60
    while (now := services.serving_what(state.service_port)) != wanted:
        assert time.monotonic() < end, now
    assert wanted in shown(state)
    assert services.running().alive().keys() == {"service"}
    services.down(Console(file=io.StringIO()))
    assert services.running() is None
    assert services.serving_what(state.service_port).startswith("the service does not answer")
