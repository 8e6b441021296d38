"""The manifest of a bundle, written once; serving/release/manifest.py reads it."""

from __future__ import annotations

from pathlib import Path

from jobs.platform import files
from serving.release.manifest import FORMAT, NAME, read, verify

__all__ = ["FORMAT", "NAME", "read", "verify", "write"]


def write(folder: Path) -> str:
    """Write the manifest of all files below `folder`; returns the release's name."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    entries = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": files.file_digest(path)}
        for path in found
    }
    content = files.canonical({"format": FORMAT, "files": entries})
    files.write(folder / NAME, content)
    return files.digest(content)
