"""Known listeners in Redis: one binary value per user, written by pipelines.

    overture:releases                             hash  release -> when it was marked, or nothing
    overture:<release>:publications               hash  publication -> nothing: every publication ever started
    overture:<release>:<space>:notices            hash  part -> the notice, as JSON
    overture:<publication>:members                hash  number of a block -> its user ids, so that rows can be removed
    overture:<publication>:<user id>              the row

A publication's name begins with its release. Redis must not evict keys (maxmemory-policy noeviction, its default): an
evicted listener is an unknown one. One server, or one behind a Sentinel or a proxy; not a Redis Cluster, where a user's
parts could be on different nodes.
"""

from __future__ import annotations

import contextlib
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from contracts.errors import BadArgument, CheckFailed
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
    """Rows in a Redis server."""

    def __init__(self, url: str, timeout_s: float) -> None:
        """Store the address; connects at the first call. Connections and calls time out after `timeout_s`.

        Raises:
            BadArgument: `url` is not an address of a Redis server.
        """
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        try:
            parts = urlsplit(url)
            self.name = f"redis {parts.hostname or parts.path}:{parts.port or 6379}"
            self._redis: Any = redis.Redis.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
            )
        except ValueError:  # its message may contain a password
            raise BadArgument("store.redis_url: write redis://[user:password@]host:port/0, or rediss://...") from None
        self._errors = (redis.RedisError, OSError)

    @contextlib.contextmanager
    def _reached(self) -> Iterator[Any]:
        """Yield the client; its errors become StoreUnavailable with one sentence without the password."""
        try:
            yield self._redis
        except self._errors as error:
            kind = type(error).__name__
            raise StoreUnavailable(f"the {self.name} store does not answer ({kind})") from error

    def notices(self, release: str, space: str) -> dict[str, Notice]:
        """Return the notices: one hash."""
        with self._reached() as redis:
            notice_by_part = redis.hgetall(f"overture:{release}:{space}:notices")
        parts = ((part.decode(), text) for part, text in notice_by_part.items())
        return {part: Notice.read(text, f"the notice of {part}, {release[:12]}/{space}") for part, text in parts}

    def row(self, release: str, space: str, user_id: int, notices: dict[str, Notice]) -> UserRow | None:
        """Return the user's row; the values of all parts are read in one call."""
        order = read_order(notices)
        with self._reached() as redis:
            values = redis.mget([f"overture:{notice.publication}:{user_id}" for notice in order])
        for notice, value in zip(order, values, strict=True):
            if value is not None:
                return unpack(value, user_id, notice, notice == notices.get(WARM))
        return None

    def publish(self, part_rows: StorePart, blocks: Iterable[Block]) -> None:
        """Record the publication first, so that an incomplete one can be removed; the notice is last."""
        key = f"overture:{part_rows.publication}"
        with self._reached() as redis:
            redis.hsetnx("overture:releases", part_rows.release, "")
            redis.hset(f"overture:{part_rows.release}:publications", part_rows.publication, "")
        number = 0
        for block in checked_blocks(part_rows, blocks):
            rows = block.rows(part_rows)
            for start in range(0, len(rows), PIPELINE):
                part = rows[start : start + PIPELINE]
                with self._reached() as redis:
                    pipeline = redis.pipeline(transaction=False)
                    pipeline.hset(
                        f"{key}:members", str(number), np.array([row.user_id for row in part], "<i8").tobytes()
                    )
                    for row in part:
                        pipeline.set(f"{key}:{row.user_id}", pack(row))
                    pipeline.execute()
                number += 1
        before = self.notices(part_rows.release, part_rows.space).get(part_rows.part)
        with self._reached() as redis:
            notice = json.dumps(asdict(part_rows.notice))
            redis.hset(f"overture:{part_rows.release}:{part_rows.space}:notices", part_rows.part, notice)
        if before and before.publication != part_rows.publication:
            self._forget(part_rows.release, before.publication)

    def _forget(self, release: str, publication: str) -> None:
        """Remove a publication's rows, then its record."""
        with self._reached() as redis:
            members = redis.hgetall(f"overture:{publication}:members")
            for ids in members.values():
                users = np.frombuffer(ids, "<i8").tolist()
                redis.unlink(*(f"overture:{publication}:{user}" for user in users))
            redis.unlink(f"overture:{publication}:members")
            redis.hdel(f"overture:{release}:publications", publication)

    def releases(self) -> dict[str, float | None]:
        """Return all releases: one hash."""
        with self._reached() as redis:
            retired_at = redis.hgetall("overture:releases")
        return {release.decode(): float(at) if at else None for release, at in retired_at.items()}

    def retire(self, release: str, at: float | None) -> None:
        """Write or clear the mark: one field."""
        with self._reached() as redis:
            redis.hset("overture:releases", release, "" if at is None else repr(at))

    def remove(self, release: str) -> None:
        """Remove notices first, the release last: an interrupted removal is completed by the next attempt."""
        with self._reached() as redis:
            notices = list(redis.scan_iter(f"overture:{release}:*:notices", 1_000))
            if notices:
                redis.unlink(*notices)
            publications = redis.hkeys(f"overture:{release}:publications")
        for publication in publications:
            self._forget(release, publication.decode())
        with self._reached() as redis:
            redis.hdel("overture:releases", release)

    def close(self) -> None:
        """Close the connections."""
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
