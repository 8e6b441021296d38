"""Where promoted releases are written (`release.destination`), and where services read them.

Layout  that of OVERTURE_HOME: releases/<digest>/, releases/<digest>.sig, releases/champion.json; the same below skip/
Order   the files of a release, its manifest, its signature; the pointer last, if it is unchanged (compare-and-set)
Crash   before the pointer is written, nothing refers to the new files, and the old champion stays in service. Running
        promote again uses the files that were completed; prune removes those that nobody came back for
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from contracts import folder_lock
from contracts.errors import OvertureError
from jobs.platform import files
from jobs.platform.context import Context
from jobs.release import pointer
from jobs.release.pointer import Pointer
from serving.release import manifest
from serving.release.folders import PARTIAL
from serving.release.signature import PublicKeys, signature_file

REMOVED, INCOMING, DAMAGED = ".removed-", ".incoming-", ".damaged-"


class StoredRelease(NamedTuple):
    """A release at a destination: its digest, when it was written (seconds since 1970), its size."""

    name: str
    written_at: float
    n_bytes: int


class Destination(Protocol):
    """Where promoted releases of one engine are written; `name` is its path or URI."""

    name: str

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keep other processes of this machine from moving the pointer or removing releases."""

    def read_pointer(self) -> Pointer | None:
        """Return the champion's pointer, or None before the first promotion.

        Raises:
            CheckFailed: it is damaged.
            OvertureError: the destination is unavailable.
        """

    def move(self, expected_revision: int, release: str, week: str) -> Pointer:
        """Point at another release; call it under lock().

        Args:
            expected_revision: the revision that the caller has seen.
            release: digest of the new champion.
            week: week that built it.

        Raises:
            CheckFailed: the pointer has another revision.
        """

    def write_release(self, folder: Path) -> None:
        """Write a verified, signed release; what is there already is not written again."""

    def write_signature(self, folder: Path) -> None:
        """Write the signature of a release."""

    def fetch(self, release: str) -> Path:
        """Return the folder of a release that this machine did not build.

        Raises:
            CheckFailed: there is none, it is damaged, or its signature is wrong.
        """

    def releases(self) -> list[StoredRelease]:
        """Return all complete releases."""

    def remove(self, names: list[str]) -> None:
        """Remove releases, and what interrupted processes left; call it under lock()."""


def accepted_keys(context: Context) -> PublicKeys:
    """Return the public keys that releases from other machines may be signed with."""
    return PublicKeys.of(context.settings.service.release_key, context.home)


class FolderDestination:
    """A folder; by default that of the releases that this machine builds, into which nothing has to be copied."""

    def __init__(self, root: Path, context: Context) -> None:
        """Set the folder above releases/."""
        self.name, self.root, self._folder = str(root), root, pointer.releases(root)
        self._is_home = root == context.release_home
        self._keys = accepted_keys(context)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the pointer."""
        with pointer.move_lock(self.root):
            yield

    def read_pointer(self) -> Pointer | None:
        """Return the pointer."""
        return pointer.read(self.root)

    def move(self, expected_revision: int, release: str, week: str) -> Pointer:
        """Replace the pointer."""
        return pointer.move(self.root, expected_revision, release, week)

    def write_release(self, folder: Path) -> None:
        """Copy a release under a hidden name, flush it, and rename it."""
        if self._is_home:
            return
        self._remove_left()
        final = self._folder / folder.name
        if not self._is_intact(final):
            hidden = self._folder / f"{INCOMING}{uuid.uuid4().hex}"
            shutil.copytree(folder, hidden)
            for path in [hidden, *hidden.rglob("*")]:
                files.sync(path)
            if final.exists():
                os.rename(final, self._folder / f"{DAMAGED}{uuid.uuid4().hex}")
            os.rename(hidden, final)
            files.sync(self._folder)
        self.write_signature(folder)

    def write_signature(self, folder: Path) -> None:
        """Replace the signature."""
        if not self._is_home:
            files.replace(signature_file(self._folder / folder.name), signature_file(folder).read_bytes())

    def _is_intact(self, folder: Path) -> bool:
        try:
            manifest.verify(folder)
        except OvertureError:
            return False
        return True

    def fetch(self, release: str) -> Path:
        """Return the folder at the destination, verified."""
        folder = self._folder / release
        manifest.verify(folder)
        self._keys.verify(folder, signature_file(folder))
        return folder

    def releases(self) -> list[StoredRelease]:
        """Return the folders that have a manifest."""
        folders = [
            file.parent for file in self._folder.glob(f"*/{manifest.NAME}") if not file.parent.name.startswith(".")
        ]
        return [
            StoredRelease(
                path.name, path.stat().st_mtime, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            )
            for path in folders
        ]

    def remove(self, names: list[str]) -> None:
        """Rename releases, then delete them."""
        for name in names:
            signature_file(self._folder / name).unlink(missing_ok=True)
            os.rename(self._folder / name, self._folder / f"{REMOVED}{name[:12]}-{uuid.uuid4().hex[:8]}")
        self._remove_left()

    def _remove_left(self) -> None:
        """Delete the renamed folders, and what interrupted processes left; call it under lock()."""
        if not self._folder.is_dir():
            return
        files.sync(self._folder)
        for prefix in (REMOVED, DAMAGED, INCOMING, PARTIAL):
            for left in self._folder.glob(f"{prefix}*"):
                folder_lock.remove_unused(left)
                if left.exists():
                    raise OvertureError(
                        f"{left} cannot be deleted; check its owner and permissions, then run this again"
                    )
