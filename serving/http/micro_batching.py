"""Micro-batching: requests that arrive together share one pass of the network.

No request waits for others. The event loop reads all requests that are ready on its sockets, and work that is postponed
to
its next iteration runs after them: an idle service answers one by one, a busy one several at a time. A batch costs the
network little more than one listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from serving.release.loaded import Ready
from serving.schema import Listener, ListOptions, RecommendationRequest

MOST = 32  # listeners per pass: the response to the last one waits for all of them
Answer = Callable[[Ready, Sequence[Listener], ListOptions], list[dict[str, Any]]]
Waiting = tuple[Ready, RecommendationRequest, "asyncio.Future[dict[str, Any]]"]


class Together:
    """Collects requests on one event loop."""

    def __init__(self, answer: Answer) -> None:
        """Set the function `answer(ready, listeners, options)`, which returns one response body per listener."""
        self.answer = answer
        self._waiting: list[Waiting] = []

    async def ask(self, ready: Ready, asked: RecommendationRequest) -> dict[str, Any]:
        """Return the response body of one request.

        Raises:
            Exception: what `answer` raises for this request.
        """
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)
        mine: asyncio.Future[dict[str, Any]] = loop.create_future()
        self._waiting.append((ready, asked, mine))
        return await mine

    def _run(self) -> None:
        now, self._waiting = self._waiting[:MOST], self._waiting[MOST:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._run)
        alike: dict[tuple[Any, ...], list[Waiting]] = {}
        for one in now:
            ready, asked, _ = one
            how = (id(ready), asked.method, asked.k, asked.leave_out_first_day, tuple(asked.exclude))
            alike.setdefault(how, []).append(one)
        for those in alike.values():
            self._answer(those)

    def _answer(self, those: list[Waiting]) -> None:
        ready, how_many, _ = those[0]
        try:
            found = self.answer(ready, [asked.listener for _, asked, _ in those], how_many)
        except Exception as error:
            if len(those) > 1:  # an error of one request must not affect the others
                for one in those:
                    self._answer([one])
            elif not those[0][2].done():
                those[0][2].set_exception(error)
            return
        for (_, _, mine), answer in zip(those, found, strict=True):
            if not mine.done():
                mine.set_result(answer)
