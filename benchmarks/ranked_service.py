"""Measure the service with a learned ranker: latency of its lists beside those of the methods that it builds on.

Every request describes another first day, as in benchmarks/service.py. A home whose champion has the method
`ranked_candidates` is required: make demo SOURCE=mpd DATA=<playlists>
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import harness
import load
import service
from harness import Measurement, Peer

RATE, BOUND_MS = 100, 15
METHODS = ("ranked_candidates", "blend", "semi_pers")


def measure(home: str, bodies: str, seconds: float) -> Measurement:
    """Measure the 99th percentile at RATE requests per second, and the requests/s of one connection."""
    requests = service.requests("/v1/recommendations", bodies)
    with service.service(home) as (process, port, ready_s):
        result = load.fixed_rate(port, requests, RATE, seconds, service.WARM_S)
        alone = load.closed_loop(port, requests, 1, seconds / 2, service.WARM_S)
        if result.failed or alone.failed:
            raise RuntimeError(f"{result.failed + alone.failed} requests failed")
        quality = result.quality()
        tracks = service.get_json(port, "/v1/release")["spaces"]
        return Measurement(
            [quality["p99 ms"] / 1000],
            {
                **quality,
                "one connection, requests/s": alone.quality()["requests/s"],
                "tracks": float(max(one["tracks"] for one in tracks.values())),
                "s to ready": ready_s,
                "server MiB": service.memory_mib(process),
            },
        )


def main() -> None:
    """Measure the three methods of one release in turn."""
    arguments = harness.parse_arguments("ranked_service", __doc__ or "", "a home with a champion that has a ranker")
    source = (arguments.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    seconds, runs = (5.0, 1) if arguments.quick else (15.0, 3)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = service.prepare_homes(source, folder)["tt_svd"]
        plain = Path(service.write_model_and_bodies(home, "tt_svd", folder)["ours"])
        bodies = [json.loads(line) for line in plain.read_bytes().splitlines()]
        peers = []
        for method in METHODS:
            file = folder / f"{method}.jsonl"
            file.write_text("\n".join(json.dumps({**body, "method": method}) for body in bodies))
            peers.append(Peer(method, measure, {"home": home, "bodies": str(file), "seconds": seconds}, runs))
        records = harness.compare(peers)
    p99_ms = 1000 * records["ranked_candidates"]["seconds"]["median"]
    case = {
        "case": f"{RATE} requests/s, one worker",
        "about": f"{seconds:g} s each; a latency counts from the scheduled time of its request. Lists of 50 tracks "
        "with a reason each, under the rules of lists.",
        "timed": "p99, s",
        "peers": records,
        "ratios": harness.ratios(records, "ranked_candidates"),
    }
    promises = [harness.promise(f"ranked_candidates: p99 ms at {RATE} requests/s", BOUND_MS, p99_ms, at_most=True)]
    harness.write_result(arguments, [case], promises, (f"p99 ms at {RATE} requests/s", p99_ms))


if __name__ == "__main__":
    main()
