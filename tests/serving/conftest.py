"""Releases to serve, and a service on a port of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from jobs.release import bundle, pointer
from jobs.release.cold_start import bundle as cold_start_bundle
from serving.release.bundle import open_release
from tests.helpers import small_week
from tests.helpers.live import Live


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """A home with two releases that answer differently and no champion: do not write to it."""
    home = tmp_path_factory.mktemp("shelf") / "home"
    for week, taste, seed in ((small_week.FIRST, 1.0, 0), (small_week.SECOND, 0.7, 5)):
        context = small_week.context_at(home, week)
        small_week.fill(context, taste, seed)
        folder, _ = bundle.build(context, cold_start_bundle)
        (home / f"{week}.txt").write_text(folder.name)
    return home


class Shop:
    """A home of one test's own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.first, self.second = ((home / f"{week}.txt").read_text() for week in (small_week.FIRST, small_week.SECOND))

    def folder(self, release: str) -> Path:
        return pointer.releases(self.home) / release

    def opened(self, release: str):
        return open_release(self.folder(release))

    def promote(self, release: str) -> None:
        now = pointer.read(self.home)
        pointer.move(self.home, pointer.revision(now), release, small_week.FIRST)


@pytest.fixture
def shop(shelf, tmp_path) -> Shop:
    """Two releases and no champion."""
    shutil.copytree(shelf, tmp_path / "home")
    return Shop(tmp_path / "home")


@pytest.fixture
def serve():
    """Start services; they end with the test."""
    running = []

    def start(home: Path, **settings) -> Live:
        running.append(Live(home, **settings))
        return running[-1]

    yield start
    for live in running:
        live.stop()


@pytest.fixture(scope="module")
def live(shelf, tmp_path_factory):
    """One service over the first release, for tests that only ask."""
    home = tmp_path_factory.mktemp("live") / "home"
    shutil.copytree(shelf, home)
    shop = Shop(home)
    shop.promote(shop.first)
    found = Live(home)
    found.shop = shop
    yield found
    found.stop()
