"""Group commit: requests that arrive while events are written wait together for the next write and its one fsync.

A request on an idle service is written at once. On a busy one a group contains what arrived during the write before it.
One thread writes, so changes of a process never overlap and the event loop never waits for a disk or a store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from serving.profile.days import NewEvent, Outcome

T = TypeVar("T")
MAX_WAITING = 20_000  # events; a second of writing at several times the rate that one process reaches
MAX_GROUP = 2_000


class QueueFull(Exception):
    """More events wait than can be written soon."""


class GroupCommit:
    """Groups the events of one event loop."""

    def __init__(self, add: Callable[[Sequence[NewEvent]], list[Outcome]]) -> None:
        """Set the function that writes a group of events and returns one outcome per event."""
        self._add = add
        self._waiting: list[tuple[Sequence[NewEvent], asyncio.Future[list[Outcome]]]] = []
        self._n_waiting = 0
        self._is_writing = False
        self._writer = ThreadPoolExecutor(1, "events")

    async def add(self, events: Sequence[NewEvent]) -> list[Outcome]:
        """Return the outcomes once the events are written.

        Raises:
            QueueFull: Too many events wait.
            StoreUnavailable, ProfileUnavailable: The events could not be written.
        """
        if self._n_waiting + len(events) > MAX_WAITING:
            raise QueueFull
        future: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, future))
        self._n_waiting += len(events)
        if not self._is_writing:
            self._write_next()
        return await future

    async def alone(self, change: Callable[[], T]) -> T:
        """Run another change of profiles between two groups; return its result."""
        return await asyncio.get_running_loop().run_in_executor(self._writer, change)

    def _write_next(self) -> None:
        size, n = 0, 0
        while n < len(self._waiting) and (not n or size + len(self._waiting[n][0]) <= MAX_GROUP):
            size += len(self._waiting[n][0])
            n += 1
        group, self._waiting = self._waiting[:n], self._waiting[n:]
        self._n_waiting -= size
        self._is_writing = bool(group)
        if not group:
            return
        together = [event for events, _ in group for event in events]
        running = asyncio.get_running_loop().run_in_executor(self._writer, self._add, together)
        running.add_done_callback(lambda done: self._finish(group, done))

    def _finish(
        self,
        group: Sequence[tuple[Sequence[NewEvent], asyncio.Future[list[Outcome]]]],
        done: asyncio.Future[list[Outcome]],
    ) -> None:
        error = done.exception()
        start = 0
        for events, future in group:
            if not future.done():  # a client that went away has cancelled it; its events are written all the same
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(done.result()[start : start + len(events)])
            start += len(events)
        self._write_next()

    def close(self) -> None:
        """Wait for the writes in progress."""
        self._writer.shutdown(wait=True)
