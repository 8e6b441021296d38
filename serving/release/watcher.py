"""The release in service: found by the champion's pointer, verified in full, then put in place in one step.

A thread reads the pointer every `poll_s` seconds. While a new release is verified and opened the old one answers; a
request holds on to the release that it began with. What cannot be opened changes nothing: the old release goes on, and
`problem` says why. A whole old release is better than a degraded new one; at the start, where there is no old one, a
degraded one is better than none, and so is the previous champion where the champion is damaged.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from contracts.errors import OvertureError
from serving.release import pointer
from serving.release.bundle import open_release
from serving.release.loaded import Ready
from serving.release.pointer import Pointer

RETRY_S = 15.0  # a release that was refused is tried again after this long: somebody may have repaired it
Event = Callable[..., None]


def silent(event: str, **facts: Any) -> None:
    """Tells nobody."""


class Serves(Protocol):
    """An opened release of any engine."""

    name: str
    week: str
    pointer: Any

    @property
    def problems(self) -> Mapping[str, str]:
        """What of it does not work, by part."""


R = TypeVar("R", bound=Serves)


class Follower(Generic[R]):
    """Holds one release of an engine and follows its pointer."""

    def __init__(
        self, home: Path, opens: Callable[[Path, Pointer], R], poll_s: float, event: Event, promote: str
    ) -> None:
        """`opens(folder, pointer)` opens a release; `event(name, **facts)` is told of swaps and refusals.

        `promote` is the command that would help where there is no release yet.
        """
        self.home, self.opens, self.poll_s, self.event, self.promote = home, opens, poll_s, event, promote
        self.current: R | None = None
        self.problem: str | None = "the service has not looked for a release yet"
        self._refused: tuple[Pointer, float] | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._opening = threading.Lock()

    def refresh(self) -> None:
        """Look at the pointer once, and follow it if it has moved; never raises for what lies on the disk."""
        with self._opening:
            try:
                now = pointer.read(self.home)
            except (OvertureError, OSError) as error:
                self.problem = self._why(error)
                return
            if now is None:
                folder = pointer.releases(self.home)
                self.problem = f"no release has been promoted under {folder.name}/; run `{self.promote}`"
            elif self.current is not None and self.current.name == now.release:
                self.current.pointer, self.problem, self._refused = now, None, None
            elif self._refused is None or self._refused[0] != now or time.monotonic() - self._refused[1] > RETRY_S:
                self._follow(now)

    def _follow(self, now: Pointer) -> None:
        try:
            found = self._open(now.release, now)
            if found.problems and self.current is not None:
                parts = "; ".join(f"{part}: {why}" for part, why in found.problems.items())
                raise OvertureError(f"release {now.release[:12]} is not whole ({parts})")
        except Exception as error:  # a damaged bundle can go wrong in any way; the old release must not
            self._refuse(now, error)
            return
        self._put(found, None)

    def _open(self, release: str, now: Pointer) -> R:
        return self.opens(pointer.releases(self.home) / release, now)

    def _put(self, found: R, problem: str | None) -> None:
        before = self.current.name if self.current else None
        self.problem = problem
        self.current = found
        if problem is None:
            self._refused = None
        self.event("release", release=found.name, before=before, week=found.week, degraded=sorted(found.problems))

    def _refuse(self, now: Pointer, error: Exception) -> None:
        self._refused = (now, time.monotonic())
        self.problem = self._why(error)
        self.event("refused", release=now.release, why=self.problem)
        if self.current is None and now.previous:
            try:
                self._put(self._open(now.previous, now), self.problem)
            except Exception as second:  # neither can be opened: the first reason counts
                self.event("refused", release=now.previous, why=self._why(second))

    def _why(self, error: Exception) -> str:
        """For everybody who may ask: without the folders of this machine."""
        return (str(error) or type(error).__name__).replace(f"{self.home}/", "")

    def start(self) -> None:
        """Open the champion, then follow the pointer in a thread."""
        self.refresh()
        self._thread = threading.Thread(target=self._watch, name="follower", daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._stop.wait(self.poll_s):
            try:
                self.refresh()
            except Exception as error:  # this thread outlives whatever a disk can do
                self.problem = self._why(error)

    def stop(self) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread:
            self._thread.join()


class Champion(Follower[Ready]):
    """The release that recommends."""

    def __init__(self, home: Path, poll_s: float = 1.0, event: Event = silent) -> None:
        """Of the service's home."""
        super().__init__(
            home, lambda folder, now: Ready(open_release(folder), now), poll_s, event, "overture release promote"
        )

    def _put(self, found: Ready, problem: str | None) -> None:
        """The one before stays open beside this one, and none before that."""
        if self.current is not None:
            self.current.before = None
        found.before = self.current
        super()._put(found, problem)
