"""Releases fetched from an HTTP server are verified before they are served; until then the old one serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from contracts import folder_lock
from contracts.errors import BadArgument, CheckFailed
from jobs.release import pointer, signing
from serving.release import manifest
from serving.release.folders import open_folders
from serving.release.signature import signature_file
from serving.release.sources import open_source
from serving.release.watcher import ChampionWatcher
from serving.settings import ServiceSettings
from tests.helpers import release_keys, small_week
from tests.helpers.live import ROOT, Process
from tests.helpers.release_server import release_server


@pytest.fixture
def remote(release_home):
    """A server over the releases of a home; the first one is the champion."""
    release_home.promote(release_home.first)
    with release_server(release_home.home) as server:
        yield server


@pytest.fixture
def host(tmp_path) -> Path:
    """The home of a service on another machine: it has the public key alone."""
    (tmp_path / "host" / "keys").mkdir(parents=True)
    for key in release_keys.key_folder().glob("*.pub"):
        shutil.copy(key, tmp_path / "host" / "keys")
    return tmp_path / "host"


@pytest.fixture
def follow(remote, host, monkeypatch):
    """A function that returns a watcher of the server, with its events."""
    monkeypatch.setattr("serving.release.watcher.RETRY_S", -1.0)

    def start(cache: str = "") -> ChampionWatcher:
        settings = ServiceSettings(release_source=remote.url, release_cache=cache)
        watcher = ChampionWatcher(open_folders(settings, host), poll_s=1.0)
        watcher.refresh()
        return watcher

    return start


def largest_file(folder: Path) -> str:
    entries = manifest.read(folder)["files"]
    return max(entries, key=lambda name: entries[name]["bytes"])


def fetched(host: Path) -> set[str]:
    return {path.name for path in (host / "cache" / "releases").glob("*/")}


def write_pointer(home: Path, **changes: object) -> None:
    file = pointer.releases(home) / pointer.NAME
    file.write_text(json.dumps({**json.loads(file.read_text()), "revision": 9, **changes}))


def change_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def sign_with_another_key(folder: Path, tmp_path: Path) -> None:
    signing.create_keys(tmp_path / "other" / signing.KEY)
    signing.sign(tmp_path / "other" / signing.KEY, folder)


# Each breaks something about the second release at the source, which was promoted properly.
FAULTS = {
    "503": (lambda remote, folder, tmp: remote.faults.update({largest_file(folder): 503}), "status 503 for releases/"),
    "cut": (
        lambda remote, folder, tmp: remote.faults.update({largest_file(folder): "cut 100"}),
        "the connection was cut",
    ),
    "a missing file": (
        lambda remote, folder, tmp: (folder / largest_file(folder)).unlink(),
        "is missing at the source",
    ),
    "a wrong byte": (
        lambda remote, folder, tmp: change_byte(folder / largest_file(folder)),
        "at the source is damaged",
    ),
    "a short file": (lambda remote, folder, tmp: os.truncate(folder / largest_file(folder), 10), "ended after 10 of"),
    "a wrong manifest": (lambda remote, folder, tmp: change_byte(folder / manifest.NAME), "is damaged: its digest"),
    "no manifest": (lambda remote, folder, tmp: (folder / manifest.NAME).unlink(), "manifest.json is missing"),
    "no signature": (lambda remote, folder, tmp: signature_file(folder).unlink(), "run `overture release sign`"),
    "a damaged signature": (lambda remote, folder, tmp: change_byte(signature_file(folder)), "signature is not valid"),
    "an unknown key": (lambda remote, folder, tmp: sign_with_another_key(folder, tmp), "signature is not valid"),
    "another pointer": (lambda remote, folder, tmp: write_pointer(remote.folder, release="../x"), "not '../x'"),
    "a short name": (lambda remote, folder, tmp: write_pointer(remote.folder, release="abc123"), "64 hexadecimal"),
    "a torn pointer": (
        lambda remote, folder, tmp: (pointer.releases(remote.folder) / pointer.NAME).write_text('{"release": "'),
        "champion.json is damaged",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_old_release_serves_until_the_new_one_is_whole(release_home, remote, host, follow, tmp_path, fault):
    watcher = follow()
    assert (watcher.current.name, watcher.problem) == (release_home.first, None)
    release_home.promote(release_home.second)
    whole = tmp_path / "whole"
    shutil.copytree(release_home.home / "releases", whole)
    break_it, message = FAULTS[fault]
    break_it(remote, release_home.folder(release_home.second), tmp_path)
    for _ in range(2):
        watcher.refresh()
        assert message in watcher.problem
        assert str(host) not in watcher.problem, "anyone may read it"
        assert watcher.current.name == release_home.first
    assert release_home.second not in fetched(host)
    remote.faults.clear()
    shutil.rmtree(release_home.home / "releases")
    shutil.copytree(whole, release_home.home / "releases")
    watcher.refresh()
    assert (watcher.current.name, watcher.problem) == (release_home.second, None)


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_interrupted_download_is_resumed(release_home, remote, follow, ranges):
    remote.ranges = ranges
    name = largest_file(release_home.folder(release_home.first))
    remote.faults[name] = "cut 1000"
    watcher = follow()
    assert watcher.current is None
    assert "ended after 1000 of" in watcher.problem
    remote.faults.clear()
    watcher.refresh()
    assert watcher.current.name == release_home.first
    path = f"/releases/{release_home.first}/{name}"
    assert remote.requests[path, 206 if ranges else 200] == (1 if ranges else 2)
    others = [
        n
        for (p, _), n in remote.requests.items()
        if f"/{release_home.first}/" in p and not p.endswith((name, "manifest.json"))
    ]
    assert others
    assert set(others) == {1}, "files that are complete are not fetched again"


def test_pointer_is_read_conditionally(release_home, remote, follow):
    watcher = follow()
    for _ in range(4):
        watcher.refresh()
    assert remote.requests["/releases/champion.json", 304] >= 3
    release_home.promote(release_home.second)
    watcher.refresh()
    assert watcher.current.name == release_home.second


def test_start_without_the_source_serves_the_last_champion_of_the_cache(release_home, remote, follow):
    follow()
    remote.faults["releases"] = 503
    restarted = follow()
    assert restarted.current.name == release_home.first
    assert "status 503 for releases/champion.json" in restarted.problem
    release_home.promote(release_home.second)
    remote.faults.clear()
    restarted.refresh()
    assert (restarted.current.name, restarted.problem) == (release_home.second, None)


def test_damaged_file_in_the_cache_is_fetched_again(release_home, remote, host, follow):
    follow()
    file = host / "cache" / "releases" / release_home.first / largest_file(release_home.folder(release_home.first))
    change_byte(file)
    assert follow().current.name == release_home.first
    manifest.verify(host / "cache" / "releases" / release_home.first)


def test_cache_has_the_champion_the_previous_one_and_releases_in_use(release_home, host, follow):
    names = [
        small_week.with_changed_files(release_home.folder(release_home.first), {"quality.json": b'{"n":%d}' % n}).name
        for n in range(5)
    ]
    watcher = follow()
    used = folder_lock.try_lock(host / "cache" / "releases" / release_home.first, exclusive=False)  # another process
    for name in names:
        release_home.promote(name)
        watcher.refresh()
        assert watcher.current.name == name
    assert release_home.first in fetched(host)
    assert {names[-1], names[-2]} <= fetched(host)
    os.close(used)
    release_home.promote(release_home.second)
    watcher.refresh()
    kept = fetched(host)
    assert kept == {release_home.second, names[-1]}
    assert {path.stem for path in (host / "cache" / "releases").glob("*.sig")} == kept


def test_one_of_several_workers_downloads(release_home, remote, host, follow):
    watchers: list[ChampionWatcher] = []
    threads = [threading.Thread(target=lambda: watchers.append(follow())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [watcher.current.name for watcher in watchers] == [release_home.first] * 4
    counts = {path: n for (path, _), n in remote.requests.items() if f"/{release_home.first}/" in path}
    assert set(counts.values()) == {1}, counts
    folder = host / "cache" / "releases" / release_home.first
    assert {Path(watcher.current.space.tracks_ND.filename) for watcher in watchers} == {
        folder / watchers[0].current.space_name / "track_vectors.npy"
    }, "all map the same file"


def test_several_keys_are_accepted_during_a_rotation(release_home, remote, host, follow, tmp_path):
    watcher = follow()
    key = tmp_path / "new" / signing.KEY
    report = signing.create_keys(key)
    (new_key,) = report["public_keys"]
    shutil.copy(new_key, host / "keys")
    signing.sign(key, release_home.folder(release_home.second))
    pointer.move(release_home.home, 1, release_home.second, small_week.FIRST)
    watcher.refresh()
    assert watcher.current.name == release_home.second, "without a restart"
    for old in release_keys.key_folder().glob("*.pub"):
        (host / "keys" / old.name).unlink()
    pointer.move(release_home.home, 2, release_home.first, small_week.FIRST)
    watcher.refresh()
    assert "signature is not valid for any key at keys" in watcher.problem
    before = sum(remote.requests.values())
    signing.sign(key, release_home.folder(release_home.first))
    watcher.refresh()
    assert watcher.current.name == release_home.first
    assert sum(remote.requests.values()) - before <= 3, "the release of the cache is used, its signature is fetched"


def test_a_manifest_cannot_name_a_file_outside_the_release(release_home, remote, host, follow):
    folder = release_home.folder(release_home.second)
    content = json.loads((folder / manifest.NAME).read_text())
    content["files"]["../../outside"] = {"bytes": 1, "sha256": "0" * 64}
    (folder / manifest.NAME).write_text(json.dumps(content))
    from jobs.platform import files

    name = files.file_digest(folder / manifest.NAME)
    folder.rename(folder.with_name(name))
    release_home.promote(name)
    watcher = follow()
    assert "names '../../outside', outside the release" in watcher.problem
    assert not (host / "cache" / "outside").exists()


def test_a_full_disk_is_reported_before_anything_is_fetched(remote, follow, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    watcher = follow()
    assert "service.release_cache: release" in watcher.problem
    assert "MB more" in watcher.problem


def test_unavailable_source_is_in_readiness_and_metrics(release_home, remote, host, serve):
    live = serve(host, release_source=remote.url)
    live.wait(release_home.first)
    remote.faults["champion.json"] = 503
    live.wait(True, lambda live: "status 503" in (live.call("/readyz")[2]["problem"] or ""))
    status, _, response = live.call("/readyz")
    assert (status, response["release"]) == (200, release_home.first)
    assert "overture_release_source_errors_total 1.0" in live.call("/metrics")[2]
    assert live.lists()["release"] == release_home.first
    remote.faults.clear()
    live.wait(None, lambda live: live.call("/readyz")[2]["problem"])


def test_service_with_several_workers_fetches_once_and_writes_only_its_cache(release_home, remote, host, tmp_path):
    before = {path for path in host.rglob("*")}
    service = Process(
        host,
        "--workers",
        "2",
        OVERTURE__SERVICE__RELEASE_SOURCE=remote.url,
        OVERTURE__SERVICE__RELEASE_CACHE=str(tmp_path / "cache"),
    )
    try:
        for release in (release_home.first, release_home.second):
            release_home.promote(release)
            for _ in range(20):  # both workers answer
                service.wait(release)
        counts = {path: n for (path, status), n in remote.requests.items() if "/release" in path and ".npy" in path}
        assert set(counts.values()) == {1}
    finally:
        assert service.stop() == 0
    assert {path for path in host.rglob("*")} - before == {service.log}
    assert (tmp_path / "cache" / "releases" / release_home.second / manifest.NAME).is_file()


def test_local_releases_are_verified_where_they_are_and_nothing_is_written(release_home, serve):
    release_home.promote(release_home.first)
    before = {path: path.stat().st_mtime_ns for path in release_home.home.rglob("*")}
    live = serve(release_home.home)
    assert live.lists()["release"] == release_home.first
    signature_file(release_home.folder(release_home.second)).unlink()
    pointer.move(release_home.home, 1, release_home.second, small_week.FIRST)
    live.wait(True, lambda live: "run `overture release sign`" in (live.call("/readyz")[2]["problem"] or ""))
    assert live.lists()["release"] == release_home.first
    after = {path: path.stat().st_mtime_ns for path in release_home.home.rglob("*")}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed <= {pointer.NAME, f"{release_home.second}.sig", "releases"}


@pytest.mark.parametrize(
    ("setting", "value", "code", "message"),
    [
        ("RELEASE_SOURCE", "ftp://host/x", 2, "service.release_source: ftp://host/x cannot be opened"),
        ("RELEASE_SOURCE", "http://user:word@host/x", 2, "user name or password"),
        ("RELEASE_KEY", "/nowhere", 3, "service.release_key: there is no public key at /nowhere"),
    ],
)
def test_wrong_settings_end_the_command(host, setting, value, code, message):
    process = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "serve", "--port", "0"],
        cwd=ROOT,
        env={**os.environ, "OVERTURE_HOME": str(host), f"OVERTURE__SERVICE__{setting}": value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, message in process.stderr) == (code, True), process.stderr
    assert "word" not in process.stderr.replace("password", "")


def test_a_source_is_named_as_a_setting_where_it_is_wrong():
    with pytest.raises(BadArgument, match=r"service\.release_source"):
        open_source("nothing://x")


def test_a_killed_download_is_finished_by_the_next_start(release_home, remote, host, follow):
    """The process is killed while it waits for the rest of a file."""
    name = largest_file(release_home.folder(release_home.first))
    waiting, go_on = threading.Event(), threading.Event()
    respond = remote.respond

    def stall(handler):
        if name in handler.path:
            waiting.set()
            go_on.wait(30)
        respond(handler)

    remote.respond = stall
    program = (
        "import sys; from pathlib import Path\n"
        "from serving.release.folders import open_folders; from serving.settings import ServiceSettings\n"
        "open_folders(ServiceSettings(release_source=sys.argv[1]), Path(sys.argv[2])).acquire(sys.argv[3])\n"
    )
    command = [sys.executable, "-c", program, remote.url, str(host), release_home.first]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        assert waiting.wait(60)
        process.send_signal(signal.SIGKILL)
    go_on.set()
    assert fetched(host) == {f".fetch-{release_home.first}"}
    watcher = follow()
    assert watcher.current.name == release_home.first
    assert fetched(host) == {release_home.first}


def test_verification_names_the_reason(release_home, host):
    folders = open_folders(ServiceSettings(release_source=str(release_home.home)), host)
    folder = release_home.folder(release_home.first)
    folders.acquire(release_home.first)
    change_byte(folder / largest_file(folder))
    with pytest.raises(CheckFailed, match="is damaged: its SHA-256"):
        folders.acquire(release_home.first)
