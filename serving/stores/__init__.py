"""Stores of known listeners: the service reads them, the jobs publish to them."""

from __future__ import annotations

from pathlib import Path

from serving.settings import StoreSettings
from serving.stores.interface import UserStore

PUBLISH_TIMEOUT_S = 30.0  # per call while publishing: no request waits for it


def open_store(settings: StoreSettings, home: Path, publishing: bool = False) -> UserStore:
    """Return the store of the settings; a server is connected at the first call.

    Raises:
        BadArgument: an address is invalid.
    """
    timeout_s = PUBLISH_TIMEOUT_S if publishing else settings.timeout_s
    if settings.kind == "redis":
        from serving.stores.redis import Redis

        return Redis(settings.redis_url.get_secret_value(), timeout_s)
    if settings.kind == "cassandra":
        from serving.stores.cassandra import Cassandra

        return Cassandra(
            settings.cassandra_hosts,
            settings.cassandra_port,
            settings.cassandra_keyspace,
            settings.cassandra_datacenter,
            settings.cassandra_replicas,
            (settings.cassandra_user, settings.cassandra_password.get_secret_value())
            if settings.cassandra_user
            else None,
            timeout_s,
            publishing,
        )
    from serving.stores.memory_mapped import MemoryMapped

    return MemoryMapped(home)
