"""Known listeners in Cassandra: one partition per user and release, written concurrently by prepared statements.

    users      (release, space, user_id) publication     the row; a user has one for each part with the user
    notices    (release, space) part                      the publication in force
    members    (release) space publication number         user ids of each block, so that rows can be removed
    releases   release                                    when it was marked as retired
    days       (user_id) field                            profiles of the day (serving/profile/cassandra.py)

A notice is one row, so a plain write puts it in force atomically. A lightweight transaction would add a second round of
agreement without a benefit: two publishers of one part write the same rows under the same name, and either may be last.
Reads and writes use a quorum of the local datacenter: a reader of a notice sees the rows written before it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from contracts.errors import CheckFailed
from serving.stores.interface import (
    WARM,
    Block,
    Notice,
    StorePart,
    StoreUnavailable,
    UserRow,
    checked_blocks,
    read_order,
)

CONCURRENCY = 128
SCHEMA = (
    "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
    "{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replicas}}}",
    "CREATE TABLE IF NOT EXISTS {keyspace}.users (release text, space text, user_id bigint, publication text, "
    "segment_id int, vector blob, tracks blob, PRIMARY KEY ((release, space, user_id), publication))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.notices (release text, space text, part text, publication text, "
    "since text, users bigint, PRIMARY KEY ((release, space), part))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.members (release text, space text, publication text, number int, "
    "user_ids blob, PRIMARY KEY ((release), space, publication, number))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.releases (release text PRIMARY KEY, retired_at double)",
    "CREATE TABLE IF NOT EXISTS {keyspace}.days (user_id text, field text, value blob, PRIMARY KEY (user_id, field))",
)
STATEMENTS = {
    "row": "SELECT publication, segment_id, vector, tracks FROM {keyspace}.users "
    "WHERE release = ? AND space = ? AND user_id = ?",
    "put": "INSERT INTO {keyspace}.users (release, space, user_id, publication, segment_id, vector, tracks) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)",
    "drop": "DELETE FROM {keyspace}.users WHERE release = ? AND space = ? AND user_id = ? AND publication = ?",
    "notices": "SELECT part, publication, since, users FROM {keyspace}.notices WHERE release = ? AND space = ?",
    "put_notice": "INSERT INTO {keyspace}.notices (release, space, part, publication, since, users) "
    "VALUES (?, ?, ?, ?, ?, ?)",
    "drop_notices": "DELETE FROM {keyspace}.notices WHERE release = ? AND space = ?",
    "members": "SELECT space, publication, number, user_ids FROM {keyspace}.members WHERE release = ?",
    "put_members": "INSERT INTO {keyspace}.members (release, space, publication, number, user_ids) "
    "VALUES (?, ?, ?, ?, ?)",
    "drop_members": "DELETE FROM {keyspace}.members WHERE release = ? AND space = ? AND publication = ? AND number = ?",
    "releases": "SELECT release, retired_at FROM {keyspace}.releases",
    "begin": "INSERT INTO {keyspace}.releases (release) VALUES (?)",
    "mark": "INSERT INTO {keyspace}.releases (release, retired_at) VALUES (?, ?)",
    "drop_release": "DELETE FROM {keyspace}.releases WHERE release = ?",
}


class Cassandra:
    """Rows in a Cassandra cluster; connects at the first call."""

    def __init__(
        self,
        hosts: Sequence[str],
        port: int,
        keyspace: str,
        datacenter: str,
        replicas: int,
        login: tuple[str, str] | None,
        timeout_s: float,
        publishing: bool,
    ) -> None:
        """Store the connection settings; with `publishing`, missing keyspace and tables are created."""
        self.hosts, self.port, self.login, self.timeout_s = list(hosts), port, login, timeout_s
        self.names = {"keyspace": keyspace, "datacenter": datacenter, "replicas": replicas}
        self.name = f"cassandra {','.join(hosts)}:{port}/{keyspace}"
        self.publishing = publishing
        self._cluster: Any = None
        self._session: Any = None
        self._prepared: dict[str, Any] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """Yield a session; errors of the driver become StoreUnavailable with one sentence."""
        from cassandra import DriverException, InvalidRequest
        from cassandra.cluster import NoHostAvailable

        try:
            with self._lock:
                if self._session is None:
                    self._connect()
            yield self._session
        except InvalidRequest as error:
            raise StoreUnavailable(
                f"the {self.name} store has no tables yet; run `overture release publish`"
            ) from error
        except (DriverException, NoHostAvailable, OSError) as error:
            raise StoreUnavailable(f"the {self.name} store does not answer ({type(error).__name__})") from error

    def _connect(self) -> None:
        from cassandra import ConsistencyLevel
        from cassandra.auth import PlainTextAuthProvider
        from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
        from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy

        profile = ExecutionProfile(
            load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(str(self.names["datacenter"]))),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=self.timeout_s,
        )
        cluster = Cluster(
            self.hosts,
            self.port,
            auth_provider=PlainTextAuthProvider(*self.login) if self.login else None,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            connect_timeout=max(1.0, self.timeout_s),  # a handshake consists of several calls
        )
        try:
            session = cluster.connect()
            if self.publishing:
                for statement in SCHEMA:
                    session.execute(statement.format(**self.names), timeout=30.0)
            self._prepared = {name: session.prepare(cql.format(**self.names)) for name, cql in STATEMENTS.items()}
        except BaseException:
            cluster.shutdown()
            raise
        self._cluster, self._session = cluster, session

    def _ask(self, name: str, *values: object) -> list[Any]:
        with self._reached() as session:
            return list(session.execute(self._prepared[name], values))

    def _ask_many(self, name: str, values: Iterable[tuple[object, ...]]) -> None:
        from cassandra.concurrent import execute_concurrent_with_args

        with self._reached() as session:
            execute_concurrent_with_args(session, self._prepared[name], values, CONCURRENCY)

    def notices(self, release: str, space: str) -> dict[str, Notice]:
        """Return the notices: one partition."""
        return {
            record.part: Notice(record.publication, record.since, record.users)
            for record in self._ask("notices", release, space)
        }

    def row(self, release: str, space: str, user_id: int, notices: dict[str, Notice]) -> UserRow | None:
        """Return the row of a user: one partition with the rows of all publications."""
        row_by_publication = {record.publication: record for record in self._ask("row", release, space, user_id)}
        for notice in read_order(notices):
            if notice.publication in row_by_publication:
                record = row_by_publication[notice.publication]
                warm = notice == notices.get(WARM)
                return as_row(user_id, notice, warm, record.segment_id, record.vector, record.tracks)
        return None

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Write the ids of a block before its rows, so that any publication can be removed; the notice is last."""
        key = part_rows.release, part_rows.space
        self._ask("begin", part_rows.release)
        for number, block in enumerate(checked_blocks(part_rows, blocks)):
            ids = block.user_ids.astype("<i8").tobytes()
            self._ask("put_members", *key, part_rows.publication, number, ids)
            self._ask_many("put", (as_values(part_rows, row) for row in block.rows(part_rows)))
        before = self.notices(*key).get(part_rows.part)
        notice = part_rows.notice
        self._ask("put_notice", *key, part_rows.part, notice.publication, notice.since, notice.users)
        if before and before.publication != part_rows.publication:
            self._forget(part_rows.release, {before.publication})

    def _forget(self, release: str, publications: set[str] | None = None) -> None:
        """Remove the rows of these publications, or of all: rows first, then their members."""
        for record in self._ask("members", release):
            if publications is None or record.publication in publications:
                users = np.frombuffer(record.user_ids, "<i8").tolist()
                self._ask_many("drop", ((release, record.space, user, record.publication) for user in users))
                self._ask("drop_members", release, record.space, record.publication, record.number)

    def releases(self) -> dict[str, float | None]:
        """Return all releases: a small table."""
        return {record.release: record.retired_at for record in self._ask("releases")}

    def retire(self, release: str, at: float | None) -> None:
        """Write or clear the mark: one row."""
        self._ask("mark", release, at)

    def remove(self, release: str) -> None:
        """Remove notices first, the release last: an interrupted removal is completed by the next attempt."""
        for space in sorted({record.space for record in self._ask("members", release)}):
            self._ask("drop_notices", release, space)
        self._forget(release)
        self._ask("drop_release", release)

    def close(self) -> None:
        """Close the connections."""
        if self._cluster is not None:
            self._cluster.shutdown()
            self._cluster = self._session = None


def as_values(part_rows: StorePart, row: UserRow) -> tuple[object, ...]:
    """Return the values bound to `put`: the vector as little-endian float32, the list as int64."""
    vector, tracks = row.vector_D.astype("<f4").tobytes(), row.track_ids.astype("<i8").tobytes()
    return part_rows.release, part_rows.space, row.user_id, part_rows.publication, row.segment_id, vector, tracks


def as_row(user_id: int, notice: Notice, warm: bool, segment_id: int, vector: bytes, tracks: bytes) -> UserRow:
    """Return the row that `put` wrote.

    Raises:
        CheckFailed: the blobs do not contain whole numbers of values.
    """
    try:
        vector_D, track_ids = np.frombuffer(vector, "<f4"), np.frombuffer(tracks, "<i8")
    except ValueError:
        raise CheckFailed(f"publication {notice.publication}: a row is damaged; publish the release again") from None
    return UserRow(user_id, "warm" if warm else "cold", notice.since, vector_D, segment_id, track_ids)
