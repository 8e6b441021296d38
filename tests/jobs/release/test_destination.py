"""Releases and the pointer in S3 (moto) or another folder: compare-and-set, crashes, a service that follows."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from contracts.errors import CheckFailed, OvertureError
from jobs.platform.context import Context
from jobs.release import bundle, pointer, promote, prune, rollback, signing
from jobs.release import destination_s3 as s3
from jobs.release.cold_start import bundle as cold_start_bundle
from jobs.release.destination import open_destination, read_champion, release_folder
from serving.release import manifest
from serving.release.folders import open_folders
from serving.release.signature import signature_file
from serving.settings import ServiceSettings
from tests.helpers import release_keys, small_week
from tests.helpers.live import ROOT, Process, cohort_requests
from tests.helpers.s3_server import BUCKET, s3_server

BASE = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture
def uri(server, monkeypatch, request) -> str:
    """An empty prefix of the test's own."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield f"{BASE}/{request.node.name.split('[')[0]}"
    server.heal()


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    """A home with two releases, and their names in names.json; read-only."""
    home, names = tmp_path_factory.mktemp("template") / "home", []
    for week, taste, seed in ((small_week.FIRST, 1.0, 0), (small_week.SECOND, 0.7, 5)):
        context = small_week.context_at(home, week)
        small_week.fill(context, taste, seed)
        names.append(bundle.build(context, cold_start_bundle)[0].name)
        release_keys.sign(home, names[-1])
    (home / "names.json").write_text(json.dumps(names))
    return home


def names(home: Path) -> list[str]:
    return json.loads((home / "names.json").read_text())


def with_destination(context: Context, root: str) -> Context:
    """Return a context whose releases are written to another place."""
    release = context.settings.release.model_copy(update={"destination": root})
    return Context(context.settings.model_copy(update={"release": release}), context.week, context.home)


def at(home: Path, root: str) -> Context:
    return with_destination(small_week.context_at(home), root)


def folder(home: Path, release: str) -> Path:
    return pointer.releases(home) / release


def put(context: Context, release: str, home: Path) -> None:
    """Write a release of a home and point at it."""
    destination = open_destination(context)
    destination.write_release(folder(home, release))
    destination.move(pointer.revision(destination.read_pointer()), release, small_week.FIRST)


def host_with_key(path: Path) -> Path:
    """Return the home of another machine, with the keys alone."""
    path.mkdir()
    release_keys.add_keys(path)
    return path


def test_promote_and_rollback_write_to_s3_and_another_machine_reads_it(home, tmp_path, uri):
    week = with_destination(small_week.staged(home, "waiting", small_week.SECOND), uri)
    old, new = pointer.read(home).release, bundle.release_of_week(week)
    assert read_champion(week) is None
    assert promote.run(week, release=old)["champion"] == old
    assert promote.run(week, release=new)["champion"] == new
    assert read_champion(week) == pointer.Pointer(new, old, 2, small_week.SECOND)
    assert pointer.read(home).release == old, "the pointer of the home is not written"
    other = with_destination(small_week.ready(host_with_key(tmp_path / "other"), taste=None), uri)
    assert release_folder(other, new) == folder(other.home, new)
    manifest.verify(folder(other.home, new))
    report = rollback.run(other)
    assert (report["rolled_back"], report["release"]) == (True, old)
    assert read_champion(week) == pointer.Pointer(old, new, 3, small_week.FIRST)
    assert promote.run(week, release=old)["promoted"] is False


def test_second_of_two_promotions_from_different_machines_fails(template, tmp_path, uri):
    first, second = names(template)
    one, two = (at(host_with_key(tmp_path / name), uri) for name in ("one", "two"))
    put(one, first, template)
    errors, barrier = [], threading.Barrier(2)

    def move(context: Context, release: str) -> None:
        destination = open_destination(context)
        destination.write_release(folder(template, release))
        barrier.wait()
        try:
            destination.move(1, release, small_week.SECOND)
        except OvertureError as error:
            errors.append(str(error))

    for _ in range(3):
        threads = [threading.Thread(target=move, args=pair) for pair in ((one, first), (two, second))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(errors) == 1
        assert "the champion has moved to revision 2" in errors[0] or "another process writes" in errors[0]
        assert read_champion(one).revision == 2
        errors.clear()
        key = f"{uri.removeprefix(BASE + '/')}/releases/champion.json"
        s3._client().put_object(Bucket=BUCKET, Key=key, Body=pointer.as_json(pointer.Pointer(first, None, 1, "x")))


KILLED = """
import os, sys
from pathlib import Path
from jobs.release import destination_s3
from tests.jobs.release.test_destination import at, put
home, uri, release, die_at = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
n_written = 0
client = destination_s3._client()
write = client.put_object
def put_object(**arguments):
    global n_written
    if n_written == die_at:
        os.kill(os.getpid(), 9)
    n_written += 1
    return write(**arguments)
client.put_object = put_object
destination_s3._client = lambda: client
put(at(home, uri), release, home)
print(n_written)
"""


def test_promotion_to_s3_survives_a_kill_between_uploads(template, tmp_path, uri):
    first, second = names(template)
    host = host_with_key(tmp_path / "host")
    context = at(host, uri)
    put(context, first, template)
    n_files = len(manifest.read(folder(template, second))["files"])
    service = open_folders(ServiceSettings(release_source=uri), host_with_key(tmp_path / "service"))

    def attempt(die_at: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", KILLED, str(template), uri, second, str(die_at)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)

    # In each attempt the files of the one before are used, so `die_at` counts the remaining writes.
    for done in (0, 3, n_files - 3):  # the first file, one in the middle, the manifest or the signature
        process = attempt(done)
        assert process.returncode == -9, process.stderr
        assert read_champion(context).release == first
        now = service.pointer()
        service.acquire(now.release).close()
    process = attempt(1)  # before the pointer
    assert process.returncode == -9, process.stderr
    assert read_champion(context).release == first
    process = attempt(-1)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) == 2, "signature and pointer alone: every file was there"
    assert read_champion(context) == pointer.Pointer(second, first, 2, small_week.FIRST)
    service.acquire(second).close()


def test_eight_promotions_from_s3_while_a_service_answers(template, tmp_path, uri):
    host = host_with_key(tmp_path / "host")
    context, (first, second) = at(host, uri), names(template)
    put(context, first, template)
    (host / "keys" / signing.KEY).unlink()
    service = Process(host, OVERTURE__SERVICE__RELEASE_SOURCE=uri)
    done, failures, served = threading.Event(), [], []
    requests = cohort_requests()[:10]

    def send() -> None:
        while not done.is_set():
            for request in requests:
                status, headers, body = service.call("/v1/recommendations", {"listener": request, "k": 10})
                if status != 200 or body["release"] != headers["x-overture-release"] or len(body["tracks"]) != 10:
                    failures.append((status, body))
                served.append(body.get("release"))

    try:
        service.wait(first)
        threads = [threading.Thread(target=send) for _ in range(2)]
        for thread in threads:
            thread.start()
        for n in range(8):
            release = (second, first)[n % 2]
            put(context, release, template)
            service.wait(n + 2, lambda live: revision(live))
            assert service.call("/readyz")[2]["release"] == release
        done.set()
        for thread in threads:
            thread.join()
        assert failures == []
        assert set(served) == {first, second}
    finally:
        done.set()
        assert service.stop() == 0


def revision(service: Process) -> int:
    page = service.call("/metrics")[2]
    return int(
        float(next(line.split()[-1] for line in page.splitlines() if line.startswith("overture_release_revision ")))
    )


def test_service_reports_an_unavailable_store_and_goes_on(template, tmp_path, server, uri):
    context, (first, second) = at(host_with_key(tmp_path / "host"), uri), names(template)
    put(context, first, template)
    folders = open_folders(ServiceSettings(release_source=uri), host_with_key(tmp_path / "service"))
    folders.acquire(folders.pointer().release).close()
    for kind in (503, "cut"):
        server.fail("GET", "champion.json", kind)
        server.fail("HEAD", "champion.json", kind)
        with pytest.raises(OvertureError, match=r"service\.release_source: releases/champion\.json cannot be read"):
            folders.pointer()
        server.fail("GET", "champion.json", kind)
        with pytest.raises(OvertureError, match=r"release\.destination"):
            read_champion(context)
        server.heal()
    put(context, second, template)
    server.fail("GET", "network.onnx", 503)
    with pytest.raises(OvertureError, match="cannot be read"):
        folders.acquire(second)
    server.heal()
    folders.acquire(second).close()


def test_damaged_object_is_written_again_by_the_next_promotion(template, tmp_path, uri):
    context, (first, _) = at(host_with_key(tmp_path / "host"), uri), names(template)
    put(context, first, template)
    key = f"{uri.removeprefix(BASE + '/')}/releases/{first}/quality.json"
    s3._client().put_object(Bucket=BUCKET, Key=key, Body=b"{}")
    service = open_folders(ServiceSettings(release_source=uri), host_with_key(tmp_path / "service"))
    with pytest.raises(OvertureError, match=r"quality\.json"):
        service.acquire(first)
    open_destination(context).write_release(folder(template, first))
    service.acquire(first).close()


def test_prune_removes_old_and_abandoned_releases_from_s3(template, tmp_path, uri, monkeypatch):
    host = host_with_key(tmp_path / "host")
    context, (first, second) = at(host, uri), names(template)
    destination = open_destination(context)
    destination.write_release(folder(template, first))
    time.sleep(1.1)  # an object's time is in whole seconds
    destination.write_release(folder(template, second))
    destination.move(0, second, small_week.FIRST)
    abandoned = "a" * 64
    prefix = f"{uri.removeprefix(BASE + '/')}/releases"
    s3._client().put_object(Bucket=BUCKET, Key=f"{prefix}/{abandoned}/quality.json", Body=b"{}")
    assert prune.run(context, keep=1, dry_run=True)["removed"] == [first]
    assert set(destination._objects()) == {first, second, abandoned}
    assert prune.run(context, keep=1)["removed"] == [first]
    assert set(destination._objects()) == {second, abandoned}, "it may still be written"
    monkeypatch.setattr(s3, "ABANDONED_S", -60.0)
    prune.run(context, keep=1)
    assert set(destination._objects()) == {second}
    assert {one.name for one in destination.releases()} == {second}


def test_folder_destination_is_complete_before_the_pointer_moves(template, tmp_path):
    host, root = host_with_key(tmp_path / "host"), tmp_path / "published"
    context, (first, second) = at(host, str(root)), names(template)
    put(context, first, template)
    (root / "releases" / ".incoming-0a1b2c3d").mkdir()
    (root / "releases" / ".damaged-0a1b2c3d").mkdir()
    put(context, second, template)
    assert {path.name for path in (root / "releases").glob("*/")} == {first, second}
    folders = open_folders(ServiceSettings(release_source=str(root)), host)
    folders.acquire(folders.pointer().release).close()
    assert folders.pointer() == read_champion(context) == pointer.Pointer(second, first, 2, small_week.FIRST)
    assert release_folder(context, first) == root / "releases" / first
    signature_file(root / "releases" / first).unlink()
    with pytest.raises(CheckFailed, match="run `overture release sign`"):
        release_folder(context, first)


def test_settings_refuse_a_store_without_conditional_writes():
    from pydantic import ValidationError

    from jobs.settings.platform import ReleaseSettings

    with pytest.raises(ValidationError, match="must be a folder or s3://"):
        ReleaseSettings(destination="gs://bucket")
