"""Files that survive a crash, of a program that makes releases: what serving/release/files.py can, and arrays."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from serving.release.files import canonical, digest, file_digest, replace, sync, write

__all__ = ["canonical", "digest", "file_digest", "replace", "sync", "write", "write_array"]


def write_array(path: Path, array: np.ndarray) -> None:
    """Write and flush an .npy file that can be memory-mapped; an array of objects is refused."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
        sink.flush()
        os.fsync(sink.fileno())
