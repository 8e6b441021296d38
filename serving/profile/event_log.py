"""The event log: received events and removals as JSON lines, written before they are acknowledged.

    events-<day>.<writer>-<number>.jsonl     one event a line; the day (UTC) is the day on which it was received
    changes-<day>.<writer>-<number>.jsonl    removed events, forgotten and merged listeners

A process writes files of its own: the name contains a random token and a number that increases when a file is full. A
group of lines is written with one call and flushed to the disk with one fsync. If either fails, the file is cut back to
the last complete group and another file is begun. A killed process leaves at most one incomplete line, which was not
acknowledged; readers ignore it.

The ingestion source `tables` reads the folder (docs/how-to/send-events.md). It needs at least one file of each kind, so
the first file of changes begins with a line that changes nothing.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import orjson

from contracts.atomic_files import sync
from serving.profile.interface import ProfileUnavailable

EVENTS, CHANGES = "events", "changes"
MAX_BYTES = 64 * 1024 * 1024
NO_CHANGE = orjson.dumps({"change": "none", "user_id": "", "event_id": "", "at": "", "into": ""})


class _Sink:
    """The file of one kind that this process appends to."""

    def __init__(self, folder: Path, kind: str, writer: str, max_bytes: int) -> None:
        self.folder, self.kind, self.writer, self.max_bytes = folder, kind, writer, max_bytes
        self._handle: int | None = None
        self._day, self._size, self._number = "", 0, 0

    def append(self, lines: Sequence[bytes], day: str) -> None:
        """Append complete lines and flush them; after an error none of them is in the file."""
        data = b"".join(line + b"\n" for line in lines)
        if self._handle is None or day != self._day or (self._size and self._size + len(data) > self.max_bytes):
            self._begin(day)
        assert self._handle is not None
        try:
            left = memoryview(data)
            while left:  # a disk that is nearly full accepts a part
                left = left[os.write(self._handle, left) :]
            os.fdatasync(self._handle)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            self.close()
            raise
        self._size += len(data)

    def _begin(self, day: str) -> None:
        self.close()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.folder / f"{self.kind}-{day}.{self.writer}-{self._number:04d}.jsonl"
        self._number += 1
        self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL, 0o600)
        self._day, self._size = day, 0
        sync(self.folder)

    def close(self) -> None:
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None


class EventLog:
    """Appends groups of lines; one thread at a time."""

    def __init__(
        self, folder: Path, max_bytes: int = MAX_BYTES, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Set the folder; it is created with the first line, readable by this user only.

        Args:
            folder: The folder, which several processes may share.
            max_bytes: Size at which the next file is begun.
            now: The clock that chooses the day of a file.
        """
        self.folder, self.now, self.writer = folder, now, secrets.token_hex(4)
        self._sinks = {kind: _Sink(folder, kind, self.writer, max_bytes) for kind in (EVENTS, CHANGES)}
        self._has_changes = False

    def append(self, events: Sequence[bytes] = (), changes: Sequence[bytes] = ()) -> None:
        """Write lines to the disk: events first, so that a removal never precedes the copy that replaces an event.

        Raises:
            ProfileUnavailable: A line could not be written.
        """
        day = f"{self.now():%Y-%m-%d}"
        try:
            if not self._has_changes:
                if not any(self.folder.glob(f"{CHANGES}-*.jsonl")):
                    self._sinks[CHANGES].append([NO_CHANGE], day)
                self._has_changes = True
            if events:
                self._sinks[EVENTS].append(events, day)
            if changes:
                self._sinks[CHANGES].append(changes, day)
        except OSError as error:
            raise ProfileUnavailable(
                f"profile.folder: events cannot be written to {self.folder} ({error.strerror}); nothing was accepted"
            ) from error

    def close(self) -> None:
        """Close the files."""
        for sink in self._sinks.values():
            sink.close()


class LogReader:
    """Reads the complete lines that were appended to the log's files since the last call."""

    def __init__(self, folder: Path, own: str) -> None:
        """Prepare to read; `own` is the writer whose files are left out once they have been created."""
        self.folder, self.own = folder, own
        self._offsets: dict[str, int] = {}

    def grown(self, first_day: str) -> list[tuple[Path, int]]:
        """Return the files of the days from `first_day` on that contain unread bytes, with their size."""
        files = []
        try:
            with os.scandir(self.folder) as entries:
                for entry in entries:
                    kind, _, rest = entry.name.partition("-")
                    if kind not in (EVENTS, CHANGES) or not rest.endswith(".jsonl") or f".{self.own}-" in rest:
                        continue
                    if rest[:10] >= first_day and (size := entry.stat().st_size) > self._offsets.get(entry.name, 0):
                        files.append((Path(entry.path), size))
        except FileNotFoundError:  # nothing has been written yet
            return []
        return sorted(files)

    def read(self, first_day: str) -> list[bytes]:
        """Return the new complete lines. A line without an end is read once it is complete.

        Raises:
            OSError: A file cannot be read.
        """
        lines: list[bytes] = []
        for path, size in self.grown(first_day):
            start = self._offsets.get(path.name, 0)
            with path.open("rb") as source:
                source.seek(start)
                data = source.read(size - start)
            complete = data[: data.rfind(b"\n") + 1]
            lines += complete.splitlines()
            self._offsets[path.name] = start + len(complete)
        return lines
