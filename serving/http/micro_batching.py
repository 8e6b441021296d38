"""Micro-batching: requests that arrive together share one pass of the network.

No request waits for later ones. The event loop reads all requests that are ready on its sockets before it runs work
that was postponed to its next iteration. So an idle service computes lists one by one, and a busy one several at a
time. A batch takes the network little more time than one listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from serving.bodies import RecommendationBody
from serving.release.loaded import LoadedRelease
from serving.schema import Listener, ListOptions, RecommendationRequest

MAX_BATCH = 32  # listeners per pass: the response to the last one waits for all of them
RecommendFunction = Callable[[LoadedRelease, Sequence[Listener], ListOptions], list[RecommendationBody]]
PendingRequest = tuple[LoadedRelease, RecommendationRequest, "asyncio.Future[RecommendationBody]"]


class MicroBatcher:
    """Collects requests on one event loop."""

    def __init__(self, recommend_many: RecommendFunction) -> None:
        """Set the function `answer(ready, listeners, options)`, which returns one response body per listener."""
        self.recommend_many = recommend_many
        self._pending: list[PendingRequest] = []

    async def recommend(self, loaded: LoadedRelease, request: RecommendationRequest) -> RecommendationBody:
        """Return the response body of one request.

        Raises:
            Exception: what `answer` raises for this request.
        """
        loop = asyncio.get_running_loop()
        if not self._pending:
            loop.call_soon(self._run)
        future: asyncio.Future[RecommendationBody] = loop.create_future()
        self._pending.append((loaded, request, future))
        return await future

    def _run(self) -> None:
        now, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
        if self._pending:
            asyncio.get_running_loop().call_soon(self._run)
        alike: dict[tuple[Any, ...], list[PendingRequest]] = {}
        for one in now:
            loaded, request, _ = one
            how = (id(loaded), request.method, request.k, request.leave_out_first_day, tuple(request.exclude))
            alike.setdefault(how, []).append(one)
        for requests in alike.values():
            self._respond(requests)

    def _respond(self, requests: list[PendingRequest]) -> None:
        loaded, how_many, _ = requests[0]
        try:
            bodies = self.recommend_many(loaded, [request.listener for _, request, _ in requests], how_many)
        except Exception as error:
            if len(requests) > 1:  # an error of one request must not affect the others
                for one in requests:
                    self._respond([one])
            elif not requests[0][2].done():
                requests[0][2].set_exception(error)
            return
        for (_, _, future), recommend_many in zip(requests, bodies, strict=True):
            if not future.done():
                future.set_result(recommend_many)
