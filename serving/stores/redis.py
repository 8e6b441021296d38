"""Known listeners in Redis: one binary value per user, written by pipelines.

    overture:releases                             hash  release -> when it was marked, or nothing
    overture:<release>:publications               hash  publication -> nothing: every publication ever started
    overture:<release>:<space>:notices            hash  part -> the notice, as JSON
    overture:<publication>:members                hash  number of a block -> its user ids, so that rows can be removed
    overture:<publication>:<user id>              the row; in a Redis Cluster overture:<publication>:{<user id>}

A publication's name begins with its release. Redis must not evict keys (maxmemory-policy noeviction, its default): an
evicted listener is an unknown one. One server, one behind a Sentinel or a proxy, or a Redis Cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from contracts.errors import BadArgument, CheckFailed
from serving.settings import StoreSettings
from serving.stores.interface import (
    WARM,
    Block,
    Notice,
    StorePart,
    StoreUnavailable,
    UserRow,
    checked_blocks,
    pack_history,
    read_order,
    unpack_history,
)

HEAD = struct.Struct("<BiHH")  # format, segment, width of the vector, length of the list
FORMAT = 2
PIPELINE = 1_000


class Redis:
    """Rows in a Redis server or a Redis Cluster."""

    def __init__(self, settings: StoreSettings, timeout_s: float, publishing: bool) -> None:
        """Store the address; connects at the first call. Connections and calls time out after `timeout_s`.

        Raises:
            BadArgument: `redis_url` is not an address of a Redis server, or `redis_ca` cannot be used.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.cluster import RedisCluster
        from redis.retry import Retry

        url, ca = settings.redis_url.get_secret_value(), settings.redis_ca
        options: dict[str, Any] = {
            "socket_timeout": timeout_s,
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),
        }
        if ca:
            if not url.startswith("rediss://") or not os.access(ca, os.R_OK):
                raise BadArgument(f"store.redis_ca: needs a redis_url with rediss:// and a readable file, got {ca}")
            options["ssl_ca_certs"] = ca
        try:
            parts = urlsplit(url)
            self.name = f"redis {parts.hostname or parts.path}:{parts.port or 6379}"
            server = redis.Redis.from_url(url, **options)  # connects at the first command
        except ValueError:  # its message may contain a password
            raise BadArgument("store.redis_url: write redis://[user:password@]host:port/0, or rediss://...") from None
        self.is_cluster, self.publishing = settings.redis_cluster, publishing
        self._redis: Any = None if self.is_cluster else server
        self._connect_to_cluster: Callable[[], Any] = lambda: RedisCluster.from_url(url, **options)
        self._connecting = threading.Lock()
        self._errors = (redis.RedisError, redis.exceptions.RedisClusterException, OSError)

    @contextlib.contextmanager
    def reached(self) -> Iterator[Any]:
        """Yield the client; its errors become StoreUnavailable with one sentence without the password."""
        try:
            yield self._redis or self._cluster()
        except self._errors as error:
            kind = type(error).__name__
            raise StoreUnavailable(f"the {self.name} store does not answer ({kind})") from error

    def _cluster(self) -> Any:
        """Return the client of a cluster, which reads the cluster's slots when it is created, by one thread at a time.

        Raises:
            StoreUnavailable: another thread is creating it.
        """
        if not self._connecting.acquire(blocking=self.publishing):
            raise StoreUnavailable(f"the {self.name} store is not connected yet")
        try:
            self._redis = self._redis or self._connect_to_cluster()
        finally:
            self._connecting.release()
        return self._redis

    def _row_key(self, publication: str, user_id: int) -> str:
        """Return the key of a row; in a cluster all rows of a user are in one slot, so that one command reads them."""
        return f"overture:{publication}:{{{user_id}}}" if self.is_cluster else f"overture:{publication}:{user_id}"

    def notices(self, release: str, space: str) -> dict[str, Notice]:
        """Return the notices: one hash."""
        with self.reached() as redis:
            notice_by_part = redis.hgetall(f"overture:{release}:{space}:notices")
        parts = ((part.decode(), text) for part, text in notice_by_part.items())
        return {part: Notice.read(text, f"the notice of {part}, {release[:12]}/{space}") for part, text in parts}

    def row(self, release: str, space: str, user_id: int, notices: dict[str, Notice]) -> UserRow | None:
        """Return the user's row; the values of all parts are read in one call."""
        order = read_order(notices)
        with self.reached() as redis:
            values = redis.mget([self._row_key(notice.publication, user_id) for notice in order])
        for notice, value in zip(order, values, strict=True):
            if value is not None:
                return unpack(value, user_id, notice, notice == notices.get(WARM))
        return None

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Record the publication first, so that an incomplete one can be removed; the notice is last."""
        key = f"overture:{part_rows.publication}"
        with self.reached() as redis:
            redis.hsetnx("overture:releases", part_rows.release, "")
            redis.hset(f"overture:{part_rows.release}:publications", part_rows.publication, "")
        number = 0
        for block in checked_blocks(part_rows, blocks):
            rows = block.rows(part_rows)
            for start in range(0, len(rows), PIPELINE):
                part = rows[start : start + PIPELINE]
                with self.reached() as redis:
                    pipeline = redis.pipeline(transaction=False)
                    pipeline.hset(
                        f"{key}:members", str(number), np.array([row.user_id for row in part], "<i8").tobytes()
                    )
                    for row in part:
                        pipeline.set(self._row_key(part_rows.publication, row.user_id), pack(row))
                    pipeline.execute()
                number += 1
        before = self.notices(part_rows.release, part_rows.space).get(part_rows.part)
        with self.reached() as redis:
            notice = json.dumps(asdict(part_rows.notice))
            redis.hset(f"overture:{part_rows.release}:{part_rows.space}:notices", part_rows.part, notice)
        if before and before.publication != part_rows.publication:
            self._forget(part_rows.release, before.publication)

    def _forget(self, release: str, publication: str) -> None:
        """Remove a publication's rows, then its record."""
        with self.reached() as redis:
            for _, ids in redis.hscan_iter(f"overture:{publication}:members", count=10):
                users = np.frombuffer(ids, "<i8").tolist()
                redis.unlink(*(self._row_key(publication, user) for user in users))
            redis.unlink(f"overture:{publication}:members")
            redis.hdel(f"overture:{release}:publications", publication)

    def releases(self) -> dict[str, float | None]:
        """Return all releases: one hash."""
        with self.reached() as redis:
            retired_at = redis.hgetall("overture:releases")
        return {release.decode(): float(at) if at else None for release, at in retired_at.items()}

    def retire(self, release: str, at: float | None) -> None:
        """Write or clear the mark: one field."""
        with self.reached() as redis:
            redis.hset("overture:releases", release, "" if at is None else repr(at))

    def remove(self, release: str) -> None:
        """Remove notices first, the release last: an interrupted removal is completed by the next attempt."""
        with self.reached() as redis:
            notices = list(redis.scan_iter(f"overture:{release}:*:notices", 1_000))
            if notices:
                redis.unlink(*notices)
            publications = redis.hkeys(f"overture:{release}:publications")
        for publication in publications:
            self._forget(release, publication.decode())
        with self.reached() as redis:
            redis.hdel("overture:releases", release)

    def close(self) -> None:
        """Close the connections."""
        if self._redis is not None:
            self._redis.close()


def pack(row: UserRow) -> bytes:
    """Return a row without its id: little-endian, the vector as float32, the list as int64, then the history."""
    head = HEAD.pack(FORMAT, row.segment_id, len(row.vector_D), len(row.track_ids))
    values = row.vector_D.astype("<f4").tobytes() + row.track_ids.astype("<i8").tobytes()
    return head + values + pack_history(row.history)


def unpack(value: bytes, user_id: int, notice: Notice, warm: bool) -> UserRow:
    """Return the row that was packed.

    Raises:
        CheckFailed: the value is not a row, or one of another version of Overture.
    """
    try:
        number, segment, d, n = HEAD.unpack_from(value)
        if number != FORMAT:
            raise CheckFailed(
                f"publication {notice.publication} was written by another version; publish the release again"
            )
        vector_D = np.frombuffer(value, "<f4", d, HEAD.size)
        track_ids = np.frombuffer(value, "<i8", n, HEAD.size + 4 * d)
        history = unpack_history(memoryview(value)[HEAD.size + 4 * d + 8 * n :])
    except (struct.error, ValueError):
        raise CheckFailed(f"publication {notice.publication}: a row is damaged; publish the release again") from None
    return UserRow(user_id, "warm" if warm else "cold", notice.since, vector_D, segment, track_ids, *history)
