"""Micro-batching: requests that arrive together share one pass of the network.

No request waits for later ones. The event loop reads all requests that are ready on its sockets before it runs work
that was postponed to its next iteration. So an idle service computes lists one by one, and a busy one several at a
time. A batch takes the network little more time than one listener.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from serving.bodies import RecommendationBody
from serving.release.loaded import LoadedRelease

Listener = TypeVar("Listener")
Parameters = TypeVar("Parameters", bound=Hashable)
MAX_BATCH = 32  # listeners per pass: the response to the last one waits for all of them


class MicroBatcher(Generic[Listener, Parameters]):
    """Collects requests on one event loop. Listeners of a pass have equal parameters."""

    def __init__(
        self, recommend_many: Callable[[LoadedRelease, Sequence[Listener], Parameters], list[RecommendationBody]]
    ) -> None:
        """Set the function `answer(ready, listeners, options)`, which returns one response body per listener."""
        self.recommend_many = recommend_many
        self._pending: list[tuple[LoadedRelease, Listener, Parameters, asyncio.Future[RecommendationBody]]] = []

    async def recommend(self, loaded: LoadedRelease, listener: Listener, parameters: Parameters) -> RecommendationBody:
        """Return the response body of one request.

        Raises:
            Exception: what `answer` raises for this request.
        """
        loop = asyncio.get_running_loop()
        if not self._pending:
            loop.call_soon(self._run)
        future: asyncio.Future[RecommendationBody] = loop.create_future()
        self._pending.append((loaded, listener, parameters, future))
        return await future

    def _run(self) -> None:
        now, self._pending = self._pending[:MAX_BATCH], self._pending[MAX_BATCH:]
        if self._pending:
            asyncio.get_running_loop().call_soon(self._run)
        alike: dict[
            tuple[int, Parameters], list[tuple[LoadedRelease, Listener, Parameters, asyncio.Future[RecommendationBody]]]
        ] = {}
        for one in now:
            loaded, _, parameters, _ = one
            alike.setdefault((id(loaded), parameters), []).append(one)
        for requests in alike.values():
            self._respond(requests)

    def _respond(
        self, requests: list[tuple[LoadedRelease, Listener, Parameters, asyncio.Future[RecommendationBody]]]
    ) -> None:
        loaded, _, parameters, _ = requests[0]
        try:
            bodies = self.recommend_many(loaded, [listener for _, listener, _, _ in requests], parameters)
        except Exception as error:
            if len(requests) > 1:  # an error of one request must not affect the others
                for one in requests:
                    self._respond([one])
            elif not requests[0][3].done():
                requests[0][3].set_exception(error)
            return
        for (_, _, _, future), body in zip(requests, bodies, strict=True):
            if not future.done():
                future.set_result(body)
