"""Releases come and go while requests run: nothing fails, nothing is mixed, what is damaged is not taken."""

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
from tests.helpers import small_week
from tests.helpers.live import ROOT, Process, cohort_requests


def expected(shop, release: str, n: int) -> list[list[int]]:
    """What a release answers to the first n of the cohort."""
    opened, days = shop.opened(release), FirstDays.from_arrow(small_week.cohort()[0]).rows(0, n)
    method = opened.spaces["tt_svd"].method("semi_pers")
    return opened.track_ids[method.recommend(opened.inputs("tt_svd", days), 20)].tolist()


def broken(shop, release: str, **changed: bytes | None) -> str:
    """A release made from another one by exchanging files, whole by its own manifest."""
    names = {"network": "tt_svd/network.onnx", "contracts": "contracts.json"}
    return small_week.resealed(shop.folder(release), {names[key]: content for key, content in changed.items()}).name


def test_without_a_release_it_says_so_and_takes_the_first_one_that_comes(shop, serve):
    live = serve(shop.home)
    for path, body in (("/v1/recommendations", {"listener": {}}), ("/v1/release", None), ("/v1/tracks/1", None)):
        status, _, said = live.call(path, body)
        assert (status, "no release has been promoted" in said["error"]) == (503, True)
    counted = live.call("/metrics")[2]
    for route in ("/v1/recommendations", "/v1/release", "/v1/{kind}/{entity_id}"):
        assert f'overture_requests_total{{route="{route}",status="503"}} 1.0' in counted
    status, _, said = live.call("/readyz")
    assert (status, said["ready"]) == (503, False)
    assert "overture release promote" in said["problem"]
    assert live.call("/healthz")[0] == 200
    assert live.call("/")[0] == 200
    shop.promote(shop.first)
    live.wait(shop.first)
    status, _, said = live.call("/readyz")
    assert (status, said["ready"], said["engines"], said["skip"]["ready"]) == (200, True, ["cold_start"], False)
    assert "promote --engine skip" in said["skip"]["problem"]
    assert live.lists()["release"] == shop.first


def test_a_release_is_let_go_when_another_one_serves(shop):
    """Only the recommender keeps one release beside the one in service: its known listeners are answered from it."""

    class Opened:
        def __init__(self, folder, now):
            self.name, self.week, self.pointer, self.problems = folder.name, now.week, now, {}

    follower, champion = (
        ReleaseWatcher(shop.home, Opened, 1.0, lambda *_, **__: None, "promote"),
        ChampionWatcher(shop.home),
    )
    gone = []
    for release in (shop.first, shop.second, shop.first):
        shop.promote(release)
        gone.append([weakref.ref(one.current) for one in (follower, champion) if one.current])
        follower.refresh()
        champion.refresh()
    gc.collect()
    assert [[found() is None for found in those] for those in gone] == [[], [True, True], [True, False]]
    assert champion.current.previous.name == shop.second


def test_two_processes_follow_promotions_and_rollbacks_while_requests_run(shop):
    """Every answer is one release's own, to the last track; none fails; both processes arrive."""
    shop.promote(shop.first)
    people = cohort_requests()[:24]
    right = {release: expected(shop, release, 24) for release in (shop.first, shop.second)}
    assert sum(a != b for a, b in zip(*right.values(), strict=True)) > 12, "the two must answer differently"
    services = [Process(shop.home), Process(shop.home)]
    done, wrong, seen = threading.Event(), [], set()

    def ask(service: Process) -> None:
        while not done.is_set():
            for person, who in enumerate(people):
                status, headers, said = service.call("/v1/recommendations", {"listener": who, "k": 20})
                name = headers["x-overture-release"]
                tracks = [track["track_id"] for track in said.get("tracks", [])]
                if status != 200 or said["release"] != name or tracks != right[name][person]:
                    wrong.append((status, name, said))
                seen.add((service.port, name))
            status, headers, said = service.call("/v1/recommendations/batch", {"listeners": people, "k": 20})
            name = headers["x-overture-release"]
            tracks = [[track["track_id"] for track in one["tracks"]] for one in said.get("answers", [])]
            if status != 200 or {one["release"] for one in said["answers"]} != {name} or tracks != right[name]:
                wrong.append((status, name, said))

    threads = [threading.Thread(target=ask, args=(service,)) for service in services for _ in range(2)]
    try:
        for thread in threads:
            thread.start()
        for release in (shop.second, shop.first, shop.second):
            shop.promote(release)
            for service in services:
                service.wait(release)
        done.set()
        for thread in threads:
            thread.join()
    finally:
        done.set()
        codes = [service.stop() for service in services]
    assert wrong == []
    assert len(seen) == 4, "each process answered from each release"
    assert codes == [0, 0]


def test_a_damaged_release_is_not_taken_and_is_taken_once_it_is_repaired(shop, monkeypatch):
    monkeypatch.setattr("serving.release.watcher.RETRY_S", 0.0)
    shop.promote(shop.first)
    told = []
    champion = ChampionWatcher(shop.home, event=lambda name, **facts: told.append(name))
    champion.refresh()
    victim = shop.folder(shop.second) / "tt_svd" / "rankings.npy"
    content = victim.read_bytes()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    shop.promote(shop.second)
    champion.refresh()
    assert champion.current.name == shop.first
    assert "tt_svd/rankings.npy is damaged" in champion.problem
    victim.write_bytes(content)
    champion.refresh()
    assert (champion.current.name, champion.problem) == (shop.second, None)
    assert told == ["release", "refused", "release"]


def test_a_newer_contract_a_broken_network_and_a_damaged_pointer_keep_the_old_one(shop, serve):
    shop.promote(shop.first)
    live = serve(shop.home)
    newer = files.canonical({"segments": 2})
    for release, why in (
        (broken(shop, shop.second, contracts=newer), "contract segments has version 2"),
        (broken(shop, shop.second, network=b"not a network"), "is not whole"),
        ("f" * 64, "manifest.json is missing"),
    ):
        shop.promote(release)
        live.wait(True, lambda live, why=why: why in (live.call("/readyz")[2]["problem"] or ""))
        status, _, said = live.call("/readyz")
        assert (status, said["release"]) == (200, shop.first)
        assert live.lists()["release"] == shop.first
    now = pointer.read(shop.home)
    (pointer.releases(shop.home) / "champion.json").write_text("{")
    live.wait(True, lambda live: "damaged" in live.call("/readyz")[2]["problem"])
    assert live.call("/readyz")[2]["problem"].startswith("releases/champion.json"), "no folders of this machine"
    assert live.lists()["release"] == shop.first
    text = json.dumps({"release": shop.second, "previous": shop.first, "revision": now.revision + 1, "week": "x"})
    (pointer.releases(shop.home) / "champion.json").write_text(text)
    live.wait(shop.second)
    assert live.call("/readyz")[2]["problem"] is None
    assert b"overture_release_refused_total" in live.call("/metrics")[2].encode()


def test_at_the_start_a_damaged_champion_leaves_the_previous_one(shop):
    shop.promote(shop.first)
    shop.promote(shop.second)
    (shop.folder(shop.second) / "tt_svd" / "centroids.npy").unlink()
    champion = ChampionWatcher(shop.home)
    champion.refresh()
    assert champion.current.name == shop.first
    assert "centroids.npy is missing" in champion.problem
    shop.promote(shop.first)
    champion.refresh()
    assert champion.problem is None


def test_without_a_network_the_mean_of_country_and_age_answers_then_the_popular_and_both_say_so(shop, serve):
    shop.promote(broken(shop, shop.first, network=b"not a network"))
    live = serve(shop.home)
    assert "network" in live.call("/readyz")[2]["degraded"]
    _, demographics, mean = small_week.space_parts()
    for group, country in enumerate(small_week.COUNTRIES):
        said = live.lists({"country": country, "age": 30}, k=20, explain=True)
        assert said["degraded"]["fallback"] == said["vector_source"] == "country_age_mean"
        assert "onnxruntime cannot open it" in said["degraded"]["reason"]
        nearest = np.linalg.norm(mean - normalise(demographics.country[country][None])[0], axis=1).argmin()
        assert said["segment"]["segment_id"] == nearest == group
        assert said["method"] == "semi_pers"
        assert said["reasons"]["top_signals"] is None
    popular = [track["track_id"] for track in live.lists(method="popularity")["tracks"]]
    nobody = live.lists({"streams": {"tracks": [1003]}})
    assert (nobody["degraded"]["fallback"], nobody["method"], nobody["vector_source"]) == (
        "popularity",
        "popularity",
        "nothing",
    )
    assert [track["track_id"] for track in nobody["tracks"]] == popular
    _, _, both = live.call("/v1/recommendations/batch", {"listeners": [{"country": "FR"}, {}]})
    assert [one["degraded"]["fallback"] for one in both["answers"]] == ["country_age_mean", "popularity"]
    status, _, row = live.call("/v1/carousels", {"listener": {}})
    assert (status, row["degraded"]["fallback"], len(row["playlists"])) == (200, "popularity", 3)
    numbers = live.call("/metrics")[2]
    assert 'overture_degraded_answers_total{fallback="country_age_mean"} 4.0' in numbers
    assert 'overture_degraded_answers_total{fallback="popularity"} 3.0' in numbers


def test_a_network_that_fails_while_it_serves_degrades_that_answer_alone(shop, serve, monkeypatch):
    shop.promote(shop.first)
    live = serve(shop.home)
    whole = live.lists({"country": "FR"})
    space = live.app.app.state.champion.current.space

    def fails(x):
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(space, "vectors", fails)
        said = live.lists({"country": "FR"})
        assert (said["vector_source"], said["degraded"]["reason"]) == (
            "country_age_mean",
            "the network failed: out of memory",
        )
    assert live.lists({"country": "FR"}) == whole


def test_the_numbers_tell_release_methods_and_routes(shop, serve):
    shop.promote(shop.first)
    live = serve(shop.home)
    live.lists({"country": "FR", "streams": {"tracks": [5, 6]}})
    live.lists(method="full_pers")
    live.call("/v1/tracks/5")
    shop.promote(shop.second)
    live.wait(shop.second)
    live.wait(True, lambda live: "overture_release_swaps_total 2.0" in live.call("/metrics")[2])  # told after the swap
    numbers = live.call("/metrics")[2]
    for line in (
        'overture_requests_total{route="/v1/recommendations",status="200"} 2.0',
        'overture_requests_total{route="/v1/{kind}/{entity_id}",status="404"} 1.0',
        'overture_answers_total{method="semi_pers",vector_source="network"} 1.0',
        'overture_answers_total{method="full_pers",vector_source="network"} 1.0',
        "overture_unknown_ids_total 2.0",
        "overture_release_swaps_total 2.0",
        f'overture_release{{release="{shop.first[:12]}",week="{small_week.FIRST}"}} 0.0',
        f'overture_release{{release="{shop.second[:12]}",week="{small_week.SECOND}"}} 1.0',
        "overture_release_revision 2.0",
        'overture_request_seconds_count{route="/v1/recommendations"} 2.0',
    ):
        assert line in numbers, line


def test_the_service_brings_in_nothing_that_learns(shop):
    """Start to ready in two seconds: none of these is imported by the command before it answers."""
    shop.promote(shop.first)
    program = (
        "import sys, jobs.cli.main, serving.main\n"
        "from pathlib import Path\n"
        "from serving.release.watcher import ChampionWatcher\n"
        "from serving import schema\n"
        "from serving.recommend import recommender as answers\n"
        "champion = ChampionWatcher(Path(sys.argv[1])); champion.refresh()\n"
        "asked = schema.RecommendationRequest(listener=schema.Listener(country='FR'), explain=True)\n"
        "assert answers.recommend(champion.current, [asked.listener], asked, True)[0]['tracks']\n"
        "print(' '.join(sorted({name.split('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(shop.home)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
    )
    found = set(done.stdout.split())
    assert {"onnxruntime", "fastapi", "numpy"} <= found
    heavy = {"torch", "pandas", "pyspark", "mlflow", "numba", "sklearn", "great_expectations", "matplotlib", "onnx"}
    heavy |= {"pyarrow"}
    assert found & heavy == set()
