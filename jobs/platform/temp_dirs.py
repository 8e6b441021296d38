"""Temporary folders of a run, below OVERTURE_HOME.

Place    scratch/<name>-<random>/, with a file scratch/<name>-<random>.lock that the run locks until it ends
Cleanup  a run that is killed leaves its folder; the operating system releases its lock, and the next run removes both.
         A process id cannot replace the lock: several machines or containers may share OVERTURE_HOME, and each has its
         own process ids
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import OvertureError
from contracts.file_lock import file_lock

if TYPE_CHECKING:
    from jobs.platform.context import Context


@contextlib.contextmanager
def temp_dir(context: Context, name: str) -> Iterator[Path]:
    """Yield an empty folder that no other run uses.

    The folder is removed at the end of the block, also after an error. To keep it, rename it inside the block: it is on
    the file system of OVERTURE_HOME.

    Args:
        context: The job's context; only `home` is used.
        name: First part of the folder's name.
    """
    root = context.home / "scratch"
    folder = root / f"{name}-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as stack:
        # One run at a time creates or removes folders, so that a new folder is not removed before it is locked.
        with file_lock(context.home / "scratch.lock"):
            root.mkdir(exist_ok=True)
            _remove_abandoned(root)
            stack.enter_context(file_lock(_lock_file(folder)))
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def _lock_file(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock_file(folder).unlink(missing_ok=True)


def _remove_abandoned(root: Path) -> None:
    """Remove the folders of runs that have ended: those whose lock is free."""
    for name in sorted({path.name.removesuffix(".lock") for path in root.iterdir()}):
        with contextlib.suppress(OvertureError), file_lock(_lock_file(root / name), wait_s=0):
            _remove(root / name)
