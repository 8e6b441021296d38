"""The champion's pointer: one small file that names the release in service.

`releases/champion.json` holds {release, previous, revision, week}. The service reads nothing else to know what to
serve. `revision` grows by one with every move; who wants to move it says which revision was seen (compare-and-set).
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from jobs.errors import CheckFailed
from jobs.release import files
from jobs.tracking_store import locked

NAME = "champion.json"


@dataclass(frozen=True)
class Pointer:
    """Which release serves; `previous` is where a rollback goes, `week` the one the release was learned in."""

    release: str
    previous: str | None
    revision: int
    week: str


def releases(home: Path) -> Path:
    """The folder of all releases."""
    return home / "releases"


def read(home: Path) -> Pointer | None:
    """The pointer, or None before the first promotion.

    Raises:
        CheckFailed: the file is there but is no pointer.
    """
    file = releases(home) / NAME
    try:
        raw = json.loads(file.read_text())
        pointer = Pointer(**raw)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise CheckFailed(f"{file} is damaged ({error}); write release, previous, revision and week again") from None
    if not (isinstance(pointer.release, str) and isinstance(pointer.revision, int)):
        raise CheckFailed(f"{file} is damaged: release must be a text and revision a whole number")
    return pointer


def revision(pointer: Pointer | None) -> int:
    """The pointer's revision; 0 before the first promotion."""
    return pointer.revision if pointer else 0


@contextlib.contextmanager
def moving(home: Path) -> Iterator[None]:
    """Hold this while reading, judging and moving the pointer: one mover at a time."""
    with locked(releases(home) / ".champion.lock"):
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
