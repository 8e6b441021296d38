"""Test the download of Cassandra's jars and the choice of Java, with programs that fail in the expected ways."""

from __future__ import annotations

import hashlib
import re

import pytest

from contracts.errors import CheckFailed, OvertureError
from jobs.local import cassandra, maven


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Return a function that makes a shell script the only program of this name."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    def write(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return write


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """An empty cache, and a lock with one jar whose content is `jar`."""
    monkeypatch.setattr(cassandra, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(cassandra, "LOCK", tmp_path / "cassandra.txt")
    cassandra.LOCK.write_text(f"# a comment\ngroup.one:name:1.0:linux {hashlib.sha256(b'jar').hexdigest()}\n")
    return tmp_path / "cache"


COPY = """
for word in "$@"; do case "$word" in -DoutputDirectory=*) folder="${{word#*=}}" ;; esac; done
/bin/mkdir -p "$folder"; printf {content} > "$folder/name-1.0-linux.jar"
"""


def test_every_line_of_the_lock_has_coordinates_and_a_hash():
    lock = cassandra.read_lock()
    assert any(one.startswith("org.apache.cassandra:cassandra-all:") for one in lock)
    for coordinates, sha256 in lock.items():
        assert re.fullmatch(r"[\w.-]+:[\w.-]+:[\w.-]+(:[\w.-]+)?", coordinates)
        assert re.fullmatch(r"[0-9a-f]{64}", sha256)
    assert len({maven.file_name(one) for one in lock}) == len(lock), "all jars are in one folder"


def test_jars_are_downloaded_once_and_verified(empty_cache, program):
    program("mvn", COPY.format(content="jar"))
    folder = cassandra.jars()
    assert (folder / "name-1.0-linux.jar").read_bytes() == b"jar"
    program("mvn", "exit 1")
    assert cassandra.jars() == folder
    assert sorted(path.name for path in empty_cache.iterdir()) == sorted(["download.lock", folder.name])


def test_a_jar_that_is_not_the_listed_one_is_not_used(empty_cache, program):
    program("mvn", COPY.format(content="other"))
    with pytest.raises(CheckFailed, match=r"group.one:name:1.0:linux has SHA-256 [0-9a-f]{64}, downloaded was "):
        cassandra.jars()
    program("mvn", "exit 0")
    with pytest.raises(CheckFailed, match="downloaded was no file"):
        cassandra.jars()
    assert [path.name for path in empty_cache.iterdir()] == ["download.lock"]


def test_error_names_a_missing_maven_and_a_failed_download(empty_cache, program):
    with pytest.raises(OvertureError, match=r"not installed \(Debian: apt install maven\)"):
        cassandra.jars()
    program("mvn", 'echo "[INFO] x"; echo "[ERROR] Could not transfer artifact: Unknown host"; exit 1')
    with pytest.raises(OvertureError, match=r"could not download the jars: \[ERROR\] Could not transfer artifact"):
        cassandra.jars()


@pytest.mark.parametrize(("printed", "works"), [("17.0.15", True), ("11.0.2", True), ("21.0.1", False), ("1.8", False)])
def test_only_versions_of_java_that_cassandra_supports(program, printed, works):
    program("java", f"echo 'openjdk version \"{printed}\" 2025-04-15' >&2")
    if works:
        assert cassandra.java() == "java"
    else:
        with pytest.raises(OvertureError, match="Cassandra needs Java 11 or 17; java is"):
            cassandra.java()


def test_error_names_a_missing_java(program):
    with pytest.raises(OvertureError, match=r"Cassandra needs Java 17: .*java"):
        cassandra.java()
