"""Progress of long jobs, written to stderr. stdout is reserved for a command's report."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

LOG_INTERVAL_S = 60.0


def log_line(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def progress(items: Iterable[Item], total: int | None, label: str) -> Iterator[Item]:
    """Yield the items unchanged, with a progress bar on a terminal and one line a minute in a log.

    Args:
        items: What is iterated over.
        total: The number of items. None: unknown.
        label: What the bar and the lines begin with.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import track

        yield from track(items, label, total, console=Console(stderr=True))
        return
    logged_at = time.monotonic()
    for n_done, item in enumerate(items):
        if time.monotonic() - logged_at >= LOG_INTERVAL_S:
            logged_at = time.monotonic()
            log_line(f"{label}: {n_done}{f' of {total}' if total else ''}")
        yield item
