"""Known listeners in Cassandra: one partition per user and release, written concurrently by prepared statements.

    users      (release, space, user_id) publication     the row; a user has one for each part with the user
    notices    (release, space) part                      the publication in force
    publications   (release) space publication            every publication ever started
    user_ids   (release, publication, bucket) number      user ids of each block, so that rows can be removed
    releases   release                                    when it was marked as retired
    days       (user_id) field                            profiles of the day (serving/profile/cassandra.py)

A notice is one row, so a plain write puts it in force atomically. A lightweight transaction would add a second round of
agreement without a benefit: two publishers of one part write the same rows under the same name, and either may be last.
Reads and writes use a quorum of the local datacenter: a reader of a notice sees the rows written before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from contracts.errors import CheckFailed
from serving.settings import StoreSettings
from serving.stores.cassandra_session import CassandraSession
from serving.stores.interface import (
    WARM,
    Block,
    Notice,
    StorePart,
    UserRow,
    checked_blocks,
    pack_history,
    read_order,
    unpack_history,
)

CONCURRENCY = 128
BUCKET = 64  # blocks whose user ids are in one partition: at most 4 MB
SCHEMA_TIMEOUT_S = 30.0
OLD_TABLE = "members"  # of the keyspaces of Overture before rows had a history
SCHEMA = (
    "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = "
    "{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replicas}}}",
    "CREATE TABLE IF NOT EXISTS {keyspace}.users (release text, space text, user_id bigint, publication text, "
    "segment_id int, vector blob, tracks blob, history blob, PRIMARY KEY ((release, space, user_id), publication))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.notices (release text, space text, part text, publication text, "
    "since text, users bigint, PRIMARY KEY ((release, space), part))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.publications (release text, space text, publication text, "
    "PRIMARY KEY ((release), space, publication))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.user_ids (release text, publication text, bucket int, number int, "
    "user_ids blob, PRIMARY KEY ((release, publication, bucket), number))",
    "CREATE TABLE IF NOT EXISTS {keyspace}.releases (release text PRIMARY KEY, retired_at double)",
    "CREATE TABLE IF NOT EXISTS {keyspace}.days (user_id text, field text, value blob, PRIMARY KEY (user_id, field))",
)
STATEMENTS = {
    "row": "SELECT publication, segment_id, vector, tracks, history FROM {keyspace}.users "
    "WHERE release = ? AND space = ? AND user_id = ?",
    "put": "INSERT INTO {keyspace}.users (release, space, user_id, publication, segment_id, vector, tracks, history) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
    "drop": "DELETE FROM {keyspace}.users WHERE release = ? AND space = ? AND user_id = ? AND publication = ?",
    "notices": "SELECT part, publication, since, users FROM {keyspace}.notices WHERE release = ? AND space = ?",
    "put_notice": "INSERT INTO {keyspace}.notices (release, space, part, publication, since, users) "
    "VALUES (?, ?, ?, ?, ?, ?)",
    "drop_notices": "DELETE FROM {keyspace}.notices WHERE release = ? AND space = ?",
    "publications": "SELECT space, publication FROM {keyspace}.publications WHERE release = ?",
    "put_publication": "INSERT INTO {keyspace}.publications (release, space, publication) VALUES (?, ?, ?)",
    "drop_publication": "DELETE FROM {keyspace}.publications WHERE release = ? AND space = ? AND publication = ?",
    "user_ids": "SELECT number, user_ids FROM {keyspace}.user_ids WHERE release = ? AND publication = ? AND bucket = ?",
    "put_user_ids": "INSERT INTO {keyspace}.user_ids (release, publication, bucket, number, user_ids) "
    "VALUES (?, ?, ?, ?, ?)",
    "drop_user_ids": "DELETE FROM {keyspace}.user_ids WHERE release = ? AND publication = ? AND bucket = ?",
    "releases": "SELECT release, retired_at FROM {keyspace}.releases",
    "begin": "INSERT INTO {keyspace}.releases (release) VALUES (?)",
    "mark": "INSERT INTO {keyspace}.releases (release, retired_at) VALUES (?, ?)",
    "drop_release": "DELETE FROM {keyspace}.releases WHERE release = ?",
}


class Cassandra:
    """Rows in a Cassandra cluster; connects at the first call (serving/stores/cassandra_session.py)."""

    def __init__(self, settings: StoreSettings, timeout_s: float, publishing: bool) -> None:
        """Prepare to connect; with `publishing`, missing keyspace and tables are created.

        Raises:
            BadArgument: a file of certificates cannot be read.
        """
        self.names: dict[str, object] = {
            "keyspace": settings.cassandra_keyspace,
            "datacenter": settings.cassandra_datacenter,
            "replicas": settings.cassandra_replicas,
        }
        self.publishing = publishing
        self._session = CassandraSession(settings, timeout_s, self._prepare, publishing)
        self.name = self._session.name

    def _prepare(self, cluster: Any, session: Any) -> dict[str, Any]:
        keyspace = str(self.names["keyspace"])
        if self.publishing:
            old = cluster.metadata.keyspaces.get(keyspace)
            if old is not None and OLD_TABLE in old.tables:  # all rows are of an older version, which are refused
                for table in ("notices", "users", "releases", OLD_TABLE):
                    session.execute(f"DROP TABLE IF EXISTS {keyspace}.{table}", timeout=SCHEMA_TIMEOUT_S)
            for statement in SCHEMA:
                session.execute(statement.format(**self.names), timeout=SCHEMA_TIMEOUT_S)
        return {name: session.prepare(cql.format(**self.names)) for name, cql in STATEMENTS.items()}

    @contextmanager
    def reached(self) -> Iterator[Any]:
        """Yield the driver's session, for other tables of the keyspace.

        Raises:
            StoreUnavailable: there is no session yet, or a statement inside the block failed.
        """
        with self._session.reached() as connected:
            yield connected.session

    def _ask(self, name: str, *values: object) -> list[Any]:
        with self._session.reached() as connected:
            return list(connected.session.execute(connected.prepared[name], values))

    def _ask_many(self, name: str, values: Iterable[tuple[object, ...]]) -> None:
        from cassandra.concurrent import execute_concurrent_with_args

        with self._session.reached() as connected:
            execute_concurrent_with_args(connected.session, connected.prepared[name], values, CONCURRENCY)

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
                return as_row(user_id, notice, warm, record.segment_id, record.vector, record.tracks, record.history)
        return None

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Write the ids of a block before its rows, so that any publication can be removed; the notice is last."""
        key, name = (part_rows.release, part_rows.space), part_rows.publication
        self._ask("begin", part_rows.release)
        self._ask("put_publication", *key, name)
        for number, block in enumerate(checked_blocks(part_rows, blocks)):
            ids = block.user_ids.astype("<i8").tobytes()
            self._ask("put_user_ids", part_rows.release, name, number // BUCKET, number, ids)
            self._ask_many("put", (as_values(part_rows, row) for row in block.rows(part_rows)))
        before = self.notices(*key).get(part_rows.part)
        notice = part_rows.notice
        self._ask("put_notice", *key, part_rows.part, notice.publication, notice.since, notice.users)
        if before and before.publication != name:
            self._forget(*key, before.publication)

    def _forget(self, release: str, space: str, publication: str) -> None:
        """Remove a publication's rows, then its user ids from the last bucket to the first, then its record.

        The buckets that are left after an interruption are 0, 1, 2... without a gap, so that another attempt finds
        them.
        """
        bucket = 0
        while records := self._ask("user_ids", release, publication, bucket):
            for record in records:
                users = np.frombuffer(record.user_ids, "<i8").tolist()
                self._ask_many("drop", ((release, space, user, publication) for user in users))
            bucket += 1
        for written in reversed(range(bucket)):
            self._ask("drop_user_ids", release, publication, written)
        self._ask("drop_publication", release, space, publication)

    def releases(self) -> dict[str, float | None]:
        """Return all releases: a small table."""
        return {record.release: record.retired_at for record in self._ask("releases")}

    def retire(self, release: str, at: float | None) -> None:
        """Write or clear the mark: one row."""
        self._ask("mark", release, at)

    def remove(self, release: str) -> None:
        """Remove notices first, the release last: an interrupted removal is completed by the next attempt."""
        publications = self._ask("publications", release)
        for space in sorted({record.space for record in publications}):
            self._ask("drop_notices", release, space)
        for record in publications:
            self._forget(release, record.space, record.publication)
        self._ask("drop_release", release)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()


def as_values(part_rows: StorePart, row: UserRow) -> tuple[object, ...]:
    """Return the values bound to `put`: the vector as little-endian float32, the list as int64, the history packed."""
    key = part_rows.release, part_rows.space, row.user_id, part_rows.publication
    vector, tracks = row.vector_D.astype("<f4").tobytes(), row.track_ids.astype("<i8").tobytes()
    return *key, row.segment_id, vector, tracks, pack_history(row.history)


def as_row(
    user_id: int, notice: Notice, warm: bool, segment_id: int, vector: bytes, tracks: bytes, history: bytes | None
) -> UserRow:
    """Return the row that `put` wrote.

    Raises:
        CheckFailed: the blobs do not contain whole numbers of values, or the row is one of an older version.
    """
    if history is None:
        raise CheckFailed(f"publication {notice.publication} was written by another version; publish the release again")
    try:
        vector_D, track_ids = np.frombuffer(vector, "<f4"), np.frombuffer(tracks, "<i8")
        lists = unpack_history(history)
    except ValueError:
        raise CheckFailed(f"publication {notice.publication}: a row is damaged; publish the release again") from None
    return UserRow(user_id, "warm" if warm else "cold", notice.since, vector_D, segment_id, track_ids, *lists)
