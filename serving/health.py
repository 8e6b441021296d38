"""Health routes and metrics, and the order of a shutdown.

Alive     /healthz is 200 while the event loop runs
Ready     /readyz is 503 without the required engines and from SIGTERM on. Nothing optional makes it 503: not the store,
          a refused release, or an engine that is not required
Shutdown  SIGTERM makes the service not ready; `service.drain_s` seconds later it stops accepting connections and
          completes the running requests. A second SIGTERM ends the wait

Neither route waits for the threads of other requests: the store's state is read in a thread of its own, and the last
one is returned if the store takes longer than `STORE_WAIT_S`.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

from fastapi import FastAPI, Query
from fastapi.responses import PlainTextResponse, Response
from pydantic import Field

from serving.block.metrics import BlockMetrics
from serving.block.watcher import BlockWatcher
from serving.bodies import StoreState
from serving.body_models import Body
from serving.http.fast_routes import as_json
from serving.http.prometheus import Metrics
from serving.release.watcher import ChampionWatcher, ReleaseWatcher
from serving.settings import Engine, ServiceSettings
from serving.skip.release import SkipRelease
from serving.skip.routes import state as skip_state
from serving.stores.circuit import CircuitBreaker

STORE_WAIT_S = 0.05


class Health(Body):
    """The process runs."""

    alive: bool


class StoreReadiness(Body):
    """The store of known listeners."""

    kind: str
    answers: bool
    problem: str | None
    parts: dict[str, int] = Field(description="Users by part, of the release in service.")


class SkipReadiness(Body):
    """The skip engine."""

    ready: bool
    problem: str | None
    release: str | None
    week: str | None
    state_as_of: str | None
    age_s: int | None = Field(description="Time since the last play of the release, in seconds.")


class Readiness(Body):
    """Whether the service is ready, and the state of its parts."""

    ready: bool
    draining: bool = Field(description="Whether a shutdown has begun.")
    engines: list[str] = Field(description="Engines that have a release.")
    problem: str | None = Field(description="Why a newer release was refused.")
    release: str | None
    week: str | None
    degraded: dict[str, str]
    notes: dict[str, Any]
    store: StoreReadiness
    skip: SkipReadiness


class Drain:
    """Delays the shutdown after SIGTERM, while the service reports that it is not ready."""

    def __init__(self, seconds: float) -> None:
        """Set the delay; nothing happens before `install`."""
        self.seconds, self.started = seconds, False

    def install(self) -> None:
        """Take over SIGTERM from the server of this event loop; only the main thread can."""
        if not self.seconds or threading.current_thread() is not threading.main_thread():
            return
        stop: Any = signal.getsignal(signal.SIGTERM)
        loop = asyncio.get_running_loop()

        def drain(number: int, frame: Any) -> None:
            if self.started:
                stop(number, frame)
                return
            self.started = True
            loop.call_soon_threadsafe(loop.call_later, self.seconds, stop, number, None)

        signal.signal(signal.SIGTERM, drain)


class StoreReader:
    """Reads the store's state in a thread of its own."""

    def __init__(self, circuit: CircuitBreaker) -> None:
        """Prepare the thread; it starts with the first read."""
        self.circuit = circuit
        self._executor = ThreadPoolExecutor(1, "store-state")
        self._running: asyncio.Future[StoreState] | None = None
        self._last: StoreState = {
            "kind": circuit.store.name,
            "answers": False,
            "problem": "the store has not been read yet",
            "parts": {},
        }

    async def state(self, release: str | None, space: str) -> StoreState:
        """Return the store's state, or the previous one if the store does not respond in time."""
        if self._running is None:
            loop = asyncio.get_running_loop()
            self._running = loop.run_in_executor(self._executor, self.circuit.state, release, space)
        done, _ = await asyncio.wait([self._running], timeout=STORE_WAIT_S)
        if done:
            self._last, self._running = self._running.result(), None
        return self._last


def add_health(
    app: FastAPI,
    settings: ServiceSettings,
    champion: ChampionWatcher,
    skips: ReleaseWatcher[SkipRelease],
    blocks: BlockWatcher,
    metrics: Metrics,
    block_metrics: BlockMetrics,
    circuit: CircuitBreaker,
    drain: Drain,
) -> None:
    """Add the health routes and the Prometheus metrics.

    Args:
        app: the application.
        settings: the section `service`.
        champion: watcher of the cold-start engine's champion.
        skips: watcher of the skip engine's champion.
        blocks: watcher of the block list.
        metrics: the metrics of this process.
        block_metrics: those of the block list.
        circuit: the store behind its circuit breaker.
        drain: whether the shutdown has begun.
    """
    reader = StoreReader(circuit)

    @app.get("/healthz", tags=["health"], responses={200: {"model": Health}})
    async def healthz() -> Response:
        """Return 200 while the process runs."""
        return as_json({"alive": True})

    not_ready = {"model": Readiness, "description": "not ready"}

    @app.get("/readyz", tags=["health"], responses={200: {"model": Readiness}, 503: not_ready})
    async def readyz(
        engine: Annotated[
            Engine | None, Query(description="whether this engine is ready; default: those that the service requires")
        ] = None,
    ) -> Response:
        """Return 200 if the service is ready, else 503.

        The service is ready if every engine of `service.required_engines` has a release (if none is required: any one),
        and no shutdown has begun. `engines` lists the engines that have one. `problem` is the reason why a newer
        release was refused. `skip` describes the skip engine's release, `store` the store of known listeners; the other
        fields describe the cold-start release.
        """
        loaded, skip = champion.current, skip_state(skips)
        engines = [name for name, answers in (("cold_start", loaded is not None), ("skip", skip["ready"])) if answers]
        required = [engine] if engine else settings.required_engines
        ready = not drain.started and (set(required) <= set(engines) if required else bool(engines))
        store = await reader.state(*((loaded.name, loaded.space_name) if loaded else (None, "")))
        metrics.store_answers.set(store["answers"])
        body = {
            "ready": ready,
            "draining": drain.started,
            "engines": engines,
            "problem": champion.problem,
            "release": loaded.name if loaded else None,
            "week": loaded.week if loaded else None,
            "degraded": loaded.problems if loaded else {},
            "notes": {**(loaded.notes if loaded else {}), **blocks.notes},
            "store": store,
            "skip": skip,
        }
        return as_json(body, 200 if ready else 503, loaded.name if loaded else None)

    @app.get("/metrics", tags=["health"], response_class=PlainTextResponse)
    def numbers() -> Response:
        """Return the metrics in the text format of Prometheus."""
        block_metrics.update(blocks)
        return Response(metrics.page(), media_type="text/plain; version=0.0.4")
