"""The service under requests that arrive by the clock: `overture serve`, one worker, each request another first day.

Requests are sent at fixed moments whether or not earlier ones have been answered, and an answer's time counts from the
moment at which its request was due: a service that falls behind cannot hide it. Needs a home with a champion
(`make demo` makes one); measured are the way to a first answer and the 99th percentile. The sender runs beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import harness
from harness import Answer, Peer

LINES = 64  # connections kept open
KINDS = 500  # different first days, asked in turn
WARM_S = 2.0  # of each load, before the clock


@contextmanager
def service(home: str) -> Iterator[tuple[int, float]]:
    """A running service: its port, and seconds from the command to a release that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clock = harness.stopwatch()
    command = [sys.executable, "-m", "jobs.cli", "serve", "--port", str(port)]
    environment = {**os.environ, "OVERTURE_HOME": home}
    process = subprocess.Popen(
        command, cwd=Path(__file__).parents[1], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                got(port, "/readyz")
                break
            except urllib.error.HTTPError as error:
                raise RuntimeError(f"no release in {home}: {error.read().decode()}; run `make demo` first") from None
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"overture serve ended with exit code {process.returncode}") from None
                time.sleep(0.005)
        yield port, clock()
    finally:
        process.terminate()
        process.wait()


def got(port: int, path: str) -> Any:
    """An answer as JSON."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return json.load(answer)


def start(home: str) -> Answer:
    """From the command to the first answer."""
    with service(home) as (port, ready_s):
        held = got(port, "/v1/release")
        return Answer([ready_s], {"tracks": float(held["spaces"][held["space"]]["tracks"])})


def load(home: str, method: str, rate: int, seconds: float) -> Answer:
    """Times to answer at `rate` requests a second; the answer's `seconds` are the 99th percentile."""
    with service(home) as (port, _):
        requests = first_days(port, method)
        taken_s, failed = asyncio.run(send(port, requests, rate, WARM_S + seconds))
    kept_ms = np.asarray(taken_s[int(rate * WARM_S) :]) * 1000
    quality = {"p50 ms": float(np.median(kept_ms)), "p99 ms": float(np.quantile(kept_ms, 0.99))}
    return Answer([quality["p99 ms"] / 1000], {**quality, "worst ms": float(kept_ms.max()), "failed": float(failed)})


def first_days(port: int, method: str) -> list[bytes]:
    """Requests for 50 tracks: country, age, three artists, eight streams, two skips, two favourites."""
    found = {kind: [one["id"] for one in got(port, f"/v1/search?kind={kind}&limit=200")["found"]]
             for kind in ("tracks", "artists")}  # fmt: skip
    countries, draw = got(port, "/v1/release")["countries"] or [None], random.Random(7)

    def some(kind: str, n: int) -> dict[str, list[int]]:
        return {kind: draw.sample(found[kind], min(n, len(found[kind])))}

    made = []
    for _ in range(KINDS):
        who = {"country": draw.choice(countries), "age": draw.randrange(14, 70), "onboarding": some("artists", 3)}
        who |= {"streams": some("tracks", 8), "skips": some("tracks", 2), "favourites": some("tracks", 2)}
        body = json.dumps({"listener": who, "k": 50, "method": method}).encode()
        head = "POST /v1/recommendations HTTP/1.1\r\nhost: service\r\ncontent-type: application/json\r\n"
        made.append(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
    return made


async def send(port: int, requests: list[bytes], rate: int, seconds: float) -> tuple[list[float], int]:
    """Seconds from when each was due to the end of its answer, in order; how many failed."""
    lines: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(LINES):
        lines.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    failed = 0

    async def one(due: float, request: bytes) -> float:
        nonlocal failed
        reader, writer = await lines.get()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        failed += not head.startswith(b"HTTP/1.1 200")
        lines.put_nowait((reader, writer))
        return time.perf_counter() - due

    began, waiting = time.perf_counter(), []
    for n in range(int(rate * seconds)):
        due = began + n / rate
        if (early := due - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        waiting.append(asyncio.create_task(one(due, requests[n % len(requests)])))
    taken_s = await asyncio.gather(*waiting)
    while not lines.empty():
        lines.get_nowait()[1].close()
    return list(taken_s), failed


def main() -> None:
    """Start, then loads."""
    chosen = harness.options("service", __doc__ or "", "a home with a champion (default: OVERTURE_HOME)")
    home = str((chosen.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute())
    seconds, runs = (3.0, 1) if chosen.quick else (20.0, 3)
    cases = [{
        "case": "start", "about": "From the command to a release that answers, its files verified.",
        "timed": "s to ready", "peers": harness.compare([Peer("overture serve", start, {"home": home}, runs)]),
        "ratios": {},
    }]  # fmt: skip
    loads = harness.compare([
        Peer(f"{method}, {rate}/s", load, {"home": home, "method": method, "rate": rate, "seconds": seconds}, runs)
        for method, rate in (("configured", 500), ("configured", 250), ("full_pers", 250))
    ])  # fmt: skip
    about = f"50 tracks a request, {LINES} connections, {seconds:g} s after {WARM_S:g} s of warming up."
    cases.append({"case": "requests", "about": about, "timed": "p99, s", "peers": loads, "ratios": {}})
    ready_s = cases[0]["peers"]["overture serve"]["seconds"]["median"]
    p99_ms = loads["configured, 500/s"]["seconds"]["median"] * 1000
    promises = [
        harness.promise("service, one worker: p99 ms at 500 requests/s", 5, p99_ms, at_most=True),
        harness.promise("service: s from start to ready", 2, ready_s, at_most=True),
    ]
    harness.finish(chosen, cases, promises, ("p99 ms at 500 requests/s", p99_ms))


if __name__ == "__main__":
    main()
