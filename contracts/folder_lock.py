"""Locks on folders between processes, for folders that one process uses and another one may remove.

The operating system releases a lock when its process ends, however it ends. The lock belongs to the folder, not to its
name: it remains when the folder is renamed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path


def try_lock(folder: Path, exclusive: bool) -> int | None:
    """Lock a folder without waiting.

    Args:
        folder: the folder.
        exclusive: whether nobody else may have a lock on it; False: others may have shared locks.

    Returns:
        A file descriptor; closing it releases the lock. None if another process has a lock that excludes this one, or
        if the folder does not exist.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        # Another process may have removed the folder, and created one of this name, before the lock was taken.
        if os.path.samestat(os.fstat(handle), os.stat(folder)):
            return handle
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(handle)
    return None


def remove_unused(folder: Path) -> bool:
    """Remove a folder that no process has locked; return whether it was removed."""
    handle = try_lock(folder, exclusive=True)
    if handle is None:
        return False
    try:
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)
    return True
