"""Tests of `overture block`: edits of the file and of Redis, two processes at once, invalid arguments."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from serving.block.sources import block_file
from tests.helpers.live import ROOT
from tests.helpers.store_servers import redis_server


@pytest.fixture
def file(home):
    """The block list in its file."""
    return block_file(home, "blocked")


def last_line(out):
    """Return the report of a command."""
    return json.loads(out.splitlines()[-1])


def test_entries_are_added_listed_and_removed(command, file):
    code, out, _ = command("block", "add", "track", "7", "a/b", "--reason", "takedown 12")
    assert (code, last_line(out)) == (0, {"source": "block_list.jsonl", "added": 2, "unchanged": 0})
    assert last_line(command("block", "add", "track", "7")[1]) == {
        "source": "block_list.jsonl",
        "added": 0,
        "unchanged": 1,
    }
    command("block", "add", "artist", "9", "--country", "DE", "--country", "FR")
    code, out, _ = command("block", "list")
    *lines, report = map(json.loads, out.splitlines())
    assert report == {"entries": {"block_list.jsonl": 3, "unavailable_tracks.jsonl": 0}}
    assert [(line["kind"], line["id"], line.get("countries")) for line in lines] == [
        ("track", "7", None),
        ("track", "a/b", None),
        ("artist", "9", ["DE", "FR"]),
    ]
    assert lines[0]["reason"] == "takedown 12"
    assert lines[0]["at"].endswith("+00:00")
    assert last_line(command("block", "remove", "artist", "9", "--country", "DE")[1])["removed"] == 1
    code, out, err = command("block", "remove", "track", "7", "unknown")
    assert (code, last_line(out)) == (0, {"source": "block_list.jsonl", "removed": 1, "not_listed": 1})
    assert "track unknown is not in block_list.jsonl: not listed" in err
    assert {key: entry.countries for key, entry in file.entries().items()} == {
        ("track", "a/b"): frozenset(),
        ("artist", "9"): {"FR"},
    }


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("add",), "give a kind"),
        (("add", "track"), "give a kind"),
        (("add", "playlist", "1"), "kind: 'playlist' is not track, artist or album"),
        (("add", "track", ""), "id: ''"),
        (("add", "track", "1", "--country", "QQ"), "countries: 'QQ' is not a country code"),
        (("remove", "track", "1", "--country", "de"), "countries: 'de' is not a country code"),
        (("remove", "track", "5", "--country", "DE"), "track 5 is blocked everywhere"),
        (("add", "track", "1", "--file", "x.jsonl"), "--file"),
        (("add", "--file", "missing.jsonl"), "missing.jsonl cannot be read"),
    ],
)
def test_invalid_arguments_change_nothing(command, file, arguments, why):
    command("block", "add", "track", "5")
    before = file.version()
    code, _, err = command("block", *arguments)
    assert (code, why in err) == (2, True), err
    assert file.version() == before


def test_a_file_of_many_is_added_whole_or_not_at_all(command, file, tmp_path):
    many = tmp_path / "many.jsonl"
    many.write_text("".join(f'{{"kind": "track", "id": {i}}}\n' for i in range(1_000)) + '{"kind": "x", "id": "1"}\n')
    code, _, err = command("block", "add", "--file", many)
    assert code == 2
    assert f"{many}:1001: kind: 'x'" in err
    assert file.entries() == {}
    many.write_text("".join(f'{{"kind": "track", "id": {i}}}\n' for i in range(1_000)))
    assert last_line(command("block", "add", "--file", many)[1])["added"] == 1_000
    code, out, _ = command("block", "remove", "--file", many, "--dry-run")
    *lines, report = map(json.loads, out.splitlines())
    assert (report["would_remove"], len(lines), len(file.entries())) == (1_000, 1_000, 1_000)
    assert last_line(command("block", "remove", "--file", many)[1])["removed"] == 1_000
    assert file.entries() == {}


def test_two_processes_that_edit_at_once_lose_nothing(file, home):
    code = (
        "import sys\n"
        "from jobs.cli import block\n"
        "for i in range(25):\n"
        "    block.add('track', [f'{sys.argv[1]}{i}', 'shared'], [sys.argv[2]], '', None, None)\n"
    )
    env = {**os.environ, "OVERTURE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", code, name, country], env=env, stdout=subprocess.DEVNULL)
        for name, country in (("a", "DE"), ("b", "FR"))
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    entries = file.entries()
    assert set(entries) == {("track", f"{name}{i}") for name in "ab" for i in range(25)} | {("track", "shared")}
    assert entries[("track", "shared")].countries == {"DE", "FR"}


def test_the_store_is_edited_where_the_settings_name_one(command, file, tmp_path, monkeypatch):
    server = redis_server(tmp_path)
    try:
        monkeypatch.setenv("OVERTURE__STORE__KIND", "redis")
        monkeypatch.setenv("OVERTURE__STORE__REDIS_URL", server.url)
        assert last_line(command("block", "add", "track", "7")[1]) == {
            "source": "redis blocked",
            "added": 1,
            "unchanged": 0,
        }
        assert not file.path.exists()
        code, out, _ = command("block", "list")
        assert last_line(out)["entries"]["redis blocked"] == 1
        assert json.loads(out.splitlines()[0])["source"] == "redis blocked"
        assert last_line(command("block", "remove", "track", "7")[1])["removed"] == 1
    finally:
        server.stop()
    code, _, err = command("block", "add", "track", "7")
    assert (code, "does not answer" in err) == (1, True)
