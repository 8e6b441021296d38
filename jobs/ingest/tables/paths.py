"""Resolve the paths of inputs: globs, folders of days, and names that contain any character.

A pattern is matched part by part. A part that exists literally, such as `a[1]`, is that file or folder; else it is a
glob. `**` matches any number of folders. Accents match in composed and decomposed form. `{day}` matches a calendar day
YYYY-MM-DD, also inside a name (`day=2026-11-16`, `listens-2026-11-16.jsonl.gz`).
"""

from __future__ import annotations

import fnmatch
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from contracts.errors import CheckFailed
from jobs.settings.tables import day_values, placeholders, substitute

_HIDDEN = ("_", ".")
_DAY = r"(?P<day{n}>\d{{4}}-\d{{2}}-\d{{2}})"


@dataclass(frozen=True)
class Match:
    """One file or folder that a pattern matches.

    Attributes:
        path: Absolute path, or URI.
        day: The value of `{day}`; None if the pattern has none.
        is_folder: Whether it is a folder.
        size: Bytes of a file; 0 for a folder.
        modified: Time of the last change of a file, nanoseconds since 1970; 0 for a folder.
    """

    path: str
    day: str | None
    is_folder: bool
    size: int
    modified: int = 0


def resolve(pattern: str, data: Path, day: date | None = None) -> list[Match]:
    """Return what a pattern matches, sorted by path.

    Args:
        pattern: A path with placeholders and globs.
        data: The folder that `{data}` stands for.
        day: The day to look for. None: all days, if the pattern contains `{day}`.

    Raises:
        CheckFailed: The file system cannot be read, such as a bucket that does not exist.
    """
    scheme, root, rest = _split(pattern, data)
    filesystem = _filesystem(scheme + root) if scheme else fs.LocalFileSystem()
    if day is not None:
        for name, value in day_values(day).items():  # doubled braces are resolved part by part
            rest = re.sub(rf"(?<!\{{)\{{{name}\}}(?!\}})", value, rest)
    elif "week" in placeholders(rest) and "day" not in placeholders(rest):
        raise AssertionError("a pattern with {week} needs the day")
    try:
        matches = sorted(_walk(filesystem, root, rest.split("/"), None, None), key=lambda match: match.path)
    except OSError as error:
        raise CheckFailed(f"{pattern}: cannot be listed: {_first_line(error)}") from None
    return [replace(m, path=scheme + m.path) for m in matches]


def find_days(pattern: str, data: Path) -> dict[str, list[Match]]:
    """Return the matches of a pattern with `{day}` by day, days ascending. A date that does not exist is no day."""
    days: dict[str, list[Match]] = {}
    for match in resolve(pattern, data):
        if match.day is not None:
            days.setdefault(match.day, []).append(match)
    return dict(sorted(days.items()))


def files_below(match: Match) -> list[Match]:
    """Return a match that is a file, or the data files below a folder. Names that begin with `_` or `.` are skipped."""
    if not match.is_folder:
        return [match]
    filesystem, path = fs.FileSystem.from_uri(match.path) if "://" in match.path else (fs.LocalFileSystem(), match.path)
    infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    prefix = match.path[: len(match.path) - len(path)] if "://" in match.path else ""
    files = [
        Match(prefix + info.path, match.day, False, info.size or 0, info.mtime_ns or 0)
        for info in infos
        if info.type == fs.FileType.File
        and not any(part.startswith(_HIDDEN) for part in info.path[len(path) :].split("/") if part)
    ]
    return sorted(files, key=lambda file: file.path)


def nearest_existing(pattern: str, data: Path) -> str:
    """Return the deepest folder of a pattern that exists, with up to five of its entries, for error messages."""
    scheme, root, rest = _split(pattern, data)
    if scheme:
        return f"nothing below {scheme}{root} matches"
    folder = Path(root or "/")
    for part in rest.split("/"):
        if not (folder / part).is_dir():
            break
        folder = folder / part
    if not folder.is_dir():
        return f"there is no folder {folder}"
    entries = sorted(entry.name for entry in folder.iterdir())
    more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
    return f"{folder} contains {', '.join(entries[:5]) or 'nothing'}{more}"


def _split(pattern: str, data: Path) -> tuple[str, str, str]:
    """Return the scheme with `://`, the root that is taken literally, and the rest of a pattern."""
    if pattern.startswith("{data}"):
        rest = pattern.removeprefix("{data}").lstrip("/")
        return "", str(data.absolute()), rest
    if "://" in pattern:
        scheme, rest = pattern.split("://", 1)
        root, _, rest = rest.partition("/")
        return f"{scheme}://", root, rest
    return "", "", pattern.lstrip("/")


def _filesystem(uri: str) -> fs.FileSystem:
    try:
        filesystem, _ = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError) as error:
        raise CheckFailed(f"{uri}: cannot be opened: {_first_line(error)}") from None
    return filesystem


def _walk(
    filesystem: fs.FileSystem, folder: str, parts: list[str], day: str | None, info: fs.FileInfo | None
) -> Iterator[Match]:
    parts = [part for part in parts if part]
    if not parts:
        info = info or filesystem.get_file_info(folder or "/")
        if info.type != fs.FileType.NotFound:
            is_folder = info.type == fs.FileType.Directory
            size, modified = (0, 0) if is_folder else (info.size or 0, info.mtime_ns or 0)
            yield Match(folder or "/", day, is_folder, size, modified)
        return
    part, rest = parts[0], parts[1:]
    child = f"{folder}/{part}"
    if not placeholders(part):
        exact = filesystem.get_file_info(child)
        if exact.type != fs.FileType.NotFound:
            yield from _walk(filesystem, child, rest, day, exact)
            return
    if part == "**":
        yield from _walk(filesystem, folder, rest, day, info)
    for entry in _entries(filesystem, folder):
        name = entry.base_name
        if part == "**":
            if entry.type == fs.FileType.Directory and not name.startswith(_HIDDEN):
                yield from _walk(filesystem, f"{folder}/{name}", parts, day, entry)
            continue
        if name.startswith(_HIDDEN) and not part.startswith(name[0]):
            continue
        found, value = _match_part(part, name, day)
        if found and (not rest or entry.type == fs.FileType.Directory):
            yield from _walk(filesystem, f"{folder}/{name}", rest, value, entry)


def _entries(filesystem: fs.FileSystem, folder: str) -> list[fs.FileInfo]:
    if filesystem.get_file_info(folder or "/").type != fs.FileType.Directory:
        return []
    entries: list[fs.FileInfo] = filesystem.get_file_info(fs.FileSelector(folder or "/"))
    return entries


def _match_part(part: str, name: str, day: str | None) -> tuple[bool, str | None]:
    """Return whether a name matches one part of a pattern, and the day that is known then."""
    part, name = unicodedata.normalize("NFC", part), unicodedata.normalize("NFC", name)
    pieces = re.split(r"(?<!\{)\{(day|week)\}(?!\})", part)
    regex = ""
    for n, piece in enumerate(pieces):
        if n % 2:
            regex += _DAY.format(n=n) if piece == "day" else r"\d{4}-\d{2}-\d{2}"
        else:
            regex += (
                fnmatch.translate(substitute(piece, {})).removeprefix("(?s:").removesuffix(")\\z").removesuffix(")\\Z")
            )
    match = re.fullmatch(regex, name, re.S)
    if not match:
        return False, day
    for value in match.groupdict().values():
        if not _is_day(value) or (day is not None and value != day):
            return False, day
        day = value
    return True, day


def _is_day(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
