"""Key pairs and signatures of releases in tests."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from jobs.release import pointer, signing
from serving.release.folders import LocalFolders
from serving.release.signature import PublicKeys


@cache
def key_folder() -> Path:
    """Return a folder with a key pair of this process."""
    folder = Path(tempfile.mkdtemp()) / "keys"
    signing.create_keys(folder / signing.KEY)
    return folder


def add_keys(home: Path) -> None:
    """Give a home the key pair, unless it has one."""
    if not (home / "keys").is_dir():
        shutil.copytree(key_folder(), home / "keys")


def sign(home: Path, release: str, engine: str = "") -> None:
    """Sign a release of a home."""
    add_keys(home)
    signing.sign(home / "keys" / signing.KEY, pointer.releases(home / engine) / release)


def promote(home: Path, release: str, week: str = "2026-11-16", engine: str = "") -> None:
    """Sign a release of a home, if it is there, and point at it, without a gate and without MLflow."""
    add_keys(home)
    if (pointer.releases(home / engine) / release).is_dir():
        sign(home, release, engine)
    pointer.move(home / engine, pointer.revision(pointer.read(home / engine)), release, week)


def folders(home: Path) -> LocalFolders:
    """Return the releases of a home as a watcher follows them."""
    return LocalFolders(home, PublicKeys.of("", home))
