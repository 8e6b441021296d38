"""Profiles in Cassandra: one partition a listener in the table `days`, whose rows expire.

Uses the session of the store of known listeners (serving/stores/cassandra.py), whose schema contains the table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from serving.profile.interface import MARKS, Fields
from serving.stores.cassandra import CONCURRENCY, Cassandra

STATEMENTS = {
    "all": "SELECT field, value FROM {keyspace}.days WHERE user_id = ?",
    "some": "SELECT field, value FROM {keyspace}.days WHERE user_id = ? AND field IN ?",
    "count": "SELECT count(*) AS n FROM {keyspace}.days WHERE user_id = ?",
    "put": "INSERT INTO {keyspace}.days (user_id, field, value) VALUES (?, ?, ?) USING TTL ?",
    "drop": "DELETE FROM {keyspace}.days WHERE user_id = ? AND field = ?",
}


class CassandraProfiles:
    """Profiles in a Cassandra cluster."""

    def __init__(self, store: Cassandra, ttl_s: float) -> None:
        """Set the store whose session is used, and the time until a field expires, in seconds."""
        self.name, self._reached, self.ttl_s = store.name, store.reached, max(1, math.ceil(ttl_s))
        self._keyspace = store.names["keyspace"]
        self._session: Any = None
        self._prepared: dict[str, Any] = {}

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold nothing: fields do not depend on the order of writes, and writers read the marks again."""
        yield

    def read(self, user_id: str) -> Fields:
        """Return all fields: one partition."""
        return {row.field: row.value for row in self._ask("all", user_id)}

    def read_some(self, wanted: Mapping[str, Iterable[str]]) -> dict[str, tuple[Fields, int]]:
        """Return the wanted fields of each listener, and the number of fields."""
        some = {}
        for user_id, names in wanted.items():
            fields = {row.field: row.value for row in self._ask("some", user_id, list(names))}
            some[user_id] = fields, int(self._ask("count", user_id)[0].n)
        return some

    def marks(self, user_ids: Iterable[str]) -> dict[str, Fields]:
        """Return the marks of each listener."""
        return {user: {row.field: row.value for row in self._ask("some", user, list(MARKS))} for user in user_ids}

    def write(self, fields: Mapping[str, Mapping[str, bytes]]) -> None:
        """Write the fields concurrently. A repeated write has the same effect, so a failed one can be repeated."""
        self._ask_many(
            "put", [(user, name, value, self.ttl_s) for user, more in fields.items() for name, value in more.items()]
        )

    def drop(self, user_id: str, fields: Iterable[str]) -> None:
        """Remove fields concurrently."""
        self._ask_many("drop", [(user_id, name) for name in fields])

    def close(self) -> None:
        """Do nothing: the session belongs to the store of known listeners."""

    def _statement(self, session: Any, name: str) -> Any:
        if session is not self._session:  # the store connected again: statements belong to a session
            self._session, self._prepared = session, {}
        if name not in self._prepared:
            self._prepared[name] = session.prepare(STATEMENTS[name].format(keyspace=self._keyspace))
        return self._prepared[name]

    def _ask(self, name: str, *values: object) -> list[Any]:
        with self._reached() as session:
            return list(session.execute(self._statement(session, name), values))

    def _ask_many(self, name: str, values: list[tuple[object, ...]]) -> None:
        from cassandra.concurrent import execute_concurrent_with_args

        with self._reached() as session:
            execute_concurrent_with_args(session, self._statement(session, name), values, CONCURRENCY)
