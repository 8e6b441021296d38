"""Connections to the servers of a store: TLS, one attempt at a time, and data of an older version."""

from __future__ import annotations

import ssl
import subprocess
import threading

import pytest

from contracts.errors import BadArgument
from serving.settings import StoreSettings
from serving.stores import cassandra as cassandra_store
from serving.stores import open_store
from serving.stores.interface import NotPublished, StoreUnavailable, find_user
from tests.helpers.relay import Relay
from tests.helpers.store_rows import SPACE, A, assert_row_equals, filled
from tests.helpers.store_servers import cassandra_settings, drop_keyspace


@pytest.fixture
def certificate(tmp_path):
    """Files of a certificate for 127.0.0.1, which signs itself, and of its key."""
    return make_certificate(tmp_path, "server")


def make_certificate(folder, name):
    files = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "1",
                "-subj",
                f"/CN={name}",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", files[0], "-keyout", files[1]),
        ],
        check=True,
        capture_output=True,
    )
    return tuple(map(str, files))


@pytest.fixture
def keyspace(cassandra):
    """Settings of Cassandra with a new keyspace, on a server of this machine."""
    if cassandra is None:
        pytest.skip("needs a server on this machine, not the cluster of CASSANDRA_CONTACT_POINTS")
    settings = cassandra_settings(cassandra)
    yield settings
    drop_keyspace(settings)


def publish_and_find(settings, home):
    """Publish three users; return one whose row was then found."""
    store = open_store(settings, home, publishing=True)
    part_rows, blocks = filled(n_users=3)
    store.publish(part_rows, blocks)
    user = int(part_rows.user_ids[0])
    assert_row_equals(find_user(store, A, SPACE, user), user, 0)
    store.close()
    return user


def changed(settings, **changes):
    return StoreSettings.model_validate(settings.model_dump() | changes)


def test_redis_is_reached_by_tls_with_the_ca_of_the_settings(redis, certificate, tmp_path):
    ca, key = certificate
    other, _ = make_certificate(tmp_path, "other")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(ca, key)
    with Relay(redis.port, tls=context) as relay:
        url = f"rediss://:sesame@127.0.0.1:{relay.port}/0"
        settings = StoreSettings(kind="redis", redis_url=url, redis_ca=ca, timeout_s=5)
        user = publish_and_find(settings, tmp_path)
        for wrong in ("", other):
            with pytest.raises(StoreUnavailable, match="does not answer"):
                find_user(open_store(changed(settings, redis_ca=wrong), tmp_path), A, SPACE, user)


def test_cassandra_is_reached_by_tls_with_a_client_certificate(keyspace, certificate, tmp_path):
    ca, key = certificate
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
    context.load_cert_chain(ca, key)
    context.verify_mode = ssl.CERT_REQUIRED
    with Relay(keyspace.cassandra_port, tls=context) as relay:
        tls = {"cassandra_port": relay.port, "cassandra_ca": ca, "cassandra_certificate": ca, "cassandra_key": key}
        settings = changed(keyspace, **tls)
        user = publish_and_find(settings, tmp_path)
        other, _ = make_certificate(tmp_path, "other")
        for wrong in ({"cassandra_ca": other}, {"cassandra_certificate": "", "cassandra_key": ""}):
            refused = open_store(changed(settings, timeout_s=2, **wrong), tmp_path)
            with pytest.raises(StoreUnavailable):
                find_user(refused, A, SPACE, user)
            refused.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "redis", "redis_ca": "ca.pem"}, "store.redis_ca: needs a redis_url with rediss://"),
        ({"kind": "redis", "redis_url": "rediss://host:1/0", "redis_ca": "no.pem"}, "store.redis_ca: .*no.pem"),
        ({"kind": "cassandra", "cassandra_ca": "no.pem"}, r"store.cassandra_ca: .*no\.pem"),
        ({"kind": "cassandra", "cassandra_ca": "ca.pem", "cassandra_key": "a"}, "store.cassandra_certificate: set"),
        ({"kind": "cassandra", "cassandra_certificate": "a", "cassandra_key": "a"}, "store.cassandra_certificate: set"),
    ],
)
def test_settings_of_certificates_that_cannot_be_used_raise(settings, message, tmp_path):
    with pytest.raises(BadArgument, match=message):
        open_store(StoreSettings(**settings), tmp_path)


def test_calls_while_cassandra_is_being_connected_fail_at_once(tmp_path):
    """A server that accepts connections and never answers: only the first of 40 calls waits."""
    with Relay(1, mode="silent") as relay:
        settings = StoreSettings(kind="cassandra", cassandra_port=relay.port, timeout_s=0.2)
        store, reasons = open_store(settings, tmp_path), []

        def read():
            with pytest.raises(StoreUnavailable) as raised:
                store.notices(A, SPACE)
            reasons.append(str(raised.value))

        threads = [threading.Thread(target=read) for _ in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reasons) == 40
        assert {reason.rpartition("store ")[2] for reason in reasons} == {"is not connected yet"}
        assert relay.accepted <= 1
        store.close()


def test_user_ids_of_a_publication_are_in_buckets_and_an_interrupted_removal_is_completed(
    keyspace, tmp_path, monkeypatch
):
    monkeypatch.setattr(cassandra_store, "BUCKET", 2)
    store = open_store(keyspace, tmp_path, publishing=True)
    part_rows, blocks = filled(n_users=300)  # five blocks
    store.publish(part_rows, blocks)
    sizes = [len(store._ask("user_ids", A, part_rows.publication, bucket)) for bucket in range(4)]
    assert sizes == [2, 2, 1, 0]
    ask, dropped = store._ask, []

    def stop_in_the_middle(name, *values):
        if name == "drop_user_ids":
            dropped.append(values)
            if len(dropped) == 2:
                raise StoreUnavailable("stopped")
        return ask(name, *values)

    monkeypatch.setattr(store, "_ask", stop_in_the_middle)
    with pytest.raises(StoreUnavailable, match="stopped"):
        store.remove(A)
    assert store.releases() == {A: None}
    store.remove(A)
    assert store.releases() == {}
    assert all(ask("user_ids", A, part_rows.publication, bucket) == [] for bucket in range(3))
    assert all(ask("row", A, SPACE, user) == [] for user in part_rows.user_ids[:5].tolist())
    store.close()


def test_publishing_replaces_the_tables_of_an_older_version(keyspace, tmp_path):
    from cassandra.cluster import Cluster

    cluster = Cluster(list(keyspace.cassandra_hosts), keyspace.cassandra_port, schema_event_refresh_window=-1)
    session, name = cluster.connect(), keyspace.cassandra_keyspace
    for statement in (
        f"CREATE KEYSPACE {name} WITH replication = {{'class': 'SimpleStrategy', 'replication_factor': 1}}",
        f"CREATE TABLE {name}.members (release text PRIMARY KEY, user_ids blob)",
        f"CREATE TABLE {name}.users (release text PRIMARY KEY, vector blob)",
    ):
        session.execute(statement, timeout=60)
    with pytest.raises(StoreUnavailable, match="no tables of this version; run `overture release publish`"):
        open_store(keyspace, tmp_path).notices(A, SPACE)
    store = open_store(keyspace, tmp_path, publishing=True)
    with pytest.raises(NotPublished):
        find_user(store, A, SPACE, 1)
    part_rows, blocks = filled(n_users=3)
    store.publish(part_rows, blocks)
    user = int(part_rows.user_ids[0])
    assert_row_equals(find_user(store, A, SPACE, user), user, 0)
    assert session.execute(f"SELECT table_name FROM system_schema.tables WHERE keyspace_name = '{name}'", timeout=60)
    store.close()
    cluster.shutdown()
