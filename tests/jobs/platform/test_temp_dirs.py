"""Temporary folders: gone at the end, gone after a kill, never taken from under somebody who lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from jobs.platform.context import Context
from jobs.platform.temp_dirs import temp_dir

HOLDS = """
import sys
from pathlib import Path
from types import SimpleNamespace
from jobs.platform.temp_dirs import temp_dir
with temp_dir(SimpleNamespace(home=Path(sys.argv[1])), "other") as folder:
    (folder / "half").write_text("written")
    print(folder, flush=True)
    sys.stdin.read()
"""


def kept(context: Context) -> list[str]:
    return sorted(path.name for path in (context.home / "scratch").iterdir())


def test_it_goes_at_the_end_well_or_badly(context):
    with temp_dir(context, "mine") as folder:
        (folder / "inner").mkdir()
        assert folder.parent == context.home / "scratch"
    with pytest.raises(OSError, match="full"), temp_dir(context, "mine") as folder:
        raise OSError("full")
    assert kept(context) == []


def test_what_is_renamed_away_stays(context):
    with temp_dir(context, "mine") as folder:
        (folder / "a").write_text("b")
        os.rename(folder, context.home / "release")
    assert (context.home / "release" / "a").read_text() == "b"
    assert kept(context) == []


def test_a_folder_of_another_run_stays_while_it_lives_and_goes_once_it_was_killed(context):
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDS, context.home], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        folder = other.stdout.readline().strip()
        with temp_dir(context, "mine") as mine, temp_dir(context, "mine") as second:
            assert mine != second
            assert os.path.exists(f"{folder}/half")
            assert mine.is_dir()
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.communicate()
    assert len(kept(context)) == 2
    with temp_dir(context, "mine"):
        assert not os.path.exists(folder)
    assert kept(context) == []


def test_leavings_without_a_lock_go_too(context):
    (context.home / "scratch" / "als-old").mkdir(parents=True)
    (context.home / "scratch" / "gone-1.lock").touch()
    with temp_dir(context, "mine"):
        assert len(kept(context)) == 2
    assert kept(context) == []
