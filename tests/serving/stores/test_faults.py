"""The service behind a relay that fails: with 40 requests at once, before and after it has connected to the store."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from jobs.release import known_users
from serving.settings import StoreSettings
from serving.stores import open_store
from tests.helpers import small_week
from tests.helpers.live import Live
from tests.helpers.relay import FAILING, Relay
from tests.helpers.store_servers import cassandra_settings, drop_keyspace

N_REQUESTS = 40
USER = int(small_week.warm_users(0)[0][7])
PATH = f"/v1/users/{USER}/recommendations?k=5"


@pytest.fixture(params=["redis", "cassandra"])
def stored(request, release_home):
    """Settings of a store with the users of the champion, and the port of its server."""
    server = request.getfixturevalue(request.param)
    if request.param == "redis":
        import redis as client

        client.Redis.from_url(server.url).flushall()
        settings = StoreSettings(kind="redis", redis_url=server.url)
    elif server is None:
        pytest.skip("the cluster of CASSANDRA_CONTACT_POINTS is not on this machine: no relay can be in front of it")
    else:
        settings = cassandra_settings(server)
    release_home.promote(release_home.first)
    store = open_store(settings, release_home.home, publishing=True)
    context = small_week.context_at(release_home.home, small_week.FIRST)
    store.publish(*known_users.read_part(context, release_home.open(release_home.first), 50))
    store.close()
    yield settings, server.port
    if settings.kind == "cassandra":
        drop_keyspace(settings)


def behind(settings: StoreSettings, relay: Relay) -> StoreSettings:
    """Return the settings of a service that reaches the store through the relay, with its usual short timeout."""
    _, at, address = settings.redis_url.get_secret_value().rpartition("@")
    login = settings.redis_url.get_secret_value().removesuffix(at + address)
    url = f"{login}@127.0.0.1:{relay.port}/0" if at else f"redis://127.0.0.1:{relay.port}/0"
    changes = {"redis_url": url, "cassandra_port": relay.port, "timeout_s": 0.25, "breaker_reset_s": 0.2}
    return StoreSettings.model_validate(settings.model_dump() | changes)


def at_once(live: Live) -> list[dict]:
    """Send 40 requests at once; return their bodies."""
    with ThreadPoolExecutor(N_REQUESTS) as pool:
        responses = list(pool.map(live.call, [PATH] * N_REQUESTS))
    assert {status for status, _, _ in responses} == {200}
    return [body for _, _, body in responses]


def method(live: Live) -> str:
    return live.call(PATH)[2]["method"]


@pytest.mark.parametrize("mode", FAILING)
def test_requests_are_answered_while_the_store_fails_and_use_it_again_afterwards(stored, release_home, serve, mode):
    settings, port = stored
    with Relay(port, mode=mode) as relay:
        live = serve(release_home.home, store=behind(settings, relay))
        bodies = at_once(live)
        assert {body["method"] for body in bodies} == {"popularity"}
        assert all(" store " in body["degraded"]["reason"] for body in bodies)
        if settings.kind == "cassandra" and mode == "silent":  # one attempt at a time: not one for each request
            assert relay.accepted < N_REQUESTS / 4
        assert live.call("/healthz")[0] == 200
        status, _, ready = live.call("/readyz")
        assert (status, ready["ready"], ready["store"]["answers"]) == (200, True, False)
        relay.mode = "pass"
        live.wait("stored", method)
        live.wait({"stored"}, lambda live: {body["method"] for body in at_once(live)})
        relay.mode = mode
        assert {body["method"] for body in at_once(live)} == {"popularity"}
        relay.mode = "pass"
        live.wait("stored", method)
        live.wait(True, lambda live: live.call("/readyz")[2]["store"]["answers"])
