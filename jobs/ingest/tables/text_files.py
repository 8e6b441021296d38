"""Check the heads of text files before Spark reads them, and find the line of a bad record.

Spark renames repeated columns of a CSV file, reads all files by the first one's header, and reports no line numbers.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pyarrow import fs

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.tables.paths import Match

SEPARATORS = (",", ";", "\t", "|")
HEAD_CHARS = 1 << 20
SEARCHED_LINES = 5_000_000


def open_text(path: str, encoding: str = "utf-8") -> io.TextIOWrapper:
    """Open a file as text, decompressed by its suffix; bytes that are not in the encoding become U+FFFD."""
    filesystem, name = fs.FileSystem.from_uri(path) if "://" in path else (fs.LocalFileSystem(), path)
    stream: Any = filesystem.open_input_stream(name, compression="detect")
    return io.TextIOWrapper(stream, encoding=encoding, errors="replace", newline="")


def csv_header(path: str, options: Mapping[str, Any]) -> list[str]:
    """Return the column names in the first record of a CSV file; empty for an empty file."""
    encoding = str(options.get("encoding", options.get("charset", "utf-8")))
    try:
        with open_text(path, encoding) as text:
            head = text.read(HEAD_CHARS)
    except (OSError, EOFError, pa.ArrowException, LookupError) as error:
        raise CheckFailed(f"{path}: cannot be read: {error}") from None
    separator = str(options.get("sep", options.get("delimiter", ","))).encode().decode("unicode_escape")
    rows = csv.reader(io.StringIO(head.removeprefix("\ufeff")), delimiter=separator[:1])
    return [name.strip() for name in next(rows, [])]


def has_header(options: Mapping[str, Any]) -> bool:
    """Return whether the first record of a CSV file contains the column names."""
    return str(options.get("header", True)).lower() == "true"


def check_csv(name: str, files: list[Match], options: Mapping[str, Any]) -> list[str]:
    """Return the column names that all files of a CSV input share; files without any byte are skipped.

    Raises:
        BadArgument: The header is one column that contains another separator.
        CheckFailed: A column occurs twice, or a file's header differs from the first one's.
    """
    if not has_header(options):
        return []
    first: tuple[str, list[str]] | None = None
    for file in files:
        header = csv_header(file.path, options)
        if not header:
            continue
        if len(header) == 1 and (other := [s for s in SEPARATORS if s in header[0]]):
            raise BadArgument(
                f"source.inputs.{name}: {file.path}: the header is one column, {header[0][:80]!r}; "
                f"set options: {{sep: {other[0]!r}}}"
            )
        lower = [column.lower() for column in header]
        twice = sorted({column for column in lower if lower.count(column) > 1})
        if twice:
            raise CheckFailed(
                f"source.inputs.{name}: {file.path}: column '{twice[0]}' occurs twice; rename one in the file"
            )
        if first is None:
            first = file.path, header
        elif header != first[1]:
            differing = sorted(set(header) ^ set(first[1])) or ["the order of the columns"]
            raise CheckFailed(
                f"source.inputs.{name}: {file.path}: the header differs from the one of {first[0]} "
                f"({', '.join(differing[:5])}); use one input per form and UNION ALL in SQL"
            )
    return first[1] if first else []


def line_of(path: str, record: str) -> int | None:
    """Return the number of the first line, from 1, that equals the first line of a record; None if not found."""
    wanted = record.splitlines()[0] if record else ""
    try:
        with open_text(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.rstrip("\r\n") == wanted:
                    return number
                if number >= SEARCHED_LINES:
                    return None
    except (OSError, EOFError, pa.ArrowException):
        return None
    return None
