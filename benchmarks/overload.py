"""Measure the service at twice the load that it can sustain, with one worker.

The sustainable load is the rate of a closed loop of CONNECTIONS connections. The normal latency is that of the same
requests sent at half of this rate. Then twice the rate is sent, whether or not responses arrive, while /healthz is
asked twice a second and the memory is measured. Lists with explanations take longer and run in threads; plain lists run
on the event loop. A home with a champion is required (`make demo` creates one).
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import harness
import load
import service
from harness import Measurement, Peer

CONNECTIONS, OPEN_CONNECTIONS = 8, 1_000
PLAIN, EXPLAINED = "lists", "lists with explanations"


class Health:
    """What the service reports and uses while it is under load.

    Attributes:
        health_s: latency of each request to /healthz.
        memory_mib: memory of the service, about twice a second.
    """

    def __init__(self) -> None:
        self.health_s: list[float] = []
        self.memory_mib: list[float] = []

    def ask(self, port: int, process: psutil.Process) -> None:
        """Ask once."""
        start = time.perf_counter()
        with urllib.request.urlopen(f"http://{load.HOST}:{port}/healthz", timeout=30) as response:
            response.read()
        self.health_s.append(time.perf_counter() - start)
        self.memory_mib.append(service.memory_mib(process))


@contextmanager
def observed(port: int, process: psutil.Process) -> Iterator[Health]:
    """Ask for the health of the service during the `with` block."""
    health, finished = Health(), threading.Event()

    def ask_repeatedly() -> None:
        while not finished.wait(0.5):
            health.ask(port, process)

    thread = threading.Thread(target=ask_repeatedly)
    thread.start()
    try:
        yield health
    finally:
        finished.set()
        thread.join()


def measure(home: str, bodies: str, seconds: float) -> Measurement:
    """Measure one kind of requests: sustainable, normal and twice the sustainable load."""
    requests = service.requests("/v1/recommendations", bodies)
    with service.service(home) as (process, port, _):
        sustained = load.closed_loop(port, requests, CONNECTIONS, 5.0, service.WARM_S).quality()["requests/s"]
        normal = load.fixed_rate(port, requests, sustained / 2, 5.0, service.WARM_S)
        with observed(port, process) as health, ProcessPoolExecutor(1) as sender:
            # A process of its own: the sender would delay the questions about health, which are measured too.
            over = sender.submit(
                load.fixed_rate, port, requests, 2 * sustained, seconds, 0.0, OPEN_CONNECTIONS, since_due=False
            ).result()
    third = max(1, len(health.memory_mib) // 3)
    accepted = over.quality()
    return Measurement(
        [accepted["p99 ms"] / 1000],
        {
            "sustainable/s": sustained,
            "normal p99 ms": normal.quality()["p99 ms"],
            "sent/s": (len(over.taken_s) + over.failed) / over.wall_s,
            "accepted/s": accepted["requests/s"],
            "p99 ms": accepted["p99 ms"],
            "refused": float(over.refused),
            "failed otherwise": float(over.failed - over.refused),
            "healthz worst ms": 1000 * max(health.health_s),
            "MiB, first third": sum(health.memory_mib[:third]) / third,
            "MiB, last third": sum(health.memory_mib[-third:]) / third,
        },
    )


def write_bodies(home: str, folder: Path) -> dict[str, str]:
    """Write the request bodies of both kinds; return their paths."""
    plain = Path(service.write_model_and_bodies(home, "tt_svd", folder)["ours"])
    explained = folder / "explained.jsonl"
    bodies = [{**json.loads(line), "explain": True} for line in plain.read_bytes().splitlines()]
    explained.write_text("\n".join(map(json.dumps, bodies)))
    return {PLAIN: str(plain), EXPLAINED: str(explained)}


def main() -> None:
    """Measure both kinds of requests."""
    arguments = harness.parse_arguments("overload", __doc__ or "", "a home with a champion (default: OVERTURE_HOME)")
    source = (arguments.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    seconds = 10.0 if arguments.quick else 600.0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = service.prepare_homes(source, folder)["tt_svd"]
        peers = harness.compare(
            [
                Peer(kind, measure, {"home": home, "bodies": bodies, "seconds": seconds}, 1)
                for kind, bodies in write_bodies(home, folder).items()
            ]
        )
    cases = [
        {
            "case": "twice the sustainable load",
            "about": f"{seconds:g} s on at most {OPEN_CONNECTIONS} connections; a latency counts from the sending.",
            "timed": "p99 of accepted, s",
            "peers": peers,
            "ratios": {},
        }
    ]
    targets: list[dict[str, Any]] = []
    for kind, peer in peers.items():
        quality = peer["quality"]
        targets += [
            harness.promise(
                f"{kind}: p99 over the normal one", 3, quality["p99 ms"] / quality["normal p99 ms"], at_most=True
            ),
            harness.promise(f"{kind}: slowest /healthz, ms", 100, quality["healthz worst ms"], at_most=True),
            harness.promise(f"{kind}: failed, but not refused", 0, quality["failed otherwise"], at_most=True),
            harness.promise(
                f"{kind}: memory of the last third over the first",
                1.05,
                quality["MiB, last third"] / quality["MiB, first third"],
                at_most=True,
            ),
        ]
    harness.write_result(arguments, cases, targets, ("p99 over the normal one", targets[0]["found"]))


if __name__ == "__main__":
    main()
