"""The block list in Redis: one hash per list, and a version that every edit replaces in the same transaction.

    overture:{block}:<list>            hash  "<kind> <id>" -> the entry, as a JSON line
    overture:{block}:<list>:version    text  different after every edit

The braces place both keys on one node of a cluster.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

from serving.block.entries import BlockEntry, Change, Collector, Key, key_fields, load_line, parse
from serving.stores.interface import StoreUnavailable

EDITED = 5_000  # number of entries of one transaction
SCANNED = 5_000
ATTEMPTS = 50


class RedisBlockList:
    """A list in a Redis server."""

    def __init__(self, store: Any, name: str) -> None:
        """Use the connection of a store of known listeners in Redis (serving/stores/redis.py)."""
        self._store, self._key, self._version_key = (
            store,
            f"overture:{{block}}:{name}",
            f"overture:{{block}}:{name}:version",
        )
        self.name = f"redis {name}"

    def version(self) -> str:
        """Return the version: one read."""
        with self._store.reached() as redis:
            version = redis.get(self._version_key)
        return version.decode() if version else ""

    def _lines(self) -> Iterator[tuple[bytes, bytes]]:
        cursor = 0
        while True:
            with self._store.reached() as redis:
                cursor, part = redis.hscan(self._key, cursor, count=SCANNED)
            yield from part.items()
            if not cursor:
                return

    def read(self, collector: Collector) -> None:
        """Add all entries, read in parts, so that the server is not blocked."""
        for field, line in self._lines():
            try:
                collector.add(*key_fields(load_line(line)))
            except ValueError as error:
                collector.refuse(f"{self.name}: {field.decode(errors='replace')}", str(error))

    def entries(self) -> dict[Key, BlockEntry]:
        """Return all entries that are valid."""
        entries = {}
        for _, line in self._lines():
            try:
                entry = parse(line)
            except ValueError:
                continue
            entries[entry.key] = entry
        return entries

    def edit(self, keys: Sequence[Key], change: Change) -> int:
        """Change entries in transactions that fail, and are tried again, if another process has edited the list."""
        return sum(self._edit(keys[start : start + EDITED], change) for start in range(0, len(keys), EDITED))

    def _edit(self, keys: Sequence[Key], change: Change) -> int:
        from redis import WatchError

        for _ in range(ATTEMPTS):
            with self._store.reached() as redis, redis.pipeline(transaction=True) as pipeline:
                pipeline.watch(self._version_key)
                lines = pipeline.hmget(self._key, [" ".join(key) for key in keys])
                existing = {key: _entry(line) for key, line in zip(keys, lines, strict=True) if line is not None}
                changes = change({key: entry for key, entry in existing.items() if entry is not None})
                wanted = {key: changes[key] for key in keys if key in changes}
                if not wanted:
                    return 0
                pipeline.multi()
                for key, entry in wanted.items():
                    if entry is None:
                        pipeline.hdel(self._key, " ".join(key))
                    else:
                        pipeline.hset(self._key, " ".join(key), entry.line())
                pipeline.set(self._version_key, uuid.uuid4().hex)
                try:
                    pipeline.execute()
                except WatchError:
                    continue
                return len(wanted)
        raise StoreUnavailable(f"{self.name}: other processes edit the list all the time; try again")

    def close(self) -> None:
        """Close the connections of the store, which both of its lists use."""
        self._store.close()


def _entry(line: bytes) -> BlockEntry | None:
    try:
        return parse(line)
    except ValueError:
        return None
