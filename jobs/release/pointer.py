"""The champion's pointer, moved; serving/release/pointer.py reads it.

`revision` grows by one with every move; who wants to move it says which revision was seen (compare-and-set).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from contracts.errors import CheckFailed
from jobs.platform import files
from jobs.platform.locks import file_lock
from serving.release.pointer import NAME, Pointer, read, releases

PUBLISHED = "published.json"  # beside the pointer: what `overture release publish` did last

__all__ = ["NAME", "PUBLISHED", "Pointer", "move", "moving", "read", "releases", "revision"]


def revision(pointer: Pointer | None) -> int:
    """The pointer's revision; 0 before the first promotion."""
    return pointer.revision if pointer else 0


@contextlib.contextmanager
def moving(home: Path) -> Iterator[None]:
    """Hold this while reading, judging and moving the pointer: one mover at a time."""
    with file_lock(releases(home) / ".champion.lock"):
        yield


def move(home: Path, seen: int, release: str, week: str) -> Pointer:
    """Point at another release, if nobody has moved the pointer since revision `seen`; call it under moving().

    Raises:
        CheckFailed: somebody has.
    """
    now = read(home)
    if revision(now) != seen:
        raise CheckFailed(
            f"the champion has moved to revision {revision(now)} (release {now.release[:12] if now else 'none'}) "
            f"while revision {seen} was judged; run `overture release gate` again"
        )
    pointer = Pointer(release, now.release if now else None, seen + 1, week)
    files.replace(releases(home) / NAME, json.dumps(asdict(pointer), indent=1, sort_keys=True).encode() + b"\n")
    return pointer
