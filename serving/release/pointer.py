"""The champion's pointer, read: one small file that names the release in service.

`releases/champion.json` contains {release, previous, revision, week}. The service reads nothing else to know what to
serve; jobs/release/pointer.py moves it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import CheckFailed

NAME = "champion.json"


@dataclass(frozen=True)
class Pointer:
    """The release in service; `previous` is the target of a rollback, `week` the week of the release."""

    release: str
    previous: str | None
    revision: int
    week: str


def releases(home: Path) -> Path:
    """Return the folder of all releases."""
    return home / "releases"


def read(home: Path) -> Pointer | None:
    """Return the pointer, or None before the first promotion.

    Raises:
        CheckFailed: the file exists but is not a pointer.
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
