"""Fixtures: one full week on the smallest service, run once per session, and copies of it."""

from __future__ import annotations

import os
import shutil

import pytest

from jobs.ingest.simulate import adapter as simulate
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import load
from tests.helpers.one_week import TINY, whole_week


@pytest.fixture(scope="session")
def finished(tmp_path_factory, spark) -> Context:
    """Context of a finished week; tests must not write to its home."""
    home = tmp_path_factory.mktemp("finished")
    before = os.environ.get("OVERTURE_HOME")
    os.environ["OVERTURE_HOME"] = str(home)
    settings = load(TINY)
    context = Context(settings, Week.parse(settings.week), home)
    context.__dict__["spark"] = spark
    simulate.run(context, None)
    context.__dict__["promoted"] = whole_week(context)
    if before is not None:
        os.environ["OVERTURE_HOME"] = before
    return context


@pytest.fixture
def copied(finished, tmp_path, monkeypatch) -> Context:
    """Copy of the finished week that a test may change."""
    home = tmp_path / "home"
    shutil.copytree(finished.home, home)
    monkeypatch.setenv("OVERTURE_HOME", str(home))
    return Context(finished.settings, finished.week, home)
