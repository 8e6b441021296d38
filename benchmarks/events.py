"""Measure events that are written before they are acknowledged, with one worker.

Each request contains one event or ten, of different listeners. The service appends them to the event log, flushes the
log and writes the profiles; requests that arrive meanwhile share the next flush. The store is the memory of the
process, or a Redis server on this machine if `redis-server` is installed. A home with a champion is required (`make
demo` creates one); it is not changed. The sender (load.py) runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness
import load
from harness import Measurement, Peer
from service import memory_mib, service

RATE, WARM_S = 3_000, 2.0
N_LISTENERS = 20_000
EVENTS_PER_REQUEST = (10, 1)
MEMORY, REDIS = "memory", "Redis"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis server during the `with` block; yield its URL."""
    import socket
    import subprocess
    import time

    with socket.socket() as free:
        free.bind((load.HOST, 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", load.HOST, "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                socket.create_connection((load.HOST, port), 1).close()
                break
            except OSError:
                if process.poll() is not None:
                    raise RuntimeError(f"redis-server ended with {process.returncode}") from None
                time.sleep(0.01)
        yield f"redis://{load.HOST}:{port}/0"
    finally:
        process.kill()
        process.wait()


def measure(home: str, store: str, n_each: int, tracks: list[str], seconds: float) -> Measurement:
    """Measure the 99th percentile of the requests that send `RATE` events per second.

    Args:
        home: home with a champion.
        store: MEMORY or REDIS.
        n_each: number of events of a request.
        tracks: external ids of tracks.
        seconds: duration of the load.

    Raises:
        RuntimeError: a request failed, or an event is missing from the log.
    """
    n = int(RATE / n_each * (WARM_S + seconds)) * n_each
    ts = datetime.now(UTC).isoformat()
    events = [
        {
            "event_id": uuid.uuid4().hex,
            "user_id": 10_000_000 + i % N_LISTENERS,
            "ts": ts,
            "kind": "stream",
            "id": tracks[i % len(tracks)],
            "seconds": 100,
        }
        for i in range(n)
    ]
    requests = [
        load.post("/v1/events", json.dumps({"events": events[start : start + n_each]}).encode())
        for start in range(0, n, n_each)
    ]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=home))
        os.environ["OVERTURE__PROFILE__FOLDER"] = folder
        if store == REDIS:
            url = stack.enter_context(redis_server(Path(stack.enter_context(tempfile.TemporaryDirectory()))))
            os.environ |= {"OVERTURE__STORE__KIND": "redis", "OVERTURE__STORE__REDIS_URL": url}
        process, port, _ = stack.enter_context(service(home))
        result = load.fixed_rate(port, requests, RATE / n_each, seconds, WARM_S)
        n_lines = sum(len(path.read_bytes().splitlines()) for path in Path(folder).glob("events-*"))
        if result.failed or n_lines != n:
            raise RuntimeError(f"{result.failed} requests failed; {n_lines} of {n} events are in the log")
        quality = {"events/s": float(RATE), **result.quality(), "server MiB": memory_mib(process)}
        return Measurement([quality["p99 ms"] / 1000], quality)


def main() -> None:
    """Measure both stores and write the result."""
    arguments = harness.parse_arguments("events", __doc__ or "", "a home with a champion (default: OVERTURE_HOME)")
    source = (arguments.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    seconds, runs = (3.0, 1) if arguments.quick else (10.0, 3)
    stores = [MEMORY, REDIS] if shutil.which("redis-server") else [MEMORY]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder) / "home"
        shutil.copytree(source / "releases", home / "releases")
        shutil.copytree(source / "keys", home / "keys")
        options: dict[str, Any] = {"home": str(home), "tracks": track_ids(home), "seconds": seconds}
        peers = harness.compare(
            [
                Peer(f"{store}, {n_each} a request", measure, {"store": store, "n_each": n_each, **options}, runs)
                for n_each in EVENTS_PER_REQUEST
                for store in stores
            ]
        )
    about = f"{RATE} events a second, {seconds:g} s; a latency counts from the scheduled time of its request."
    cases = [{"case": "events by the clock", "about": about, "timed": "p99, s", "peers": peers, "ratios": {}}]
    promises = [
        harness.promise(f"{name}: p99 ms at {RATE} events/s", 10, peer["seconds"]["median"] * 1000, at_most=True)
        for name, peer in peers.items()
    ]
    p99_ms = peers[f"{MEMORY}, {EVENTS_PER_REQUEST[0]} a request"]["seconds"]["median"] * 1000
    harness.write_result(arguments, cases, promises, (f"p99 ms at {RATE} events/s", p99_ms))


def track_ids(home: Path) -> list[str]:
    """Return external ids of the champion's most popular tracks.

    Raises:
        SystemExit: the home has no champion.
    """
    from serving.release import pointer
    from serving.release.bundle import open_release

    now = pointer.read(home)
    if now is None:
        raise SystemExit(f"{home}: this home has no champion; run `make demo` first")
    release = open_release(pointer.releases(home) / now.release)
    return release.external_ids.all_outside("track", release.track_ids[:200])


if __name__ == "__main__":
    main()
