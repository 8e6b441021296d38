"""Changes of release during requests: no request fails, no response mixes releases, damaged releases are not loaded."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref

import numpy as np

from jobs.platform import files
from jobs.release import pointer
from models.cold_start.input_vector import FirstDays
from models.cold_start.top_k import normalise
from serving.release.watcher import ChampionWatcher, ReleaseWatcher
from tests.helpers import release_keys, small_week
from tests.helpers.live import ROOT, Process, cohort_requests, texts


def expected_tracks(release_home, release: str, n: int) -> list[list[str]]:
    """Tracks that a release recommends to the first n listeners of the cohort."""
    opened, days = release_home.open(release), FirstDays.from_arrow(small_week.cohort()[0]).rows(0, n)
    method = opened.spaces["tt_svd"].method("semi_pers")
    lists = opened.track_ids[method.recommend(opened.inputs("tt_svd", days), 20, days)]
    return [texts(ids) for ids in lists]


def with_replaced_files(release_home, release: str, **contents: bytes | None) -> str:
    """Name of a copy of a release with replaced files and a matching manifest."""
    names = {"network": "tt_svd/network.onnx", "contracts": "contracts.json"}
    return small_week.with_changed_files(
        release_home.folder(release), {names[key]: content for key, content in contents.items()}
    ).name


def test_service_returns_503_until_a_release_is_promoted(release_home, serve):
    live = serve(release_home.home)
    for path, body in (("/v1/recommendations", {"listener": {}}), ("/v1/release", None), ("/v1/tracks/1", None)):
        status, _, response = live.call(path, body)
        assert (status, "no release has been promoted" in response["detail"]) == (503, True)
    metrics = live.call("/metrics")[2]
    for route in ("/v1/recommendations", "/v1/release", "/v1/{kind}/{entity_id}"):
        assert f'overture_requests_total{{route="{route}",status="503"}} 1.0' in metrics
    status, _, response = live.call("/readyz")
    assert (status, response["ready"]) == (503, False)
    assert "overture release promote" in response["problem"]
    assert live.call("/healthz")[0] == 200
    assert live.call("/")[0] == 200
    release_home.promote(release_home.first)
    live.wait(release_home.first)
    status, _, response = live.call("/readyz")
    assert (status, response["ready"], response["engines"], response["skip"]["ready"]) == (
        200,
        True,
        ["cold_start"],
        False,
    )
    assert "promote --engine skip" in response["skip"]["problem"]
    assert live.lists()["release"] == release_home.first


def test_replaced_release_is_freed(release_home):
    """Only the recommender keeps the previous release in memory, to serve known listeners from it."""

    class Opened:
        def __init__(self, folder, now):
            self.name, self.week, self.pointer, self.problems = folder.name, now.week, now, {}

    follower, champion = (
        ReleaseWatcher(release_keys.folders(release_home.home), Opened, 1.0, lambda *_, **__: None, "promote"),
        ChampionWatcher(release_keys.folders(release_home.home), poll_s=1.0),
    )
    references = []
    for release in (release_home.first, release_home.second, release_home.first):
        release_home.promote(release)
        references.append([weakref.ref(holder.current) for holder in (follower, champion) if holder.current])
        follower.refresh()
        champion.refresh()
    gc.collect()
    assert [[reference() is None for reference in group] for group in references] == [[], [True, True], [True, False]]
    assert champion.current.previous.name == release_home.second


def test_two_processes_follow_promotions_and_rollbacks_during_requests(release_home):
    """Every response equals the list of one release, no request fails, and both processes reach each release."""
    release_home.promote(release_home.first)
    requests = cohort_requests()[:24]
    expected = {
        release: expected_tracks(release_home, release, 24) for release in (release_home.first, release_home.second)
    }
    assert sum(a != b for a, b in zip(*expected.values(), strict=True)) > 12, (
        "the two releases must return different lists"
    )
    services = [Process(release_home.home), Process(release_home.home)]
    done, mismatches, seen = threading.Event(), [], set()

    def send_requests(service: Process) -> None:
        while not done.is_set():
            for i, request in enumerate(requests):
                status, headers, response = service.call("/v1/recommendations", {"listener": request, "k": 20})
                name = headers["x-overture-release"]
                tracks = [track["track_id"] for track in response.get("tracks", [])]
                if status != 200 or response["release"] != name or tracks != expected[name][i]:
                    mismatches.append((status, name, response))
                seen.add((service.port, name))
            status, headers, response = service.call("/v1/recommendations/batch", {"listeners": requests, "k": 20})
            name = headers["x-overture-release"]
            tracks = [[track["track_id"] for track in answer["tracks"]] for answer in response.get("answers", [])]
            if (
                status != 200
                or {answer["release"] for answer in response["answers"]} != {name}
                or tracks != expected[name]
            ):
                mismatches.append((status, name, response))

    threads = [threading.Thread(target=send_requests, args=(service,)) for service in services for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for release in (release_home.second, release_home.first, release_home.second):
            release_home.promote(release)
            for service in services:
                service.wait(release)
        done.set()
        for thread in threads:
            thread.join()
    finally:
        done.set()
        codes = [service.stop() for service in services]
    assert mismatches == []
    assert len(seen) == 4, "each process served each release"
    assert codes == [0, 0]


def test_damaged_release_is_loaded_only_after_it_is_repaired(release_home, monkeypatch):
    monkeypatch.setattr("serving.release.watcher.RETRY_S", 0.0)
    release_home.promote(release_home.first)
    events = []
    champion = ChampionWatcher(
        release_keys.folders(release_home.home), poll_s=1.0, event=lambda name, **facts: events.append(name)
    )
    champion.refresh()
    damaged_file = release_home.folder(release_home.second) / "tt_svd" / "rankings.npy"
    content = damaged_file.read_bytes()
    damaged_file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    release_home.promote(release_home.second)
    champion.refresh()
    assert champion.current.name == release_home.first
    assert "tt_svd/rankings.npy is damaged" in champion.problem
    damaged_file.write_bytes(content)
    champion.refresh()
    assert (champion.current.name, champion.problem) == (release_home.second, None)
    assert events == ["release", "refused", "release"]


def test_invalid_release_or_pointer_keeps_the_loaded_release(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    newer_contract = files.canonical({"segments": 2})
    for release, reason in (
        (
            with_replaced_files(release_home, release_home.second, contracts=newer_contract),
            "contract segments has version 2",
        ),
        (with_replaced_files(release_home, release_home.second, network=b"not a network"), "is not whole"),
        ("f" * 64, "manifest.json is missing"),
    ):
        release_home.promote(release)
        live.wait(True, lambda live, reason=reason: reason in (live.call("/readyz")[2]["problem"] or ""))
        status, _, response = live.call("/readyz")
        assert (status, response["release"]) == (200, release_home.first)
        assert live.lists()["release"] == release_home.first
    champion = pointer.read(release_home.home)
    (pointer.releases(release_home.home) / "champion.json").write_text("{")
    live.wait(True, lambda live: "damaged" in live.call("/readyz")[2]["problem"])
    assert live.call("/readyz")[2]["problem"].startswith("releases/champion.json"), "the problem shows no absolute path"
    assert live.lists()["release"] == release_home.first
    text = json.dumps(
        {"release": release_home.second, "previous": release_home.first, "revision": champion.revision + 1, "week": "x"}
    )
    (pointer.releases(release_home.home) / "champion.json").write_text(text)
    live.wait(release_home.second)
    assert live.call("/readyz")[2]["problem"] is None
    assert b"overture_release_refused_total" in live.call("/metrics")[2].encode()


def test_start_with_a_damaged_champion_loads_the_previous_release(release_home):
    release_home.promote(release_home.first)
    release_home.promote(release_home.second)
    (release_home.folder(release_home.second) / "tt_svd" / "centroids.npy").unlink()
    champion = ChampionWatcher(release_keys.folders(release_home.home), poll_s=1.0)
    champion.refresh()
    assert champion.current.name == release_home.first
    assert "centroids.npy is missing" in champion.problem
    release_home.promote(release_home.first)
    champion.refresh()
    assert champion.problem is None


def test_missing_network_falls_back_to_country_age_mean_then_popularity(release_home, serve):
    release_home.promote(with_replaced_files(release_home, release_home.first, network=b"not a network"))
    live = serve(release_home.home)
    assert "network" in live.call("/readyz")[2]["degraded"]
    _, demographics, mean = small_week.space_parts()
    for group, country in enumerate(small_week.COUNTRIES):
        response = live.lists({"country": country, "age": 30}, k=20, explain=True)
        assert response["degraded"]["fallback"] == response["vector_source"] == "country_age_mean"
        assert "onnxruntime cannot open it" in response["degraded"]["reason"]
        nearest = np.linalg.norm(mean - normalise(demographics.country[country][None])[0], axis=1).argmin()
        assert response["segment"]["segment_id"] == nearest == group
        assert response["method"] == "semi_pers"
        assert response["reasons"]["top_signals"] is None
    popular = [track["track_id"] for track in live.lists(method="popularity")["tracks"]]
    unknown = live.lists({"streams": {"tracks": [1003]}})
    assert (unknown["degraded"]["fallback"], unknown["method"], unknown["vector_source"]) == (
        "popularity",
        "popularity",
        "nothing",
    )
    assert [track["track_id"] for track in unknown["tracks"]] == popular
    _, _, batch = live.call("/v1/recommendations/batch", {"listeners": [{"country": "FR"}, {}]})
    assert [answer["degraded"]["fallback"] for answer in batch["answers"]] == ["country_age_mean", "popularity"]
    status, _, carousel = live.call("/v1/carousels", {"listener": {}})
    assert (status, carousel["degraded"]["fallback"], len(carousel["playlists"])) == (200, "popularity", 3)
    metrics = live.call("/metrics")[2]
    assert 'overture_degraded_answers_total{fallback="country_age_mean"} 4.0' in metrics
    assert 'overture_degraded_answers_total{fallback="popularity"} 3.0' in metrics


def test_network_failure_degrades_only_the_failed_request(release_home, serve, monkeypatch):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    normal = live.lists({"country": "FR"})
    space = live.app.app.state.champion.current.space

    def fails(x):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(space, "vectors", fails)
        response = live.lists({"country": "FR"})
        assert (response["vector_source"], response["degraded"]["reason"]) == (
            "country_age_mean",
            "the network failed: out of memory",
        )
    assert live.lists({"country": "FR"}) == normal


def test_metrics_report_release_methods_and_routes(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    live.lists({"country": "FR", "streams": {"tracks": [5, 6, 1003]}})
    live.lists({"onboarding": {"artists": [1]}}, method="full_pers")
    live.call("/v1/tracks/5")
    release_home.promote(release_home.second)
    live.wait(release_home.second)
    live.wait(
        True, lambda live: "overture_release_swaps_total 2.0" in live.call("/metrics")[2]
    )  # counted after the swap
    metrics = live.call("/metrics")[2]
    for line in (
        'overture_requests_total{route="/v1/recommendations",status="200"} 2.0',
        'overture_requests_total{route="/v1/{kind}/{entity_id}",status="404"} 1.0',
        'overture_answers_total{method="semi_pers",vector_source="network"} 1.0',
        'overture_answers_total{method="full_pers",vector_source="network"} 1.0',
        "overture_unknown_ids_total 2.0",
        "overture_release_swaps_total 2.0",
        f'overture_release{{release="{release_home.first[:12]}",week="{small_week.FIRST}"}} 0.0',
        f'overture_release{{release="{release_home.second[:12]}",week="{small_week.SECOND}"}} 1.0',
        "overture_release_revision 2.0",
        'overture_request_seconds_count{route="/v1/recommendations"} 2.0',
    ):
        assert line in metrics, line


def test_service_imports_no_training_library(release_home):
    """A fast start depends on it: the first response imports none of these libraries."""
    release_home.promote(release_home.first)
    program = (
        "import sys, jobs.cli.main, serving.main\n"
        "from pathlib import Path\n"
        "from serving.release.folders import open_folders\n"
        "from serving.settings import ServiceSettings\n"
        "from serving.release.watcher import ChampionWatcher\n"
        "from serving import schema\n"
        "from serving.recommend import recommender as answers, signals\n"
        "champion = ChampionWatcher(open_folders(ServiceSettings(), Path(sys.argv[1])), poll_s=1.0)\n"
        "champion.refresh()\n"
        "request = schema.RecommendationRequest(listener=schema.Listener(country='FR'), explain=True)\n"
        "listener = signals.read_listener(champion.current, request.listener)\n"
        "options = signals.read_options(champion.current, request)\n"
        "assert answers.recommend(champion.current, [listener], options, True)[0]['tracks']\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", program, str(release_home.home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    modules = set(process.stdout.split())
    assert {"onnxruntime", "fastapi", "numpy"} <= modules
    heavy = {"torch", "pandas", "pyspark", "mlflow", "numba", "sklearn", "great_expectations", "matplotlib", "onnx"}
    heavy |= {"pyarrow"}
    assert modules & heavy == set()
