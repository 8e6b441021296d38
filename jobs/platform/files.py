"""Files that survive a crash: atomic writes, digests, canonical JSON and NumPy arrays."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from contracts.atomic_files import replace, sync
from serving.release.files import canonical, digest, file_digest, write

__all__ = ["canonical", "digest", "file_digest", "replace", "sync", "write", "write_array"]


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write and flush an .npy file that can be memory-mapped.

    Raises:
        ValueError: The array contains Python objects.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        np.save(sink, np.ascontiguousarray(array), allow_pickle=False)
        sink.flush()
        os.fsync(sink.fileno())
