"""Atomic writes of files."""

import os
import resource

import pytest

from contracts.atomic_files import replace, replace_with


@pytest.mark.parametrize("content", [b"", b"short", bytes(range(256)) * 10_000])
def test_the_whole_content_is_replaced(content, tmp_path):
    file = tmp_path / "folder" / "report.json"
    replace(file, b"an older and longer content")
    replace(file, content)
    assert file.read_bytes() == content
    assert list(file.parent.iterdir()) == [file]


def test_an_open_reader_sees_the_old_content_only(tmp_path):
    file = tmp_path / "report.json"
    replace(file, b"old content")
    with file.open("rb") as reader:
        first = reader.read(3)
        replace(file, b"new content")
        assert first + reader.read() == b"old content"
    assert file.read_bytes() == b"new content"


@pytest.mark.parametrize("old", [None, b"old"])
def test_a_failing_writer_leaves_the_old_file_and_no_temporary(old, tmp_path):
    file = tmp_path / "report.json"
    if old is not None:
        file.write_bytes(old)

    def write(sink):
        sink.write(b"half of the new content")
        sink.flush()
        assert len(list(tmp_path.iterdir())) == (1 if old is None else 2)  # the temporary is beside the target
        raise RuntimeError("writer failed")

    with pytest.raises(RuntimeError, match="writer failed"):
        replace_with(file, write)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == ({} if old is None else {file.name: old})


def test_a_file_that_cannot_be_synced_is_not_renamed(tmp_path):
    file = tmp_path / "report.json"
    file.write_bytes(b"old")
    reader, pipe = os.pipe()

    def write(sink):
        os.dup2(pipe, sink.fileno())  # a pipe takes the content, but cannot be synced
        sink.write(b"new")

    try:
        with pytest.raises(OSError, match="Invalid argument"):
            replace_with(file, write)
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)
        os.close(pipe)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {file.name: b"old"}


def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path):
    file, limits = tmp_path / "report.json", resource.getrlimit(resource.RLIMIT_FSIZE)
    file.write_bytes(b"old")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            replace(file, b"x" * 1_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {file.name: b"old"}


def test_a_secret_file_is_readable_by_its_owner_alone(tmp_path):
    file = tmp_path / "keys.json"
    replace(file, b"{}", mode=0o600)
    assert file.stat().st_mode & 0o777 == 0o600
