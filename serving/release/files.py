"""Canonical JSON, SHA-256 digests, and writes that survive a crash (contracts/atomic_files.py)."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from contracts.atomic_files import replace, sync

__all__ = ["canonical", "digest", "file_digest", "replace", "sync", "write"]

CHUNK = 1 << 20


def canonical(data: object) -> bytes:
    """Return JSON in one canonical form: sorted keys, no blanks, no NaN."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def digest(content: bytes) -> str:
    """Return the SHA-256 as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in chunks."""
    hasher = hashlib.sha256()
    with path.open("rb") as source:
        while piece := source.read(CHUNK):
            hasher.update(piece)
    return hasher.hexdigest()


def write(path: Path, content: bytes) -> None:
    """Write and flush a new file; its folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as sink:
        sink.write(content)
        sink.flush()
        os.fsync(sink.fileno())
