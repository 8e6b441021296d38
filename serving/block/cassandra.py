"""The block list in Cassandra: one row per entry and country, in buckets, and a version that follows every edit.

    block_entries    (list, bucket) kind id country    country: "" for everywhere
    block_versions   list                               different after every edit

Two processes that add countries to one entry write different rows, so neither loses what the other wrote. The version
is written after the rows: a reader that sees it sees them too, because reads and writes use a quorum.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serving.block.entries import KINDS, BlockEntry, Change, Collector, Key

BUCKETS = 16
CONCURRENCY = 64
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS {keyspace}.block_entries (list text, bucket int, kind text, id text, country text, "
    "reason text, at text, PRIMARY KEY ((list, bucket), kind, id, country))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.block_versions (list text PRIMARY KEY, version text)",
)
VERSION = "SELECT version FROM {keyspace}.block_versions WHERE list = %s"
PUT_VERSION = "INSERT INTO {keyspace}.block_versions (list, version) VALUES (%s, %s)"
BUCKET = "SELECT kind, id, country, reason, at FROM {keyspace}.block_entries WHERE list = %s AND bucket = %s"
ENTRY = (
    "SELECT kind, id, country, reason, at FROM {keyspace}.block_entries WHERE list = ? AND bucket = ? AND kind = ? AND "
    "id = ?"
)
PUT = "INSERT INTO {keyspace}.block_entries (list, bucket, kind, id, country, reason, at) VALUES (?, ?, ?, ?, ?, ?, ?)"
DROP_ENTRY = "DELETE FROM {keyspace}.block_entries WHERE list = ? AND bucket = ? AND kind = ? AND id = ?"
DROP_COUNTRY = DROP_ENTRY + " AND country = ?"


def bucket(external_id: str) -> int:
    """Return the bucket of an id."""
    return zlib.crc32(external_id.encode()) % BUCKETS


class CassandraBlockList:
    """A list in a Cassandra cluster."""

    def __init__(self, store: Any, name: str, editing: bool) -> None:
        """Use the session of a store of known listeners in Cassandra (serving/stores/cassandra.py).

        Args:
            store: the store.
            name: name of the list.
            editing: create missing tables before the first edit.
        """
        self._store, self._list, self.name = store, name, f"cassandra {name}"
        self._has_tables = not editing

    def _cql(self, statement: str) -> str:
        return statement.format(keyspace=self._store.names["keyspace"])

    def version(self) -> str:
        """Return the version: one row. A keyspace without the tables has none."""
        from cassandra import InvalidRequest

        with self._store.reached() as session:
            try:
                row = session.execute(self._cql(VERSION), (self._list,)).one()
            except InvalidRequest:  # no list has been edited yet
                return ""
        return row.version if row else ""

    def _rows(self) -> Iterator[Any]:
        from cassandra import InvalidRequest

        for number in range(BUCKETS):
            with self._store.reached() as session:
                try:
                    rows = session.execute(self._cql(BUCKET), (self._list, number))
                except InvalidRequest:
                    return
                yield from rows

    def read(self, collector: Collector) -> None:
        """Add all entries; an entry with several countries is counted once for each."""
        for row in self._rows():
            if row.kind in KINDS:
                collector.add(row.kind, row.id, (row.country,) if row.country else ())
            else:
                collector.refuse(f"{self.name}: {row.kind} {row.id}", f"kind: {row.kind} is not track, artist or album")

    def entries(self) -> dict[Key, BlockEntry]:
        """Return all entries."""
        return _as_entries(self._rows())

    def edit(self, keys: Sequence[Key], change: Change) -> int:
        """Write the rows that change, then the version."""
        from cassandra.concurrent import execute_concurrent_with_args

        with self._store.reached() as session:
            if not self._has_tables:
                for statement in SCHEMA:
                    session.execute(self._cql(statement), timeout=30.0)
                self._has_tables = True
            read = session.prepare(self._cql(ENTRY))
            values = [(self._list, bucket(external_id), kind, external_id) for kind, external_id in keys]
            results = execute_concurrent_with_args(session, read, values, concurrency=CONCURRENCY)
            existing = _as_entries(row for _, rows in results for row in rows)
            changes = change(existing)
            if not changes:
                return 0
            for cql, rows in _row_changes(self._list, existing, changes).items():
                if rows:
                    execute_concurrent_with_args(
                        session, session.prepare(self._cql(cql)), rows, concurrency=CONCURRENCY
                    )
            session.execute(self._cql(PUT_VERSION), (self._list, uuid.uuid4().hex))
        return len(changes)

    def close(self) -> None:
        """Close the connections of the store, which both of its lists use."""
        self._store.close()


def _as_entries(rows: Iterator[Any]) -> dict[Key, BlockEntry]:
    """Return entries from their rows; a row for everywhere includes those of countries."""
    entries: dict[Key, BlockEntry] = {}
    everywhere: set[Key] = set()
    for row in rows:
        key = (row.kind, row.id)
        entry = entries.get(key) or BlockEntry(row.kind, row.id, frozenset(), row.reason or "", row.at or "")
        if row.country:
            entry = replace(entry, countries=entry.countries | {row.country})
        else:
            everywhere.add(key)
        entries[key] = entry
    return {
        key: replace(entry, countries=frozenset()) if key in everywhere else entry for key, entry in entries.items()
    }


def _row_changes(
    name: str, existing: Mapping[Key, BlockEntry], changes: Mapping[Key, BlockEntry | None]
) -> dict[str, list[tuple[Any, ...]]]:
    """Return the values of each statement that makes the changes."""
    values: dict[str, list[tuple[Any, ...]]] = {PUT: [], DROP_COUNTRY: [], DROP_ENTRY: []}
    for (kind, external_id), entry in changes.items():
        place = (name, bucket(external_id), kind, external_id)
        if entry is None:
            values[DROP_ENTRY].append(place)
            continue
        before = existing.get(entry.key)
        countries = entry.countries or {""}
        values[PUT] += [(*place, country, entry.reason, entry.at) for country in sorted(countries)]
        left_over = set() if before is None else before.countries - countries
        values[DROP_COUNTRY] += [(*place, country) for country in sorted(left_over)]
    return values
