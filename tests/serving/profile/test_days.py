"""Laws of the listener's day on every store: an event counts once, a removed one never, and nothing is lost."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from contracts.errors import BadArgument, NotFound
from serving.profile.days import MAX_FIELDS, Days, NewEvent
from serving.profile.event_log import EventLog
from serving.profile.interface import ProfileUnavailable
from serving.profile.lines import iso
from serving.profile.memory import MemoryProfiles
from serving.profile.profiles import Profiles
from serving.settings import ProfileSettings, StoreSettings
from serving.stores import open_store
from serving.stores.circuit import CircuitBreaker

NOW_US = int(time.time() * 1e6)


def event(event_id, user="1", ts_us=NOW_US - 60_000_000, kind="stream", entity="track", entity_id="1003"):
    record = dict.fromkeys(("listened_s", "platform", "context", "country", "age", "registered_at"))
    record |= {"event_id": event_id, "user_id": user, "ts": iso(ts_us), "kind": kind, "entity": entity}
    return NewEvent(user, event_id, ts_us, record | {"entity_id": entity_id, "received_at": iso(NOW_US)})


def statuses(outcomes):
    return [outcome.code or outcome.status for outcome in outcomes]


def ids(days, user="1"):
    return [record["event_id"] for record in days.events(user)]


@pytest.fixture
def worker(store_settings, tmp_path):
    """A function that returns the days of one more process on the same store and folder."""
    opened = []

    def start(ttl_s=172_800.0) -> Days:
        if not opened:
            open_store(store_settings, tmp_path, publishing=True).releases()  # creates the tables of Cassandra
        circuit = CircuitBreaker(store_settings, tmp_path)
        opened.append((Profiles(ProfileSettings(ttl_s=ttl_s), tmp_path, circuit), circuit))
        return opened[-1][0].days

    yield start
    for profiles, circuit in opened:
        profiles.close()
        circuit.store.close()


def test_an_event_counts_once_in_one_group_twice_and_through_another_worker(worker):
    first, second = worker(), worker()
    assert statuses(first.add([event("a"), event("b"), event("a")])) == ["accepted", "accepted", "repeated"]
    assert statuses(first.add([event("a")])) == ["repeated"]
    assert statuses(second.add([event("b"), event("c")])) == ["repeated", "accepted"]
    assert ids(first) == ids(second) == ["a", "b", "c"]
    assert statuses(second.add([event("a", user="2")])) == ["accepted"]  # ids are those of one listener


def test_a_new_process_knows_the_days(worker):
    first = worker()
    first.add([event("a"), event("b"), event("c")])
    first.undo("1", "b")
    again = worker()
    assert ids(again) == ["a", "c"]
    assert statuses(again.add([event("a"), event("b")])) == ["repeated", "repeated"]


def test_undo_removes_one_event_for_good(worker):
    first, second = worker(), worker()
    first.add([event("a"), event("b")])
    assert (second.undo("1", "a"), first.undo("1", "a")) == (1, 0)
    assert ids(first) == ids(second) == ["b"]
    assert statuses(first.add([event("a")])) == ["repeated"]
    with pytest.raises(NotFound):
        first.undo("1", "never-sent")


def test_forget_removes_the_day_and_what_arrives_late(worker):
    first, second = worker(), worker()
    first.add([event("a"), event("b"), event("x", user="2")])
    assert (second.forget("1"), second.forget("1")) == (2, 0)
    assert (ids(first), ids(second), ids(first, "2")) == ([], [], ["x"])
    assert statuses(first.add([event("a"), event("late")])) == ["forgotten", "forgotten"]
    later = int(time.time() * 1e6) + 1_000_000
    assert statuses(second.add([event("new", ts_us=later)])) == ["accepted"]
    assert ids(worker()) == ["new"]


def test_merge_moves_the_day_of_a_guest_once(worker):
    first, second = worker(), worker()
    first.add([event("a", "guest"), event("b", "guest"), event("c", "guest"), event("b", "7"), event("d", "7")])
    first.undo("guest", "c")
    assert (second.merge("guest", "7"), first.merge("guest", "7")) == (1, 0)  # account 7 had b
    assert ids(first, "7") == ids(second, "7") == ["a", "b", "d"]
    assert ids(first, "guest") == []
    assert statuses(first.add([event("a", "guest"), event("late", "guest")])) == ["repeated", "accepted"]
    assert (ids(second, "7"), ids(second, "guest")) == (["a", "b", "d", "late"], [])
    assert (ids(worker(), "7"), ids(worker(), "guest")) == (["a", "b", "d", "late"], [])
    with pytest.raises(BadArgument, match="into"):
        first.merge("7", "7")
    with pytest.raises(BadArgument, match="merged into another"):
        first.merge("8", "guest")


def test_workers_that_receive_the_same_events_at_once_keep_each_once(worker):
    workers = [worker(), worker()]
    groups = [[event(f"e{n}-{i}") for i in range(5)] for n in range(12)]

    def send(days):
        return [outcome for group in groups for outcome in statuses(days.add(group))]

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(send, workers))
    expected = sorted(one.event_id for group in groups for one in group)
    assert ids(workers[0]) == ids(workers[1]) == expected
    assert {one for answers in outcomes for one in answers} <= {"accepted", "repeated"}
    assert len(expected) <= sum(answers.count("accepted") for answers in outcomes)


def test_a_forget_between_decision_and_write_wins(worker, monkeypatch):
    """Another process forgets the day after this one has decided to accept the event. Files are locked instead."""
    first, second = worker(), worker()
    if isinstance(first.store, MemoryProfiles):
        pytest.skip("the file lock excludes it")
    append = first.log.append

    def forget_then_append(events=(), changes=()):
        if events:
            second.forget("1")
        append(events, changes)

    monkeypatch.setattr(first.log, "append", forget_then_append)
    assert statuses(first.add([event("a")])) == ["forgotten"]
    assert ids(first) == []


def test_a_profile_expires(worker):
    days = worker(ttl_s=1.0)
    days.add([event("a")])
    assert ids(days) == ["a"]
    end = time.monotonic() + 10
    while ids(days) and time.monotonic() < end:
        time.sleep(0.05)
    assert ids(days) == ids(worker(ttl_s=1.0)) == []


def test_a_profile_has_a_bound(worker):
    days = worker()
    full = days.add([event(f"e{n}") for n in range(MAX_FIELDS + 2)])
    assert statuses(full)[-3:] == ["accepted", "full", "full"]
    assert statuses(days.add([event("one-more"), event("e0")])) == ["full", "repeated"]


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "events"


def memory(folder: Path, **settings) -> Days:
    log = EventLog(folder, **settings)
    return Days(MemoryProfiles(log, 172_800.0), log)


def test_torn_last_line_and_damaged_line_are_left_out_at_the_start(folder):
    days = memory(folder)
    days.add([event("a")])
    days.add([event("b")])
    (path,) = folder.glob("events-*")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"event_id":"a"', b'"event_id:"a"') + whole[: len(whole) // 4])
    again = memory(folder)
    assert ids(again) == ["b"]
    assert statuses(again.add([event("a")])) == ["accepted"]  # to a file of its own, not after the torn line
    assert ids(memory(folder)) == ["a", "b"]


def test_a_failed_write_acknowledges_nothing_and_leaves_no_part(folder, monkeypatch):
    days = memory(folder)
    days.add([event("a")])
    write = os.write

    def full_disk(handle, data):
        if len(data) < 200:
            raise OSError(28, "No space left on device")
        return write(handle, bytes(data)[: len(data) - 100])

    monkeypatch.setattr(os, "write", full_disk)
    with pytest.raises(ProfileUnavailable, match=r"profile.folder.*No space left"):
        days.add([event("b")])
    monkeypatch.undo()
    assert ids(days) == ids(memory(folder)) == ["a"]
    assert statuses(days.add([event("b")])) == ["accepted"]
    lines = b"".join(path.read_bytes() for path in sorted(folder.glob("events-*"))).splitlines()
    assert [orjson.loads(line)["event_id"] for line in lines] == ["a", "b"]


def test_files_rotate_by_size_and_day(folder):
    from datetime import UTC, datetime

    clock = [datetime(2026, 11, 23, tzinfo=UTC)]
    log = EventLog(folder, max_bytes=25, now=lambda: clock[0])
    for text in (b"first line", b"second line", b"third line of the file"):
        log.append([text])
    clock[0] = datetime(2026, 11, 24, tzinfo=UTC)
    log.append([b"next day"])
    names = sorted(path.name for path in folder.glob("events-*"))
    assert [path.read_text().splitlines() for path in sorted(folder.glob("events-*"))] == [
        ["first line", "second line"],
        ["third line of the file"],
        ["next day"],
    ]
    assert [name[7:17] for name in names] == ["2026-11-23", "2026-11-23", "2026-11-24"]
    assert len({name.split(".")[1].split("-")[0] for name in names}) == 1
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "events").write_text("a file")
    with pytest.raises(ProfileUnavailable, match=r"profile.folder: .*/events"):
        memory(tmp_path / "events").add([event("a")])


def test_readers_see_only_groups_that_were_flushed(folder, monkeypatch):
    """A reader waits for the group that is being written, and does not see one that failed."""
    writer, reader = memory(folder), memory(folder)
    writer.add([event("a")])
    assert ids(reader) == ["a"]
    flushing, release = threading.Event(), threading.Event()

    def fail_slowly(handle):
        flushing.set()
        release.wait(10)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_slowly)
    with ThreadPoolExecutor(2) as pool:
        adding = pool.submit(writer.add, [event("b")])
        assert flushing.wait(10)
        reading = pool.submit(ids, reader)
        release.set()
        with pytest.raises(ProfileUnavailable):
            adding.result(10)
        assert reading.result(10) == ["a"]


def test_store_settings_choose_the_profile_store(tmp_path):
    circuit = CircuitBreaker(StoreSettings(kind="redis", redis_url="redis://127.0.0.1:1/0"), tmp_path)
    assert Profiles(ProfileSettings(), tmp_path, circuit).days.store.name == "redis 127.0.0.1:1"
