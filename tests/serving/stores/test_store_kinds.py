"""Tests of one kind of store each: damaged data, encoded rows, CQL statements. Also the circuit breaker."""

from __future__ import annotations

import re
import socket

import pytest

from contracts.errors import BadArgument, CheckFailed
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.cassandra import SCHEMA, STATEMENTS, Cassandra, as_row, as_values
from serving.stores.circuit import CircuitBreaker
from serving.stores.interface import HISTORY, WARM, NotPublished, StoreUnavailable, find_user
from serving.stores.redis import pack, unpack
from tests.helpers.store_rows import SPACE, A, D, N, assert_row_equals, filled
from tests.helpers.store_servers import redis_server


def test_damaged_files_raise(tmp_path):
    store = open_store(StoreSettings(), tmp_path)
    part_rows, blocks = filled(n_users=20)
    store.publish(part_rows, blocks)
    user = int(part_rows.user_ids[0])
    folder = next((tmp_path / "stores" / A / SPACE).glob("*.*/"))
    (folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(CheckFailed, match="is damaged"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    (folder / "vectors.npy").write_bytes((folder / "segments.npy").read_bytes())
    (folder / "history.bin").write_bytes(b"")
    with pytest.raises(CheckFailed, match="is damaged; publish the release again"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, int(part_rows.user_ids.max()))
    (folder / "spans.npy").unlink()  # as an older version writes it
    with pytest.raises(CheckFailed, match="is missing; publish the release again"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    (folder / "vectors.npy").unlink()
    with pytest.raises(CheckFailed, match="is missing; publish the release again"):
        find_user(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    for damaged in (b"{", b"\xff{"):
        (tmp_path / "stores" / A / SPACE / "warm.json").write_bytes(damaged)
        with pytest.raises(CheckFailed, match=r"warm\.json .* is damaged"):
            find_user(store, A, SPACE, user)


def test_redis_row_round_trips_and_a_damaged_row_raises():
    part_rows, blocks = filled(n_users=3)
    row = blocks[0].rows(part_rows)[0]
    packed = pack(row)
    assert len(packed) == 9 + 4 * D + 8 * N + 4 * len(HISTORY) + 8 * sum(map(len, row.history))
    assert_row_equals(unpack(packed, row.user_id, part_rows.notice, True), row.user_id, 0)
    for damaged in (b"", packed[:-1], packed + b"x", packed[:20]):
        with pytest.raises(CheckFailed, match="damaged"):
            unpack(damaged, row.user_id, part_rows.notice, True)
    with pytest.raises(CheckFailed, match="another version; publish the release again"):
        unpack(b"\x01" + packed[1:], row.user_id, part_rows.notice, True)


def test_damaged_notice_in_redis_raises(tmp_path):
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


def test_invalid_redis_url_raises_without_showing_the_password(tmp_path):
    with pytest.raises(BadArgument, match=r"store\.redis_url") as raised:
        open_store(StoreSettings(kind="redis", redis_url="http://:sesame@here"), tmp_path)
    assert "sesame" not in str(raised.value)
    assert "sesame" not in repr(StoreSettings(redis_url="redis://:sesame@here"))


def test_cassandra_values_round_trip_through_the_column_types():
    """Values are encoded and decoded with the codecs of the driver, without a server."""
    from cassandra.cqltypes import BytesType, Int32Type, LongType, UTF8Type

    part_rows, blocks = filled(n_users=3)
    row = blocks[0].rows(part_rows)[1]
    values = as_values(part_rows, row)
    types = (UTF8Type, UTF8Type, LongType, UTF8Type, Int32Type, BytesType, BytesType, BytesType)
    decoded = [kind.deserialize(kind.serialize(value, 5), 5) for kind, value in zip(types, values, strict=True)]
    assert decoded == list(values)
    assert_row_equals(as_row(row.user_id, part_rows.notice, True, *decoded[4:]), row.user_id, 0)
    with pytest.raises(CheckFailed, match="damaged"):
        as_row(1, part_rows.notice, True, 0, b"123", b"", decoded[7])
    with pytest.raises(CheckFailed, match="another version; publish the release again"):
        as_row(1, part_rows.notice, True, *decoded[4:7], None)


def test_cassandra_statements_use_only_columns_of_the_schema():
    """Every column of a statement is in the schema, and an INSERT has one placeholder per column."""
    tables = {}
    for statement in SCHEMA[1:]:
        name = re.search(r"\.(\w+) \(", statement)[1]
        tables[name] = set(re.findall(r"(\w+) (?:text|bigint|int|blob|double)\b", statement))
    for name, cql in STATEMENTS.items():
        table = re.search(r"\{keyspace\}\.(\w+)", cql)[1]
        match = re.search(r"SELECT (.+?) FROM|\((.+?)\) VALUES|DELETE", cql)
        columns = {word.strip() for word in (match[1] or match[2] or "").split(",") if word.strip()}
        columns |= set(re.findall(r"(\w+) = \?", cql))
        assert columns <= tables[table], name
        if cql.startswith("INSERT"):
            assert cql.count("?") == len(columns), name
    assert (
        SCHEMA[0]
        .format(keyspace="k", datacenter="dc", replicas=3)
        .endswith("{'class': 'NetworkTopologyStrategy', 'dc': 3}")
    )


def test_unavailable_cassandra_raises_without_showing_the_password(tmp_path):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        settings = StoreSettings(cassandra_port=port, cassandra_user="me", cassandra_password="sesame")
        store = Cassandra(settings, 10, False)
        with pytest.raises(StoreUnavailable, match=r"cassandra 127\.0\.0\.1:.*does not answer") as raised:
            store.notices(A, SPACE)
    assert "sesame" not in str(raised.value)


def test_circuit_opens_after_one_failed_read_and_closes_after_the_reset_time(tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url, timeout_s=5, breaker_reset_s=3600)
        writer = open_store(settings, tmp_path, publishing=True)
        part_rows, blocks = filled(n_users=3)
        writer.publish(part_rows, blocks)
        user = int(part_rows.user_ids[0])
        circuit = CircuitBreaker(settings, tmp_path)
        assert_row_equals(circuit.find_user(A, SPACE, user), user, 0)
        assert circuit.state(A, SPACE)["parts"] == {WARM: 3}
        server.stop()
        calls = []
        read_notices = circuit.store.notices
        circuit.store.notices = lambda *args: calls.append(args) or read_notices(*args)
        for _ in range(5):
            with pytest.raises(StoreUnavailable, match="does not answer") as raised:
                circuit.find_user(A, SPACE, user)
            assert "sesame" not in str(raised.value)
        assert len(calls) == 1
        assert circuit.state(A, SPACE)["answers"] is False
        server.start()
        circuit.store.publish(part_rows, blocks)
        with pytest.raises(StoreUnavailable):
            circuit.find_user(A, SPACE, user)
        circuit._next_try = 0.0  # as if breaker_reset_s had passed
        assert_row_equals(circuit.find_user(A, SPACE, user), user, 0)
        assert_row_equals(circuit.find_user(A, SPACE, user), user, 0)
    finally:
        server.stop()


def test_unpublished_release_does_not_open_the_circuit(tmp_path):
    circuit = CircuitBreaker(StoreSettings(), tmp_path)
    with pytest.raises(NotPublished):
        circuit.find_user(A, SPACE, 1)
    assert circuit.problem is None
    state = circuit.state(A, SPACE)
    assert (state["answers"], state["problem"]) == (
        True,
        f"it contains no users of release {A[:12]}; run `overture release publish`",
    )
