"""The manifest of a bundle: every file with its size and SHA-256; its own digest is the release's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from contracts.errors import CheckFailed
from serving.release import files

NAME = "manifest.json"
FORMAT = 2


def read(folder: Path) -> dict[str, Any]:
    """Return the manifest, verified against the folder's name.

    Raises:
        CheckFailed: it is missing, its digest is not the folder's name, or it has another format.
    """
    path = folder / NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CheckFailed(f"release {folder.name[:12]}: {path} is missing") from None
    return parse(content, folder.name, str(path))


def parse(content: bytes, release: str, name: str = NAME) -> dict[str, Any]:
    """Return the manifest that a file contains, verified against the release's name.

    Args:
        content: the file's content.
        release: name of the release.
        name: name of the file, for the message.

    Raises:
        CheckFailed: its digest is not the release's name, or it has another format.
    """
    if files.digest(content) != release:
        raise CheckFailed(f"release {release[:12]}: {name} is damaged: its digest is not the release's name")
    manifest: dict[str, Any] = json.loads(content)
    if manifest["format"] != FORMAT:
        raise CheckFailed(f"release {release[:12]}: format {manifest['format']}, this program reads {FORMAT}")
    return manifest


def verify(folder: Path) -> dict[str, Any]:
    """Verify that every file of a bundle is present and unchanged and none was added; return the manifest.

    Raises:
        CheckFailed: names the first file that is wrong.
    """
    manifest = read(folder)
    short = folder.name[:12]
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise CheckFailed(f"release {short}: {name} is missing")
        if path.stat().st_size != entry["bytes"]:
            raise CheckFailed(f"release {short}: {name} has {path.stat().st_size} bytes, the manifest {entry['bytes']}")
        if files.file_digest(path) != entry["sha256"]:
            raise CheckFailed(f"release {short}: {name} is damaged: its SHA-256 is not the manifest's")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != NAME and name not in manifest["files"]:
            raise CheckFailed(f"release {short}: {name} is not in the manifest")
    return manifest
