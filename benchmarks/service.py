"""The service under load, one worker, each request another first day; beside it the network behind MLflow's own server.

The service is sent what an application knows (ids, country, age) and answers 50 tracks with a reason. MLflow's server
(`mlflow models serve`) is sent the finished input vector and answers the listener's vector: less work, the same
network. Needs a home with a champion (`make demo` makes one). The sender (load.py) is a process of its own.
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
from harness import Answer, Peer

KINDS = 500  # different first days, asked in turn
WARM_S = 2.0  # of each load, before the clock
RATE, CONNECTIONS, PROMOTIONS = 500, (1, 8, 32), 8
SIGNALS = {"streams": 8, "skips": 2, "favourites": 2}
MLFLOW = "MLflow's server, vector only"


@contextmanager
def running(command: list[str], home: str, health: str) -> Iterator[tuple[psutil.Process, int, float]]:
    """A server: its process, its port, and seconds from the command to its first good answer at `health`."""
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
                    got(port, health)
                    break
                except urllib.error.HTTPError as error:
                    raise RuntimeError(f"{health} of {command[-1]}: {error.read().decode()}") from None
                except OSError:
                    if process.poll() is not None:
                        log.seek(0)
                        said = log.read().decode()[-2000:]
                        raise RuntimeError(f"{command} ended with {process.returncode}: {said}") from None
                    time.sleep(0.005)
            yield psutil.Process(process.pid), port, clock()
        finally:
            family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
            process.terminate()
            process.wait()
            for child in psutil.wait_procs(family, timeout=20)[1]:
                child.kill()


def service(home: str) -> Any:
    """`overture serve`, one worker."""
    return running([sys.executable, "-m", "jobs.cli", "serve"], home, "/readyz")


def mlflow(model: str) -> Any:
    """MLflow's model server, one worker."""
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local", "--model-uri", model]
    return running(command, model, "/ping")


def got(port: int, path: str) -> Any:
    """An answer as JSON, null where there is none."""
    with urllib.request.urlopen(f"http://{load.HOST}:{port}{path}", timeout=30) as answer:
        return json.loads(answer.read().strip() or b"null")


def start(home: str) -> Answer:
    """From the command to the first answer."""
    with service(home) as (_, port, ready_s):
        held = got(port, "/v1/release")
        return Answer([ready_s], {"tracks": float(held["spaces"][held["space"]]["tracks"])})


def start_mlflow(model: str) -> Answer:
    """Likewise."""
    with mlflow(model) as (_, _, ready_s):
        return Answer([ready_s], {"tracks": 0.0})


def held_mib(process: psutil.Process) -> float:
    """Memory of a server and its workers that no other process shares."""
    return sum(one.memory_full_info().uss for one in (process, *process.children(recursive=True))) / 2**20


def closed(home: str, bodies: str, connections: int, seconds: float) -> Answer:
    """Seconds a request with so many connections busy."""
    with service(home) as (process, port, _):
        return busy(process, port, requests("/v1/recommendations", bodies), connections, seconds)


def closed_mlflow(model: str, bodies: str, connections: int, seconds: float) -> Answer:
    """Likewise."""
    with mlflow(model) as (process, port, _):
        return busy(process, port, requests("/invocations", bodies), connections, seconds)


def busy(process: psutil.Process, port: int, asked: list[bytes], connections: int, seconds: float) -> Answer:
    """Seconds a request with so many connections busy.

    Raises:
        RuntimeError: a request failed: a refusal may well be faster than an answer.
    """
    sent = load.closed(port, asked, connections, seconds, WARM_S)
    if sent.failed:
        raise RuntimeError(f"{sent.failed} requests failed")
    return Answer([seconds / len(sent.taken_s)], {**sent.quality(), "server MiB": held_mib(process)})


def requests(path: str, bodies: str) -> list[bytes]:
    """What goes over the wire, from a file with a body a line."""
    return [load.post(path, body) for body in Path(bodies).read_bytes().splitlines()]


def by_the_clock(home: str, bodies: str, rate: int, seconds: float, promotions: int) -> Answer:
    """The 99th percentile at `rate` requests a second, while the champion changes `promotions` times."""
    with service(home) as (process, port, _):
        releases = sorted(one.name for one in Path(home, "releases").iterdir() if one.is_dir())
        done, moved = threading.Event(), 0

        def promote() -> None:
            nonlocal moved
            while moved < promotions and not done.wait(seconds / (promotions + 1)):
                point(home, releases[moved % len(releases)])
                moved += 1

        mover = threading.Thread(target=promote)
        mover.start()
        sent = load.by_the_clock(port, requests("/v1/recommendations", bodies), rate, seconds, WARM_S)
        done.set()
        mover.join()
        quality = {**sent.quality(), "promotions": float(moved), "releases seen": float(len(sent.releases))}
        return Answer([quality["p99 ms"] / 1000], {**quality, "server MiB": held_mib(process)})


def first_days(ready: Any) -> list[dict[str, Any]]:
    """First days of listeners: country, age, three artists, eight streams, two skips, two favourites."""
    tracks = [track.track_id for track in ready.tracks[:200]]
    artists = list(dict.fromkeys(track.artist_id for track in ready.tracks))[:200]
    countries, draw = list(ready.space.demographics.country) or [None], random.Random(7)
    made = []
    for _ in range(KINDS):
        who = {"country": draw.choice(countries), "age": draw.randrange(14, 70)}
        chosen = {name: {"tracks": draw.sample(tracks, n)} for name, n in SIGNALS.items()}
        made.append({**who, "onboarding": {"artists": draw.sample(artists, min(3, len(artists)))}, **chosen})
    return made


def point(home: str, release: str) -> None:
    """Make a release the champion."""
    from jobs.release import pointer
    from serving.release.bundle import open_release

    folder = pointer.releases(Path(home))
    with pointer.move_lock(Path(home)):
        now = pointer.read(Path(home))
        pointer.move(Path(home), pointer.revision(now), release, open_release(folder / release, check=False).week)


def homes(source: Path, at: Path) -> dict[str, str]:
    """A home for each space of the champion: it answers from that space, and the other's release lies beside it."""
    from jobs.platform import files
    from jobs.release.bundle import write_manifest
    from serving.release import manifest, pointer
    from serving.release.bundle import open_release

    now = pointer.read(source)
    if now is None:
        raise SystemExit(f"{source}: no release has been promoted there; run `make demo` first")
    champion, names = open_release(pointer.releases(source) / now.release), {}
    (at / "bundles").mkdir()
    for space in champion.spaces:
        folder = at / "bundles" / space
        shutil.copytree(champion.folder, folder)
        said = champion.provenance
        gate = said["settings"]["gate"]
        gate = {**gate, "space": space, "method": gate["method"] if space == gate["space"] else "semi_pers"}
        content = files.canonical({**said, "settings": {**said["settings"], "gate": gate}})
        (folder / "provenance.json").unlink()
        files.write(folder / "provenance.json", content)
        (folder / manifest.NAME).unlink()
        names[space] = write_manifest(folder)
    for space, release in names.items():
        for other, name in names.items():
            shutil.copytree(at / "bundles" / other, at / space / "releases" / name)
        point(str(at / space), release)
    return {space: str(at / space) for space in names}


def save(home: str, space: str, at: Path) -> dict[str, str]:
    """The network of a space as a model of MLflow, and bodies of requests about the same listeners for both servers."""
    import mlflow.onnx
    import numpy as np
    import onnx
    from mlflow.models import infer_signature

    from serving.recommend.signals import days_of
    from serving.release import pointer
    from serving.release.bundle import open_release
    from serving.release.loaded import LoadedRelease
    from serving.schema import Listener

    now = pointer.read(Path(home))
    assert now is not None
    release = open_release(pointer.releases(Path(home)) / now.release)
    ready = LoadedRelease(release, now)
    people = first_days(ready)
    x_BF = release.inputs(space, days_of(ready, [Listener.model_validate(who) for who in people]))
    vector_BD = release.spaces[space].predict(x_BF)
    network = onnx.load(release.spaces[space].folder / "network.onnx")
    mlflow.onnx.save_model(network, str(at / "model"), signature=infer_signature(np.asarray(x_BF), vector_BD))
    bodies = {
        "ours": [{"listener": who, "k": 50} for who in people],
        "theirs": [{"inputs": [[float(f"{value:.9g}") for value in row]]} for row in x_BF],
    }
    for name, found in bodies.items():
        (at / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)))
    return {name: str(at / f"{name}.jsonl") for name in bodies} | {"model": str(at / "model")}


def main() -> None:
    """Start; connections that are always busy; requests by the clock; promotions meanwhile."""
    chosen = harness.options("service", __doc__ or "", "a home with a champion (default: OVERTURE_HOME)")
    source = (chosen.data or Path(os.environ.get("OVERTURE_HOME", ".overture"))).absolute()
    seconds, runs = (2.0, 1) if chosen.quick else (5.0, 3)
    with tempfile.TemporaryDirectory() as folder:
        spaces = homes(source, Path(folder))
        first, saved = spaces["tt_svd"], save(spaces["tt_svd"], "tt_svd", Path(folder))
        model = saved["model"]
        peers = harness.compare(
            [Peer("overture serve", start, {"home": first}, runs), Peer(MLFLOW, start_mlflow, {"model": model}, runs)]
        )
        cases = [
            {
                "case": "start",
                "about": "From the command to the first answer; ours has verified the release's files.",
                "timed": "s to ready",
                "peers": peers,
                "ratios": harness.ratios(peers, "overture serve"),
            }
        ]
        about = f"Each asks again when it has its answer, {seconds:g} s after {WARM_S:g} s of warming up."
        for n in CONNECTIONS:
            busy = {"connections": n, "seconds": seconds}
            peers = harness.compare(
                [
                    *(
                        Peer(space, closed, {"home": home, "bodies": saved["ours"], **busy}, runs)
                        for space, home in spaces.items()
                    ),
                    Peer(MLFLOW, closed_mlflow, {"model": model, "bodies": saved["theirs"], **busy}, runs),
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
        clock = {"bodies": saved["ours"], "rate": RATE, "seconds": 2.5 * seconds, "promotions": 0}
        both, moving = "both in turn, promoted under load", {**clock, "promotions": PROMOTIONS}
        loads = harness.compare(
            [
                *(Peer(space, by_the_clock, {"home": home, **clock}, runs) for space, home in spaces.items()),
                Peer(both, by_the_clock, {"home": first, **moving}, runs),
            ]
        )
    about = f"{RATE} requests a second for {2.5 * seconds:g} s; a time counts from when its request was due."
    cases.append({"case": "by the clock", "about": about, "timed": "p99, s", "peers": loads, "ratios": {}})
    ours, theirs = peers["tt_svd"], peers[MLFLOW]
    p99_ms = loads["tt_svd"]["seconds"]["median"] * 1000
    ready_s = cases[0]["peers"]["overture serve"]["seconds"]["median"]
    times = theirs["seconds"]["median"] / ours["seconds"]["median"]
    later = theirs["quality"]["p99 ms"] / ours["quality"]["p99 ms"]
    promises = [
        harness.promise(f"one worker: p99 ms at {RATE} requests/s", 5, p99_ms, at_most=True),
        harness.promise("s from start to ready", 2, ready_s, at_most=True),
        harness.promise(f"requests/s over MLflow's server, {CONNECTIONS[-1]} connections", 10, times),
        harness.promise("p99 of MLflow's server over ours, the same load", 1, later),
        harness.promise("failed while releases are promoted", 0, loads[both]["quality"]["failed"], at_most=True),
    ]
    harness.finish(chosen, cases, promises, (f"p99 ms at {RATE} requests/s", p99_ms))


if __name__ == "__main__":
    main()
