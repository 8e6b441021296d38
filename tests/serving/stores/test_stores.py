"""Laws of every store: what is read is what was published under the release that asks, whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from contracts.errors import CheckFailed
from serving.main import with_secrets
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import WARM, Block, NotPublished, StorePart, find_user, retire_and_remove
from tests.helpers.live import ROOT
from tests.helpers.store_rows import SPACE, A, B, D, N, assert_is, filled, rows_of
from tests.helpers.store_servers import cassandra_settings, drop_keyspace, redis_server


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


def test_every_user_is_found_with_the_own_row_and_nobody_else_is(store, settings, tmp_path):
    part_rows, blocks = filled()
    store.publish(part_rows, iter(blocks))
    reader = open_store(settings, tmp_path)
    for user in part_rows.user_ids.tolist():
        assert_is(find_user(reader, A, SPACE, user), user, 0)
    strangers = {*range(12), 10**6, 2**63 - 1}.difference(part_rows.user_ids.tolist())
    assert all(find_user(reader, A, SPACE, user) is None for user in sorted(strangers))
    reader.close()


def test_a_release_that_was_not_published_knows_nobody_and_says_what_to_do(store):
    store.publish(*filled(A))
    for release, space in ((B, SPACE), (A, "ut_als")):
        with pytest.raises(NotPublished, match="overture release publish"):
            find_user(store, release, space, 11)


def test_each_release_answers_with_its_own_rows(store):
    first, blocks = filled(A, seed=0)
    store.publish(first, blocks)
    store.publish(*filled(B, seed=7))
    for user in first.user_ids[:40].tolist():
        assert_is(find_user(store, A, SPACE, user), user, 0)
        assert_is(find_user(store, B, SPACE, user), user, 7)


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
        assert find_user(store, A, SPACE, user) is None
    for user in second.user_ids.tolist():
        assert_is(find_user(store, A, SPACE, user), user, 3)


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
        assert_is(find_user(store, A, SPACE, user), user, 0)
    third, blocks = filled(B)
    with pytest.raises(RuntimeError):
        store.publish(third, breaks())
    with pytest.raises(NotPublished):
        find_user(store, B, SPACE, int(third.user_ids[0]))
    store.publish(second, others)
    for user in first.user_ids[:40].tolist():
        assert_is(find_user(store, A, SPACE, user), user, 5)


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
                row = find_user(reader, A, SPACE, user)
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
        part_rows = StorePart(A, SPACE, part, part, ids, D, N, str(seed))
        store.publish(part_rows, [rows_of(ids, seed)])
    both, newer, older = everybody[0], everybody[2], everybody[3]
    assert_is(find_user(store, A, SPACE, int(older)), int(older), 1, "cold", "2026-11-10")
    assert_is(find_user(store, A, SPACE, int(newer)), int(newer), 2, "cold", "2026-11-12")
    store.publish(warm, blocks)
    assert_is(find_user(store, A, SPACE, int(both)), int(both), 0)
    assert {part: notice.users for part, notice in store.notices(A, SPACE).items()} == {
        WARM: 5,
        "2026-11-10": 5,
        "2026-11-12": 3,
    }


def test_an_empty_part_is_a_part(store):
    nobody = np.zeros(0, np.int64)
    store.publish(*filled(n_users=3))
    store.publish(StorePart(A, SPACE, "2026-11-10", "2026-11-10", nobody, D, N, "x"), [])
    assert store.notices(A, SPACE)["2026-11-10"].users == 0
    assert find_user(store, A, SPACE, 1) is None


def test_a_release_goes_after_its_grace_and_is_kept_again_when_it_returns(store):
    for release in (A, B):
        store.publish(*filled(release, n_users=40))
    user = int(filled(n_users=40)[0].user_ids[0])
    assert retire_and_remove(store, [B], 3600) == {"retired": [A], "removed": []}
    assert find_user(store, A, SPACE, user), "a request that began with it still finds its rows"
    assert retire_and_remove(store, [A, B], 3600) == {"retired": [], "removed": []}
    assert store.releases() == {A: None, B: None}
    retire_and_remove(store, [B], 3600)
    assert retire_and_remove(store, [B], 0) == {"retired": [], "removed": [A]}
    with pytest.raises(NotPublished):
        find_user(store, A, SPACE, user)
    assert find_user(store, B, SPACE, user)
    assert store.releases() == {B: None}


def test_nothing_of_a_removed_release_is_left_in_redis_or_on_the_disk(store, settings, tmp_path):
    part_rows, blocks = filled(n_users=40)
    store.publish(part_rows, blocks)
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
        assert store._ask("row", A, SPACE, int(part_rows.user_ids[0])) == []


def broken_after(blocks):
    yield from blocks
    raise RuntimeError


@pytest.mark.parametrize("wrong", ["missing", "twice", "stranger", "width"])
def test_blocks_that_are_not_what_was_announced_are_refused(store, wrong):
    part_rows, blocks = filled(n_users=100)
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
        store.publish(part_rows, blocks)
    assert store.notices(A, SPACE) == {}


KILLED = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from tests.helpers.store_rows import filled
from serving.settings import StoreSettings
from serving.stores import open_store
part_rows, blocks = filled(release=sys.argv[3], seed=9)
def dies():
    yield from blocks[:2]
    os._exit(9)
store = open_store(StoreSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), publishing=True)
store.publish(part_rows, dies())
"""


@pytest.mark.parametrize("release", [A, B])
def test_a_publisher_that_is_killed_between_two_writes_leaves_every_release_as_it_was(
    store, settings, tmp_path, release
):
    first, blocks = filled()
    store.publish(first, blocks)
    words = [with_secrets(settings), str(tmp_path), release, str(ROOT), str(ROOT / "tests" / "serving")]
    done = subprocess.run([sys.executable, "-c", KILLED, *words], env={**os.environ}, capture_output=True, text=True)
    assert done.returncode == 9, done.stderr
    for user in first.user_ids[:30].tolist():
        assert_is(find_user(store, A, SPACE, user), user, 0)
    if release == B:
        with pytest.raises(NotPublished):
            find_user(store, B, SPACE, int(first.user_ids[0]))
    second, blocks = filled(release, seed=9)
    store.publish(second, blocks)
    assert_is(find_user(store, release, SPACE, int(second.user_ids[0])), int(second.user_ids[0]), 9)
    if settings.kind == "memory":
        assert not list((tmp_path / "stores").glob("*/*/.writing-*")), "what the dead one left is gone"
