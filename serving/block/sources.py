"""Sources of the block list: two files of OVERTURE_HOME, and the store of known listeners where it is a server.

    block_list.jsonl           edited by hand, by `overture block` and by /v1/admin/block
    unavailable_tracks.jsonl   tracks that the catalogue no longer offers, written by `overture block refresh`

With a server as store, `overture block` and /v1/admin/block edit the list in the store, which all service hosts read.
The files apply in any case. Every source is read through one interface, whose edits lose nothing of a concurrent edit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from contracts import atomic_files
from contracts.file_lock import file_lock
from serving.block.entries import BlockEntry, Change, Collector, Key, parse, united
from serving.settings import StoreSettings
from serving.stores import open_store

ListName = Literal["blocked", "unavailable"]
LISTS: tuple[ListName, ...] = ("blocked", "unavailable")
FILES: dict[ListName, str] = {"blocked": "block_list.jsonl", "unavailable": "unavailable_tracks.jsonl"}


class BlockSource(Protocol):
    """One list in one place."""

    name: str

    def version(self) -> str:
        """Return a text that changes with the content; empty if there is none. It must be cheap.

        Raises:
            OvertureError, OSError: the source is unavailable.
        """

    def read(self, collector: Collector) -> None:
        """Add all entries to a collector; bad ones are named there."""

    def entries(self) -> dict[Key, BlockEntry]:
        """Return all entries that are valid."""

    def edit(self, keys: Sequence[Key], change: Change) -> int:
        """Change entries; return how many were changed.

        Args:
            keys: the entries that may change.
            change: is called with the existing entries of some of these keys at a time, and returns the changed ones;
                None removes one. It is called again if another process has changed them meanwhile. Changes of other
                keys are ignored.
        """

    def close(self) -> None:
        """Close its connections; it may be called again."""


class BlockFile:
    """A list in a file of JSON lines."""

    def __init__(self, path: Path) -> None:
        """Use a file, which need not exist."""
        self.path, self.name = path, path.name

    def version(self) -> str:
        """Return inode, size and time of the file."""
        try:
            stat = self.path.stat()
        except FileNotFoundError:
            return ""
        return f"{stat.st_ino}.{stat.st_size}.{stat.st_mtime_ns}"

    def read(self, collector: Collector) -> None:
        """Add the entries of the lines; a file that does not exist has none."""
        try:
            with self.path.open("rb") as source:
                collector.add_lines(source)
        except FileNotFoundError:
            return

    def entries(self) -> dict[Key, BlockEntry]:
        """Return the entries of the valid lines."""
        return self._parsed()[0]

    def _parsed(self) -> tuple[dict[Key, BlockEntry], list[bytes]]:
        """Return the entries, and the lines that are none."""
        entries: dict[Key, BlockEntry] = {}
        others: list[bytes] = []
        try:
            lines = self.path.read_bytes().splitlines(keepends=False)
        except FileNotFoundError:
            return {}, []
        for line in lines:
            if not line.strip():
                continue
            try:
                entry = parse(line)
            except ValueError:
                others.append(line + b"\n")
                continue
            entries[entry.key] = united(entries.get(entry.key), entry)
        return entries, others

    def edit(self, keys: Sequence[Key], change: Change) -> int:
        """Replace the file under a lock. Lines that are not valid stay, at its end."""
        with file_lock(self.path.with_name(f".{self.path.name}.lock")):
            entries, others = self._parsed()
            changes = change({key: entries[key] for key in keys if key in entries})
            if not changes:
                return 0
            for key, entry in changes.items():
                if entry is None:
                    entries.pop(key, None)
                else:
                    entries[key] = entry
            self._write(entries.values(), others)
        return len(changes)

    def close(self) -> None:
        """Do nothing: no file is open between two calls."""

    def _write(self, entries: Iterable[BlockEntry], others: Sequence[bytes] = ()) -> None:
        atomic_files.replace_with(
            self.path, lambda sink: (sink.writelines(entry.line() for entry in entries), sink.writelines(others))
        )


def replace_all(source: BlockSource, entries: Mapping[Key, BlockEntry]) -> tuple[int, int]:
    """Make these entries the content of a list; return the numbers of added (or changed) and of removed entries.

    An entry that blocks the same stays as it is, with its time and reason.
    """
    existing = source.entries()
    changes: dict[Key, BlockEntry | None] = {key: None for key in existing if key not in entries}
    n_removed = len(changes)
    changes |= {
        key: entry
        for key, entry in entries.items()
        if key not in existing or existing[key].countries != entry.countries
    }
    if changes:
        source.edit(list(changes), lambda _: changes)
    return len(changes) - n_removed, n_removed


def block_file(home: Path, name: ListName) -> BlockFile:
    """Return a list in its file."""
    return BlockFile(home / FILES[name])


def store_sources(settings: StoreSettings, home: Path, editing: bool = False) -> list[BlockSource]:
    """Return both lists in the store; none if the store is not a server.

    Args:
        settings: the section `store`.
        home: OVERTURE_HOME.
        editing: create missing tables, and wait longer than a request may.

    Raises:
        BadArgument: the store's address is invalid.
    """
    if settings.kind == "memory":
        return []
    store = open_store(settings, home, publishing=editing)
    if settings.kind == "redis":
        from serving.block.redis import RedisBlockList

        return [RedisBlockList(store, name) for name in LISTS]
    from serving.block.cassandra import CassandraBlockList

    return [CassandraBlockList(store, name, editing) for name in LISTS]


def read_sources(settings: StoreSettings, home: Path) -> list[BlockSource]:
    """Return all sources of the block list, as the service reads them."""
    return [*(block_file(home, name) for name in LISTS), *store_sources(settings, home)]


def edited_source(settings: StoreSettings, home: Path, name: ListName = "blocked") -> BlockSource:
    """Return the source that commands and /v1/admin/block edit: the store where it is a server, else the file."""
    stored = store_sources(settings, home, editing=True)
    return stored[LISTS.index(name)] if stored else block_file(home, name)
