"""Folders of verified releases, for the watcher: those of a local folder, or those fetched from a source by URI.

    <cache>/releases/<digest>/           a fetched release; a process that serves it has a shared lock on the folder
    <cache>/releases/<digest>.sig        its signature
    <cache>/releases/.fetch-<digest>/    a release that is not complete yet; the next attempt resumes it
    <cache>/releases/.lock               one process fetches or removes at a time, the others wait and open the result
    <cache>/releases/champion.json       the last pointer in service, for a start while the source is unavailable

A release is served only after its signature and the SHA-256 of every file were verified, each time that it is opened.
So nothing has to be flushed to the disk: a file that a crash damaged is fetched again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, Protocol

from contracts import folder_lock
from contracts.errors import CheckFailed, OvertureError
from serving.release import files, manifest, pointer
from serving.release.pointer import Pointer
from serving.release.signature import SUFFIX, PublicKeys, signature_file
from serving.release.sources import CHUNK, Source, SourceUnavailable, folder_of, open_source
from serving.settings import ServiceSettings

POINTER_LIMIT, SIGNATURE_LIMIT, MANIFEST_LIMIT = 64 << 10, 1 << 20, 64 << 20
PARTIAL, REMOVED = ".fetch-", ".removed-"
LOCK_POLL_S = 0.05


class VerifiedRelease(NamedTuple):
    """A folder whose signature and files were verified. It is not removed before `close` is called."""

    folder: Path
    close: Callable[[], None]


class ReleaseFolders(Protocol):
    """Pointer and verified releases of one engine."""

    root: Path
    is_local: bool

    def pointer(self) -> Pointer | None:
        """Return the champion's pointer, or None before the first promotion.

        Raises:
            CheckFailed: it is damaged.
            SourceUnavailable, OSError: it cannot be read.
        """

    def last_pointer(self) -> Pointer | None:
        """Return the last pointer in service that is remembered for a source that is unavailable, or None."""

    def acquire(self, release: str) -> VerifiedRelease:
        """Return a release; it is fetched if it is not here.

        Raises:
            CheckFailed: its signature or one of its files is wrong or missing.
            OvertureError, OSError: it cannot be read or stored at this time.
        """

    def remember(self, now: Pointer) -> None:
        """Remember the pointer in service, and remove releases that are neither named by it nor in use."""

    def stop(self) -> None:
        """Interrupt a running `acquire`."""


def open_folders(settings: ServiceSettings, home: Path, engine: str = "") -> ReleaseFolders:
    """Return the releases of an engine at `service.release_source`.

    Args:
        settings: the section `service`.
        home: OVERTURE_HOME.
        engine: folder of the engine below the source; empty: the cold-start engine.

    Raises:
        BadArgument: the source is wrong.
    """
    keys = PublicKeys.of(settings.release_key, home)
    folder = folder_of(settings.release_source, home)
    if folder is not None:
        return LocalFolders(folder / engine, keys)
    cache = Path(settings.release_cache or home / "cache").absolute()
    return FetchedFolders(open_source(settings.release_source), engine, cache / engine, keys)


class LocalFolders:
    """Releases in a folder of this machine; they are used where they are, and nothing is written."""

    is_local = True

    def __init__(self, root: Path, keys: PublicKeys) -> None:
        """Set the folder above the releases, and the accepted keys."""
        self.root, self._keys = root, keys

    def pointer(self) -> Pointer | None:
        """Return the pointer."""
        return pointer.read(self.root)

    def last_pointer(self) -> None:
        """Return None: the folder has no copy."""

    def acquire(self, release: str) -> VerifiedRelease:
        """Verify a release where it is."""
        folder = pointer.releases(self.root) / release
        manifest.verify(folder)
        self._keys.verify(folder, signature_file(folder))
        return VerifiedRelease(folder, lambda: None)

    def remember(self, now: Pointer) -> None:
        """Do nothing: `overture release prune` removes releases here."""

    def stop(self) -> None:
        """Do nothing."""


class FetchedFolders:
    """Releases that are fetched from a source into a cache."""

    is_local = False

    def __init__(self, source: Source, engine: str, cache: Path, keys: PublicKeys) -> None:
        """Set source and cache.

        Args:
            source: where releases are fetched from.
            engine: folder of the engine below the root of the source.
            cache: folder of the engine's fetched releases; it is created with the first one.
            keys: accepted keys.
        """
        self.root, self._source, self._keys = cache, source, keys
        self._remote = "/".join(part for part in (engine, "releases") if part)
        self._folder = pointer.releases(cache)
        self._stopped = threading.Event()

    def pointer(self) -> Pointer | None:
        """Return the pointer at the source."""
        name = f"{self._remote}/{pointer.NAME}"
        content = self._source.read(name, POINTER_LIMIT)
        if content is None:
            return None
        try:
            return pointer.parse(content, name)
        except CheckFailed:  # an object store may have returned parts of two versions: read once more
            return pointer.parse(self._source.read(name, POINTER_LIMIT) or b"", name)

    def last_pointer(self) -> Pointer | None:
        """Return the pointer that was in service before the last stop."""
        with contextlib.suppress(OSError, CheckFailed):
            return pointer.read(self.root)
        return None

    def acquire(self, release: str) -> VerifiedRelease:
        """Return a release of the cache; a missing or damaged one is fetched."""
        folder = self._folder / release
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with contextlib.ExitStack() as stack:
                if not self._keep(folder, stack):
                    with self._one_at_a_time():
                        if not self._keep(folder, stack):  # else another worker has fetched it
                            self._fetch(release)
                            self._keep(folder, stack, verify=False)  # verified while it was fetched
                self._verify_signature(folder)
                return VerifiedRelease(folder, stack.pop_all().close)
        except OSError as error:
            why = error.strerror or str(error)
            raise OvertureError(f"service.release_cache: {error.filename or self._folder}: {why}") from error

    def _keep(self, folder: Path, stack: contextlib.ExitStack, verify: bool = True) -> bool:
        """Lock a release of the cache against removal, and verify its files.

        Returns:
            Whether it is there and intact. `stack` releases the lock.
        """
        handle = folder_lock.try_lock(folder, exclusive=False)
        if handle is None:
            return False
        try:
            if verify:
                manifest.verify(folder)
        except CheckFailed:
            os.close(handle)
            return False
        stack.callback(os.close, handle)
        return True

    def _verify_signature(self, folder: Path) -> None:
        """Verify the signature in the cache; if it is not of an accepted key, the one at the source."""
        try:
            self._keys.verify(folder, signature_file(folder))
        except CheckFailed:
            self._fetch_signature(folder.name)
            self._keys.verify(folder, signature_file(folder))

    def _fetch_signature(self, release: str) -> None:
        """Write the signature at the source into the cache, if there is one."""
        content = self._source.read(f"{self._remote}/{release}{SUFFIX}", SIGNATURE_LIMIT)
        if content is not None:
            files.replace(signature_file(self._folder / release), content)

    def _fetch(self, release: str) -> None:
        """Fetch a release into the cache; what an earlier attempt left is used.

        The signature is verified before anything large is fetched.
        """
        folder, partial = self._folder / release, self._folder / f"{PARTIAL}{release}"
        content = self._source.read(f"{self._remote}/{release}/{manifest.NAME}", MANIFEST_LIMIT)
        if content is None:
            raise CheckFailed(f"release {release[:12]}: {manifest.NAME} is missing at the source")
        entries = manifest.parse(content, release, f"{manifest.NAME} at the source")["files"]
        self._fetch_signature(release)
        files.write(partial / manifest.NAME, content)
        handle = folder_lock.try_lock(partial, exclusive=False)
        if handle is None:
            raise SourceUnavailable(f"release {release[:12]} is being removed; it is fetched again")
        try:
            self._fetch_files(release, entries, partial, folder)
        finally:
            os.close(handle)

    def _fetch_files(self, release: str, entries: dict[str, Any], partial: Path, folder: Path) -> None:
        """Fetch the files that the manifest names, and rename the folder."""
        self._keys.verify(partial, signature_file(folder))
        missing = sum(entry["bytes"] for entry in entries.values()) - _size(partial)
        if missing > (free := shutil.disk_usage(partial).free):
            raise OvertureError(
                f"service.release_cache: release {release[:12]} needs {missing / 1e6:,.0f} MB more, the disk has "
                f"{free / 1e6:,.0f} MB"
            )
        for name, entry in entries.items():
            if not _is_inside(name):
                raise CheckFailed(f"release {release[:12]}: {manifest.NAME} names {name!r:.80}, outside the release")
            self._fetch_file(release, name, entry, partial / name)
        with contextlib.suppress(FileNotFoundError):  # a damaged copy may be in use by another process
            os.rename(folder, self._folder / f"{REMOVED}{uuid.uuid4().hex}")
        os.rename(partial, folder)

    def _fetch_file(self, release: str, name: str, entry: dict[str, Any], file: Path) -> None:
        """Fetch the bytes of a file that are not here yet."""
        n_bytes, wanted = int(entry["bytes"]), str(entry["sha256"])
        if file.is_file() and file.stat().st_size == n_bytes and files.file_digest(file) == wanted:
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        at = file.stat().st_size if file.is_file() else 0
        start, pieces = self._source.stream(f"{self._remote}/{release}/{name}", at if at < n_bytes else 0)
        hasher = hashlib.sha256()
        with file.open("r+b" if file.is_file() else "w+b") as sink:
            sink.truncate(start)
            while piece := sink.read(CHUNK):
                hasher.update(piece)
            size = start
            for piece in pieces:
                if self._stopped.is_set():
                    raise SourceUnavailable("the service is stopping")
                size += len(piece)
                if size > n_bytes:
                    break
                hasher.update(piece)
                sink.write(piece)
        if size < n_bytes:
            raise SourceUnavailable(
                f"release {release[:12]}: {name} ended after {size} of {n_bytes} bytes: the connection was cut, or the "
                "source has a part of it"
            )
        if size > n_bytes or hasher.hexdigest() != wanted:
            file.unlink()
            if start:  # the part that was here may have been the wrong one
                return self._fetch_file(release, name, entry, file)
            raise CheckFailed(
                f"release {release[:12]}: {name} at the source is damaged: its SHA-256 is not the manifest's"
            )

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Keep the lock of the cache; wait for another worker that fetches.

        Raises:
            SourceUnavailable: the service is stopping.
        """
        with (self._folder / ".lock").open("a") as handle:
            while not _lock(handle.fileno()):
                if self._stopped.wait(LOCK_POLL_S):
                    raise SourceUnavailable("the service is stopping")
            yield

    def remember(self, now: Pointer) -> None:
        """Write the pointer, and remove what is not needed; another process that fetches does it instead."""
        with (self._folder / ".lock").open("a") as handle:
            if not _lock(handle.fileno()):
                return
            files.replace(self._folder / pointer.NAME, files.canonical(asdict(now)))
            for left in [*self._folder.glob(f"{PARTIAL}*"), *self._folder.glob(f"{REMOVED}*")]:
                folder_lock.remove_unused(left)
            for folder in self._folder.iterdir():
                named = folder.name in (now.release, now.previous) or not pointer.DIGEST.fullmatch(folder.name)
                if not named and folder_lock.remove_unused(folder):
                    signature_file(folder).unlink(missing_ok=True)

    def stop(self) -> None:
        """Interrupt a fetch."""
        self._stopped.set()


def _lock(handle: int) -> bool:
    """Take an exclusive lock on an open file, without waiting; return whether it was free."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_inside(name: str) -> bool:
    """Return whether a name of the manifest is a path below the release's folder."""
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and name != manifest.NAME


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
