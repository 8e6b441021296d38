"""Look at the files of a folder: groups of files of one form, their format, days, columns and first rows.

Files belong to one group if their paths are equal after dates become `{day}` and other numbers become `*`.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import orc

from contracts.errors import BadArgument
from jobs.ingest.tables.text_files import SEPARATORS, open_text

MAX_FILES = 200_000
SAMPLE_ROWS = 200
PACKED = (".gz", ".bz2", ".zst", ".snappy", ".lz4")
FORMATS = {
    ".csv": "csv", ".tsv": "csv", ".txt": "csv", ".json": "json", ".jsonl": "json", ".ndjson": "json",
    ".parquet": "parquet", ".orc": "orc", ".avro": "avro",
}  # fmt: skip
_UUID = re.compile(r"(?i)[0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}")
_DAY = re.compile(r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)")


@dataclass
class Group:
    """Files of one form.

    Attributes:
        path: Path of the input, with `{data}`, `{day}` and globs.
        format: Format of the input.
        files: The files, sorted.
        options: Options of the reader.
        columns: Names of the columns.
        rows: The first rows, values by column.
        note: Why the file could not be understood; empty otherwise.
    """

    path: str
    format: str
    files: list[Path]
    options: dict[str, Any] = field(default_factory=dict)
    columns: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    note: str = ""

    @property
    def has_day(self) -> bool:
        """Whether the path contains `{day}`."""
        return "{day}" in self.path.replace("{{day}}", "")

    @property
    def name(self) -> str:
        """A name for the input: the first part of the path that has letters, as an identifier."""
        parts = [re.sub(r"\{\w+\}|\*", "", part) for part in self.path.removeprefix("{data}/").split("/")]
        words = [re.sub(r"\W+", "_", part.split(".")[0]).strip("_").lower() for part in parts]
        for word in words:
            if re.search("[a-z]", word) and word not in ("day", "date", "part", "dt", "data"):
                return word if re.match("[a-z_]", word) else f"input_{word}"
        return "input"

    def values(self, column: str) -> list[Any]:
        """Return the values of a column in the first rows, without nulls and empty texts."""
        return [row[column] for row in self.rows if row.get(column) not in (None, "")]


def find_groups(data: Path) -> list[Group]:
    """Return the groups of the files below a folder.

    Raises:
        BadArgument: There is no such folder, or no file that can be read.
    """
    if not data.is_dir():
        raise BadArgument(f"--data: there is no folder {data}")
    grouped: dict[str, list[Path]] = {}
    deltas: list[str] = []
    for file in itertools.islice(_files(data, deltas), MAX_FILES):
        grouped.setdefault(pattern_of(file.relative_to(data)), []).append(file)
    groups = [
        Group(f"{{data}}/{folder}".rstrip("/"), "delta", sorted((data / folder).rglob("*.parquet")))
        for folder in deltas
    ]
    for path, files in sorted(grouped.items()):
        kind = format_of(files[0])
        if kind:
            groups.append(Group(f"{{data}}/{path}", kind, sorted(files)))
    if not groups:
        raise BadArgument(f"--data: {data} contains no file of a known format: {', '.join(sorted(FORMATS))}, delta")
    for group in groups:
        _look_inside(group)
    return groups


def pattern_of(path: Path) -> str:
    """Return a path with `{day}` for dates and `*` for numbers in the file's name."""
    text = re.sub(r"\{(\w+)\}", r"{{\1}}", path.as_posix())
    text = _DAY.sub("{day}", text)
    folder, _, name = text.rpartition("/")
    stem, dot, suffix = name.partition(".")
    parts = re.split(r"(\{day\})", stem)
    parts = [part if part == "{day}" else _numbers_as_globs(part) for part in parts]
    return (f"{folder}/" if folder else "") + "".join(parts) + dot + suffix


def _numbers_as_globs(text: str) -> str:
    text = re.sub(r"\d+", "*", _UUID.sub("*", text))
    return re.sub(r"\*(?:[-_]?\*)+", "*", text)


def format_of(file: Path) -> str:
    """Return the format of a file by its suffixes; empty if it is unknown."""
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() not in PACKED]
    return FORMATS.get(suffixes[-1], "") if suffixes else ""


def _files(data: Path, deltas: list[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(data):
        if "_delta_log" in folders:
            relative = Path(folder).relative_to(data).as_posix()
            deltas.append("" if relative == "." else relative)
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        for name in sorted(names):
            if not name.startswith((".", "_")) and name != "overture.yaml":
                yield Path(folder) / name


def _look_inside(group: Group) -> None:
    readers = {"csv": _csv, "json": _json, "parquet": _parquet, "delta": _parquet, "orc": _orc}
    reader = readers.get(group.format)
    file = next((f for f in reversed(group.files) if f.stat().st_size), None)
    if reader is None or file is None:
        group.note = "the files are empty" if file is None else "the columns of avro files are not read here"
        return
    try:
        reader(group, file)
    except (OSError, EOFError, ValueError, pa.ArrowException, csv.Error) as error:
        group.note = f"{file.name} cannot be read: {str(error).splitlines()[0][:120]}"


def _csv(group: Group, file: Path) -> None:
    with open_text(str(file)) as text:
        head = text.read(1 << 18).removeprefix("\ufeff")
    first = head.split("\n", 1)[0]
    separator = max(SEPARATORS, key=first.count) if first else ","
    if separator != ",":
        group.options["sep"] = separator
    rows = list(itertools.islice(csv.reader(head.splitlines(keepends=True), delimiter=separator), SAMPLE_ROWS + 1))
    header = [name.strip() for name in rows[0]] if rows else []
    has_header = (
        bool(header) and all(re.search("[A-Za-z_]", name) for name in header) and len(set(header)) == len(header)
    )
    group.options = {"header": has_header, **group.options}
    if "\ufffd" in head:
        group.options["encoding"] = "ISO-8859-1"
    group.columns = header if has_header else [f"_c{n}" for n in range(len(header))]
    group.rows = [dict(zip(group.columns, row, strict=False)) for row in rows[has_header:]]


def _json(group: Group, file: Path) -> None:
    with open_text(str(file)) as text:
        head = text.read(1 << 20)
    decoded: list[Any] = []
    if head.lstrip().startswith("["):
        group.options["multiLine"] = True
        at = head.index("[") + 1
        decoder = json.JSONDecoder()
        while len(decoded) < SAMPLE_ROWS:
            start = re.compile(r"[\s,]*").match(head, at).end()  # type: ignore[union-attr]
            try:
                value, at = decoder.raw_decode(head, start)
            except (ValueError, RecursionError):
                break
            decoded.append(value)
    else:
        for line in head.splitlines()[:SAMPLE_ROWS]:
            try:
                decoded.append(json.loads(line))
            except (ValueError, RecursionError):
                continue
    group.rows = [row for row in decoded if isinstance(row, dict)]
    group.columns = list(dict.fromkeys(name for row in group.rows for name in row))
    if not group.rows:
        group.note = f"{file.name} contains no JSON object per line"


def _parquet(group: Group, file: Path) -> None:
    source = pq.ParquetFile(file)
    batch = next(source.iter_batches(SAMPLE_ROWS), None)
    group.columns = source.schema_arrow.names
    group.rows = batch.to_pylist() if batch is not None else []


def _orc(group: Group, file: Path) -> None:
    source = orc.ORCFile(file)
    group.columns = source.schema.names
    group.rows = source.read_stripe(0).slice(0, SAMPLE_ROWS).to_pylist() if source.nstripes else []
