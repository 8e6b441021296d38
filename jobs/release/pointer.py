"""Moves the champion's pointer; serving/release/pointer.py reads it.

`revision` grows by one with every move. A caller passes the revision that it has seen, and the pointer is only moved if
it is still the current one (compare-and-set).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from contracts.errors import CheckFailed
from contracts.file_lock import file_lock
from jobs.platform import files
from serving.release.pointer import NAME, Pointer, read, releases

PUBLISHED = "published.json"  # beside the pointer: the record of the last `overture release publish`

__all__ = ["NAME", "PUBLISHED", "Pointer", "move", "move_lock", "read", "releases", "revision"]


def revision(pointer: Pointer | None) -> int:
    """Return the revision of the pointer; 0 before the first promotion."""
    return pointer.revision if pointer else 0


@contextlib.contextmanager
def move_lock(home: Path) -> Iterator[None]:
    """Keep the lock under which the pointer is read and moved, by one process at a time."""
    with file_lock(releases(home) / ".champion.lock"):
        yield


def move(home: Path, expected_revision: int, release: str, week: str) -> Pointer:
    """Point at another release; call it under move_lock().

    Args:
        home: folder of the releases' engine.
        expected_revision: the revision that the caller has seen.
        release: digest of the new champion.
        week: week that built it.

    Raises:
        CheckFailed: the pointer has another revision.
    """
    pointer = following(read(home), expected_revision, release, week)
    files.replace(releases(home) / NAME, as_json(pointer))
    return pointer


def following(now: Pointer | None, expected_revision: int, release: str, week: str) -> Pointer:
    """Return the pointer that replaces `now`.

    Raises:
        CheckFailed: `now` has another revision.
    """
    if revision(now) != expected_revision:
        raise CheckFailed(
            f"the champion has moved to revision {revision(now)} (release {now.release[:12] if now else 'none'}) "
            f"while revision {expected_revision} was evaluated; run `overture release gate` again"
        )
    return Pointer(release, now.release if now else None, expected_revision + 1, week)


def as_json(pointer: Pointer) -> bytes:
    """Return the content of the pointer's file."""
    return json.dumps(asdict(pointer), indent=1, sort_keys=True).encode() + b"\n"
