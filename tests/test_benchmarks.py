"""Test the benchmarks: contents of results, help of every script, and errors of failing peers."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*.json"))
sys.path.append(str(BENCHMARKS))

import cluster  # noqa: E402
import harness  # noqa: E402
import playlists  # noqa: E402
import report  # noqa: E402
import slices  # noqa: E402


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


def counted(file):
    calls = Path(file)
    calls.write_text(calls.read_text() + "x" if calls.exists() else "x")
    quality, samples = {"error": np.float32(0.5)}, {"space/method": np.arange(3.0), "user_id": np.array([7, 9])}
    return harness.Measurement([1.5], quality, samples, [{"trial": 1}])


def test_a_complete_part_is_read_and_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: "abc1234")
    peer = harness.Peer("seed 7", counted, {"file": str(tmp_path / "calls")})
    first, peak = harness.run_part(tmp_path / "parts", peer)
    again, same_peak = harness.run_part(tmp_path / "parts", peer)
    assert (tmp_path / "calls").read_text() == "x"
    assert (again.seconds, again.quality, again.records, same_peak) == ([1.5], {"error": 0.5}, [{"trial": 1}], peak)
    assert list(again.samples) == list(first.samples)
    np.testing.assert_array_equal(again.samples["space/method"], first.samples["space/method"])
    monkeypatch.setattr(harness, "commit", lambda: "def5678")
    harness.run_part(tmp_path / "parts", peer)
    assert (tmp_path / "calls").read_text() == "xx", "another commit"
    monkeypatch.setattr(harness, "commit", lambda: "def5678+")
    with pytest.raises(SystemExit, match="commit the changed files"):
        harness.run_part(tmp_path / "parts", peer)


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


def week(ids, peer, ours):
    """Return the measurement of one seed: NDCG of two methods for listeners."""
    samples = {"user_id": np.array(ids), "tt_svd/item_knn": np.array(peer), "tt_svd/blend": np.array(ours)}
    quality = {f"{key}/test/ndcg": float(samples[key].mean()) for key in samples if key != "user_id"}
    return harness.Measurement([1.0], quality, samples)


def test_intervals_over_seeds_and_over_listeners_are_apart():
    rng = np.random.default_rng(0)
    taste = rng.random(200)  # listeners differ much, seeds and methods little
    weeks = []
    for shift in (0.0, 0.002):
        order = rng.permutation(200)  # rows are joined by id
        weeks.append(week(order, taste[order] + shift, taste[order] + shift + 0.01 + 0.1 * rng.random(200)))
    rows = {row["method"]: row for row in playlists.summary_rows(weeks)}
    mean, seeds = rows["blend"]["test ndcg"]
    low, high = rows["blend"]["test ndcg, listeners"]
    minus, from_, to = rows["blend"]["test ndcg minus item_knn"]
    means = [100 * one.quality["tt_svd/blend/test/ndcg"] for one in weeks]
    assert seeds == pytest.approx(12.706 * abs(means[1] - means[0]) / 2, abs=0.01)  # t of one degree of freedom
    assert low < mean < high
    assert high - low == pytest.approx(2 * 1.96 * 100 * taste.std() / 200**0.5, rel=0.1)
    assert 5.5 < from_ < minus < to < 6.5  # paired: far narrower than the interval of the mean
    assert rows["item_knn"]["test ndcg minus item_knn"] == [0.0, 0.0, 0.0]
    assert rows["blend"]["listeners"] == 200


def test_listeners_of_every_seed_are_averaged_by_id():
    values = playlists.listener_values([week([3, 1, 2], [0.3, 0.1, 0.2], [0, 0, 0]), week([1, 3], [0.5, 0.7], [0, 0])])
    np.testing.assert_allclose(values["tt_svd", "item_knn"], [0.3, 0.5])


def test_slices_name_where_a_method_is_worse_than_popularity():
    rng = np.random.default_rng(0)
    popularity = rng.random(200)
    in_france = np.arange(200) < 60
    samples = {
        "tt_svd/popularity": popularity,
        "tt_svd/semi_pers": popularity + np.where(in_france, -0.2, 0.2),
        "tt_svd/simulator": popularity + 0.4,
        "tt_svd/slice/country=FR": in_france,
        "tt_svd/slice/age=50+": np.arange(200) < 10,
    } | {
        f"tt_svd/{name}/{slices.REMOVED}": popularity + gain
        for name, gain in (("popularity", 0), ("semi_pers", 0.3), ("simulator", 0.4))
    }
    one = slices.case("demo", "tt_svd", ("semi_pers",), harness.Measurement([1.0], {}, samples), 1.0)
    assert one["worse"] == {"semi_pers": ["country=FR"], "simulator": []}
    assert list(one["peers"]) == ["country=FR", slices.REMOVED], "age=50+ has too few listeners"
    worse, gain = slices.targets({("demo", "tt_svd"): one})
    assert (worse["found"], worse["kept"]) == (1, False)
    assert (gain["found"], gain["kept"]) == (0.75, False)
