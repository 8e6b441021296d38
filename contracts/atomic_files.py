"""Atomic writes of files: a reader sees the old content or the new, also after a crash."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def replace(path: Path, content: bytes, mode: int = 0o666) -> None:
    """Replace a file atomically; its folder is created.

    Args:
        path: The file to write.
        content: Its new content.
        mode: Permissions of the file, less those that the umask removes.
    """
    replace_with(path, lambda sink: sink.write(content), mode)


def replace_with(path: Path, write: Callable[[BinaryIO], object], mode: int = 0o666) -> None:
    """Replace a file atomically by what a function writes; its folder is created.

    The content is written to a temporary file beside the target and flushed to the disk before it is renamed. If
    `write` raises, the old file is unchanged and the temporary file is removed.

    Args:
        path: The file to write.
        write: Writes the content to an open binary file.
        mode: Permissions of the file, less those that the umask removes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # No process id in the name: containers that share a folder can have equal process ids.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as sink:
            write(sink)
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
