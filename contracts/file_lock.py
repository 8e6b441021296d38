"""Locks between processes, as exclusive locks on files."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from contracts.errors import OvertureError

_POLL_INTERVAL_S = 0.05


class LockTaken(OvertureError):
    """Another process has the lock; exit code 1: a retry may help."""


@contextlib.contextmanager
def file_lock(file: Path, wait_s: float = 60.0) -> Iterator[None]:
    """Keep an exclusive lock on a file while the block runs.

    The operating system releases the lock when the process ends, however it ends.

    Args:
        file: The lock file. It is created, with its folder, if it is missing, and it is never removed.
        wait_s: Longest wait for another process, in seconds. 0: one attempt.

    Raises:
        LockTaken: Another process has had the lock for `wait_s` seconds.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as handle:
        end = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise LockTaken(f"{file}: another process has had this lock for {wait_s:.0f} s") from None
                time.sleep(_POLL_INTERVAL_S)
        yield
