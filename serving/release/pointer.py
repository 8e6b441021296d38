"""The champion's pointer, read: one small file that names the release in service.

`releases/champion.json` contains {release, previous, revision, week}. The service reads nothing else to know what to
serve; jobs/release/pointer.py moves it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from contracts.errors import CheckFailed

NAME = "champion.json"
DIGEST = re.compile("[0-9a-f]{64}")


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
    """Return the pointer of a folder, or None before the first promotion.

    Raises:
        CheckFailed: the file exists but is not a pointer.
    """
    file = releases(home) / NAME
    try:
        return parse(file.read_bytes(), str(file))
    except FileNotFoundError:
        return None


def parse(content: bytes, name: str) -> Pointer:
    """Return the pointer that a file contains.

    Args:
        content: the file's content.
        name: name of the file, for the message.

    Raises:
        CheckFailed: it is not a pointer, or it names something other than a release.
    """
    try:
        pointer = Pointer(**json.loads(content))
    except (ValueError, TypeError, RecursionError) as error:
        raise CheckFailed(f"{name} is damaged ({error}); write release, previous, revision and week again") from None
    for field in ("release", "previous"):
        digest = getattr(pointer, field)
        if not (isinstance(digest, str) and DIGEST.fullmatch(digest)) and not (field == "previous" and digest is None):
            raise CheckFailed(
                f"{name} is damaged: {field} must be a digest of 64 hexadecimal digits, not {digest!r:.80}"
            )
    if type(pointer.revision) is not int or not isinstance(pointer.week, str):
        raise CheckFailed(f"{name} is damaged: revision must be a whole number and week a text")
    return pointer
