"""A circuit breaker around the store of known listeners.

closed   every read reaches the store and is bounded by the store's own short timeout
open     after a failure: reads fail at once with the reason, for `breaker_reset_s`
half-open   then one read is let through; its success closes the circuit breaker again

An unavailable store costs one slow read every `breaker_reset_s`, not one thread per request.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from serving.bodies import StoreState
from serving.settings import StoreSettings
from serving.stores import open_store
from serving.stores.interface import WARM, Notice, StoreUnavailable, UserRow, UserStore, find_user, unpublished

T = TypeVar("T")


class CircuitBreaker:
    """The circuit breaker of one process; thread-safe."""

    def __init__(self, settings: StoreSettings, home: Path) -> None:
        """Prepare the store; nothing is read yet.

        Raises:
            BadArgument: an address is invalid.
        """
        self.store: UserStore = open_store(settings, home)
        self.breaker_reset_s = settings.breaker_reset_s
        self.problem: str | None = None
        self._next_try = 0.0
        self._lock = threading.Lock()

    def find_user(self, release: str, space: str, user_id: int) -> UserRow | None:
        """Return the store's row of a user under this release.

        Raises:
            NotPublished: the store has no row of this user, and the release's warm users are not published.
            StoreUnavailable: the store is unavailable.
            CheckFailed: the row is invalid.
        """
        return self._call(lambda store: find_user(store, release, space, user_id))

    def call(self, work: Callable[[], T]) -> T:
        """Return the result of other work on the store's server.

        Raises:
            StoreUnavailable: the store is unavailable, or the circuit breaker is open.
        """
        return self._call(lambda _: work())

    def _call(self, read: Callable[[UserStore], T]) -> T:
        if self.problem is not None:
            with self._lock:
                if time.monotonic() < self._next_try:
                    raise StoreUnavailable(self.problem)
                self._next_try = time.monotonic() + self.breaker_reset_s
        try:
            result = read(self.store)
        except StoreUnavailable as error:
            with self._lock:
                self.problem, self._next_try = str(error), time.monotonic() + self.breaker_reset_s
            raise
        except Exception:
            self.problem = None  # the store responded, even if with an error
            raise
        self.problem = None
        return result

    def state(self, release: str | None, space: str) -> StoreState:
        """Return whether the store is available, and what it contains of the release in service."""
        state_fields: StoreState = {"kind": self.store.name, "answers": True, "problem": None, "parts": {}}
        try:
            notices: dict[str, Notice] = self._call(lambda store: store.notices(release or "none", space))
        except Exception as error:  # a damaged notice too: it must be visible in /readyz
            return state_fields | {"answers": not isinstance(error, StoreUnavailable), "problem": str(error)}
        parts = {part: notice.users for part, notice in sorted(notices.items())}
        if release and WARM not in parts:
            state_fields["problem"] = f"it {unpublished(release, notices)}"
        return state_fields | {"parts": parts}
