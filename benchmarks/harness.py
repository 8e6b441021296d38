"""How peers are measured: each run in a process of its own, one after the other, peers taking turns.

A peer is a function of a benchmark that does its work and returns `Answer`: seconds it took (one number a repetition of
what is timed) and the quality it reached. Its process tree, Java and Python workers included, is watched for peak
memory. Every script offers `--quick` and `--out FILE`, writes one JSON file and prints its headline figure as the last
line.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "scipy", "numba", "pyspark", "scikit-learn", "implicit", "faiss-cpu", "pyarrow")
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Answer:
    """seconds: of each repetition, in order; quality: numbers by name, the same names for every peer of a case."""

    seconds: list[float]
    quality: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Peer:
    """`run(**arguments)` in a fresh process, `runs` times; `note` says what a reader must know about it."""

    name: str
    run: Callable[..., Answer]
    arguments: dict[str, Any]
    runs: int = 3
    note: str = ""


def options(name: str, about: str, data: str = "", *, required: bool = False) -> argparse.Namespace:
    """`--quick` and `--out` of a benchmark script; and `--data`, when it says what for."""
    parser = argparse.ArgumentParser(prog=f"python benchmarks/{name}.py", description=about)
    parser.add_argument("--quick", action="store_true", help="a smaller size, the same fields; a minute, pairs two")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"where the JSON goes (default: benchmarks/results/{name}.json; with --quick: nowhere)",
    )
    if data:
        parser.add_argument("--data", type=Path, metavar="DIR", required=required, help=data)
    found = parser.parse_args()
    if data and found.data and not found.data.is_dir():
        parser.error(f"--data: no such folder {found.data}")
    found.name = name
    return found


def compare(peers: list[Peer]) -> dict[str, dict[str, Any]]:
    """Run the peers in turns and sum up what each needed: seconds (runs, median, range), peak MiB, quality."""
    answers: dict[str, list[tuple[Answer, float]]] = {peer.name: [] for peer in peers}
    for turn in range(max(peer.runs for peer in peers)):
        for peer in peers:
            if turn < peer.runs:
                say(f"  {peer.name}, run {turn + 1} of {peer.runs} ...")
                answers[peer.name].append(alone(peer))
                last = answers[peer.name][-1]
                said = {name: float(f"{value:.6g}") for name, value in last[0].quality.items()}
                say(f"  {peer.name}: {statistics.median(last[0].seconds):.3f} s, {last[1]:.0f} MiB, {said}")
    return {peer.name: summary(answers[peer.name], peer.note) for peer in peers}


def summary(answers: list[tuple[Answer, float]], note: str) -> dict[str, Any]:
    """One peer's runs as a record; the quality is the last run's (all runs learn from the same seed and data)."""
    # By significant digits: of a fraction of a millisecond four decimals would leave one, and ratios of it nothing.
    seconds = [float(f"{value:.6g}") for answer, _ in answers for value in answer.seconds]
    record = {
        "seconds": {
            "runs": seconds,
            "median": float(f"{statistics.median(seconds):.6g}"),
            "range": [min(seconds), max(seconds)],
        },
        "peak_mib": round(max(peak for _, peak in answers)),
        "quality": {name: float(f"{value:.6g}") for name, value in answers[-1][0].quality.items()},
    }
    return {**record, "note": note} if note else record


def alone(peer: Peer) -> tuple[Answer, float]:
    """One run in a fresh process; also the peak of its whole tree in MiB."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=_child, args=(peer, folder, there))
        child.start()
        there.close()
        with watched(child.pid or 0) as peak:
            try:
                found = here.recv()
            except EOFError:
                found = "the process died"
        child.join()
    if isinstance(found, str):
        raise SystemExit(f"{peer.name} failed: {found}")
    return found, peak()


def _child(peer: Peer, folder: str, answer: Any) -> None:
    os.environ["OVERTURE_HOME"] = folder
    try:
        answer.send(peer.run(**peer.arguments))
    except BaseException:
        answer.send(traceback.format_exc())


@contextmanager
def watched(pid: int) -> Iterator[Callable[[], float]]:
    """Watch a process and all below it; what it gives tells the peak so far in MiB, without pages of mapped files."""
    peaks = [0.0]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            total = 0
            with suppress(psutil.NoSuchProcess):
                for process in (tree := psutil.Process(pid), *tree.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        found = process.memory_info()  # cheap: walking the pages would slow down what is measured
                        total += found.rss - found.shared
            peaks[0] = max(peaks[0], total / 2**20)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: peaks[0]
    finally:
        done.set()
        watcher.join()


def finish(
    chosen: argparse.Namespace, cases: list[dict[str, Any]], promises: list[dict[str, Any]], headline: tuple[str, float]
) -> None:
    """Print the table, write the file, and end with the headline figure alone on a line."""
    data = ["--data", "DIR"] if getattr(chosen, "data", None) else []
    quick = ["--quick"] if chosen.quick else []
    found = {
        "name": chosen.name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *data, *quick]),
        "quick": chosen.quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "cases": cases,
        "promises": promises,
        "headline": {"name": headline[0], "value": round(headline[1], 3)},
    }
    out = chosen.out or (None if chosen.quick else RESULTS / f"{chosen.name}.json")
    from report import section

    print(section(found))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f"{out.name}.part")
        temporary.write_text(json.dumps(found, indent=1) + "\n")
        temporary.replace(out)
        say(f"written: {out}")
    print(f"{headline[1]:.3g}")


def cases_by_group(
    answer: Answer, peak_mib: float, titles: dict[str, str], measure: str, about: str, against: str | None = None
) -> list[dict[str, Any]]:
    """A case a group, a row a variant, of one script that judged them all.

    `answer.quality` holds "group: variant" -> value of `measure`; `titles` names each group's case; with `against`, the
    difference from that variant of the group stands beside each.
    """
    cases = []
    for group, title in titles.items():
        found = {name.partition(": ")[2]: v for name, v in answer.quality.items() if name.startswith(f"{group}: ")}
        peers = {}
        for name, value in found.items():
            quality = {measure: value} | ({"change": value - found[against]} if against else {})
            peers[name] = summary([(Answer(answer.seconds, quality), peak_mib)], "")
        said = f"{about} Seconds and MiB are those of the whole script."
        cases.append({"case": title, "about": said, "peers": peers, "ratios": {}})
    return cases


def promise(what: str, bound: float, found: float, *, at_most: bool = False) -> dict[str, Any]:
    """A row of the promises: kept when found is at least (or at most) the bound."""
    kept = found <= bound if at_most else found >= bound
    return {"what": what, "bound": bound, "at_most": at_most, "found": float(f"{found:.4g}"), "kept": bool(kept)}


def ratios(peers: dict[str, dict[str, Any]], ours: str) -> dict[str, float]:
    """How many times longer each other peer took, by medians."""
    base = peers[ours]["seconds"]["median"]
    return {name: round(peer["seconds"]["median"] / base, 2) for name, peer in peers.items() if name != ours}


def machine() -> dict[str, Any]:
    """What the numbers were taken on."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Of what takes part."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit measured; `+` when files differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "..", ":!results", ":!README.md")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def stopwatch() -> Callable[[], float]:
    """Seconds since it was made."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def say(text: str) -> None:
    """Progress; stdout belongs to the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
