"""Listeners whom the store knows: their rows under the release that answers, and what stands in without a store."""

from __future__ import annotations

import contextlib
import socket

import numpy as np
import pytest

from jobs.release import known_users
from models.cold_start.top_k import top_k
from serving.recommend import known_users as users
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import Block, StorePart
from tests.helpers import small_week
from tests.helpers.live import Live
from tests.helpers.store_servers import redis_server

IDS, VECTORS = small_week.warm_users(0)
USER = int(IDS[7])
STRANGER = 123_456_789
COLD = 9_777


def stock(shop, settings: StoreSettings, n: int = 50) -> None:
    """Publish the warm listeners of both releases, and one newcomer under the first."""
    store = open_store(settings, shop.home, publishing=True)
    for week, release in ((small_week.FIRST, shop.first), (small_week.SECOND, shop.second)):
        store.publish(*known_users.part_rows(small_week.context_at(shop.home, week), shop.opened(release), n))
    one = np.array([COLD])
    tracks = np.array([[*shop.opened(shop.first).track_ids[:4], -1]])
    part_rows = StorePart(shop.first, "tt_svd", "2026-11-15", "2026-11-15", one, small_week.D, 5, "x")
    store.publish(part_rows, [Block(one, np.eye(1, small_week.D, 1, np.float32), np.array([1], np.int32), tracks)])
    store.close()


@pytest.fixture
def stocked(shop, serve):
    """A service over the first release and a stocked store."""
    stock(shop, StoreSettings(), n=20)
    shop.promote(shop.first)
    live = serve(shop.home)
    live.shop = shop
    return live


def track_ids(said: dict) -> list[int]:
    return [track["track_id"] for track in said["tracks"]]


def ranked(shop, release: str, vector_D: np.ndarray) -> list[int]:
    """All tracks of a release, nearest to a vector first."""
    opened = shop.opened(release)
    space = opened.spaces["tt_svd"]
    order = top_k(vector_D[None], space.array("track_vectors"), small_week.N_TRACKS, space.layout["similarity"])[0]
    return opened.track_ids[order].tolist()


def test_a_vector_is_the_one_that_was_learned_with_its_segment_and_week(stocked):
    for u in (0, 7, 200):
        status, headers, said = stocked.call(f"/v1/users/{IDS[u]}")
        assert status == 200
        users.KnownUser.model_validate(said)
        assert headers["x-overture-release"] == said["release"] == stocked.shop.first
        np.testing.assert_array_equal(np.float32(said["vector"]), VECTORS[u])
        assert (said["kind"], said["since"], said["week"]) == ("warm", small_week.FIRST, small_week.FIRST)
        assert said["segment"]["segment_id"] == u % small_week.N_GROUPS
        assert said["segment"]["card"] == {"sentence": f"segment {u % small_week.N_GROUPS}"}


def test_a_list_is_the_kept_one_and_goes_on_with_what_is_nearest_to_the_vector(stocked):
    order = ranked(stocked.shop, stocked.shop.first, VECTORS[7])
    for k, computed in ((1, 0), (20, 0), (21, 1), (100, 80), (150, 130)):
        status, headers, said = stocked.call(f"/v1/users/{USER}/recommendations?k={k}")
        assert status == 200
        users.KnownRecommendation.model_validate(said)
        assert headers["x-overture-release"] == said["release"]
        assert (track_ids(said), said["n_computed"]) == (order[:k], computed)
        assert (said["method"], said["vector_source"], said["degraded"]) == ("stored", "store", None)
    assert said["reasons"]["text"].startswith("segment 1")
    assert {"title", "artist"} <= set(said["tracks"][0])


def test_excluded_tracks_are_in_no_list(stocked):
    order = ranked(stocked.shop, stocked.shop.first, VECTORS[7])
    query = "&".join(f"exclude={track}" for track in [*order[:3], 5])
    for k, computed in ((17, 0), (18, 1), (60, 43)):
        said = stocked.call(f"/v1/users/{USER}/recommendations?k={k}&{query}")[2]
        assert (track_ids(said), said["n_computed"]) == (order[3 : 3 + k], computed)


def test_a_newcomer_has_the_list_of_the_day(stocked):
    said = stocked.call(f"/v1/users/{COLD}")[2]
    assert (said["kind"], said["since"]) == ("cold", "2026-11-15")
    tracks = stocked.shop.opened(stocked.shop.first).track_ids
    said = stocked.call(f"/v1/users/{COLD}/recommendations?k=4")[2]
    assert (track_ids(said), said["n_computed"]) == (tracks[:4].tolist(), 0)
    order = [
        i for i in ranked(stocked.shop, stocked.shop.first, np.eye(1, 10, 1, np.float32)[0]) if i not in tracks[:4]
    ]
    said = stocked.call(f"/v1/users/{COLD}/recommendations?k=9")[2]
    assert (track_ids(said)[4:], said["n_computed"]) == (order[:5], 5)


def test_who_is_unknown_is_told_so_and_named_in_no_log(stocked, caplog):
    caplog.set_level("INFO")
    for path in (f"/v1/users/{STRANGER}", f"/v1/users/{STRANGER}/recommendations"):
        status, _, said = stocked.call(path)
        assert status == 404
        assert "unknown user" in said["error"]

    def facts():
        return [record.facts for record in caplog.records if record.name == "overture.service"]

    both = {"/v1/users/{user_id}", "/v1/users/{user_id}/recommendations"}  # a line is written after its answer
    stocked.wait(both, lambda _: {one["route"] for one in facts()})
    assert str(STRANGER) not in str(facts())
    assert 'overture_store_reads_total{result="unknown"} 2.0' in stocked.call("/metrics")[2]


@pytest.mark.parametrize(
    "path",
    [
        "x",
        "-1",
        str(2**63),
        f"{USER}/recommendations?k=0",
        f"{USER}/recommendations?k=201",
        f"{USER}/recommendations?k=151",
        f"{USER}/recommendations?exclude=x",
        f"{USER}/recommendations?exclude=-1",
        f"{USER}/recommendations?{'&'.join(['exclude=1'] * 201)}",
    ],
)
def test_what_is_out_of_bounds_is_refused(stocked, path):
    assert stocked.call(f"/v1/users/{path}")[0] == 422


def test_rows_are_those_of_the_release_that_answers(stocked):
    """Promotion and rollback: the header, the vector and the list belong together."""
    shop, other = stocked.shop, small_week.warm_users(5)
    both = sorted(set(IDS.tolist()) & set(other[0].tolist()))
    assert len(both) > 50
    of = {shop.first: (IDS, VECTORS), shop.second: other}
    for release in (shop.second, shop.first):
        shop.promote(release)
        stocked.wait(release)
        ids, vectors = of[release]
        for user in both[:10]:
            mine = vectors[ids.tolist().index(user)]
            said = stocked.call(f"/v1/users/{user}")[2]
            assert said["release"] == release
            np.testing.assert_array_equal(np.float32(said["vector"]), mine)
            assert (
                track_ids(stocked.call(f"/v1/users/{user}/recommendations?k=30")[2]) == ranked(shop, release, mine)[:30]
            )


def test_until_a_new_champions_listeners_are_published_the_one_before_answers_for_them_whole(shop, serve):
    settings = StoreSettings()
    store = open_store(settings, shop.home)
    first, second = (
        known_users.part_rows(small_week.context_at(shop.home, week), shop.opened(release), 50)
        for week, release in ((small_week.FIRST, shop.first), (small_week.SECOND, shop.second))
    )
    store.publish(*first)
    shop.promote(shop.first)
    live = serve(shop.home)
    shop.promote(shop.second)
    live.wait(shop.second)
    assert live.lists({"country": "FR"})["release"] == shop.second
    order = ranked(shop, shop.first, VECTORS[7])
    for _ in range(2):
        status, headers, said = live.call(f"/v1/users/{USER}/recommendations?k=60&exclude={order[0]}")
        assert (status, headers["x-overture-release"], said["degraded"]) == (200, shop.first, None)
        assert track_ids(said) == order[1:61]
        assert live.call(f"/v1/users/{USER}")[2]["release"] == shop.first
    store.publish(*second)
    ids, vectors = small_week.warm_users(5)
    said = live.call(f"/v1/users/{ids[3]}")[2]
    assert said["release"] == shop.second
    np.testing.assert_array_equal(np.float32(said["vector"]), vectors[3])
    assert 'overture_store_reads_total{result="unpublished"} 4.0' in live.call("/metrics")[2]


def assert_stands_in(live: Live, why: str) -> None:
    """Popular tracks and the reason for a list, 503 and the reason for a vector."""
    popular = live.shop.opened(live.shop.first).track_ids[:12].tolist()
    query = f"k=10&exclude={popular[0]}&exclude={popular[3]}"
    status, headers, said = live.call(f"/v1/users/{USER}/recommendations?{query}")
    assert status == 200
    users.KnownRecommendation.model_validate(said)
    assert headers["x-overture-release"] == live.shop.first
    assert track_ids(said) == [track for track in popular if track not in (popular[0], popular[3])]
    assert (said["method"], said["vector_source"], said["kind"]) == ("popularity", "nothing", None)
    assert said["degraded"]["fallback"] == "popularity"
    assert why in said["degraded"]["reason"]
    status, _, said = live.call(f"/v1/users/{USER}")
    assert (status, why in said["error"]) == (503, True)


def test_without_rows_of_this_release_popular_tracks_stand_in(shop, serve):
    shop.promote(shop.first)
    live = serve(shop.home)
    live.shop = shop
    assert_stands_in(live, "holds no users of release")
    said = live.call("/readyz")[2]["store"]
    assert (said["answers"], "holds no users" in said["problem"]) == (True, True)
    stock(shop, StoreSettings())
    assert live.call(f"/v1/users/{USER}")[0] == 200
    assert live.call("/readyz")[2]["store"] == {
        "kind": "memory",
        "answers": True,
        "problem": None,
        "parts": {"2026-11-15": 1, "warm": small_week.N_WARM},
    }


def test_a_row_that_cannot_be_of_this_release_is_not_told(shop, serve):
    one = np.array([USER])
    for part, d, segment, track in (("a", 9, 0, 1003), ("b", 10, 3, 1003), ("c", 10, 0, 5)):
        part_rows = StorePart(shop.first, "tt_svd", f"2026-11-1{part}", "2026-11-15", one, d, 1, part)
        block = Block(one, np.ones((1, d), np.float32), np.array([segment], np.int32), np.array([[track]]))
        open_store(StoreSettings(), shop.home).publish(part_rows, [block])
        shop.promote(shop.first)
        live = serve(shop.home)
        live.shop = shop
        assert_stands_in(live, "publish the release again")


def test_a_redis_that_dies_and_comes_back(shop, serve, tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url, timeout_s=5, breaker_reset_s=0)
        stock(shop, settings)
        shop.promote(shop.first)
        live = serve(shop.home, store=settings)
        live.shop = shop
        np.testing.assert_array_equal(np.float32(live.call(f"/v1/users/{USER}")[2]["vector"]), VECTORS[7])
        assert "overture_store_answers 1.0" in live.call("/metrics")[2]
        server.stop()
        assert_stands_in(live, f"the redis 127.0.0.1:{server.port} store does not answer")
        status, _, said = live.call("/readyz")
        assert (status, said["ready"], said["store"]["answers"]) == (200, True, False)
        assert "sesame" not in str(said)
        numbers = live.call("/metrics")[2]
        assert "overture_store_answers 0.0" in numbers
        assert 'overture_store_reads_total{result="unavailable"} 2.0' in numbers
        assert 'overture_degraded_answers_total{fallback="popularity"} 1.0' in numbers
        assert live.lists({"country": "FR"}, k=3)["method"] == "semi_pers", "who needs no store is served as ever"
        server.start()
        stock(shop, settings)
        assert live.call(f"/v1/users/{USER}")[0] == 200
        assert live.call("/readyz")[2]["store"]["answers"] is True
    finally:
        server.stop()


def test_a_store_that_takes_the_question_and_never_answers_holds_up_nobody(shop, serve):
    """The first question waits for the timeout; those after it are told at once, the circuit being open."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        settings = StoreSettings(kind="redis", redis_url=url, timeout_s=0.2, breaker_reset_s=3600)
        shop.promote(shop.first)
        live = serve(shop.home, store=settings)
        live.shop = shop
        for _ in range(3):
            assert_stands_in(live, "does not answer (TimeoutError)")
        silent.settimeout(0.05)
        taken = 0
        with contextlib.suppress(TimeoutError):
            while True:
                silent.accept()[0].close()
                taken += 1
        assert taken == 1, "one question reached the store"


def test_without_a_release_nothing_is_asked(shop, serve):
    live = serve(shop.home)
    for path in (f"/v1/users/{USER}", f"/v1/users/{USER}/recommendations"):
        status, _, said = live.call(path)
        assert (status, "no release has been promoted" in said["error"]) == (503, True)
    assert live.call("/readyz")[0] == 503
