"""Threads for requests that compute for longer than the event loop may wait: batches, carousels, explanations, skips.

The interpreter runs one thread at a time. Every further thread delays the event loop, and with it every other request
and the health checks, by one switch interval. So the pool is small, and its queue is bounded: a request that would
wait behind `MAX_WAITING` others is refused with 503 and Retry-After.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from serving.http.problems import overloaded

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
THREADS, MAX_WAITING = max(2, min(4, os.cpu_count() or 2)), 8


class ComputePool:
    """A thread pool with a bounded queue; its methods are called on one event loop."""

    def __init__(self, threads: int = THREADS, max_waiting: int = MAX_WAITING) -> None:
        """Create the pool; its threads start with the first calls."""
        self._executor = ThreadPoolExecutor(threads, "compute")
        self._max_running, self._running = threads + max_waiting, 0

    async def run(
        self, function: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        """Return the result of a function that runs in a thread.

        Raises:
            Refusal: 503, the queue is full.
            Exception: what the function raises.
        """
        if self._running >= self._max_running:
            raise overloaded("too many batches, carousels and explanations are waiting; send this one again later")
        self._running += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))
        finally:
            self._running -= 1
