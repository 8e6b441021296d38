"""What a log of streams contains for the other tables: first events, registrations and sessions of listeners.

jobs/ingest/tables/derive.py has the same rules for Spark frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa

from jobs.ingest.event_buffer import DAY_US, EventBuffer, times
from jobs.ingest.ids import MADE
from jobs.ingest.tables.derive import SESSION_GAP_S, UNKNOWN_DAYS, UNKNOWN_REGISTRATION
from jobs.ingest.write_tables import day_name
from jobs.platform.hash64 import splitmix64
from jobs.platform.log_start import find_log_start

BUCKETS = 64
GAP_US = SESSION_GAP_S * 1_000_000


def earliest(user: np.ndarray, ts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield each user's first event in a block."""
    order = np.lexsort((ts, user))
    users, at = np.unique(user[order], return_index=True)
    return zip(users.tolist(), ts[order][at].tolist(), strict=True)


def registrations(first_us: np.ndarray, log: EventBuffer) -> tuple[np.ndarray, int]:
    """Return the registration (n,) of listeners, microseconds, and how many are unknown.

    A listener's first event is the registration. Listeners first seen in the first 30 days of the log, whose start
    jobs/platform/log_start.py finds, may have registered long before it: their registration is unknown, which is stored
    as 1970-01-01, before every cohort.

    Args:
        first_us: First event (n,) of each listener, microseconds since 1970.
        log: All events, by day since 1970.
    """
    log_start = find_log_start({day_name(day): n for day, n in log.sizes().items()})
    known = first_us >= ((log_start - date(1970, 1, 1)).days + UNKNOWN_DAYS) * DAY_US
    unknown_us = round(UNKNOWN_REGISTRATION.timestamp()) * 1_000_000
    return np.where(known, first_us, unknown_us), int((~known).sum())


def sessions(
    by_listener: EventBuffer, session_ids: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> Iterator[pa.RecordBatch]:
    """Yield rows of the table `playlists`: sessions of two or more distinct tracks, a bucket of listeners at a time.

    Args:
        by_listener: Streams, each bucket with all those of its listeners.
        session_ids: Returns the ids (n,) of sessions by listener (n,) and start (n,), seconds since 1970.
    """
    for _, rows in by_listener.groups():
        rows = rows[np.lexsort((rows["entity_id"], rows["ts"], rows["user_id"]))]
        user, ts, track = rows["user_id"], rows["ts"], rows["entity_id"]
        new = np.concatenate([[True], (user[1:] != user[:-1]) | (np.diff(ts) > GAP_US)])
        session = np.cumsum(new) - 1
        start = ts[np.flatnonzero(new)]
        # A session contains each track once, at its first stream.
        order = np.lexsort((np.arange(len(rows)), track, session))
        once = np.concatenate(
            [[True], (session[order][1:] != session[order][:-1]) | (track[order][1:] != track[order][:-1])]
        )
        keep = np.sort(order[once])
        keep = keep[np.bincount(session[keep])[session[keep]] >= 2]
        session, user, ts, track = session[keep], user[keep], ts[keep], track[keep]
        yield pa.record_batch(
            {
                "playlist_id": pa.array(session_ids(user, start[session] // 1_000_000)),
                "position": pa.array((np.arange(len(keep)) - np.searchsorted(session, session)).astype(np.int32)),
                "track_id": pa.array(track),
                "user_id": pa.array(user),
                "added_at": times(ts),
                "public": pa.repeat(False, len(ts)),
            }
        )


def hashed_session_ids(user: np.ndarray, start_s: np.ndarray) -> np.ndarray:
    """Return ids (n,) of sessions as 62 bits of a hash, above the ids of playlists that a source names."""
    mixed = splitmix64((user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)) ^ start_s.astype(np.uint64))
    return np.asarray((mixed >> np.uint64(2)).astype(np.int64) + MADE)
