"""Send HTTP requests for load tests over keep-alive connections on uvloop, so that the sender is not the bottleneck.

`fixed_rate` (open loop) sends requests at fixed times, whether or not earlier responses have arrived. A latency counts
from the scheduled time of its request, so it includes the delay of a server that falls behind. `closed_loop` sends the
next request on each connection when the previous response has arrived. All requests go to this machine.
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
N_CONNECTIONS = 64


def post(path: str, body: bytes) -> bytes:
    """Return one POST request as bytes."""
    head = f"POST {path} HTTP/1.1\r\nhost: service\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class LoadResult:
    """Result of one load.

    Attributes:
        taken_s: latency of each response of status 200, in the order of sending.
        wall_s: duration of the load.
        failed: number of requests without such a response, refused ones included.
        refused: number of responses of status 503 with Retry-After.
        releases: releases named in the headers of the responses.
    """

    taken_s: list[float]
    wall_s: float
    failed: int = 0
    refused: int = 0
    releases: set[bytes] = field(default_factory=set)

    def quality(self) -> dict[str, float]:
        """Return responses of status 200 per second, quantiles of their latency in ms, and the number of failures."""
        p50, p95, p99 = np.quantile(self.taken_s or [np.nan], (0.5, 0.95, 0.99)) * 1000
        return {
            "requests/s": len(self.taken_s) / self.wall_s,
            "p50 ms": p50,
            "p95 ms": p95,
            "p99 ms": p99,
            "worst ms": max(self.taken_s, default=np.nan) * 1000,
            "failed": float(self.failed),
        }


class Connection(asyncio.Protocol):
    """A connection with one request at a time."""

    def __init__(self, result: LoadResult) -> None:
        """Start without a request; failures and releases are added to `result`."""
        self.result, self.received, self.remaining, self.closes, self.succeeded = result, b"", -1, False, False
        self.response: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self.transport = cast(asyncio.Transport, transport)

    def send(self, request: bytes) -> asyncio.Future[None]:
        """Send a request; return a future that is done when the complete response has arrived."""
        self.received, self.remaining, self.succeeded = b"", -1, False
        self.response = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.response

    def data_received(self, data: bytes) -> None:
        """Parse a part of a response; data that arrives while no response is expected is ignored."""
        if self.response is None or self.response.done():
            return
        if self.remaining < 0:
            self.received += data
            head, end, body = self.received.partition(b"\r\n\r\n")
            if not end:
                return
            headers = dict(line.partition(b": ")[::2] for line in head.lower().split(b"\r\n")[1:])
            self.succeeded = head.startswith(b"HTTP/1.1 200")
            self.result.failed += not self.succeeded
            self.result.refused += head.startswith(b"HTTP/1.1 503") and b"retry-after" in headers
            if b"x-overture-release" in headers:
                self.result.releases.add(headers[b"x-overture-release"])
            self.remaining = int(headers[b"content-length"]) - len(body)
            self.closes = headers.get(b"connection") == b"close"
        else:
            self.remaining -= len(data)
        if self.remaining == 0:
            self._done()

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request without a response as failed."""
        if self.response is not None and not self.response.done():
            self.result.failed += 1
            self._done()

    def _done(self) -> None:
        assert self.response is not None
        if self.closes:
            self.transport.close()
        self.response.set_result(None)


async def _connect(port: int, n: int, result: LoadResult) -> list[Connection]:
    loop = asyncio.get_running_loop()
    pairs = [await loop.create_connection(lambda: Connection(result), HOST, port) for _ in range(n)]
    return [connection for _, connection in pairs]


async def _reopen(connection: Connection, port: int) -> Connection:
    """Return the connection, or a new one if the server has closed it."""
    if connection.transport.is_closing():
        (connection,) = await _connect(port, 1, connection.result)
    return connection


def fixed_rate(
    port: int,
    requests: list[bytes],
    rate: float,
    seconds: float,
    warm_s: float,
    connections: int = N_CONNECTIONS,
    since_due: bool = True,
) -> LoadResult:
    """Send `rate` requests per second for `seconds` after a warm-up.

    Args:
        port: port of the server.
        requests: requests, sent in turn.
        rate: requests per second.
        seconds: duration of the load.
        warm_s: duration of the warm-up, which is excluded from the result.
        connections: number of open connections; a request that is due while all are busy waits for one.
        since_due: whether a latency counts from when its request was due, or from when it was sent. At a rate that the
            sender itself can hardly reach, only the latter belongs to the server.
    """

    async def run() -> LoadResult:
        result = LoadResult([], seconds)
        gc.freeze()
        idle: asyncio.Queue[Connection] = asyncio.Queue()
        for connection in await _connect(port, connections, result):
            idle.put_nowait(connection)

        n_warm, n_requests = int(rate * warm_s), int(rate * (warm_s + seconds))
        taken_s = np.full(n_requests, np.nan)
        running: set[asyncio.Task[None]] = set()

        async def send_at(n: int, due_s: float) -> None:
            connection = await _reopen(await idle.get(), port)
            sent_s = time.perf_counter()
            await connection.send(requests[n % len(requests)])
            idle.put_nowait(connection)
            if connection.succeeded:
                taken_s[n] = time.perf_counter() - (due_s if since_due else sent_s)

        start = time.perf_counter()
        for n in range(n_requests):
            due_s = start + n / rate
            while (delay_s := due_s - time.perf_counter()) > 0:
                await asyncio.sleep(delay_s)
            task = asyncio.create_task(send_at(n, due_s))
            running.add(task)
            task.add_done_callback(running.discard)
        result.wall_s = max(seconds, time.perf_counter() - start - warm_s)
        await asyncio.gather(*running)
        result.taken_s = taken_s[n_warm:][~np.isnan(taken_s[n_warm:])].tolist()
        return result

    return uvloop.run(run())


def closed_loop(port: int, requests: list[bytes], connections: int, seconds: float, warm_s: float) -> LoadResult:
    """Send requests for `seconds` on `connections` connections, each waiting for the previous response.

    Args:
        port: port of the server.
        requests: requests, sent in turn.
        connections: number of connections.
        seconds: duration of the load.
        warm_s: duration of the warm-up, which is excluded from the result.
    """

    async def run() -> LoadResult:
        result = LoadResult([], seconds)
        gc.freeze()
        start = time.perf_counter() + warm_s

        async def send_in_turn(connection: Connection, n: int) -> None:
            while (sent_s := time.perf_counter()) < start + seconds:
                connection = await _reopen(connection, port)
                await connection.send(requests[n % len(requests)])
                n += connections
                if sent_s >= start and connection.succeeded:
                    result.taken_s.append(time.perf_counter() - sent_s)

        await asyncio.gather(
            *(send_in_turn(connection, n) for n, connection in enumerate(await _connect(port, connections, result)))
        )
        return result

    return uvloop.run(run())
