"""The release in service: named by the champion's pointer, verified in full, then swapped in atomically.

A thread reads the pointer every `poll_s` seconds. While a new release is fetched (serving/release/folders.py), verified
and opened, the old one serves; a request keeps the release that it started with. A release that cannot be opened, or a
source that cannot be read, changes nothing: the old release stays in service, and `problem` contains the reason. A
complete old release is preferred to a degraded new one. At the start, without an old one, a degraded release is
preferred to none, the previous champion to a damaged champion, and the last champion of the cache to a source that
cannot be read.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from contracts.errors import OvertureError
from serving.release.bundle import open_release
from serving.release.folders import ReleaseFolders
from serving.release.loaded import LoadedRelease
from serving.release.pointer import Pointer

RETRY_S = 15.0  # a refused release is tried again after this time: it may have been repaired
Event = Callable[..., None]


def ignore_event(event: str, **facts: Any) -> None:
    """Ignore an event."""


class OpenedRelease(Protocol):
    """An opened release of any engine."""

    name: str
    week: str
    pointer: Any

    @property
    def problems(self) -> Mapping[str, str]:
        """Unusable parts of the release, with the reason."""


R = TypeVar("R", bound=OpenedRelease)


class ReleaseWatcher(Generic[R]):
    """Keeps one release of an engine open and follows its pointer."""

    def __init__(
        self,
        folders: ReleaseFolders,
        open_bundle: Callable[[Path, Pointer], R],
        poll_s: float,
        event: Event,
        promote: str,
    ) -> None:
        """Prepare to follow a pointer.

        Args:
            folders: pointer and verified releases.
            open_bundle: `open_bundle(folder, pointer)` opens a verified release.
            poll_s: interval between two reads of the pointer, in seconds.
            event: `event(name, **facts)` is called when a release is swapped in or refused (`release`, `refused`), and
                when the pointer cannot be read (`unavailable`).
            promote: the command to suggest where there is no release yet.
        """
        self.folders, self.open_bundle, self.poll_s, self.event, self.promote = (
            folders,
            open_bundle,
            poll_s,
            event,
            promote,
        )
        self.current: R | None = None
        self.problem: str | None = "the service has not looked for a release yet"
        self._refused: tuple[Pointer, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._opening = threading.Lock()

    def refresh(self) -> None:
        """Read the pointer once, and follow it if it has moved; never raises for the content of the disk."""
        with self._opening:
            try:
                now = self.folders.pointer()
            except (OvertureError, OSError) as error:
                self._without_pointer(error)
                return
            if now is None:
                self.problem = f"no release has been promoted under releases/; run `{self.promote}`"
            elif self.current is not None and self.current.name == now.release:
                self.current.pointer, self.problem, self._refused = now, None, None
            elif self._is_due(now):
                self._follow(now)

    def _is_due(self, now: Pointer) -> bool:
        """Return whether the release of a pointer is to be opened: at once, or again some time after it was refused."""
        return self._refused is None or self._refused[0] != now or time.monotonic() - self._refused[1] > RETRY_S

    def _without_pointer(self, error: Exception) -> None:
        """Report a pointer that cannot be read; without a release in service, open the last one that was."""
        problem = self._public_reason(error)
        if problem != self.problem:
            self.event("unavailable", why=problem)
        self.problem = problem
        last = self.folders.last_pointer() if self.current is None else None
        if last is not None and self._is_due(last):
            try:
                self._swap_in(self._open(last.release, last), self.problem)
            except Exception as second:  # a damaged bundle can fail in any way
                self._refused = (last, time.monotonic())
                self.event("refused", release=last.release, why=self._public_reason(second))

    def _follow(self, now: Pointer) -> None:
        if self.current is None and not self.folders.is_local:
            self.problem = f"release {now.release[:12]} is being fetched"
        try:
            release = self._open(now.release, now)
            if release.problems and self.current is not None:
                parts = "; ".join(f"{part}: {why}" for part, why in release.problems.items())
                raise OvertureError(f"release {now.release[:12]} is not whole ({parts})")
        except Exception as error:  # a damaged bundle can fail in any way; the old release must not be affected
            self._refuse(now, error)
            return
        self._swap_in(release, None)
        self.folders.remember(now)

    def _open(self, release: str, now: Pointer) -> R:
        verified = self.folders.acquire(release)
        try:
            opened = self.open_bundle(verified.folder, now)
        except BaseException:
            verified.close()
            raise
        weakref.finalize(opened, verified.close)
        return opened

    def _swap_in(self, release: R, problem: str | None) -> None:
        before = self.current.name if self.current else None
        self.problem = problem
        self.current = release
        if problem is None:
            self._refused = None
        self.event("release", release=release.name, before=before, week=release.week, degraded=sorted(release.problems))

    def _refuse(self, now: Pointer, error: Exception) -> None:
        self._refused = (now, time.monotonic())
        self.problem = self._public_reason(error)
        self.event("refused", release=now.release, why=self.problem)
        if self.current is None and now.previous:
            try:
                self._swap_in(self._open(now.previous, now), self.problem)
            except Exception as second:  # neither can be opened: the first reason is reported
                self.event("refused", release=now.previous, why=self._public_reason(second))

    def _public_reason(self, error: Exception) -> str:
        """Return the reason without paths of this machine, because anyone may read it."""
        return (str(error) or type(error).__name__).replace(f"{self.folders.root}/", "")

    def start(self) -> None:
        """Open the champion, then follow the pointer in a thread; only the thread fetches, so the start never waits."""
        if self.folders.is_local:
            self.refresh()
        self._thread = threading.Thread(target=self._watch, name="follower", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            try:
                self.refresh()
            except Exception as error:  # the thread must survive any error of the disk
                self.problem = self._public_reason(error)
            if self._stop.wait(self.poll_s):
                return

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        self.folders.stop()
        if self._thread:
            self._thread.join()


class ChampionWatcher(ReleaseWatcher[LoadedRelease]):
    """Follows the champion that recommends to new listeners."""

    def __init__(self, folders: ReleaseFolders, poll_s: float, event: Event = ignore_event) -> None:
        """Prepare to follow the champion."""
        super().__init__(
            folders,
            lambda folder, now: LoadedRelease(open_release(folder, check=False), now),
            poll_s,
            event,
            "overture release promote",
        )
        self._wants_previous = False
        self._previous_refused: tuple[str, float] = ("", 0.0)

    def open_previous(self) -> None:
        """Open the release before the champion's at the next poll, unless it is open."""
        self._wants_previous = True

    def refresh(self) -> None:
        """Follow the pointer, then open the previous release if it is wanted."""
        super().refresh()
        if self._wants_previous:
            with self._opening:
                self._wants_previous = False
                self._open_previous()

    def _open_previous(self) -> None:
        """Open the previous release; one that cannot be opened is tried again after RETRY_S."""
        loaded = self.current
        name = loaded.pointer.previous if loaded else None
        if loaded is None or name is None or loaded.previous is not None or name == loaded.name:
            return
        refused, at = self._previous_refused
        if refused == name and time.monotonic() - at < RETRY_S:
            return
        try:
            loaded.previous = self._open(name, loaded.pointer)
        except Exception as error:  # a damaged bundle can fail in any way
            self._previous_refused = (name, time.monotonic())
            self.event("refused", release=name, why=self._public_reason(error))

    def _swap_in(self, release: LoadedRelease, problem: str | None) -> None:
        """Swap the release in. The previous one stays open, older ones are closed."""
        if self.current is not None:
            self.current.previous = None
        release.previous = self.current
        super()._swap_in(release, problem)
