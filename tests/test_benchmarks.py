"""Test the benchmarks: contents of results, help of every script, and errors of failing peers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
sys.path.append(str(BENCHMARKS))

import cluster  # noqa: E402
import harness  # noqa: E402
import report  # noqa: E402


@pytest.mark.parametrize("file", RESULTS, ids=lambda file: file.stem)
def test_a_result_contains_its_provenance(file):
    result = json.loads(file.read_text())
    assert result["name"] == file.stem
    assert not result["quick"]
    assert not result["commit"].endswith("+"), "measured with changes that were not committed"
    assert {"command", "date", "machine", "versions", "headline"} <= result.keys()
    for case in result["cases"]:
        for peer in case["peers"].values():
            seconds = peer["seconds"]
            assert min(seconds["runs"]) <= seconds["median"] <= max(seconds["runs"])
            assert seconds["range"] == [min(seconds["runs"]), max(seconds["runs"])]
            assert peer["peak_mib"] > 0
            assert peer["quality"]


@pytest.mark.parametrize("name", report.ORDER)
def test_every_script_has_a_help_text(name):
    process = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--quick" in process.stdout
    assert "--out FILE" in process.stdout


def fast_peer(seconds):
    return harness.Measurement(seconds, {"error": 0.5})


def broken():
    raise ValueError("no such thing")


def test_peers_alternate_and_their_runs_are_summarised():
    peers = harness.compare(
        [harness.Peer("a", fast_peer, {"seconds": [3.0, 1.0]}, 2), harness.Peer("b", fast_peer, {"seconds": [4.0]}, 1)]
    )
    assert peers["a"]["seconds"] == {"runs": [3.0, 1.0, 3.0, 1.0], "median": 2.0, "range": [1.0, 3.0]}
    assert peers["a"]["quality"] == {"error": 0.5}
    assert harness.ratios(peers, "a") == {"b": 2.0}


def test_short_times_are_not_rounded_to_zero():
    summary = harness.summary([(harness.Measurement([0.000214, 0.00149], {}), 1.0)], "")
    assert summary["seconds"] == {"runs": [0.000214, 0.00149], "median": 0.000852, "range": [0.000214, 0.00149]}


def test_a_peer_that_fails_ends_the_benchmark_with_its_reason():
    with pytest.raises(SystemExit, match=r"(?s)b failed: .*ValueError: no such thing"):
        harness.compare([harness.Peer("b", broken, {})])


@pytest.mark.parametrize(
    ("measured", "at_most", "expected"), [(19.9, False, False), (20, False, True), (20.1, True, False)]
)
def test_a_promise_compares_the_measured_value_with_its_limit(measured, at_most, expected):
    assert harness.promise("speed", 20, measured, at_most=at_most)["kept"] is expected


def test_ended_executors_are_excluded():
    code = "import time; time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("CoarseGrainedExecutorBackend", "x")]
    ended, alive = children[0], [child.pid for child in children]
    own_process = psutil.Process()
    try:
        until = time.monotonic() + 30
        while not (executors := cluster.executors(own_process)) and time.monotonic() < until:
            time.sleep(0.05)  # until the child has its own command line
        assert [process.pid for process in executors if process.pid in alive] == [ended.pid]
        ended.kill()
        while psutil.Process(ended.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
        assert not [process for process in cluster.executors(own_process) if process.pid in alive]
    finally:
        for child in children:
            child.kill()
            child.wait()
