"""What a store of profiles provides: a small map of fields for each listener, which expires.

    e:<event id>    the event, as its line of the event log
    r:<event id>    the event was removed; it stays removed when it is sent again
    forgotten       events up to this time (microseconds since 1970) do not count
    merged          `<time> <user id>`: events up to this time belong to the other listener

The fields do not depend on the order in which they are written: a removal wins over the event, whichever is first. So
several processes can write without a lock. Everything else is decided in serving/profile/days.py, once for all stores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from contracts.errors import OvertureError

EVENT, REMOVED, FORGOTTEN, MERGED = "e:", "r:", "forgotten", "merged"
MARKS = (FORGOTTEN, MERGED)
Fields = dict[str, bytes]


class ProfileUnavailable(OvertureError):
    """The event log cannot be written or read; exit code 1: a retry may help."""


class ProfileStore(Protocol):
    """Fields of listeners by external user id.

    Every method raises StoreUnavailable if the server of the store is unavailable, ProfileUnavailable if its files are.
    """

    @property
    def name(self) -> str:
        """Kind and address of the store, without a password."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Return a context for reading, appending to the log and writing; it sees everything acknowledged before."""

    def read(self, user_id: str) -> Fields:
        """Return all fields of a listener."""

    def read_some(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, tuple[Fields, int]]:
        """Return for each listener those of the wanted fields that exist, and the number of all fields."""

    def marks(self, user_ids: Iterable[str]) -> dict[str, Fields]:
        """Return the marks of each listener."""

    def write(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """Write fields of listeners; their profiles expire `profile.ttl_s` after the last write."""

    def drop(self, user_id: str, fields: Iterable[str]) -> None:
        """Remove fields of a listener."""

    def close(self) -> None:
        """Close what the store opened itself."""
