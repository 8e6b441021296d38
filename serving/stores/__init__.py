"""Stores of known listeners: the service reads them, the jobs publish to them."""

from __future__ import annotations

from pathlib import Path

from serving.settings import StoreSettings
from serving.stores.interface import UserStore

PUBLISH_TIMEOUT_S = 30.0  # per call while publishing: no request waits for it


def open_store(settings: StoreSettings, home: Path, publishing: bool = False) -> UserStore:
    """Return the store of the settings; a server is connected at the first call.

    Raises:
        BadArgument: an address is invalid, or a file of certificates cannot be read.
    """
    timeout_s = PUBLISH_TIMEOUT_S if publishing else settings.timeout_s
    if settings.kind == "redis":
        from serving.stores.redis import Redis

        return Redis(settings, timeout_s, publishing)
    if settings.kind == "cassandra":
        from serving.stores.cassandra import Cassandra

        return Cassandra(settings, timeout_s, publishing)
    from serving.stores.memory_mapped import MemoryMapped

    return MemoryMapped(home)
