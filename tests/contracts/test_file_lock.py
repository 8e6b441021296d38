"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys

import pytest

from contracts.errors import OvertureError
from contracts.file_lock import file_lock

HOLD = """
import sys
from pathlib import Path
from contracts.file_lock import file_lock
with file_lock(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_lock_excludes_other_processes_and_is_released_by_a_kill(tmp_path):
    file = tmp_path / "new" / "one.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"locked\n"
        with pytest.raises(OvertureError, match=r"one\.lock: another process"), file_lock(file, wait_s=0):
            pass
    finally:
        holder.kill()
        holder.wait()
    with file_lock(file, wait_s=10):
        assert file.exists()
