"""What a long job tells people while it works, on stderr: stdout belongs to the report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


def say(text: str) -> None:
    """One line."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """Items as they are, with a bar on a terminal and one line a minute in a log."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total, console=Console(stderr=True))
        return
    said = time.monotonic()
    for done, item in enumerate(items):
        if time.monotonic() - said >= 60:
            said = time.monotonic()
            say(f"{label}: {done}{f' of {total}' if total else ''}")
        yield item
