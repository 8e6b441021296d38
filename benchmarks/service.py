"""Measure the service under load with one worker, and the network on MLflow's own model server.

Every request describes another first day. The service receives ids, country and age and returns 50 tracks with a
reason. MLflow's server (`mlflow models serve`) receives the input vector and returns the listener's vector: less work
with the same network. A constant response of the same size shows what server and sender cost alone. A home with a
champion is required (`make demo` creates one). The sender (load.py) runs in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import harness
import load
from harness import Measurement, Peer

N_FIRST_DAYS = 500  # different first days, sent in turn
WARM_S = 2.0  # warm-up of each load
RATE, CONNECTIONS, PROMOTIONS = 500, (1, 8, 32), 8
SIGNALS = {"streams": 8, "skips": 2, "favourites": 2}
MLFLOW, CONSTANT = "MLflow's server, vector only", "a constant response"


@contextmanager
def running_server(command: list[str], home: str, health: str) -> Iterator[tuple[psutil.Process, int, float]]:
    """Run a server during the `with` block.

    Args:
        command: command without the option `--port`.
        home: OVERTURE_HOME of the server.
        health: path that responds with status 200 when the server is ready.

    Yields:
        Process, port, and seconds from the start to the first response of status 200 at `health`.

    Raises:
        RuntimeError: the server ended, or `health` responded with an error.
    """
    with socket.socket() as free:
        free.bind((load.HOST, 0))
        port = free.getsockname()[1]
    clock = harness.stopwatch()
    environment = {**os.environ, "OVERTURE_HOME": home, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=Path(__file__).parents[1], env=environment, stdout=log, stderr=log
        )
        try:
            while True:
                try:
                    get_json(port, health)
                    break
                except urllib.error.HTTPError as error:
                    raise RuntimeError(f"{health} of {command[-1]}: {error.read().decode()}") from None
                except OSError:
                    if process.poll() is not None:
                        log.seek(0)
                        tail = log.read().decode()[-2000:]
                        raise RuntimeError(f"{command} ended with {process.returncode}: {tail}") from None
                    time.sleep(0.005)
            yield psutil.Process(process.pid), port, clock()
        finally:
            descendants = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait()
            for child in psutil.wait_procs(descendants, timeout=20)[1]:
                child.kill()


def service(home: str) -> Any:
    """Run `overture serve` with one worker during the `with` block."""
    return running_server([sys.executable, "-m", "jobs.cli", "serve"], home, "/readyz")


def mlflow(model: str) -> Any:
    """Run MLflow's model server with one worker during the `with` block."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", model]
    return running_server(command, model, "/ping")


def constant() -> Any:
    """Run the application with a constant response, with one worker, during the `with` block."""
    options = ["--app-dir", str(Path(__file__).parent), "--lifespan", "off", "--log-level", "warning"]
    return running_server([sys.executable, "-m", "uvicorn", "constant_app:app", *options], "", "/")


def get_json(port: int, path: str) -> Any:
    """Return a response as JSON; None if its body is empty."""
    with urllib.request.urlopen(f"http://{load.HOST}:{port}{path}", timeout=30) as response:
        return json.loads(response.read().strip() or b"null")


def measure_start(home: str) -> Measurement:
    """Measure the time from the command to the first response."""
    with service(home) as (_, port, ready_s):
        release = get_json(port, "/v1/release")
        return Measurement([ready_s], {"tracks": float(release["spaces"][release["space"]]["tracks"])})


def measure_start_mlflow(model: str) -> Measurement:
    """Measure the time from the command to the first response of MLflow's server."""
    with mlflow(model) as (_, _, ready_s):
        return Measurement([ready_s], {"tracks": 0.0})


def memory_mib(process: psutil.Process) -> float:
    """Return the memory in MiB of a server and its workers that is not shared with other processes."""
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True))) / 2**20


def measure_closed_loop(home: str, bodies: str, connections: int, seconds: float) -> Measurement:
    """Measure the seconds per request of the service in a closed loop."""
    with service(home) as (process, port, _):
        return closed_loop_measurement(process, port, requests("/v1/recommendations", bodies), connections, seconds)


def measure_closed_loop_constant(bodies: str, connections: int, seconds: float) -> Measurement:
    """Measure the seconds per request of the constant response in a closed loop."""
    with constant() as (process, port, _):
        return closed_loop_measurement(process, port, requests("/", bodies), connections, seconds)


def measure_closed_loop_mlflow(model: str, bodies: str, connections: int, seconds: float) -> Measurement:
    """Measure the seconds per request of MLflow's server in a closed loop."""
    with mlflow(model) as (process, port, _):
        return closed_loop_measurement(process, port, requests("/invocations", bodies), connections, seconds)


def closed_loop_measurement(
    process: psutil.Process, port: int, http_requests: list[bytes], connections: int, seconds: float
) -> Measurement:
    """Return the seconds per request in a closed loop.

    Args:
        process: the server.
        port: its port.
        http_requests: requests, sent in turn.
        connections: number of connections.
        seconds: duration of the load.

    Raises:
        RuntimeError: a request failed; an error response may be faster than a normal one.
    """
    result = load.closed_loop(port, http_requests, connections, seconds, WARM_S)
    if result.failed:
        raise RuntimeError(f"{result.failed} requests failed")
    return Measurement([seconds / len(result.taken_s)], {**result.quality(), "server MiB": memory_mib(process)})


def requests(path: str, bodies: str) -> list[bytes]:
    """Return the HTTP requests of a file with one body per line."""
    return [load.post(path, body) for body in Path(bodies).read_bytes().splitlines()]


def measure_fixed_rate(home: str, bodies: str, rate: int, seconds: float, promotions: int) -> Measurement:
    """Measure the 99th percentile at `rate` requests per second, while the champion changes `promotions` times."""
    with service(home) as (process, port, _):
        releases = sorted(one.name for one in Path(home, "releases").iterdir() if one.is_dir())
        finished, n_promotions = threading.Event(), 0

        def promote_in_turn() -> None:
            nonlocal n_promotions
            while n_promotions < promotions and not finished.wait(seconds / (promotions + 1)):
                promote(home, releases[n_promotions % len(releases)])
                n_promotions += 1

        promoter = threading.Thread(target=promote_in_turn)
        promoter.start()
        result = load.fixed_rate(port, requests("/v1/recommendations", bodies), rate, seconds, WARM_S)
        finished.set()
        promoter.join()
        quality = {**result.quality(), "promotions": float(n_promotions), "releases seen": float(len(result.releases))}
        return Measurement([quality["p99 ms"] / 1000], {**quality, "server MiB": memory_mib(process)})


def first_days(state: Any) -> list[dict[str, Any]]:
    """Return first days of listeners: country, age, three artists, eight streams, two skips, two favourites."""
    tracks = state.track_texts[:200]
    artists = list(dict.fromkeys(state.ids.outside("artist", track.artist_id) for track in state.tracks))[:200]
    countries, draw = list(state.space.demographics.country) or [None], random.Random(7)
    listeners = []
    for _ in range(N_FIRST_DAYS):
        person = {"country": draw.choice(countries), "age": draw.randrange(14, 70)}
        signals = {name: {"tracks": draw.sample(tracks, n)} for name, n in SIGNALS.items()}
        listeners.append({**person, "onboarding": {"artists": draw.sample(artists, min(3, len(artists)))}, **signals})
    return listeners


def promote(home: str, release: str) -> None:
    """Sign a release and make it the champion of a home."""
    from jobs.release import pointer, signing
    from serving.release.bundle import open_release

    folder = pointer.releases(Path(home))
    key = Path(home) / "keys" / signing.KEY
    signing.create_keys(key)
    signing.sign(key, folder / release)
    with pointer.move_lock(Path(home)):
        current = pointer.read(Path(home))
        pointer.move(Path(home), pointer.revision(current), release, open_release(folder / release, check=False).week)


def prepare_homes(source: Path, target: Path) -> dict[str, str]:
    """Create a home for each space of the champion; return their paths by space.

    The champion of a home recommends in that space; the release of the other space is also in the home.

    Args:
        source: home with a champion.
        target: folder for the new homes.

    Raises:
        SystemExit: `source` has no champion.
    """
    from jobs.platform import files
    from jobs.release.bundle import write_manifest
    from serving.release import manifest, pointer
    from serving.release.bundle import open_release

    now = pointer.read(source)
    if now is None:
        raise SystemExit(f"{source}: this home has no champion; run `make demo` first")
    champion, names = open_release(pointer.releases(source) / now.release), {}
    (target / "bundles").mkdir()
    for space in champion.spaces:
        folder = target / "bundles" / space
        shutil.copytree(champion.folder, folder)
        source_provenance = champion.provenance
        gate = source_provenance["settings"]["gate"]
        gate = {**gate, "space": space, "method": gate["method"] if space == gate["space"] else "semi_pers"}
        content = files.canonical({**source_provenance, "settings": {**source_provenance["settings"], "gate": gate}})
        (folder / "provenance.json").unlink()
        files.write(folder / "provenance.json", content)
        (folder / manifest.NAME).unlink()
        names[space] = write_manifest(folder)
    for space, release in names.items():
        for other, name in names.items():
            shutil.copytree(target / "bundles" / other, target / space / "releases" / name)
        promote(str(target / space), release)
    return {space: str(target / space) for space in names}


def write_model_and_bodies(home: str, space: str, target: Path) -> dict[str, str]:
    """Write the network of a space as an MLflow model, and request bodies of the same listeners for both servers.

    Returns:
        Paths of `ours`, `theirs` (bodies, one per line) and `model`.
    """
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import infer_signature

    from serving.recommend.signals import days_of, read_listener
    from serving.release import pointer
    from serving.release.bundle import open_release
    from serving.release.loaded import LoadedRelease
    from serving.schema import Listener

    now = pointer.read(Path(home))
    assert now is not None
    release = open_release(pointer.releases(Path(home)) / now.release)
    state = LoadedRelease(release, now)
    listeners = first_days(state)
    signals = [read_listener(state, Listener.model_validate(listener)) for listener in listeners]
    x_BF = release.inputs(space, days_of(state, signals))
    vector_BD = release.spaces[space].predict(x_BF)
    network = onnx.load(release.spaces[space].folder / "network.onnx")
    mlflow.onnx.save_model(network, str(target / "model"), signature=infer_signature(np.asarray(x_BF), vector_BD))
    bodies = {
        "ours": [{"listener": listener, "k": 50} for listener in listeners],
        "theirs": [{"inputs": [[float(f"{value:.9g}") for value in row]]} for row in x_BF],
    }
    for name, rows in bodies.items():
        (target / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {name: str(target / f"{name}.jsonl") for name in bodies} | {"model": str(target / "model")}


def main() -> None:
    """Measure start, closed loops, a fixed rate, and a fixed rate during promotions."""
    arguments = harness.parse_arguments("service", __doc__ or "", "a home with a champion (default: OVERTURE_HOME)")
    source = (arguments.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    seconds, runs = (2.0, 1) if arguments.quick else (5.0, 3)
    with tempfile.TemporaryDirectory() as folder:
        spaces = prepare_homes(source, Path(folder))
        first, paths = spaces["tt_svd"], write_model_and_bodies(spaces["tt_svd"], "tt_svd", Path(folder))
        model = paths["model"]
        peers = harness.compare(
            [
                Peer("overture serve", measure_start, {"home": first}, runs),
                Peer(MLFLOW, measure_start_mlflow, {"model": model}, runs),
            ]
        )
        cases = [
            {
                "case": "start",
                "about": "From the command to the first response; the service also verifies the files of the release.",
                "timed": "s to ready",
                "peers": peers,
                "ratios": harness.ratios(peers, "overture serve"),
            }
        ]
        about = (
            f"Each connection sends the next request after the response, {seconds:g} s after {WARM_S:g} s of warm-up."
        )
        for n in CONNECTIONS:
            load_options = {"connections": n, "seconds": seconds}
            peers = harness.compare(
                [
                    *(
                        Peer(space, measure_closed_loop, {"home": home, "bodies": paths["ours"], **load_options}, runs)
                        for space, home in spaces.items()
                    ),
                    Peer(CONSTANT, measure_closed_loop_constant, {"bodies": paths["ours"], **load_options}, runs),
                    Peer(
                        MLFLOW,
                        measure_closed_loop_mlflow,
                        {"model": model, "bodies": paths["theirs"], **load_options},
                        runs,
                    ),
                ]
            )
            cases.append(
                {
                    "case": f"busy connections: {n}",
                    "about": about,
                    "timed": "s a request",
                    "peers": peers,
                    "ratios": harness.ratios(peers, "tt_svd"),
                }
            )
        fixed_rate_options = {"bodies": paths["ours"], "rate": RATE, "seconds": 2.5 * seconds, "promotions": 0}
        alternating, alternating_options = (
            "both in turn, promoted under load",
            {**fixed_rate_options, "promotions": PROMOTIONS},
        )
        fixed_rate_peers = harness.compare(
            [
                *(
                    Peer(space, measure_fixed_rate, {"home": home, **fixed_rate_options}, runs)
                    for space, home in spaces.items()
                ),
                Peer(alternating, measure_fixed_rate, {"home": first, **alternating_options}, runs),
            ]
        )
    about = (
        f"{RATE} requests a second for {2.5 * seconds:g} s; a latency counts from the scheduled time of its request."
    )
    cases.append({"case": "by the clock", "about": about, "timed": "p99, s", "peers": fixed_rate_peers, "ratios": {}})
    ours, theirs = peers["tt_svd"], peers[MLFLOW]
    p99_ms = fixed_rate_peers["tt_svd"]["seconds"]["median"] * 1000
    ready_s = cases[0]["peers"]["overture serve"]["seconds"]["median"]
    speed_ratio = theirs["seconds"]["median"] / ours["seconds"]["median"]
    p99_ratio = theirs["quality"]["p99 ms"] / ours["quality"]["p99 ms"]
    promises = [
        harness.promise(f"one worker: p99 ms at {RATE} requests/s", 3, p99_ms, at_most=True),
        harness.promise("s from start to ready", 1.5, ready_s, at_most=True),
        harness.promise(f"requests/s over MLflow's server, {CONNECTIONS[-1]} connections", 9, speed_ratio),
        harness.promise("p99 of MLflow's server over ours, the same load", 1, p99_ratio),
        harness.promise(
            "failed while releases are promoted", 0, fixed_rate_peers[alternating]["quality"]["failed"], at_most=True
        ),
    ]
    harness.write_result(arguments, cases, promises, (f"p99 ms at {RATE} requests/s", p99_ms))


if __name__ == "__main__":
    main()
