"""The block list in force: changes, removed files, bad lines, unavailable sources, a million entries."""

from __future__ import annotations

import os
import time

import pytest

from contracts.errors import OvertureError
from serving.block.entries import Collector
from serving.block.sources import block_file
from serving.block.tracks import blocked_tracks
from serving.block.watcher import BlockWatcher


class Events(list):
    def __call__(self, name, **facts):
        self.append((name, facts))


class FlakyStore:
    """A source that is unavailable on demand."""

    name = "redis blocked"

    def __init__(self):
        self.ids, self.now, self.error = ["1"], "v1", None

    def version(self):
        if self.error:
            raise self.error
        return self.now

    def read(self, collector: Collector):
        for one in self.ids:
            collector.add("track", one, ())


def tracks_of(watcher) -> set[str]:
    return set().union(*watcher.current.sets("track", None))


@pytest.fixture
def home_file(tmp_path):
    return tmp_path / "block_list.jsonl"


@pytest.fixture
def watcher(tmp_path):
    return BlockWatcher([block_file(tmp_path, "blocked"), block_file(tmp_path, "unavailable")], 60, Events())


def test_both_files_apply_and_a_change_is_another_list(watcher, tmp_path, home_file):
    watcher.refresh()
    assert watcher.current.n_entries == 0
    home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
    (tmp_path / "unavailable_tracks.jsonl").write_bytes(b'{"kind": "track", "id": "2"}\n')
    watcher.refresh()
    first = watcher.current
    assert tracks_of(watcher) == {"1", "2"}
    watcher.refresh()
    assert watcher.current is first
    home_file.write_bytes(b'{"kind": "track", "id": "3"}\n{"kind": "track", "id": "unknown to every release"}\n')
    watcher.refresh()
    assert watcher.current.version != first.version
    assert tracks_of(watcher) == {"2", "3", "unknown to every release"}


def test_a_file_that_is_deleted_while_in_use_blocks_nothing(watcher, home_file):
    home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
    watcher.refresh()
    home_file.unlink()
    watcher.refresh()
    assert watcher.current.n_entries == 0
    assert ("block list problem", "the file was removed: it blocks nothing now") in [
        (name, facts.get("why")) for name, facts in watcher.event
    ]


def test_bad_lines_are_in_the_notes_until_they_are_mended(watcher, home_file):
    home_file.write_bytes(b"{\n" * 30 + b'{"kind": "track", "id": "1"}\n')
    watcher.refresh()
    assert tracks_of(watcher) == {"1"}
    note = watcher.notes["block list, block_list.jsonl"]
    assert note.startswith("block_list.jsonl:1: not JSON")
    assert note.endswith("and 27 more bad lines")
    assert watcher.counts["block_list.jsonl"] == (1, 30)
    home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
    watcher.refresh()
    assert watcher.notes == {}


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_keeps_the_last_entries(watcher, home_file):
    home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
    watcher.refresh()
    home_file.write_bytes(b'{"kind": "track", "id": "2"}\n')
    home_file.chmod(0)
    watcher.refresh()
    assert tracks_of(watcher) == {"1"}


def test_a_folder_in_place_of_the_file_keeps_the_last_entries(watcher, home_file):
    home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
    watcher.refresh()
    home_file.unlink()
    home_file.mkdir()
    watcher.refresh()
    assert tracks_of(watcher) == {"1"}
    assert "Is a directory" in watcher.notes["block list, block_list.jsonl"]
    assert watcher.unavailable == {"block_list.jsonl"}


@pytest.mark.parametrize("error", [OvertureError("the store does not answer"), OSError(5, "broken"), KeyError("x")])
def test_a_store_that_is_away_or_lost_its_list_keeps_the_last_entries(error):
    store, events = FlakyStore(), Events()
    watcher = BlockWatcher([store], 60, events)
    watcher.refresh()
    store.error = error
    for _ in range(3):
        watcher.refresh()
    assert tracks_of(watcher) == {"1"}
    assert watcher.unavailable == {"redis blocked"}
    assert len([name for name, _ in events if name == "block list problem"]) == 1
    store.error, store.now, store.ids = None, "", []
    watcher.refresh()
    assert tracks_of(watcher) == {"1"}
    assert "the list in the store is gone" in watcher.notes["block list, redis blocked"]
    store.now, store.ids = "v2", ["5"]
    watcher.refresh()
    assert (tracks_of(watcher), watcher.notes) == ({"5"}, {})


def test_the_thread_follows_the_file(watcher, home_file):
    watcher.poll_s = 0.01
    watcher.start()
    try:
        home_file.write_bytes(b'{"kind": "track", "id": "1"}\n')
        end = time.monotonic() + 30
        while tracks_of(watcher) != {"1"}:
            assert time.monotonic() < end
            time.sleep(0.01)
    finally:
        watcher.stop()


def test_a_million_entries_hide_the_tracks_of_the_release(watcher, home_file, release_home):
    from serving.release.loaded import LoadedRelease
    from serving.release.pointer import Pointer
    from tests.helpers import small_week

    pointer = Pointer(release_home.first, None, 1, small_week.FIRST)
    loaded = LoadedRelease(release_home.open(release_home.first), pointer)
    blocked = loaded.track_texts[5]
    with home_file.open("w") as sink:
        for i in range(1_000_000):
            sink.write(f'{{"kind": "{("track", "artist", "album")[i % 3]}", "id": "{10**9 + i}"}}\n')
        sink.write(f'{{"kind": "track", "id": "{blocked}"}}\n')
    watcher.refresh()
    assert watcher.current.n_entries == 1_000_001
    assert blocked_tracks(loaded, watcher.current, None) == {5}
    assert blocked_tracks(loaded, watcher.current, "DE") is blocked_tracks(loaded, watcher.current, None)
