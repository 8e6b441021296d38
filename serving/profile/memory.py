"""Profiles in the memory of the process, rebuilt from the event log at the start.

Several processes (workers, or an old and a new service during a restart) share the log's folder: each reads what the
others have appended before it reads or writes a profile. Writers hold the file lock `lock` from reading to flushing, so
an event that two workers receive at once is accepted by one of them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

import orjson

from serving.profile.event_log import EventLog, LogReader
from serving.profile.interface import EVENT, MARKS, REMOVED, Fields, ProfileUnavailable
from serving.profile.lines import fields_of, time_of

LOG = logging.getLogger("overture.service")
SWEEP_S = 600.0


class MemoryProfiles:
    """Profiles of one process over a shared log; thread-safe."""

    def __init__(self, log: EventLog, ttl_s: float, now: Callable[[], float] = time.time) -> None:
        """Prepare; the log is read at the first use.

        Args:
            log: The event log that this process writes.
            ttl_s: Time after the last write until a profile expires, in seconds.
            now: Clock, in seconds since 1970.
        """
        self.name = f"memory, {log.folder}"
        self.log, self.ttl_s, self.now = log, ttl_s, now
        self._reader = LogReader(log.folder, log.writer)
        self._profiles: dict[str, Fields] = {}
        self._written: dict[str, float] = {}
        self._mutex = threading.Lock()  # always taken after the file lock
        self._swept = now()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the file lock, with all lines of other processes applied."""
        with self._locked(fcntl.LOCK_EX):
            self._catch_up()
            yield

    def read(self, user_id: str) -> Fields:
        """Return a copy of the fields of a listener."""
        self._see_others()
        with self._mutex:
            return dict(self._live(user_id))

    def read_some(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, tuple[Fields, int]]:
        """Return the wanted fields; called within `exclusive`."""
        with self._mutex:
            some = {}
            for user_id, names in wanted.items():
                fields = self._live(user_id)
                some[user_id] = {name: fields[name] for name in names if name in fields}, len(fields)
            return some

    def marks(self, user_ids: Iterable[str]) -> dict[str, Fields]:
        """Return the marks; called within `exclusive`."""
        return {user: fields for user, (fields, _) in self.read_some(dict.fromkeys(user_ids, MARKS)).items()}

    def write(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """Write fields that are in the log already."""
        now = self.now()
        with self._mutex:
            for user_id, more in fields.items():
                self._put(user_id, more, now)
            if now - self._swept > SWEEP_S:
                self._swept = now
                for user_id in [user for user, at in self._written.items() if now - at > self.ttl_s]:
                    del self._profiles[user_id], self._written[user_id]

    def drop(self, user_id: str, fields: Iterable[str]) -> None:
        """Remove fields."""
        with self._mutex:
            profile = self._profiles.get(user_id, {})
            for name in fields:
                profile.pop(name, None)

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def _put(self, user_id: str, more: Mapping[str, bytes], at: float) -> None:
        self._profiles.setdefault(user_id, {}).update(more)
        self._written[user_id] = max(at, self._written.get(user_id, at))

    def _live(self, user_id: str) -> Fields:
        if self.now() - self._written.get(user_id, 0.0) > self.ttl_s:
            return {}
        return self._profiles.get(user_id, {})

    def _first_day(self) -> str:
        return f"{datetime.fromtimestamp(self.now() - self.ttl_s, UTC):%Y-%m-%d}"

    def _see_others(self) -> None:
        if self._reader.grown(self._first_day()):
            with self._locked(fcntl.LOCK_SH):  # a group that is being written may still be taken back
                self._catch_up()

    def _catch_up(self) -> None:
        with self._mutex:
            try:
                lines = self._reader.read(self._first_day())
            except OSError as error:
                raise ProfileUnavailable(
                    f"profile.folder: {self.log.folder} cannot be read ({error.strerror})"
                ) from error
            n_damaged = 0
            for line in lines:
                try:
                    user_id, fields, at = fields_of(orjson.loads(line), line)
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                    n_damaged += 1
                    continue
                if user_id and self.now() - at <= self.ttl_s:
                    known = self._profiles.get(user_id, {})
                    newer = {n: v for n, v in fields.items() if n not in MARKS or time_of(v) > time_of(known.get(n))}
                    self._put(user_id, newer, at)
                    for name in fields:
                        if name.startswith(REMOVED):
                            self._profiles[user_id].pop(EVENT + name.removeprefix(REMOVED), None)
            if n_damaged:
                facts = {"folder": str(self.log.folder), "lines": n_damaged}
                LOG.error("damaged lines in the event log were left out", extra={"facts": facts})

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        try:
            self.log.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = os.open(self.log.folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise ProfileUnavailable(
                f"profile.folder: {self.log.folder} cannot be opened ({error.strerror}); choose a folder that the "
                "service can write"
            ) from error
        try:
            fcntl.flock(handle, kind)
            yield
        finally:
            os.close(handle)  # releases the lock
