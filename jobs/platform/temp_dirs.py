"""Temporary folders under OVERTURE_HOME, beside what they become: all that a run needs and nobody else may see.

Place    scratch/<name>-<random>/, and beside it <name>-<random>.lock, held by the run for as long as it lives
Killed   a run leaves its folder behind; the operating system frees its lock, and the next run removes both. A process
         id would not do: it belongs to one machine or container, the folder may be shared by several
"""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.errors import OvertureError
from jobs.platform.locks import file_lock

if TYPE_CHECKING:
    from jobs.platform.context import Context


@contextlib.contextmanager
def scratch(context: Context, name: str) -> Iterator[Path]:
    """An empty folder of this run alone; it goes when the run ends, well or badly. Renaming it away keeps it."""
    root = context.home / "scratch"
    folder = root / f"{name}-{uuid.uuid4().hex[:8]}"
    with contextlib.ExitStack() as alive:
        # One at a time makes or removes folders, so that none is taken for a dead run's before it is locked.
        with file_lock(context.home / "scratch.lock"):
            root.mkdir(exist_ok=True)
            _sweep(root)
            alive.enter_context(file_lock(_lock(folder)))
            folder.mkdir()
        try:
            yield folder
        finally:
            _remove(folder)


def _lock(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    _lock(folder).unlink(missing_ok=True)


def _sweep(root: Path) -> None:
    """Remove what dead runs left: whatever nobody holds a lock on."""
    for name in sorted({path.name.removesuffix(".lock") for path in root.iterdir()}):
        with contextlib.suppress(OvertureError), file_lock(_lock(root / name), wait_s=0):
            _remove(root / name)
