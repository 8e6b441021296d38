"""The profiles of a service: the store that the settings name, its event log, and what recommendations read of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from serving.profile.days import Days, NewEvent, Outcome, Record
from serving.profile.event_log import EventLog
from serving.profile.group_commit import GroupCommit
from serving.profile.interface import ProfileStore, ProfileUnavailable
from serving.settings import ProfileSettings
from serving.stores.circuit import CircuitBreaker
from serving.stores.interface import StoreUnavailable

T = TypeVar("T")
UNAVAILABLE = (StoreUnavailable, ProfileUnavailable)
FOLDER = "events"


@dataclass(frozen=True)
class Today:
    """The events of a listener's profile; `problem` is the reason if they could not be read."""

    events: Sequence[Record]
    problem: str | None = None


class Profiles:
    """The profiles of one process."""

    def __init__(self, settings: ProfileSettings, home: Path, circuit: CircuitBreaker) -> None:
        """Prepare; nothing is read yet.

        Args:
            settings: The section `profile`.
            home: OVERTURE_HOME.
            circuit: The store of known listeners, whose server contains the profiles too.
        """
        self.ttl_s, self.fold_in_weight, self._circuit = settings.ttl_s, settings.fold_in_weight, circuit
        log = EventLog(Path(settings.folder) if settings.folder else home / FOLDER)
        self.days = Days(_open_store(circuit, log, settings.ttl_s), log)
        self.commit = GroupCommit(self._add)

    def _add(self, events: Sequence[NewEvent]) -> list[Outcome]:
        return self.call(lambda days: days.add(events))

    def call(self, work: Callable[[Days], T]) -> T:
        """Return the result of a read or a change, through the circuit breaker.

        Raises:
            StoreUnavailable, ProfileUnavailable: Store or event log are unavailable.
        """
        return self._circuit.call(lambda: work(self.days))

    def today(self, user_id: str) -> Today:
        """Return the events of a listener; a recommendation does without them if they cannot be read."""
        try:
            return Today(self.call(lambda days: days.events(user_id)))
        except UNAVAILABLE as error:
            return Today((), str(error))

    def close(self) -> None:
        """Complete the writes in progress and close the files."""
        self.commit.close()
        self.days.close()


def _open_store(circuit: CircuitBreaker, log: EventLog, ttl_s: float) -> ProfileStore:
    store = circuit.store
    if store.name.startswith("redis"):
        from serving.profile.redis import RedisProfiles
        from serving.stores.redis import Redis

        assert isinstance(store, Redis)
        return RedisProfiles(store, ttl_s)
    if store.name.startswith("cassandra"):
        from serving.profile.cassandra import CassandraProfiles
        from serving.stores.cassandra import Cassandra

        assert isinstance(store, Cassandra)
        return CassandraProfiles(store, ttl_s)
    from serving.profile.memory import MemoryProfiles

    return MemoryProfiles(log, ttl_s)
