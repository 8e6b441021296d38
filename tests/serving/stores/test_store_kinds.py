"""What one kind of store alone can do: damage, bytes, statements; and the circuit before a store that is away."""

from __future__ import annotations

import re
import socket

import pytest

from contracts.errors import BadArgument, CheckFailed
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.cassandra import SCHEMA, STATEMENTS, Cassandra, as_row, as_values
from serving.stores.circuit import CircuitBreaker
from serving.stores.interface import WARM, NotPublished, StoreUnavailable, find_user
from serving.stores.redis import pack, unpack
from tests.helpers.store_rows import SPACE, A, D, N, assert_is, filled
from tests.helpers.store_servers import redis_server


def test_damaged_files_are_named(tmp_path):
    store = open_store(StoreSettings(), tmp_path)
    part_rows, blocks = filled(n_users=20)
    store.publish(part_rows, blocks)
    user = int(part_rows.user_ids[0])
    folder = next((tmp_path / "stores" / A / SPACE).glob("*.*/"))
    (folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(CheckFailed, match="is damaged"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    (folder / "vectors.npy").unlink()
    with pytest.raises(CheckFailed, match="is missing; publish the release again"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    for damaged in (b"{", b"\xff{"):
        (tmp_path / "stores" / A / SPACE / "warm.json").write_bytes(damaged)
        with pytest.raises(CheckFailed, match=r"warm\.json .* is damaged"):
            find_user(store, A, SPACE, user)


def test_a_row_in_redis_is_its_own_bytes_and_a_damaged_one_is_refused():
    part_rows, blocks = filled(n_users=3)
    row = blocks[0].rows(part_rows)[0]
    packed = pack(row)
    assert len(packed) == 9 + 4 * D + 8 * N
    assert_is(unpack(packed, row.user_id, part_rows.notice, True), row.user_id, 0)
    for damaged in (b"", packed[:-1], packed + b"x", b"\x02" + packed[1:]):
        with pytest.raises(CheckFailed, match="damaged"):
            unpack(damaged, row.user_id, part_rows.notice, True)


def test_a_damaged_notice_in_redis_is_named(tmp_path):
    server = redis_server(tmp_path)
    try:
        store = open_store(StoreSettings(kind="redis", redis_url=server.url), tmp_path, publishing=True)
        part_rows, blocks = filled(n_users=3)
        store.publish(part_rows, blocks)
        store._redis.hset(f"overture:{A}:{SPACE}:notices", WARM, b"\xff{")
        with pytest.raises(CheckFailed, match=r"the notice of warm, .* is damaged: .*publish the release again"):
            find_user(store, A, SPACE, int(part_rows.user_ids[0]))
    finally:
        server.stop()


def test_an_address_that_is_none_is_refused_without_its_password(tmp_path):
    with pytest.raises(BadArgument, match=r"store\.redis_url") as raised:
        open_store(StoreSettings(kind="redis", redis_url="http://:sesame@here"), tmp_path)
    assert "sesame" not in str(raised.value)
    assert "sesame" not in repr(StoreSettings(redis_url="redis://:sesame@here"))


def test_cassandras_values_are_those_of_the_row_and_their_types_are_the_columns():
    """Bound by the driver's own codecs, without a server."""
    from cassandra.cqltypes import BytesType, Int32Type, LongType, UTF8Type

    part_rows, blocks = filled(n_users=3)
    row = blocks[0].rows(part_rows)[1]
    values = as_values(part_rows, row)
    types = (UTF8Type, UTF8Type, LongType, UTF8Type, Int32Type, BytesType, BytesType)
    back = [kind.deserialize(kind.serialize(value, 5), 5) for kind, value in zip(types, values, strict=True)]
    assert back == list(values)
    assert_is(as_row(row.user_id, part_rows.notice, True, *back[4:]), row.user_id, 0)
    with pytest.raises(CheckFailed, match="damaged"):
        as_row(1, part_rows.notice, True, 0, b"123", b"")


def test_cassandras_statements_name_the_schemas_columns_and_keys():
    """Every column is one that the schema has; what is looked for by equality begins with the partition's key."""
    tables = {}
    for statement in SCHEMA[1:]:
        name = re.search(r"\.(\w+) \(", statement)[1]
        tables[name] = set(re.findall(r"(\w+) (?:text|bigint|int|blob|double)\b", statement))
    for name, cql in STATEMENTS.items():
        table = re.search(r"\{keyspace\}\.(\w+)", cql)[1]
        used = re.search(r"SELECT (.+?) FROM|\((.+?)\) VALUES|DELETE", cql)
        columns = {word.strip() for word in (used[1] or used[2] or "").split(",") if word.strip()}
        columns |= set(re.findall(r"(\w+) = \?", cql))
        assert columns <= tables[table], name
        if cql.startswith("INSERT"):
            assert cql.count("?") == len(columns), name
    assert (
        SCHEMA[0]
        .format(keyspace="k", datacenter="dc", replicas=3)
        .endswith("{'class': 'NetworkTopologyStrategy', 'dc': 3}")
    )


def test_a_cassandra_that_is_away_is_said_within_seconds(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        store = Cassandra(["127.0.0.1"], port, "overture", "datacenter1", 1, ("me", "sesame"), 0.2, False)
        with pytest.raises(StoreUnavailable, match=r"cassandra 127\.0\.0\.1:") as raised:
            store.notices(A, SPACE)
    assert "sesame" not in str(raised.value)


def test_a_store_that_is_away_is_asked_once_and_then_left_alone(tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url, timeout_s=5, breaker_reset_s=3600)
        writer = open_store(settings, tmp_path, publishing=True)
        part_rows, blocks = filled(n_users=3)
        writer.publish(part_rows, blocks)
        user = int(part_rows.user_ids[0])
        circuit = CircuitBreaker(settings, tmp_path)
        assert_is(circuit.find_user(A, SPACE, user), user, 0)
        assert circuit.state(A, SPACE)["parts"] == {WARM: 3}
        server.stop()
        asked = []
        row = circuit.store.notices
        circuit.store.notices = lambda *words: asked.append(words) or row(*words)
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="does not answer") as raised:
                circuit.find_user(A, SPACE, user)
            assert "sesame" not in str(raised.value)
        assert len(asked) == 1
        assert circuit.state(A, SPACE)["answers"] is False
        server.start()
        circuit.store.publish(part_rows, blocks)
        with pytest.raises(StoreUnavailable):
            circuit.find_user(A, SPACE, user)
        circuit._next_try = 0.0  # as if breaker_reset_s had passed
        assert_is(circuit.find_user(A, SPACE, user), user, 0)
        assert_is(circuit.find_user(A, SPACE, user), user, 0)
    finally:
        server.stop()


def test_what_the_store_says_wrong_does_not_open_the_circuit(tmp_path):
    circuit = CircuitBreaker(StoreSettings(), tmp_path)
    with pytest.raises(NotPublished):
        circuit.find_user(A, SPACE, 1)
    assert circuit.problem is None
    said = circuit.state(A, SPACE)
    assert (said["answers"], said["problem"]) == (True, f"it holds no users of release {A[:12]}")
