"""The exposure log: one JSON line for each list that an experiment made, in one file per day and process.

A file's name contains a random token of its process: containers that share the folder can have equal process ids.

It is separate from the service's log, because it contains pseudonyms, and first-day signals where the settings enable
them. Its folder is the input of `overture ab-ingest`. A killed process or a full disk leaves at most one incomplete
line, which the ingestion counts.
"""

from __future__ import annotations

import json
import os
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ExposureLog:
    """Appends lines to the exposure log; thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Set the folder. It is created with the first line, readable by this user only."""
        self.folder = folder
        self._token = uuid.uuid4().hex[:12]
        self._lock = threading.Lock()
        self._open: tuple[str, int] | None = None

    def write(self, lines: Sequence[dict[str, Any]]) -> None:
        """Append lines of one moment, each with a `ts`.

        Raises:
            OSError: the write failed.
        """
        if not lines:
            return
        text = "".join(json.dumps(line, separators=(",", ":"), allow_nan=False) + "\n" for line in lines)
        with self._lock:
            left = memoryview(text.encode())
            while left:  # a disk that is nearly full accepts a part
                left = left[os.write(self._file(lines[0]["ts"][:10]), left) :]

    def _file(self, day: str) -> int:
        if self._open is None or self._open[0] != day:
            self.close()
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self.folder / f"exposures-{day}.{self._token}.jsonl"
            self._open = (day, os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600))
        return self._open[1]

    def close(self) -> None:
        """Close the file of the day."""
        if self._open is not None:
            os.close(self._open[1])
            self._open = None
