"""Temporary folders: removed at the end and after a kill, never removed while their run is alive."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from jobs.platform.context import Context
from jobs.platform.temp_dirs import temp_dir

HOLD = """
import sys
from pathlib import Path
from types import SimpleNamespace
from jobs.platform.temp_dirs import temp_dir
with temp_dir(SimpleNamespace(home=Path(sys.argv[1])), "other") as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    sys.stdin.read()
"""


def entries(context: Context) -> list[str]:
    return sorted(path.name for path in (context.home / "scratch").iterdir())


def test_folder_is_removed_at_the_end_and_after_an_error(context):
    with temp_dir(context, "mine") as folder:
        (folder / "inner").mkdir()
        assert folder.parent == context.home / "scratch"
    with pytest.raises(OSError, match="full"), temp_dir(context, "mine") as folder:
        raise OSError("full")
    assert entries(context) == []


def test_renamed_folder_is_not_removed(context):
    with temp_dir(context, "mine") as folder:
        (folder / "a").write_text("b")
        os.rename(folder, context.home / "release")
    assert (context.home / "release" / "a").read_text() == "b"
    assert entries(context) == []


def test_folder_of_another_run_is_removed_only_after_that_run_ended(context):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, context.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        folder = other.stdout.readline().strip()
        with temp_dir(context, "mine") as first, temp_dir(context, "mine") as second:
            assert first != second
            assert os.path.exists(f"{folder}/half")
            assert first.is_dir()
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert len(entries(context)) == 2
    with temp_dir(context, "mine"):
        assert not os.path.exists(folder)
    assert entries(context) == []


def test_folders_and_locks_of_ended_runs_are_removed(context):
    (context.home / "scratch" / "als-old").mkdir(parents=True)
    (context.home / "scratch" / "gone-1.lock").touch()
    with temp_dir(context, "mine"):
        assert len(entries(context)) == 2
    assert entries(context) == []
