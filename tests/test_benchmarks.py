"""The measurements: the page is made from the results, every script teaches, a failing peer fails the benchmark."""

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
def test_a_result_tells_how_it_came_about(file):
    found = json.loads(file.read_text())
    assert found["name"] == file.stem
    assert not found["quick"]
    assert not found["commit"].endswith("+"), "measured with changes that were not committed"
    assert {"command", "date", "machine", "versions", "headline"} <= found.keys()
    for case in found["cases"]:
        for peer in case["peers"].values():
            seconds = peer["seconds"]
            assert min(seconds["runs"]) <= seconds["median"] <= max(seconds["runs"])
            assert seconds["range"] == [min(seconds["runs"]), max(seconds["runs"])]
            assert peer["peak_mib"] > 0
            assert peer["quality"]


@pytest.mark.parametrize("name", report.ORDER)
def test_every_script_teaches(name):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert "--quick" in done.stdout
    assert "--out FILE" in done.stdout


def quick_answer(seconds):
    return harness.Measurement(seconds, {"error": 0.5})


def broken():
    raise ValueError("no such thing")


def test_peers_take_turns_and_their_runs_are_summed_up():
    peers = harness.compare(
        [
            harness.Peer("a", quick_answer, {"seconds": [3.0, 1.0]}, 2),
            harness.Peer("b", quick_answer, {"seconds": [4.0]}, 1),
        ]
    )
    assert peers["a"]["seconds"] == {"runs": [3.0, 1.0, 3.0, 1.0], "median": 2.0, "range": [1.0, 3.0]}
    assert peers["a"]["quality"] == {"error": 0.5}
    assert harness.ratios(peers, "a") == {"b": 2.0}


def test_short_times_keep_their_digits():
    told = harness.summary([(harness.Measurement([0.000214, 0.00149], {}), 1.0)], "")
    assert told["seconds"] == {"runs": [0.000214, 0.00149], "median": 0.000852, "range": [0.000214, 0.00149]}


def test_a_peer_that_fails_ends_the_benchmark_with_its_reason():
    with pytest.raises(SystemExit, match=r"(?s)b failed: .*ValueError: no such thing"):
        harness.compare([harness.Peer("b", broken, {})])


@pytest.mark.parametrize(("found", "at_most", "kept"), [(19.9, False, False), (20, False, True), (20.1, True, False)])
def test_a_promise_is_kept_or_missed(found, at_most, kept):
    assert harness.promise("speed", 20, found, at_most=at_most)["kept"] is kept


def test_an_executor_that_has_ended_is_none():
    code = "import time; time.sleep(60)"
    children = [subprocess.Popen([sys.executable, "-c", code, name]) for name in ("CoarseGrainedExecutorBackend", "x")]
    gone, alive = children[0], [child.pid for child in children]
    me = psutil.Process()
    try:
        until = time.monotonic() + 30
        while not (found := cluster.executors(me)) and time.monotonic() < until:
            time.sleep(0.05)  # until the child has its own command line
        assert [process.pid for process in found if process.pid in alive] == [gone.pid]
        gone.kill()
        while psutil.Process(gone.pid).status() != psutil.STATUS_ZOMBIE:
            time.sleep(0.05)
        assert not [process for process in cluster.executors(me) if process.pid in alive]
    finally:
        for child in children:
            child.kill()
            child.wait()
