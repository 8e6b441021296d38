"""Tests of pruning: releases without a reference are removed, referenced ones are retained."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import bundle, pointer, prune
from jobs.settings.settings import load
from serving.release import manifest

ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["cold_start", "skip"])
def engine(request, home) -> Context:
    return Context.for_engine(load(ROOT / "configs" / "tiny.yaml"), Week.parse("2026-11-16"), request.param)


def release(context: Context, number: int) -> str:
    """Create a small release that was built `number` seconds after the first."""
    aside = context.home / "aside"
    files.write(aside / "provenance.json", json.dumps({"week": "2026-11-16", "n": number}).encode())
    folder = pointer.releases(context.release_home)
    folder.mkdir(parents=True, exist_ok=True)
    name = bundle.write_manifest(aside)
    aside.rename(folder / name)
    os.utime(folder / name, (1_790_000_000 + number,) * 2)
    return name


def existing_releases(context: Context) -> set[str]:
    return {path.name for path in pointer.releases(context.release_home).iterdir() if path.is_dir()}


def promoted(context: Context, *releases: str) -> None:
    for revision, name in enumerate(releases):
        with pointer.move_lock(context.release_home):
            pointer.move(context.release_home, revision, name, "2026-11-16")


def test_prune_retains_the_newest_releases_and_those_of_the_pointer(engine):
    names = [release(engine, number) for number in range(6)]
    promoted(engine, names[3], names[0], names[1])
    dry_run = prune.run(engine, keep=2, dry_run=True)
    assert existing_releases(engine) == set(names)
    assert dry_run["removed"] == [names[3], names[2]]
    assert dry_run["kept"][names[1]] == "the champion"
    assert dry_run["kept"][names[0]] == "target of a rollback"
    report = prune.run(engine, keep=2)
    assert report == dry_run | {"dry_run": False}
    assert existing_releases(engine) == {names[0], names[1], names[4], names[5]}
    assert prune.run(engine, keep=2)["removed"] == []
    for name in existing_releases(engine):
        manifest.verify(pointer.releases(engine.release_home) / name)


def test_prune_runs_without_champion_and_without_releases(engine):
    assert prune.run(engine, keep=1) == {"removed": [], "kept": {}, "bytes": 0, "dry_run": False}
    names = [release(engine, number) for number in range(2)]
    assert prune.run(engine, keep=1)["removed"] == names[:1]


def test_prune_retains_releases_of_store_and_experiments(context):
    names = [release(context, number) for number in range(4)]
    (pointer.releases(context.home) / "published.json").write_text(json.dumps({"release": names[0]}))
    row = {
        "request_id": "a",
        "user_id": 1,
        "ts": datetime(2026, 11, 23, tzinfo=UTC),
        "experiment": "e",
        "arm": "a",
        "position": 1,
        "track_id": 1,
        "propensity": 1.0,
        "method": "semi_pers",
        "release": names[1],
    }
    shown = pa.Table.from_pylist([row], arrow_schema(contracts.load("exposures")))
    context.lake.write("exposures", shown, report={}, day="2026-11-23")
    assert prune.run(context, keep=1)["kept"] == {
        names[3]: "one of the 1 built last",
        names[1]: "used by an experiment",
        names[0]: "its users are in the store",
    }
    assert existing_releases(context) == {names[0], names[1], names[3]}


@pytest.mark.parametrize("file", ["champion.json", "published.json"])
def test_damaged_record_removes_nothing(context, file):
    names = {release(context, number) for number in range(3)}
    (pointer.releases(context.home) / file).write_text("{}")
    with pytest.raises(CheckFailed, match=file):
        prune.run(context, keep=1)
    assert existing_releases(context) == names


def test_prune_deletes_files_of_a_killed_run(engine):
    retained = release(engine, 1)
    folder = pointer.releases(engine.release_home)
    for left in (".removed-aaa", ".damaged-bbb"):
        (folder / left).mkdir()
        (folder / left / manifest.NAME).touch()
    assert list(prune.run(engine, keep=1)["kept"]) == [retained]
    assert existing_releases(engine) == {retained}


def test_gate_names_the_command_for_a_removed_release(context):
    name = release(context, 1)
    (context.work / "bundle.json").write_text(json.dumps({"release": name}))
    assert bundle.release_of_week(context) == name
    release(context, 2)
    prune.run(context, keep=1)
    with pytest.raises(CheckFailed, match="was removed; run `overture release bundle"):
        bundle.release_of_week(context)


def test_command_requires_keep(home, command):
    code, _, err = command("release", "prune", "--keep", 0)
    assert code == 2
    assert "--keep" in err
    code, out, _ = command("release", "prune", "--keep", 1, "--dry-run", "--engine", "skip")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["removed"] == []
