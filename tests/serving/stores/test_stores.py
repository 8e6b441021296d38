"""Properties of every store: a read returns the row that was published for the release, and a publish is atomic."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from contracts.errors import CheckFailed
from serving.main import with_secrets
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import HISTORY, WARM, Block, NotPublished, StorePart, find_user, retire_and_remove
from tests.helpers.live import ROOT
from tests.helpers.store_rows import SPACE, A, B, D, N, assert_row_equals, filled, rows_of


@pytest.fixture
def settings(store_settings):
    return store_settings


@pytest.fixture
def store(settings, tmp_path):
    store = open_store(settings, tmp_path, publishing=True)
    yield store
    store.close()


def test_every_published_user_is_found_and_no_other_user_is(store, settings, tmp_path):
    part_rows, blocks = filled()
    store.publish(part_rows, iter(blocks))
    reader = open_store(settings, tmp_path)
    for user in part_rows.user_ids.tolist():
        assert_row_equals(find_user(reader, A, SPACE, user), user, 0)
    unknown_users = {*range(12), 10**6, 2**63 - 1}.difference(part_rows.user_ids.tolist())
    assert all(find_user(reader, A, SPACE, user) is None for user in sorted(unknown_users))
    reader.close()


def test_unpublished_release_raises_and_names_the_command(store):
    store.publish(*filled(A))
    for release, space in ((B, SPACE), (A, "ut_als")):
        with pytest.raises(NotPublished, match="overture release publish"):
            find_user(store, release, space, 11)


def test_each_release_returns_its_own_rows(store):
    first, blocks = filled(A, seed=0)
    store.publish(first, blocks)
    store.publish(*filled(B, seed=7))
    for user in first.user_ids[:40].tolist():
        assert_row_equals(find_user(store, A, SPACE, user), user, 0)
        assert_row_equals(find_user(store, B, SPACE, user), user, 7)


def test_publishing_is_idempotent_and_a_new_filling_replaces_the_part(store):
    first, blocks = filled()
    for _ in range(2):
        store.publish(first, iter(blocks))
    assert store.notices(A, SPACE)[WARM].users == 300
    second, blocks = filled(n_users=100, seed=3)
    store.publish(second, iter(blocks))
    removed_users = sorted(set(first.user_ids.tolist()) - set(second.user_ids.tolist()))
    assert len(removed_users) > 100
    for user in removed_users[:20]:
        assert find_user(store, A, SPACE, user) is None
    for user in second.user_ids.tolist():
        assert_row_equals(find_user(store, A, SPACE, user), user, 3)


def test_failed_publish_changes_nothing_and_the_next_publish_succeeds(store):
    first, blocks = filled()
    store.publish(first, blocks)
    second, new_blocks = filled(seed=5)

    def failing_blocks():
        yield from new_blocks[:2]
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        store.publish(second, failing_blocks())
    for user in first.user_ids[:40].tolist():
        assert_row_equals(find_user(store, A, SPACE, user), user, 0)
    third, blocks = filled(B)
    with pytest.raises(RuntimeError):
        store.publish(third, failing_blocks())
    with pytest.raises(NotPublished):
        find_user(store, B, SPACE, int(third.user_ids[0]))
    store.publish(second, new_blocks)
    for user in first.user_ids[:40].tolist():
        assert_row_equals(find_user(store, A, SPACE, user), user, 5)


def test_readers_see_either_the_old_or_the_new_filling_during_a_replacement(store, settings, tmp_path):
    """Every user of the part is always found, and each row belongs to exactly one filling."""
    fillings = [filled(seed=seed) for seed in (0, 1)]
    store.publish(*fillings[0])
    users = fillings[0][0].user_ids.tolist()
    expected = {
        seed: {user: rows_of(np.array([user]), seed).vectors_BD[0].tobytes() for user in users} for seed in (0, 1)
    }
    done, mismatches, seen = threading.Event(), [], set()

    def read():
        reader = open_store(settings.model_copy(update={"timeout_s": 10.0}), tmp_path)
        while not done.is_set():
            for user in users[::17]:
                row = find_user(reader, A, SPACE, user)
                matches = [
                    seed for seed in (0, 1) if row is not None and row.vector_D.tobytes() == expected[seed][user]
                ]
                seen.update(matches)
                if len(matches) != 1:
                    mismatches.append((user, row))
        reader.close()

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(1, 9):
        store.publish(*fillings[turn % 2])
    end = time.monotonic() + 30
    while len(seen) < 2 and not mismatches and time.monotonic() < end:
        store.publish(*fillings[turn % 2])
        turn += 1
    done.set()
    for thread in threads:
        thread.join()
    assert mismatches == []
    assert seen == {0, 1}


def test_warm_row_precedes_cold_and_a_newer_day_precedes_an_older_day(store):
    warm, blocks = filled(n_users=5, seed=0)
    user_ids = warm.user_ids
    for part, ids, seed in (("2026-11-10", user_ids, 1), ("2026-11-12", user_ids[:3], 2)):
        part_rows = StorePart(A, SPACE, part, part, ids, D, N, str(seed))
        store.publish(part_rows, [rows_of(ids, seed)])
    both, newer, older = user_ids[0], user_ids[2], user_ids[3]
    with pytest.raises(NotPublished, match=r"only the new users of release .*overture release publish"):
        find_user(store, A, SPACE, 10**6)
    assert_row_equals(find_user(store, A, SPACE, int(older)), int(older), 1, "cold", "2026-11-10")
    assert_row_equals(find_user(store, A, SPACE, int(newer)), int(newer), 2, "cold", "2026-11-12")
    store.publish(warm, blocks)
    assert_row_equals(find_user(store, A, SPACE, int(both)), int(both), 0)
    assert find_user(store, A, SPACE, 10**6) is None
    assert {part: notice.users for part, notice in store.notices(A, SPACE).items()} == {
        WARM: 5,
        "2026-11-10": 5,
        "2026-11-12": 3,
    }


def test_missing_history_is_read_as_empty(store):
    part_rows, blocks = filled(n_users=20)
    store.publish(part_rows, [Block(b.user_ids, b.vectors_BD, b.segments_B, b.tracks_Bn) for b in blocks])
    row = find_user(store, A, SPACE, int(part_rows.user_ids[0]))
    assert [ids.tolist() for ids in row.history] == [[]] * len(HISTORY)


def test_empty_part_is_published(store):
    no_users = np.zeros(0, np.int64)
    store.publish(*filled(n_users=3))
    store.publish(StorePart(A, SPACE, "2026-11-10", "2026-11-10", no_users, D, N, "x"), [])
    assert store.notices(A, SPACE)["2026-11-10"].users == 0
    assert find_user(store, A, SPACE, 1) is None


def test_retired_release_is_removed_after_its_grace_period_unless_it_is_used_again(store):
    for release in (A, B):
        store.publish(*filled(release, n_users=40))
    user = int(filled(n_users=40)[0].user_ids[0])
    assert retire_and_remove(store, [B], 3600) == {"retired": [A], "removed": []}
    assert find_user(store, A, SPACE, user), "a running request of the retired release still finds its rows"
    assert retire_and_remove(store, [A, B], 3600) == {"retired": [], "removed": []}
    assert store.releases() == {A: None, B: None}
    retire_and_remove(store, [B], 3600)
    assert retire_and_remove(store, [B], 0) == {"retired": [], "removed": [A]}
    with pytest.raises(NotPublished):
        find_user(store, A, SPACE, user)
    assert find_user(store, B, SPACE, user)
    assert store.releases() == {B: None}


def test_removing_a_release_deletes_all_its_data(store, settings, tmp_path):
    part_rows, blocks = filled(n_users=40)
    store.publish(part_rows, blocks)
    other, other_blocks = filled(n_users=30, seed=4)
    with pytest.raises(RuntimeError):
        store.publish(other, broken_after(other_blocks[:1]))
    store.remove(A)
    if settings.kind == "redis":
        assert store._redis.keys("*") == [], "in all slots"
    elif settings.kind == "memory":
        assert list((tmp_path / "stores").iterdir()) == []
    else:
        assert all(store._ask(name, *values) == [] for name, values in (("releases", ()), ("publications", (A,))))
        assert all(store._ask("user_ids", A, one.publication, 0) == [] for one in (part_rows, other))
        assert store._ask("row", A, SPACE, int(part_rows.user_ids[0])) == []


def broken_after(blocks):
    yield from blocks
    raise RuntimeError


@pytest.mark.parametrize("fault", ["missing", "twice", "unknown", "width", "history"])
def test_blocks_that_do_not_match_the_filling_raise(store, fault):
    part_rows, blocks = filled(n_users=100)
    last = blocks[-1]
    if fault == "missing":
        blocks = blocks[:-1]
    elif fault == "twice":
        blocks = [*blocks, blocks[0]]
    elif fault == "unknown":
        blocks[-1] = Block(last.user_ids + 10**9, last.vectors_BD, last.segments_B, last.tracks_Bn)
    elif fault == "history":
        history = {"heard_tracks": last.history["heard_tracks"].rows(1, 5)}
        blocks[-1] = Block(last.user_ids, last.vectors_BD, last.segments_B, last.tracks_Bn, history)
    else:
        blocks[-1] = Block(last.user_ids, last.vectors_BD[:, :-1], last.segments_B, last.tracks_Bn)
    with pytest.raises(CheckFailed, match="publish warm"):
        store.publish(part_rows, blocks)
    assert store.notices(A, SPACE) == {}


KILLED_PUBLISHER = """
import os, sys
from pathlib import Path
sys.path[:0] = sys.argv[4:]
from tests.helpers.store_rows import filled
from serving.settings import StoreSettings
from serving.stores import open_store
part_rows, blocks = filled(release=sys.argv[3], seed=9)
def blocks_until_exit():
    yield from blocks[:2]
    os._exit(9)
store = open_store(StoreSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), publishing=True)
store.publish(part_rows, blocks_until_exit())
"""


@pytest.mark.parametrize("release", [A, B])
def test_killing_a_publisher_between_two_writes_leaves_every_release_unchanged(store, settings, tmp_path, release):
    first, blocks = filled()
    store.publish(first, blocks)
    arguments = [with_secrets(settings), str(tmp_path), release, str(ROOT), str(ROOT / "tests" / "serving")]
    process = subprocess.run(
        [sys.executable, "-c", KILLED_PUBLISHER, *arguments], env={**os.environ}, capture_output=True, text=True
    )
    assert process.returncode == 9, process.stderr
    for user in first.user_ids[:30].tolist():
        assert_row_equals(find_user(store, A, SPACE, user), user, 0)
    if release == B:
        with pytest.raises(NotPublished):
            find_user(store, B, SPACE, int(first.user_ids[0]))
    second, blocks = filled(release, seed=9)
    store.publish(second, blocks)
    assert_row_equals(find_user(store, release, SPACE, int(second.user_ids[0])), int(second.user_ids[0]), 9)
    if settings.kind == "memory":
        assert not list((tmp_path / "stores").glob("*/*/.writing-*")), "the files of the killed publisher are deleted"


def test_the_next_publisher_removes_what_killed_ones_left(tmp_path):
    """Killed while it wrote, also as process 1 of a container, or after the rename and before the notice."""
    store = open_store(StoreSettings(), tmp_path, publishing=True)
    part_rows, blocks = filled()
    store.publish(part_rows, blocks)
    space = tmp_path / "stores" / A / SPACE
    (published,) = space.glob("*/")
    for name in (".writing-1-0a1b2c3d", ".writing-0a1b2c3d", f"{part_rows.publication}.0a1b2c3d"):
        shutil.copytree(published, space / name)
    part_rows, blocks = filled()
    store.publish(part_rows, blocks)
    (left,) = space.glob("*/")
    assert left.name not in (published.name, f"{part_rows.publication}.0a1b2c3d")
    assert_row_equals(find_user(store, A, SPACE, int(part_rows.user_ids[0])), int(part_rows.user_ids[0]), 0)


def test_publishers_of_two_parts_do_not_remove_each_others_folders(tmp_path):
    """The second one publishes while the first one writes."""
    warm, blocks = filled()
    other, other_blocks = filled()
    other = replace(other, part="2026-11-16")

    def write_the_other_meanwhile():
        yield from blocks[:1]
        open_store(StoreSettings(), tmp_path, publishing=True).publish(other, other_blocks)
        yield from blocks[1:]

    store = open_store(StoreSettings(), tmp_path, publishing=True)
    store.publish(warm, write_the_other_meanwhile())
    assert set(store.notices(A, SPACE)) == {warm.part, "2026-11-16"}
    assert len(list((tmp_path / "stores" / A / SPACE).glob("*/"))) == 2
    assert_row_equals(find_user(store, A, SPACE, int(warm.user_ids[0])), int(warm.user_ids[0]), 0)
