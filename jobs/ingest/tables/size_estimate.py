"""Estimate the rows of files without reading them: footers of Parquet and ORC are exact, text is estimated by size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs, orc

from jobs.ingest.tables.paths import Match, files_below

SAMPLE_BYTES = 1 << 20


def rows_by_day(days: dict[str, list[Match]], file_format: str) -> tuple[dict[str, int], bool]:
    """Return the number of rows by day, and whether it is exact.

    Args:
        days: Files or folders by day.
        file_format: Format of the input.
    """
    files = {day: [file for match in matches for file in files_below(match)] for day, matches in days.items()}
    if file_format in ("parquet", "orc"):
        return {day: sum(_footer_rows(file.path, file_format) for file in group) for day, group in files.items()}, True
    every = [file for group in files.values() for file in group if file.size]
    rate = _rows_per_byte(every[-1:]) if every else 0.0
    return {day: round(sum(file.size for file in group) * rate) for day, group in files.items()}, False


def _footer_rows(path: str, file_format: str) -> int:
    filesystem, name = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
    try:
        with filesystem.open_input_file(name) as source:
            if file_format == "parquet":
                return int(pq.ParquetFile(source).metadata.num_rows)
            return int(orc.ORCFile(source).nrows)
    except (pa.ArrowException, OSError):
        return 0


def _rows_per_byte(files: Sequence[Match]) -> float:
    """Return the lines per byte on disk at the beginning of a text file."""
    path = files[0].path
    filesystem, name = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
    try:
        with filesystem.open_input_file(name) as raw:
            counted: Any = raw
            stream = pa.CompressedInputStream(raw, "gzip") if path.endswith(".gz") else counted
            head = stream.read(SAMPLE_BYTES)
            on_disk = max(1, min(raw.tell(), files[0].size))
    except (pa.ArrowException, OSError, ValueError):
        return 0.0
    return float(head.count(b"\n") / on_disk)
