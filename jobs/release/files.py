"""Files that survive a crash: written aside, flushed to the disk, then renamed into place."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from serving.files import canonical, digest, file_digest

__all__ = ["canonical", "digest", "file_digest", "replace", "sync_folder", "write", "write_array"]


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: bytes) -> None:
    """Write and flush a new file; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())


def write_array(path: Path, array: np.ndarray) -> None:
    """Write and flush an .npy file that can be memory-mapped; an array of objects is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
        sink.flush()
        os.fsync(sink.fileno())


def replace(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader sees the old content or the new, whenever the machine stops."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(temporary, content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
