"""A sender of HTTP requests for load tests: kept-alive connections on uvloop, so that the sender is not what waits.

By the clock: requests are sent at fixed moments whether or not earlier ones have been answered, and a time counts from
when its request was due: a server that falls behind cannot hide it. Closed: each connection sends its next request when
it has its answer. Only to this machine.
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import uvloop

HOST = "127.0.0.1"
LINES = 64  # connections kept open by the clock


def post(path: str, body: bytes) -> bytes:
    """One request as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nhost: service\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Sent:
    """taken_s: time to each answer, in the order of sending; releases: names in the answers' headers."""

    taken_s: list[float]
    wall_s: float
    failed: int = 0
    releases: set[bytes] = field(default_factory=set)

    def quality(self) -> dict[str, float]:
        """Requests a second, quantiles in ms, failures."""
        p50, p95, p99 = np.quantile(self.taken_s, (0.5, 0.95, 0.99)) * 1000
        return {
            "requests/s": len(self.taken_s) / self.wall_s,
            "p50 ms": p50,
            "p95 ms": p95,
            "p99 ms": p99,
            "worst ms": max(self.taken_s) * 1000,
            "failed": float(self.failed),
        }


class Line(asyncio.Protocol):
    """A connection with one request at a time on it."""

    def __init__(self, said: Sent) -> None:
        """`said` is told of what failed and which release answered."""
        self.said, self.got, self.left, self.last = said, b"", -1, False
        self.answer: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to send."""
        self.transport = cast(asyncio.Transport, transport)

    def ask(self, request: bytes) -> asyncio.Future[None]:
        """Send; done when the whole answer is here."""
        self.got, self.left = b"", -1
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        """More of an answer; what is said without being asked, such as a goodbye, is nobody's."""
        if self.answer is None or self.answer.done():
            return
        if self.left < 0:
            self.got += data
            head, end, body = self.got.partition(b"\r\n\r\n")
            if not end:
                return
            headers = dict(line.partition(b": ")[::2] for line in head.lower().split(b"\r\n")[1:])
            self.said.failed += not head.startswith(b"HTTP/1.1 200")
            if b"x-overture-release" in headers:
                self.said.releases.add(headers[b"x-overture-release"])
            self.left = int(headers[b"content-length"]) - len(body)
            self.last = headers.get(b"connection") == b"close"
        else:
            self.left -= len(data)
        if self.left == 0:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        """What was not answered has failed."""
        if self.answer is not None and not self.answer.done():
            self.said.failed += 1
            self._done()

    def _done(self) -> None:
        assert self.answer is not None
        if self.last:
            self.transport.close()
        self.answer.set_result(None)


async def _lines(port: int, n: int, said: Sent) -> list[Line]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Line(said), HOST, port) for _ in range(n)]
    return [line for _, line in made]


async def _open(line: Line, port: int) -> Line:
    """The same line, or a new one where the server has let go of it."""
    if line.transport.is_closing():
        (line,) = await _lines(port, 1, line.said)
    return line


def by_the_clock(port: int, requests: list[bytes], rate: float, seconds: float, warm_s: float) -> Sent:
    """`rate` requests a second for `seconds`, after `warm_s` that do not count."""

    async def run() -> Sent:
        said = Sent([], seconds)
        gc.freeze()
        free: asyncio.Queue[Line] = asyncio.Queue()
        for line in await _lines(port, LINES, said):
            free.put_nowait(line)

        async def one(due: float, request: bytes) -> float:
            line = await _open(await free.get(), port)
            await line.ask(request)
            free.put_nowait(line)
            return time.perf_counter() - due

        began, waiting = time.perf_counter(), []
        for n in range(int(rate * (warm_s + seconds))):
            due = began + n / rate
            while (early := due - time.perf_counter()) > 0:
                await asyncio.sleep(early)
            waiting.append(asyncio.create_task(one(due, requests[n % len(requests)])))
        said.taken_s = (await asyncio.gather(*waiting))[int(rate * warm_s) :]
        return said

    return uvloop.run(run())


def closed(port: int, requests: list[bytes], connections: int, seconds: float, warm_s: float) -> Sent:
    """As many requests as `connections` get answered in `seconds`, after `warm_s` that do not count."""

    async def run() -> Sent:
        said = Sent([], seconds)
        gc.freeze()
        began = time.perf_counter() + warm_s

        async def one(line: Line, n: int) -> None:
            while (sent := time.perf_counter()) < began + seconds:
                line = await _open(line, port)
                await line.ask(requests[n % len(requests)])
                n += connections
                if sent >= began:
                    said.taken_s.append(time.perf_counter() - sent)

        await asyncio.gather(*(one(line, n) for n, line in enumerate(await _lines(port, connections, said))))
        return said

    return uvloop.run(run())
