"""Measure peers: each run in a process of its own, one at a time, the peers in turn.

A peer is a function of a benchmark that does its work and returns a `Measurement`: the seconds of each timed repetition
and the quality. The peak memory of its process tree, Java and Python workers included, is sampled. Every script has
the options `--quick` and `--out FILE`, writes one JSON file and prints its headline figure as the last line.
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

import numpy as np
import psutil

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("numpy", "scipy", "numba", "pyspark", "scikit-learn", "implicit", "faiss-cpu", "pyarrow")
SAMPLE_S = 0.1


@dataclass(frozen=True)
class Measurement:
    """Result of one run of a peer.

    Attributes:
        seconds: seconds of each repetition, in order.
        quality: numbers by name; every peer of a case has the same names.
        samples: arrays by name that the script summarises over several runs; they are not stored.
        records: rows that the script stores with its cases.
    """

    seconds: list[float]
    quality: dict[str, float] = field(default_factory=dict)
    samples: dict[str, np.ndarray] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Peer:
    """One competitor of a case: `run(**arguments)`, called `runs` times, each time in a new process.

    Attributes:
        name: name of the peer, its key in the results.
        run: function that does the work.
        arguments: keyword arguments of `run`.
        runs: number of runs.
        note: remark that is printed below the table.
    """

    name: str
    run: Callable[..., Measurement]
    arguments: dict[str, Any]
    runs: int = 3
    note: str = ""


def parse_arguments(
    name: str, about: str, data: str = "", *, required: bool = False, in_parts: bool = False
) -> argparse.Namespace:
    """Return the command line of a benchmark script: `--quick`, `--out`, and `--data` if `data` is its help text.

    Args:
        name: name of the script without suffix; `name` of the returned namespace.
        about: description in the help text.
        data: help text of `--data`; empty if the script has no such option.
        required: whether `--data` is required.
        in_parts: whether the script has `--parts`, for `run_part`.
    """
    parser = argparse.ArgumentParser(prog=f"python benchmarks/{name}.py", description=about)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="measure a smaller size in about a minute (pairs: two minutes); the result has the same fields",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"JSON file to write (default: benchmarks/results/{name}.json; with --quick: no file)",
    )
    if data:
        parser.add_argument("--data", type=Path, metavar="DIR", required=required, help=data)
    if in_parts:
        parser.add_argument(
            "--parts",
            type=Path,
            metavar="DIR",
            help="folder for the results of complete parts: a run that was ended continues there, at the same commit",
        )
    arguments = parser.parse_args()
    if data and arguments.data and not arguments.data.is_dir():
        parser.error(f"--data: there is no folder {arguments.data}")
    arguments.name = name
    return arguments


def compare(peers: list[Peer]) -> dict[str, dict[str, Any]]:
    """Return the summary of each peer by name, after its runs: seconds (runs, median, range), peak MiB, quality."""
    measurements: dict[str, list[tuple[Measurement, float]]] = {peer.name: [] for peer in peers}
    for turn in range(max(peer.runs for peer in peers)):
        for peer in peers:
            if turn < peer.runs:
                log(f"  {peer.name}, run {turn + 1} of {peer.runs} ...")
                measurements[peer.name].append(run_in_process(peer))
                measurement, peak_mib = measurements[peer.name][-1]
                rounded = {name: float(f"{value:.6g}") for name, value in measurement.quality.items()}
                log(f"  {peer.name}: {statistics.median(measurement.seconds):.3f} s, {peak_mib:.0f} MiB, {rounded}")
    return {peer.name: summary(measurements[peer.name], peer.note) for peer in peers}


def summary(measurements: list[tuple[Measurement, float]], note: str) -> dict[str, Any]:
    """Return the runs of one peer as a record.

    Args:
        measurements: measurement and peak memory in MiB of each run. The quality is that of the last run; all runs use
            the same seed and data.
        note: remark of the peer; absent from the record if empty.
    """
    # Six significant digits: four decimals would leave one digit of a fraction of a millisecond.
    seconds = [float(f"{value:.6g}") for measurement, _ in measurements for value in measurement.seconds]
    record = {
        "seconds": {
            "runs": seconds,
            "median": float(f"{statistics.median(seconds):.6g}"),
            "range": [min(seconds), max(seconds)],
        },
        "peak_mib": round(max(peak for _, peak in measurements)),
        "quality": {name: float(f"{value:.6g}") for name, value in measurements[-1][0].quality.items()},
    }
    return {**record, "note": note} if note else record


def run_in_process(peer: Peer) -> tuple[Measurement, float]:
    """Return the measurement of one run in a new process, and the peak memory of its process tree in MiB.

    Raises:
        SystemExit: the run raised an exception or its process died.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder:
        child = context.Process(target=_child, args=(peer, folder, sender))
        child.start()
        sender.close()
        with peak_memory(child.pid or 0) as peak:
            try:
                outcome = receiver.recv()
            except EOFError:
                outcome = "the process died"
        child.join()
    if isinstance(outcome, str):
        raise SystemExit(f"{peer.name} failed: {outcome}")
    return outcome, peak()


def run_part(folder: Path | None, peer: Peer) -> tuple[Measurement, float]:
    """Return the result of `run_in_process`; read it if an earlier run of this commit wrote it.

    Args:
        folder: folder of the results; None: they are neither read nor written.
        peer: its name names the file.

    Raises:
        SystemExit: as `run_in_process`; or files differ from the commit, so that a result cannot be assigned to it.
    """
    if folder is None:
        return run_in_process(peer)
    if commit().endswith("+"):
        raise SystemExit("--parts: commit the changed files first; the parts of a result must be of one commit")
    file = folder / f"{commit()} {peer.name}.npz"
    if file.exists():
        log(f"  {peer.name}: read from {file}")
        with np.load(file) as stored:
            facts = json.loads(str(stored["facts"]))
            samples = {name: stored[f"samples/{name}"] for name in facts["samples"]}
        return Measurement(facts["seconds"], facts["quality"], samples, facts["records"]), facts["peak_mib"]
    measurement, peak_mib = run_in_process(peer)
    facts = {
        "seconds": measurement.seconds,
        "quality": {name: float(value) for name, value in measurement.quality.items()},
        "records": measurement.records,
        "samples": list(measurement.samples),
        "peak_mib": peak_mib,
    }
    arrays: dict[str, Any] = {f"samples/{name}": array for name, array in measurement.samples.items()}
    folder.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".part.npz")
    np.savez(temporary, **arrays, facts=json.dumps(facts))
    temporary.replace(file)
    return measurement, peak_mib


def _child(peer: Peer, folder: str, connection: Any) -> None:
    os.environ["OVERTURE_HOME"] = folder
    try:
        connection.send(peer.run(**peer.arguments))
    except BaseException:
        connection.send(traceback.format_exc())


@contextmanager
def peak_memory(pid: int) -> Iterator[Callable[[], float]]:
    """Sample the memory of a process and its descendants during the `with` block.

    Yields:
        A function that returns the peak so far in MiB, without pages of mapped files.
    """
    peak_mib = [0.0]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            total = 0
            with suppress(psutil.NoSuchProcess):
                for process in (tree := psutil.Process(pid), *tree.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        memory = process.memory_info()  # cheap; reading each page would slow down the peer
                        total += memory.rss - memory.shared
            peak_mib[0] = max(peak_mib[0], total / 2**20)

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        yield lambda: peak_mib[0]
    finally:
        done.set()
        sampler.join()


def write_result(
    arguments: argparse.Namespace,
    cases: list[dict[str, Any]],
    promises: list[dict[str, Any]],
    headline: tuple[str, float],
) -> None:
    """Print the tables, write the JSON file, and print the headline figure alone on the last line.

    Args:
        arguments: the namespace of `parse_arguments`.
        cases: records of the cases, as described in benchmarks/README.md.
        promises: records of `promise`.
        headline: name and value of the headline figure.
    """
    data = ["--data", "DIR"] if getattr(arguments, "data", None) else []
    quick = ["--quick"] if arguments.quick else []
    result = {
        "name": arguments.name,
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *data, *quick]),
        "quick": arguments.quick,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "cases": cases,
        "promises": promises,
        "headline": {"name": headline[0], "value": round(headline[1], 3)},
    }
    out = arguments.out or (None if arguments.quick else RESULTS / f"{arguments.name}.json")
    from report import section

    print(section(result))
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f"{out.name}.part")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        temporary.replace(out)
        log(f"wrote {out}")
    print(f"{headline[1]:.3g}")


def summaries(
    rows: dict[str, dict[str, float]], measurement: Measurement, peak_mib: float
) -> dict[str, dict[str, Any]]:
    """Return the record of each row of one run: its numbers by name, with seconds and peak memory of the run."""
    return {name: summary([(Measurement(measurement.seconds, row), peak_mib)], "") for name, row in rows.items()}


def cases_by_group(
    measurement: Measurement,
    peak_mib: float,
    titles: dict[str, str],
    measure: str,
    about: str,
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Return one case per group, with one row per variant, for a script that evaluates all variants in one run.

    Args:
        measurement: its `quality` maps "group: variant" to the value of `measure`.
        peak_mib: peak memory of the run.
        titles: name of the case of each group.
        measure: name of the value.
        about: first sentences of the description of each case.
        against: variant to which each row is compared; adds the column `change`. None: no comparison.
    """
    cases = []
    for group, title in titles.items():
        values = {
            name.partition(": ")[2]: v for name, v in measurement.quality.items() if name.startswith(f"{group}: ")
        }
        peers = {}
        for name, value in values.items():
            quality = {measure: value} | ({"change": value - values[against]} if against else {})
            peers[name] = summary([(Measurement(measurement.seconds, quality), peak_mib)], "")
        text = f"{about} Seconds and MiB are those of the whole script."
        cases.append({"case": title, "about": text, "peers": peers, "ratios": {}})
    return cases


def promise(what: str, bound: float, value: float, *, at_most: bool = False) -> dict[str, Any]:
    """Return the record of one target.

    Args:
        what: name of the measured value.
        bound: the target.
        value: the measured value.
        at_most: whether the target is an upper bound; otherwise it is a lower bound.
    """
    kept = value <= bound if at_most else value >= bound
    return {"what": what, "bound": bound, "at_most": at_most, "found": float(f"{value:.4g}"), "kept": bool(kept)}


def ratios(peers: dict[str, dict[str, Any]], reference: str) -> dict[str, float]:
    """Return the median seconds of every other peer divided by those of the peer `reference`, by name."""
    reference_s = peers[reference]["seconds"]["median"]
    return {
        name: round(peer["seconds"]["median"] / reference_s, 2) for name, peer in peers.items() if name != reference
    }


def machine() -> dict[str, Any]:
    """Return processor, cores, memory and system of this machine."""
    model = platform.processor() or platform.machine()
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in cpu.read_text().splitlines() if line.startswith("model name")
        ]
        model = models[0] if models else model
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages of PACKAGES."""
    versions_by_name = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions_by_name[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions_by_name


def commit() -> str:
    """Return the short hash of the commit; `+` is appended if files outside results/ differ from it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "..", ":!results", ":!README.md")
    return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")


def stopwatch() -> Callable[[], float]:
    """Return a function that returns the seconds since this call."""
    start = time.perf_counter()
    return lambda: time.perf_counter() - start


def log(text: str) -> None:
    """Write one progress line to stderr; stdout is reserved for the result."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
