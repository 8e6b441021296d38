"""Laws of every store: what is read is what was published under the release that asks, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from live import ROOT
from store_servers import cassandra_settings, drop_keyspace, redis_server

from contracts.errors import BadArgument, CheckFailed
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.cassandra import SCHEMA, STATEMENTS, Cassandra, as_row, as_values
from serving.stores.circuit import Circuit
from serving.stores.interface import WARM, Block, Filling, NotPublished, StoreAway, find, tidy
from serving.stores.redis import pack, unpack

A, B = "a" * 64, "b" * 64
SPACE, D, N = "tt_svd", 6, 4


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = redis_server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(params=["memory", "redis", "cassandra"])
def settings(request):
    """Settings of an empty store of each kind."""
    if request.param == "memory":
        yield StoreSettings()
    elif request.param == "redis":
        import redis as client

        server = request.getfixturevalue("redis")
        client.Redis.from_url(server.url).flushall()
        yield StoreSettings(kind="redis", redis_url=server.url, timeout_s=5)
    else:
        found = cassandra_settings()
        yield found
        drop_keyspace(found)


@pytest.fixture
def store(settings, tmp_path):
    found = open_store(settings, tmp_path, publishing=True)
    yield found
    found.close()


def filled(release=A, part=WARM, since="2026-11-16", n_users=300, seed=0, made_of="1"):
    """A filling whose rows follow from (seed, user_id), and its blocks: users in no order."""
    ids = 10 + np.random.default_rng(1).permutation(10 * n_users)[:n_users].astype(np.int64)
    blocks = [rows_of(ids[start : start + 64], seed) for start in range(0, n_users, 64)]
    return Filling(release, SPACE, part, since, ids, D, N, f"{made_of}/{seed}"), blocks


def rows_of(ids, seed):
    random = [np.random.default_rng([seed, user]) for user in ids.tolist()]
    vectors = np.stack([rng.standard_normal(D) for rng in random]).astype(np.float32)
    segments = np.array([rng.integers(9) for rng in random], np.int32)
    tracks = np.stack([rng.integers(-1, 2**62, N) for rng in random])
    return Block(ids, vectors, segments, tracks)


def assert_is(row, user, seed, kind="warm", since="2026-11-16"):
    want = rows_of(np.array([user]), seed)
    assert (row.user_id, row.kind, row.since, row.segment_id) == (user, kind, since, int(want.segments_B[0]))
    np.testing.assert_array_equal(row.vector_D, want.vectors_BD[0])
    np.testing.assert_array_equal(row.track_ids, want.tracks_Bn[0])
    assert row.vector_D.dtype == np.float32


def test_every_user_is_found_with_the_own_row_and_nobody_else_is(store, settings, tmp_path):
    filling, blocks = filled()
    store.publish(filling, iter(blocks))
    reader = open_store(settings, tmp_path)
    for user in filling.user_ids.tolist():
        assert_is(find(reader, A, SPACE, user), user, 0)
    strangers = set(range(12)) | {10**6, 2**63 - 1} - set(filling.user_ids.tolist())
    assert all(find(reader, A, SPACE, user) is None for user in sorted(strangers - set(filling.user_ids.tolist())))
    reader.close()


def test_a_release_that_was_not_published_knows_nobody_and_says_what_to_do(store):
    store.publish(*filled(A))
    for release, space in ((B, SPACE), (A, "ut_als")):
        with pytest.raises(NotPublished, match="overture release publish"):
            find(store, release, space, 11)


def test_each_release_answers_with_its_own_rows(store):
    first, blocks = filled(A, seed=0)
    store.publish(first, blocks)
    store.publish(*filled(B, seed=7))
    for user in first.user_ids[:40].tolist():
        assert_is(find(store, A, SPACE, user), user, 0)
        assert_is(find(store, B, SPACE, user), user, 7)


def test_publishing_again_changes_nothing_and_another_filling_replaces_the_whole_part(store):
    first, blocks = filled()
    for _ in range(2):
        store.publish(first, iter(blocks))
    assert store.notices(A, SPACE)[WARM].users == 300
    second, blocks = filled(n_users=100, seed=3)
    store.publish(second, iter(blocks))
    gone = sorted(set(first.user_ids.tolist()) - set(second.user_ids.tolist()))
    assert len(gone) > 100
    for user in gone[:20]:
        assert find(store, A, SPACE, user) is None
    for user in second.user_ids.tolist():
        assert_is(find(store, A, SPACE, user), user, 3)


def test_a_publisher_that_fails_half_way_changes_nothing_and_the_next_one_ends_the_work(store):
    first, blocks = filled()
    store.publish(first, blocks)
    second, others = filled(seed=5)

    def breaks():
        yield from others[:2]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.publish(second, breaks())
    for user in first.user_ids[:40].tolist():
        assert_is(find(store, A, SPACE, user), user, 0)
    third, blocks = filled(B)
    with pytest.raises(RuntimeError):
        store.publish(third, breaks())
    with pytest.raises(NotPublished):
        find(store, B, SPACE, int(third.user_ids[0]))
    store.publish(second, others)
    for user in first.user_ids[:40].tolist():
        assert_is(find(store, A, SPACE, user), user, 5)


def test_readers_see_one_filling_or_the_other_while_it_is_replaced(store, settings, tmp_path):
    """Users of the part are known at every moment, and each answer is of one filling."""
    fillings = [filled(seed=seed) for seed in (0, 1)]
    store.publish(*fillings[0])
    users = fillings[0][0].user_ids.tolist()
    right = {seed: {user: rows_of(np.array([user]), seed).vectors_BD[0].tobytes() for user in users} for seed in (0, 1)}
    done, wrong, seen = threading.Event(), [], set()

    def read():
        reader = open_store(settings.model_copy(update={"timeout_s": 10.0}), tmp_path)
        while not done.is_set():
            for user in users[::17]:
                row = find(reader, A, SPACE, user)
                of = [seed for seed in (0, 1) if row is not None and row.vector_D.tobytes() == right[seed][user]]
                seen.update(of)
                if len(of) != 1:
                    wrong.append((user, row))
        reader.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1, 9):
        store.publish(*fillings[turn % 2])
    end = time.monotonic() + 30
    while len(seen) < 2 and not wrong and time.monotonic() < end:
        store.publish(*fillings[turn % 2])
        turn += 1
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert seen == {0, 1}


def test_warm_comes_before_cold_and_a_newer_day_before_an_older_one(store):
    warm, blocks = filled(n_users=5, seed=0)
    everybody = warm.user_ids
    for part, ids, seed in (("2026-11-10", everybody, 1), ("2026-11-12", everybody[:3], 2)):
        filling = Filling(A, SPACE, part, part, ids, D, N, str(seed))
        store.publish(filling, [rows_of(ids, seed)])
    both, newer, older = everybody[0], everybody[2], everybody[3]
    assert_is(find(store, A, SPACE, int(older)), int(older), 1, "cold", "2026-11-10")
    assert_is(find(store, A, SPACE, int(newer)), int(newer), 2, "cold", "2026-11-12")
    store.publish(warm, blocks)
    assert_is(find(store, A, SPACE, int(both)), int(both), 0)
    assert {part: notice.users for part, notice in store.notices(A, SPACE).items()} == {
        WARM: 5, "2026-11-10": 5, "2026-11-12": 3,
    }  # fmt: skip


def test_an_empty_part_is_a_part(store):
    nobody = np.zeros(0, np.int64)
    store.publish(*filled(n_users=3))
    store.publish(Filling(A, SPACE, "2026-11-10", "2026-11-10", nobody, D, N, "x"), [])
    assert store.notices(A, SPACE)["2026-11-10"].users == 0
    assert find(store, A, SPACE, 1) is None


def test_a_release_goes_after_its_grace_and_is_kept_again_when_it_returns(store):
    for release in (A, B):
        store.publish(*filled(release, n_users=40))
    user = int(filled(n_users=40)[0].user_ids[0])
    assert tidy(store, [B], 3600) == {"retired": [A], "removed": []}
    assert find(store, A, SPACE, user), "a request that began with it still finds its rows"
    assert tidy(store, [A, B], 3600) == {"retired": [], "removed": []}
    assert store.releases() == {A: None, B: None}
    tidy(store, [B], 3600)
    assert tidy(store, [B], 0) == {"retired": [], "removed": [A]}
    with pytest.raises(NotPublished):
        find(store, A, SPACE, user)
    assert find(store, B, SPACE, user)
    assert store.releases() == {B: None}


def test_nothing_of_a_removed_release_is_left_in_redis_or_on_the_disk(store, settings, tmp_path):
    filling, blocks = filled(n_users=40)
    store.publish(filling, blocks)
    other, more = filled(n_users=30, seed=4)
    with pytest.raises(RuntimeError):
        store.publish(other, broken_after(more[:1]))
    store.remove(A)
    if settings.kind == "redis":
        assert store._redis.keys("*") == []
    elif settings.kind == "memory":
        assert list((tmp_path / "stores").iterdir()) == []
    else:
        assert all(store._ask(name, *values) == [] for name, values in (("releases", ()), ("members", (A,))))
        assert store._ask("row", A, SPACE, int(filling.user_ids[0])) == []


def broken_after(blocks):
    yield from blocks
    raise RuntimeError


@pytest.mark.parametrize("wrong", ["missing", "twice", "stranger", "width"])
def test_blocks_that_are_not_what_was_announced_are_refused(store, wrong):
    filling, blocks = filled(n_users=100)
    last = blocks[-1]
    if wrong == "missing":
        blocks = blocks[:-1]
    elif wrong == "twice":
        blocks = [*blocks, blocks[0]]
    elif wrong == "stranger":
        blocks[-1] = Block(last.user_ids + 10**9, last.vectors_BD, last.segments_B, last.tracks_Bn)
    else:
        blocks[-1] = Block(last.user_ids, last.vectors_BD[:, :-1], last.segments_B, last.tracks_Bn)
    with pytest.raises(CheckFailed, match="publish warm"):
        store.publish(filling, blocks)
    assert store.notices(A, SPACE) == {}


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from test_stores import filled, open_store, StoreSettings
import os
filling, blocks = filled(release=sys.argv[3], seed=9)
def dies():
    yield from blocks[:2]
    os._exit(9)
store = open_store(StoreSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), publishing=True)
store.publish(filling, dies())
"""


@pytest.mark.parametrize("release", [A, B])
def test_a_publisher_that_is_killed_between_two_writes_leaves_every_release_as_it_was(
    store, settings, tmp_path, release
):
    from serving.main import with_secrets

    first, blocks = filled()
    store.publish(first, blocks)
    words = [with_secrets(settings), str(tmp_path), release, str(ROOT), str(ROOT / "tests" / "serving"),
             str(ROOT / "tests" / "jobs")]  # fmt: skip
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    for user in first.user_ids[:30].tolist():
        assert_is(find(store, A, SPACE, user), user, 0)
    if release == B:
        with pytest.raises(NotPublished):
            find(store, B, SPACE, int(first.user_ids[0]))
    second, blocks = filled(release, seed=9)
    store.publish(second, blocks)
    assert_is(find(store, release, SPACE, int(second.user_ids[0])), int(second.user_ids[0]), 9)
    if settings.kind == "memory":
        assert not list((tmp_path / "stores").glob("*/*/.filling-*")), "what the dead one left is gone"


# -- what one store alone can do


def test_damaged_files_are_named(tmp_path):
    store = open_store(StoreSettings(), tmp_path)
    filling, blocks = filled(n_users=20)
    store.publish(filling, blocks)
    user = int(filling.user_ids[0])
    folder = next((tmp_path / "stores" / A / SPACE).glob("*.*/"))
    (folder / "vectors.npy").write_bytes(b"")
    with pytest.raises(CheckFailed, match="is damaged"):
        find(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    (folder / "vectors.npy").unlink()
    with pytest.raises(CheckFailed, match="is missing; publish the release again"):
        find(open_store(StoreSettings(), tmp_path), A, SPACE, user)
    (tmp_path / "stores" / A / SPACE / "warm.json").write_text("{")
    with pytest.raises(CheckFailed, match=r"warm\.json .* is damaged"):
        find(store, A, SPACE, user)


def test_a_row_in_redis_is_its_own_bytes_and_a_damaged_one_is_refused():
    filling, blocks = filled(n_users=3)
    row = blocks[0].rows(filling)[0]
    packed = pack(row)
    assert len(packed) == 9 + 4 * D + 8 * N
    assert_is(unpack(packed, row.user_id, filling.notice, True), row.user_id, 0)
    for damaged in (b"", packed[:-1], packed + b"x", b"\x02" + packed[1:]):
        with pytest.raises(CheckFailed, match="damaged"):
            unpack(damaged, row.user_id, filling.notice, True)


def test_an_address_that_is_none_is_refused_without_its_password(tmp_path):
    with pytest.raises(BadArgument, match=r"store\.redis_url") as raised:
        open_store(StoreSettings(kind="redis", redis_url="http://:sesame@here"), tmp_path)
    assert "sesame" not in str(raised.value)
    assert "sesame" not in repr(StoreSettings(redis_url="redis://:sesame@here"))


def test_cassandras_values_are_those_of_the_row_and_their_types_are_the_columns():
    """Bound by the driver's own codecs, without a server."""
    from cassandra.cqltypes import BytesType, Int32Type, LongType, UTF8Type

    filling, blocks = filled(n_users=3)
    row = blocks[0].rows(filling)[1]
    values = as_values(filling, row)
    types = (UTF8Type, UTF8Type, LongType, UTF8Type, Int32Type, BytesType, BytesType)
    back = [kind.deserialize(kind.serialize(value, 5), 5) for kind, value in zip(types, values, strict=True)]
    assert back == list(values)
    assert_is(as_row(row.user_id, filling.notice, True, *back[4:]), row.user_id, 0)
    with pytest.raises(CheckFailed, match="damaged"):
        as_row(1, filling.notice, True, 0, b"123", b"")


def test_cassandras_statements_name_the_schemas_columns_and_keys():
    """Every column is one that the schema has; what is looked for by equality begins with the partition's key."""
    import re

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
    from store_servers import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        store = Cassandra(["127.0.0.1"], port, "overture", "datacenter1", 1, ("me", "sesame"), 0.2, False)
        with pytest.raises(StoreAway, match=r"cassandra 127\.0\.0\.1:") as raised:
            store.notices(A, SPACE)
    assert "sesame" not in str(raised.value)


# -- the circuit


def test_a_store_that_is_away_is_asked_once_and_then_left_alone(tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url, timeout_s=5, retry_s=3600)
        writer = open_store(settings, tmp_path, publishing=True)
        filling, blocks = filled(n_users=3)
        writer.publish(filling, blocks)
        user = int(filling.user_ids[0])
        circuit = Circuit(settings, tmp_path)
        assert_is(circuit.find(A, SPACE, user), user, 0)
        assert circuit.state(A, SPACE)["parts"] == {WARM: 3}
        server.stop()
        asked = []
        row = circuit.store.notices
        circuit.store.notices = lambda *words: asked.append(words) or row(*words)
        for _ in range(5):
            with pytest.raises(StoreAway, match="does not answer") as raised:
                circuit.find(A, SPACE, user)
            assert "sesame" not in str(raised.value)
        assert len(asked) == 1
        assert circuit.state(A, SPACE)["answers"] is False
        server.start()
        circuit.store.publish(filling, blocks)
        with pytest.raises(StoreAway):
            circuit.find(A, SPACE, user)
        circuit._next_try = 0.0  # as if retry_s had passed
        assert_is(circuit.find(A, SPACE, user), user, 0)
        assert_is(circuit.find(A, SPACE, user), user, 0)
    finally:
        server.stop()


def test_what_the_store_says_wrong_does_not_open_the_circuit(tmp_path):
    circuit = Circuit(StoreSettings(), tmp_path)
    with pytest.raises(NotPublished):
        circuit.find(A, SPACE, 1)
    assert circuit.problem is None
    said = circuit.state(A, SPACE)
    assert (said["answers"], said["problem"]) == (True, f"it holds no users of release {A[:12]}")
