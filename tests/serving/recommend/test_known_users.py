"""Known users: rows of the release that serves the request, and the fallback when the store is unavailable."""

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
UNKNOWN_USER = 123_456_789
NEW_USER = 9_777


def publish_users(release_home, settings: StoreSettings, n: int = 50) -> None:
    """Publish the warm listeners of both releases, and one new listener of the first."""
    store = open_store(settings, release_home.home, publishing=True)
    for week, release in ((small_week.FIRST, release_home.first), (small_week.SECOND, release_home.second)):
        store.publish(
            *known_users.read_part(small_week.context_at(release_home.home, week), release_home.open(release), n)
        )
    user_ids = np.array([NEW_USER])
    tracks = np.array([[*release_home.open(release_home.first).track_ids[:4], -1]])
    part_rows = StorePart(release_home.first, "tt_svd", "2026-11-15", "2026-11-15", user_ids, small_week.D, 5, "x")
    store.publish(part_rows, [Block(user_ids, np.eye(1, small_week.D, 1, np.float32), np.array([1], np.int32), tracks)])
    store.close()


@pytest.fixture
def live_with_users(release_home, serve):
    """Service with the first release as champion and a store with published users."""
    publish_users(release_home, StoreSettings(), n=20)
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    live.release_home = release_home
    return live


def track_ids(response: dict) -> list[int]:
    return [int(track["track_id"]) for track in response["tracks"]]


def ranked_tracks(release_home, release_name: str, vector_D: np.ndarray) -> list[int]:
    """All tracks of a release, ordered from nearest to farthest from a vector."""
    release = release_home.open(release_name)
    space = release.spaces["tt_svd"]
    order = top_k(vector_D[None], space.array("track_vectors"), small_week.N_TRACKS, space.layout["similarity"])[0]
    return release.track_ids[order].tolist()


def test_user_route_returns_the_trained_vector_with_segment_and_week(live_with_users):
    for i in (0, 7, 200):
        status, headers, response = live_with_users.call(f"/v1/users/{IDS[i]}")
        assert status == 200
        users.KnownUser.model_validate(response)
        assert response["user_id"] == str(IDS[i])
        assert headers["x-overture-release"] == response["release"] == live_with_users.release_home.first
        np.testing.assert_array_equal(np.float32(response["vector"]), VECTORS[i])
        assert (response["kind"], response["since"], response["week"]) == ("warm", small_week.FIRST, small_week.FIRST)
        assert response["segment"]["segment_id"] == i % small_week.N_GROUPS
        assert response["segment"]["card"] == {"sentence": f"segment {i % small_week.N_GROUPS}"}


def test_stored_list_is_extended_with_the_nearest_tracks(live_with_users):
    order = ranked_tracks(live_with_users.release_home, live_with_users.release_home.first, VECTORS[7])
    for k, computed in ((1, 0), (20, 0), (21, 1), (100, 80), (150, 130)):
        status, headers, response = live_with_users.call(f"/v1/users/{USER}/recommendations?k={k}")
        assert status == 200
        users.KnownRecommendation.model_validate(response)
        assert headers["x-overture-release"] == response["release"]
        assert (track_ids(response), response["n_computed"]) == (order[:k], computed)
        assert (response["method"], response["vector_source"], response["degraded"]) == ("stored", "store", None)
    assert response["reasons"]["text"].startswith("segment 1")
    assert {"title", "artist"} <= set(response["tracks"][0])


def test_excluded_tracks_are_not_recommended(live_with_users):
    order = ranked_tracks(live_with_users.release_home, live_with_users.release_home.first, VECTORS[7])
    query = "&".join(f"exclude={track}" for track in [*order[:3], 5])
    for k, computed in ((17, 0), (18, 1), (60, 43)):
        response = live_with_users.call(f"/v1/users/{USER}/recommendations?k={k}&{query}")[2]
        assert (track_ids(response), response["n_computed"]) == (order[3 : 3 + k], computed)


def test_new_listener_has_the_list_of_the_registration_day(live_with_users):
    response = live_with_users.call(f"/v1/users/{NEW_USER}")[2]
    assert (response["kind"], response["since"]) == ("cold", "2026-11-15")
    tracks = live_with_users.release_home.open(live_with_users.release_home.first).track_ids
    response = live_with_users.call(f"/v1/users/{NEW_USER}/recommendations?k=4")[2]
    assert (track_ids(response), response["n_computed"]) == (tracks[:4].tolist(), 0)
    order = [
        i
        for i in ranked_tracks(
            live_with_users.release_home, live_with_users.release_home.first, np.eye(1, 10, 1, np.float32)[0]
        )
        if i not in tracks[:4]
    ]
    response = live_with_users.call(f"/v1/users/{NEW_USER}/recommendations?k=9")[2]
    assert (track_ids(response)[4:], response["n_computed"]) == (order[:5], 5)


def test_unknown_user_returns_404_and_is_not_logged(live_with_users, caplog):
    caplog.set_level("INFO")
    not_ids = (f"/v1/users/{text}{route}" for text in ("x", "-1", str(2**63)) for route in ("", "/recommendations"))
    for path in (f"/v1/users/{UNKNOWN_USER}", f"/v1/users/{UNKNOWN_USER}/recommendations", *not_ids):
        status, _, response = live_with_users.call(path)
        assert status == 404
        assert "unknown user" in response["detail"]

    def logged():
        return [record.facts for record in caplog.records if record.name == "overture.service"]

    routes = {"/v1/users/{user_id}", "/v1/users/{user_id}/recommendations"}  # a log line is written after its response
    live_with_users.wait(routes, lambda _: {facts["route"] for facts in logged()})
    assert str(UNKNOWN_USER) not in str(logged())
    assert 'overture_store_reads_total{result="unknown"} 2.0' in live_with_users.call("/metrics")[2]


@pytest.mark.parametrize(
    "path",
    [
        f"{USER}/recommendations?k=0",
        f"{USER}/recommendations?k=201",
        f"{USER}/recommendations?k=151",
        f"{USER}/recommendations?exclude=",
        f"{USER}/recommendations?exclude={'x' * 1001}",
        "x" * 1001,
        f"{USER}/recommendations?{'&'.join(['exclude=1'] * 201)}",
    ],
)
def test_invalid_user_request_returns_422(live_with_users, path):
    assert live_with_users.call(f"/v1/users/{path}")[0] == 422


def test_rows_belong_to_the_release_in_the_response_header(live_with_users):
    """After a promotion and a rollback, header, vector and list belong to the same release."""
    release_home, second_users = live_with_users.release_home, small_week.warm_users(5)
    both = sorted(set(IDS.tolist()) & set(second_users[0].tolist()))
    assert len(both) > 50
    users_of = {release_home.first: (IDS, VECTORS), release_home.second: second_users}
    for release in (release_home.second, release_home.first):
        release_home.promote(release)
        live_with_users.wait(release)
        ids, vectors = users_of[release]
        for user in both[:10]:
            vector = vectors[ids.tolist().index(user)]
            response = live_with_users.call(f"/v1/users/{user}")[2]
            assert response["release"] == release
            np.testing.assert_array_equal(np.float32(response["vector"]), vector)
            assert (
                track_ids(live_with_users.call(f"/v1/users/{user}/recommendations?k=30")[2])
                == ranked_tracks(release_home, release, vector)[:30]
            )


def test_previous_release_serves_known_users_until_the_new_one_is_published(release_home, serve):
    settings = StoreSettings()
    store = open_store(settings, release_home.home)
    first, second = (
        known_users.read_part(small_week.context_at(release_home.home, week), release_home.open(release), 50)
        for week, release in ((small_week.FIRST, release_home.first), (small_week.SECOND, release_home.second))
    )
    store.publish(*first)
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    release_home.promote(release_home.second)
    live.wait(release_home.second)
    assert live.lists({"country": "FR"})["release"] == release_home.second
    order = ranked_tracks(release_home, release_home.first, VECTORS[7])
    for _ in range(2):
        status, headers, response = live.call(f"/v1/users/{USER}/recommendations?k=60&exclude={order[0]}")
        assert (status, headers["x-overture-release"], response["degraded"]) == (200, release_home.first, None)
        assert track_ids(response) == order[1:61]
        assert live.call(f"/v1/users/{USER}")[2]["release"] == release_home.first
    store.publish(*second)
    ids, vectors = small_week.warm_users(5)
    response = live.call(f"/v1/users/{ids[3]}")[2]
    assert response["release"] == release_home.second
    np.testing.assert_array_equal(np.float32(response["vector"]), vectors[3])
    assert 'overture_store_reads_total{result="unpublished"} 4.0' in live.call("/metrics")[2]


def newcomers(release_home, release: str) -> tuple[StorePart, list[Block]]:
    """Return the part of one new user of a day."""
    tracks = release_home.open(release).track_ids[None, :4]
    part_rows = StorePart(release, "tt_svd", "2026-11-23", "2026-11-23", np.array([NEW_USER]), small_week.D, 4, "x")
    return part_rows, [
        Block(part_rows.user_ids, np.eye(1, small_week.D, dtype=np.float32), np.zeros(1, np.int32), tracks)
    ]


@pytest.mark.parametrize("restarted", [False, True])
def test_previous_release_serves_warm_users_while_only_newcomers_are_published(release_home, serve, restarted):
    store = open_store(StoreSettings(), release_home.home)
    first, second = (
        known_users.read_part(small_week.context_at(release_home.home, week), release_home.open(release), 50)
        for week, release in ((small_week.FIRST, release_home.first), (small_week.SECOND, release_home.second))
    )
    store.publish(*first)
    release_home.promote(release_home.first)
    live = None if restarted else serve(release_home.home)
    release_home.promote(release_home.second)
    live = live or serve(release_home.home)
    live.wait(release_home.second)
    store.publish(*newcomers(release_home, release_home.second))
    live.wait(release_home.first, lambda live: live.call(f"/v1/users/{USER}/recommendations?k=5")[2]["release"])
    for _ in range(2):
        assert live.call(f"/v1/users/{NEW_USER}")[2]["release"] == release_home.second
        status, _, response = live.call(f"/v1/users/{USER}")
        assert (status, response["release"], response["kind"]) == (200, release_home.first, "warm")
        np.testing.assert_array_equal(np.float32(response["vector"]), VECTORS[7])
    state = live.call("/readyz")[2]["store"]
    assert (state["parts"], "contains only the new users" in state["problem"]) == ({"2026-11-23": 1}, True)
    store.publish(*second)
    assert live.call(f"/v1/users/{small_week.warm_users(5)[0][3]}")[2]["release"] == release_home.second
    assert live.call("/readyz")[2]["store"]["problem"] is None


def assert_falls_back(live: Live, reason: str) -> None:
    """Assert that the list route returns popular tracks, the vector route returns 503, and both give the reason."""
    popular = live.release_home.open(live.release_home.first).track_ids[:12].tolist()
    query = f"k=10&exclude={popular[0]}&exclude={popular[3]}"
    status, headers, response = live.call(f"/v1/users/{USER}/recommendations?{query}")
    assert status == 200
    users.KnownRecommendation.model_validate(response)
    assert headers["x-overture-release"] == live.release_home.first
    assert track_ids(response) == [track for track in popular if track not in (popular[0], popular[3])]
    assert (response["method"], response["vector_source"], response["kind"]) == ("popularity", "nothing", None)
    assert response["degraded"]["fallback"] == "popularity"
    assert reason in response["degraded"]["reason"]
    status, _, response = live.call(f"/v1/users/{USER}")
    assert (status, reason in response["detail"]) == (503, True)


def test_unpublished_release_falls_back_to_popular_tracks(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    live.release_home = release_home
    assert_falls_back(live, "contains no users of release")
    response = live.call("/readyz")[2]["store"]
    assert (response["answers"], "contains no users" in response["problem"]) == (True, True)
    publish_users(release_home, StoreSettings())
    assert live.call(f"/v1/users/{USER}")[0] == 200
    assert live.call("/readyz")[2]["store"] == {
        "kind": "memory",
        "answers": True,
        "problem": None,
        "parts": {"2026-11-15": 1, "warm": small_week.N_WARM},
    }


def test_inconsistent_row_is_not_served(release_home, serve):
    user_ids = np.array([USER])
    for part, d, segment, track in (("a", 9, 0, 1003), ("b", 10, 3, 1003), ("c", 10, 0, 5)):
        part_rows = StorePart(release_home.first, "tt_svd", f"2026-11-1{part}", "2026-11-15", user_ids, d, 1, part)
        block = Block(user_ids, np.ones((1, d), np.float32), np.array([segment], np.int32), np.array([[track]]))
        open_store(StoreSettings(), release_home.home).publish(part_rows, [block])
        release_home.promote(release_home.first)
        live = serve(release_home.home)
        live.release_home = release_home
        assert_falls_back(live, "publish the release again")


def test_service_falls_back_while_redis_is_unavailable_and_recovers(release_home, serve, tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url, timeout_s=5, breaker_reset_s=0)
        publish_users(release_home, settings)
        release_home.promote(release_home.first)
        live = serve(release_home.home, store=settings)
        live.release_home = release_home
        np.testing.assert_array_equal(np.float32(live.call(f"/v1/users/{USER}")[2]["vector"]), VECTORS[7])
        assert "overture_store_answers 1.0" in live.call("/metrics")[2]
        server.stop()
        assert_falls_back(live, f"the redis 127.0.0.1:{server.port} store does not answer")
        status, _, response = live.call("/readyz")
        assert (status, response["ready"], response["store"]["answers"]) == (200, True, False)
        assert "sesame" not in str(response)
        metrics = live.call("/metrics")[2]
        assert "overture_store_answers 0.0" in metrics
        assert 'overture_store_reads_total{result="unavailable"} 2.0' in metrics
        assert 'overture_degraded_answers_total{fallback="popularity"} 1.0' in metrics
        assert live.lists({"country": "FR"}, k=3)["method"] == "country_age", "new listeners need no store"
        server.start()
        publish_users(release_home, settings)
        assert live.call(f"/v1/users/{USER}")[0] == 200
        assert live.call("/readyz")[2]["store"]["answers"] is True
    finally:
        server.stop()


def test_circuit_opens_when_a_store_does_not_respond(release_home, serve):
    """The first request waits for the timeout. Later requests fail immediately, because the circuit is open."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"redis://127.0.0.1:{server.getsockname()[1]}/0"
        settings = StoreSettings(kind="redis", redis_url=url, timeout_s=0.2, breaker_reset_s=3600)
        release_home.promote(release_home.first)
        live = serve(release_home.home, store=settings, block_poll_s=3600)
        live.release_home = release_home
        server.settimeout(0.05)

        def accept_all() -> int:
            n_connections = 0
            with contextlib.suppress(TimeoutError):
                while True:
                    server.accept()[0].close()
                    n_connections += 1
            return n_connections

        assert_falls_back(live, "does not answer (TimeoutError)")
        assert accept_all() >= 1, "the first request reached the store"
        for _ in range(2):
            assert_falls_back(live, "does not answer (TimeoutError)")
        assert accept_all() == 0, "no later request reached the store"


def test_user_routes_return_503_without_a_release(release_home, serve):
    live = serve(release_home.home)
    for path in (f"/v1/users/{USER}", f"/v1/users/{USER}/recommendations"):
        status, _, response = live.call(path)
        assert (status, "no release has been promoted" in response["detail"]) == (503, True)
    assert live.call("/readyz")[0] == 503
