"""Fixtures: two releases in a home directory, and services that run on their own ports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.release import bundle, pointer
from jobs.release.cold_start import bundle as cold_start_bundle
from serving.release.bundle import open_release
from tests.helpers import release_keys, small_week
from tests.helpers.live import Live, Process


@pytest.fixture(scope="session")
def template_home(tmp_path_factory) -> Path:
    """Read-only home of the session, with two releases that return different lists and no champion."""
    home = tmp_path_factory.mktemp("template") / "home"
    for week, taste, seed in ((small_week.FIRST, 1.0, 0), (small_week.SECOND, 0.7, 5)):
        context = small_week.context_at(home, week)
        small_week.fill(context, taste, seed)
        folder, _ = bundle.build(context, cold_start_bundle)
        (home / f"{week}.txt").write_text(folder.name)
        release_keys.sign(home, folder.name)
    return home


class ReleaseHome:
    """Home of one test, with two releases."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.first, self.second = ((home / f"{week}.txt").read_text() for week in (small_week.FIRST, small_week.SECOND))

    def folder(self, release: str) -> Path:
        return pointer.releases(self.home) / release

    def open(self, release: str):
        return open_release(self.folder(release))

    def promote(self, release: str) -> None:
        release_keys.promote(self.home, release)


@pytest.fixture
def release_home(template_home, tmp_path) -> ReleaseHome:
    """Writable home with two releases and no champion."""
    shutil.copytree(template_home, tmp_path / "home")
    return ReleaseHome(tmp_path / "home")


@pytest.fixture
def serve():
    """Return a function that starts a service. All services stop when the test ends."""
    services = []

    def start(home: Path, **settings) -> Live:
        services.append(Live(home, **settings))
        return services[-1]

    yield start
    for service in services:
        service.stop()


@pytest.fixture
def start_process(release_home):
    """Return a function that starts `overture serve` with the first release. All processes stop when the test ends."""
    release_home.promote(release_home.first)
    processes = []

    def run(*arguments: str, **environment: str) -> Process:
        processes.append(Process(release_home.home, *arguments, **environment))
        return processes[-1]

    yield run
    for process in processes:
        process.stop()


@pytest.fixture(scope="module")
def live(template_home, tmp_path_factory):
    """Service with the first release as champion, shared by the tests of a module that only send requests."""
    home = tmp_path_factory.mktemp("live") / "home"
    shutil.copytree(template_home, home)
    release_home = ReleaseHome(home)
    release_home.promote(release_home.first)
    service = Live(home)
    service.release_home = release_home
    yield service
    service.stop()
