"""The lines of the event log, and the fields of a profile that follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from serving.profile.interface import EVENT, FORGOTTEN, MERGED, REMOVED

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# The level of an entity in the lists of first-day signals.
LEVEL = {"track": "tracks", "artist": "artists", "album": "albums", "playlist": "playlists"}


def micros(moment: datetime) -> int:
    """Return microseconds since 1970."""
    return (moment - EPOCH) // MICROSECOND


def iso(at_us: int) -> str:
    """Return a time as the lines contain it: UTC, with microseconds."""
    return f"{EPOCH + at_us * MICROSECOND:%Y-%m-%dT%H:%M:%S.%f}Z"


def from_iso(text: str) -> int:
    """Return the microseconds since 1970 that `iso` wrote."""
    return micros(datetime.fromisoformat(text))


def removal(user_id: str, event_id: str, at_us: int) -> bytes:
    """Return the line that removes an event."""
    return _change("remove", user_id, event_id, at_us)


def forgetting(user_id: str, at_us: int) -> bytes:
    """Return the line after which events up to `at_us` do not count."""
    return _change("forget", user_id, "", at_us)


def merging(user_id: str, into: str, at_us: int) -> bytes:
    """Return the line after which events up to `at_us` belong to another listener."""
    return _change("merge", user_id, "", at_us, into)


def merged_field(into: str, at_us: int) -> bytes:
    """Return the value of the field `merged`."""
    return f"{at_us} {into}".encode()


def time_of(mark: bytes | None) -> int:
    """Return the time of a mark (`forgotten`, `merged`) in microseconds since 1970; -1 without a mark."""
    return -1 if mark is None else int(mark.split(b" ", 1)[0])


def owner_of(mark: bytes) -> str:
    """Return the listener to whom a mark `merged` moves the events."""
    return mark.split(b" ", 1)[1].decode()


def _change(change: str, user_id: str, event_id: str, at_us: int, into: str = "") -> bytes:
    return orjson.dumps({"change": change, "user_id": user_id, "event_id": event_id, "at": iso(at_us), "into": into})


def fields_of(record: Mapping[str, Any], line: bytes) -> tuple[str, dict[str, bytes], float]:
    """Return the listener of a line, the fields that it writes, and when it was written (seconds since 1970).

    Raises:
        KeyError, TypeError, ValueError: The line is not one of the log.
    """
    user_id: str = record["user_id"]
    change = record.get("change")
    if change is None:
        return user_id, {EVENT + record["event_id"]: line}, from_iso(record["received_at"]) / 1e6
    if change == "none":
        return "", {}, 0.0
    at_us = from_iso(record["at"])
    fields = {
        "remove": {REMOVED + record["event_id"]: b"1"},
        "forget": {FORGOTTEN: str(at_us).encode()},
        "merge": {MERGED: merged_field(record["into"], at_us)},
    }[change]
    return user_id, fields, at_us / 1e6
