"""Profiles in Redis: one hash a listener, `overture:day:<user id>`, which expires.

Uses the connections of the store of known listeners (serving/stores/redis.py).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from serving.profile.interface import MARKS, Fields
from serving.stores.redis import Redis

KEY = "overture:day:"


class RedisProfiles:
    """Profiles in a Redis server; a group of listeners costs one round trip."""

    def __init__(self, store: Redis, ttl_s: float) -> None:
        """Set the store whose connections are used, and the time until a profile expires, in seconds."""
        self.name, self._reached, self.ttl_s = store.name, store.reached, max(1, math.ceil(ttl_s))
        self._in_transaction = not store.is_cluster  # listeners are in different slots of a cluster

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold nothing: fields do not depend on the order of writes, and writers read the marks again."""
        yield

    def read(self, user_id: str) -> Fields:
        """Return all fields: one hash."""
        with self._reached() as redis:
            return {name.decode(): value for name, value in redis.hgetall(KEY + user_id).items()}

    def read_some(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, tuple[Fields, int]]:
        """Return the wanted fields of all listeners in one round trip."""
        names = {user_id: list(fields) for user_id, fields in wanted.items()}
        with self._reached() as redis:
            pipeline = redis.pipeline(transaction=False)
            for user_id, fields in names.items():
                pipeline.hmget(KEY + user_id, fields)
                pipeline.hlen(KEY + user_id)
            replies = pipeline.execute()
        return {
            user_id: ({f: v for f, v in zip(fields, replies[2 * n], strict=True) if v is not None}, replies[2 * n + 1])
            for n, (user_id, fields) in enumerate(names.items())
        }

    def marks(self, user_ids: Iterable[str]) -> dict[str, Fields]:
        """Return the marks of all listeners in one round trip."""
        users = list(user_ids)
        with self._reached() as redis:
            pipeline = redis.pipeline(transaction=False)
            for user_id in users:
                pipeline.hmget(KEY + user_id, MARKS)
            replies = pipeline.execute()
        return {
            user_id: {name: value for name, value in zip(MARKS, values, strict=True) if value is not None}
            for user_id, values in zip(users, replies, strict=True)
        }

    def write(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """Write the fields of each listener in one command, then the expiry.

        On one server both are one transaction. In a cluster a profile whose expiry is lost gets it with the next event.
        """
        with self._reached() as redis:
            pipeline = redis.pipeline(transaction=self._in_transaction)
            for user_id, more in fields.items():
                pipeline.hset(KEY + user_id, mapping=dict(more))
                pipeline.expire(KEY + user_id, self.ttl_s)
            pipeline.execute()

    def drop(self, user_id: str, fields: Iterable[str]) -> None:
        """Remove fields."""
        names = list(fields)
        if names:
            with self._reached() as redis:
                redis.hdel(KEY + user_id, *names)

    def close(self) -> None:
        """Do nothing: the connections belong to the store of known listeners."""
