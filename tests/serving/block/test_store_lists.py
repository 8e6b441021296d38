"""The block list in Redis and in Cassandra: edits, concurrent edits, lost data, and a service that follows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from contracts.errors import BadArgument
from serving.block.entries import BlockEntry, BlockList, Collector, added, make_entry, removed
from serving.block.sources import edited_source, read_sources, replace_all, store_sources
from serving.block.watcher import BlockWatcher
from serving.settings import StoreSettings
from serving.stores.interface import StoreUnavailable
from tests.helpers.store_servers import redis_server

on_servers = pytest.mark.parametrize("store_settings", ["redis", "redis_cluster", "cassandra"], indirect=True)


@pytest.fixture(autouse=True)
def close_all(monkeypatch):
    """Close every store that a test opened: a driver without `close` leaves threads behind."""
    opened = []
    for name in ("edited_source", "read_sources", "store_sources"):
        original = globals()[name]

        def recorded(*arguments, original=original, **named):
            result = original(*arguments, **named)
            opened.extend(result if isinstance(result, list) else [result])
            return result

        monkeypatch.setitem(globals(), name, recorded)
    yield
    for source in opened:
        source.close()


@pytest.fixture
def settings(store_settings):
    """Settings of an empty store."""
    return store_settings


def add(source, *entries: BlockEntry) -> None:
    source.edit([entry.key for entry in entries], lambda existing: added(existing, entries))


def ids_in_force(watcher) -> set[str]:
    return set().union(*watcher.current.sets("track", None))


@on_servers
def test_edits_are_read_by_the_service_and_undone(settings, tmp_path):
    source = edited_source(settings, tmp_path)
    watcher = BlockWatcher(read_sources(settings, tmp_path), 60)
    watcher.refresh()
    entry = make_entry("track", "a b/é", reason="takedown")
    add(source, entry, make_entry("artist", "a b/é", ["DE"]))
    watcher.refresh()
    assert ids_in_force(watcher) == {"a b/é"}
    assert watcher.current.sets("artist", "DE") == [{"a b/é"}]
    assert source.entries()[entry.key] == entry
    version = watcher.current.version
    add(source, entry)
    watcher.refresh()
    assert watcher.current.version == version
    source.edit([entry.key], lambda existing: removed(existing, [entry.key], frozenset()))
    watcher.refresh()
    assert ids_in_force(watcher) == set()
    assert watcher.notes == {}
    assert set(source.entries()) == {("artist", "a b/é")}


@on_servers
def test_countries_are_added_and_removed(settings, tmp_path):
    source = edited_source(settings, tmp_path)
    key = ("track", "1")
    add(source, make_entry("track", "1", ["DE", "FR"]))
    add(source, make_entry("track", "1", ["IT"]))
    assert source.entries()[key].countries == {"DE", "FR", "IT"}
    source.edit([key], lambda existing: removed(existing, [key], {"DE"}))
    assert source.entries()[key].countries == {"FR", "IT"}
    add(source, make_entry("track", "1"))
    assert source.entries()[key].countries == frozenset()
    with pytest.raises(BadArgument, match="is blocked everywhere"):
        source.edit([key], lambda existing: removed(existing, [key], {"FR"}))
    source.edit([key], lambda existing: removed(existing, [key], frozenset()))
    assert source.entries() == {}


@on_servers
def test_edits_in_several_transactions_count_what_they_change(settings, tmp_path, monkeypatch):
    monkeypatch.setattr("serving.block.redis.EDITED", 2)
    source = edited_source(settings, tmp_path)
    entries = [make_entry("track", str(i)) for i in range(5)]
    keys = [entry.key for entry in entries]
    assert source.edit(keys[:3], lambda existing: added(existing, entries[:3])) == 3
    assert source.edit(keys, lambda existing: added(existing, entries)) == 2
    assert source.edit(keys, lambda existing: added(existing, entries)) == 0
    assert source.edit(keys[1:], lambda existing: removed(existing, keys[1:], frozenset())) == 4
    assert set(source.entries()) == {keys[0]}


@on_servers
def test_many_editors_at_once_lose_nothing(settings, tmp_path):
    countries = ["AT", "BE", "CH", "DE", "ES", "FR", "IT", "NL"]
    edited_source(settings, tmp_path).edit([], lambda _: {})  # creates the tables

    def edit(country: str) -> None:
        source = edited_source(settings, tmp_path)
        for i in range(5):
            add(source, make_entry("track", "shared", [country]), make_entry("track", f"{country} {i}"))

    with ThreadPoolExecutor(len(countries)) as pool:
        list(pool.map(edit, countries))
    entries = edited_source(settings, tmp_path).entries()
    assert entries[("track", "shared")].countries == set(countries)
    assert len(entries) == 1 + 5 * len(countries)


@on_servers
def test_a_list_is_replaced_beside_the_other(settings, tmp_path):
    blocked, unavailable = store_sources(settings, tmp_path, editing=True)
    add(blocked, make_entry("track", "kept"))
    first = [make_entry("track", str(i)) for i in range(5_500)]
    assert replace_all(unavailable, {entry.key: entry for entry in first}) == (5_500, 0)
    second = [make_entry("track", str(i)) for i in range(1, 5_501)]
    assert replace_all(unavailable, {entry.key: entry for entry in second}) == (1, 1)
    assert set(unavailable.entries()) == {entry.key for entry in second}
    collector = Collector("x")
    unavailable.read(collector)
    assert (collector.n_entries, collector.n_bad) == (5_500, 0)
    assert BlockList.merge("", [collector]).sets("track", None)[0] == {entry.id for entry in second}
    assert set(blocked.entries()) == {("track", "kept")}


def test_a_redis_that_is_away_or_lost_its_data_keeps_the_list_in_force(tmp_path):
    server = redis_server(tmp_path)
    try:
        settings = StoreSettings(kind="redis", redis_url=server.url)
        source = edited_source(settings, tmp_path)
        add(source, make_entry("track", "1"))
        watcher = BlockWatcher(read_sources(settings, tmp_path), 60)
        watcher.refresh()
        source._store._redis.hset("overture:{block}:blocked", "x y", b"{")
        source._store._redis.set("overture:{block}:blocked:version", "other")
        watcher.refresh()
        assert (ids_in_force(watcher), watcher.counts["redis blocked"]) == ({"1"}, (1, 1))
        source._store._redis.flushall()
        watcher.refresh()
        assert ids_in_force(watcher) == {"1"}
        assert "the list in the store is gone" in watcher.notes["block list, redis blocked"]
        server.stop()
        watcher.refresh()
        assert ids_in_force(watcher) == {"1"}
        assert "does not answer" in watcher.notes["block list, redis blocked"]
        with pytest.raises(StoreUnavailable, match="does not answer"):
            add(source, make_entry("track", "2"))
    finally:
        server.stop()
