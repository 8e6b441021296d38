"""`overture init`: guess inputs and mapping from files, and write a commented settings file to start from."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import contracts
from contracts.atomic_files import replace
from contracts.errors import BadArgument
from jobs.ingest.tables.column_names import SYNONYMS, VALUES
from jobs.ingest.tables.look import Group, find_groups

# Words in the name of an input that suggest its table.
NAMES = {
    "playlists": ("playlist", "collection"),
    "users": ("user", "account", "listener", "member", "customer", "profile", "subscriber"),
    "tracks": ("track", "song", "catalog", "recording", "item"),
    "events": ("event", "listen", "stream", "play", "history", "scrobble", "log", "favo", "like", "skip"),
}
# Columns that an input needs to stand for a table.
NEEDED: dict[str, tuple[tuple[str, ...], ...]] = {
    "playlists": (("playlist_id",), ("track_id",)),
    "events": (("user_id",), ("ts",), ("entity_id",)),
    "users": (("user_id",), ("registered_at", "country", "age")),
    "tracks": (("track_id",), ("artist_id", "title", "artist_name", "duration_s", "genre")),
}
DEFAULTS = {"kind": "'stream'", "entity": "'track'"}
OWN_ID = ("id", "uuid", "uri")
HEAD = """\
# Settings with a mapping of your files to the tables of Overture, guessed by `overture init`.
# 1. Read every line marked CHECK or FILL IN.
# 2. Check the mapping; nothing is written:
#      overture ingest tables --data {data} --config {file} --dry-run
# 3. Ingest: the same command without --dry-run.
# {{data}} is the folder of --data, {{day}} a day such as 2026-11-16, {{week}} its Monday. The SQL is Spark SQL.
# Columns of the tables: docs/reference/tables.md. All settings: docs/reference/settings.md.
name: mine
week: "{week}"  # CHECK: the week that `make demo` runs, a Monday
source:
  kind: tables
"""


def write_settings(data: Path, out: Path) -> dict[str, Any]:
    """Write the settings file; return what was guessed.

    Args:
        data: The folder with the files.
        out: The file to write.

    Raises:
        BadArgument: The file exists, or the folder contains no file of a known format.
    """
    if out.exists():
        raise BadArgument(f"--out: {out} exists; remove it or choose another file")
    groups = find_groups(data)
    names = unique_names(groups)
    by_table: dict[str, list[tuple[str, Group, dict[str, str]]]] = {}
    unused = []
    for name, group in zip(names, groups, strict=True):
        table, columns = guess_table(name, group)
        if table:
            by_table.setdefault(table, []).append((name, group, columns))
        else:
            unused.append(name)
    replace(out, settings_text(data, out, dict(zip(names, groups, strict=True)), by_table, unused).encode())
    missing = [table for table in ("tracks", "events") if table not in by_table]
    return {
        "settings": str(out),
        "inputs": {name: group.path for name, group in zip(names, groups, strict=True)},
        "tables": {table: [name for name, _, _ in sources] for table, sources in by_table.items()},
        "unused_inputs": unused,
        "missing_tables": missing,
    }


def unique_names(groups: Sequence[Group]) -> list[str]:
    """Return a name for each input."""
    names: list[str] = []
    for group in groups:
        name, n = group.name, 1
        while name in names:
            n += 1
            name = f"{group.name}_{n}"
        names.append(name)
    return names


def guess_table(name: str, group: Group) -> tuple[str, dict[str, str]]:
    """Return the table that an input may stand for, empty if none, and its columns by the contract's columns."""
    best, best_score, best_columns = "", 0.0, {}
    for table, needed in NEEDED.items():
        columns = match_columns(table, group.columns)
        if not all(any(column in columns for column in choices) for choices in needed):
            continue
        score = len(columns) / len(contracts.load(table).columns)
        score += 2.0 * any(word in name.lower() for word in NAMES[table])
        score += 0.5 * (group.has_day and table == "events")
        if score > best_score:
            best, best_score, best_columns = table, score, columns
    return best, best_columns


def match_columns(table: str, columns: Sequence[str]) -> dict[str, str]:
    """Return the input's column for each column of the contract that has one; each is used once where possible."""
    known = {normalized(column): column for column in reversed(columns)}
    own = {"users": "user_id", "tracks": "track_id", "playlists": "playlist_id"}.get(table)
    result: dict[str, str] = {}
    for column in contracts.load(table).columns:
        candidates = [c for c in SYNONYMS.get(column, (column,)) if c not in OWN_ID or column == own]
        if column == own and table != "playlists":
            candidates += [c for c in OWN_ID if c not in candidates]
        if column == own == "track_id":
            candidates = [*candidates, "isrc"]
        match = next((known[c] for c in candidates if c in known and known[c] not in result.values()), None)
        if match is not None:
            result[column] = match
    return result


def normalized(column: str) -> str:
    """Return a column's name in lower case with underscores."""
    text = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column)
    return re.sub(r"\W+", "_", text).strip("_").lower()


def settings_text(
    data: Path,
    out: Path,
    inputs: dict[str, Group],
    by_table: dict[str, list[tuple[str, Group, dict[str, str]]]],
    unused: list[str],
) -> str:
    """Return the text of the settings file."""
    days = [day for group in inputs.values() for day in _days(group)]
    newest = max(days, default=date(2026, 11, 16))
    monday = date.fromordinal(newest.toordinal() - newest.weekday())
    lines = [HEAD.format(data=json.dumps(str(data)), file=json.dumps(str(out)), week=monday), "  inputs:\n"]
    for name, group in inputs.items():
        options = f", options: {json.dumps(group.options)}" if group.options else ""
        note = f"  # {group.note}" if group.note else ("  # not used below" if name in unused else "")
        path = json.dumps(group.path, ensure_ascii=False)
        lines.append(f"    {name}: {{format: {group.format}, path: {path}{options}}}{note}\n")
        if group.columns:
            lines.append(f"    #   columns: {', '.join(' '.join(c.split()) for c in group.columns)[:300]}\n")
    lines.append("  tables:\n")
    for table in ("users", "tracks", "events", "playlists"):
        sources = by_table.get(table, [])
        if not sources:
            lines += [f"    # {line}\n" for line in _absent(table)]
            continue
        lines.append(f"    {table}: |\n")
        for n, (name, group, columns) in enumerate(sources):
            lines += ["      UNION ALL\n"] if n else []
            lines += [f"      {line}\n" for line in select(table, name, group, columns)]
    return "".join(lines)


def select(table: str, name: str, group: Group, columns: dict[str, str]) -> list[str]:
    """Return the lines of the SQL that selects a table from one input."""
    contract = contracts.load(table)
    items: list[tuple[str, str]] = []
    for column in contract.columns.values():
        source = columns.get(column.name)
        if source is None:
            if column.name in DEFAULTS:
                items.append((f"{DEFAULTS[column.name]} AS {column.name}", "CHECK: every row is one"))
            elif column.name == "album_id" and "artist_id" in columns:
                items.append((f"{quote(columns['artist_id'])} AS album_id", "CHECK: no album found"))
            elif column.name == "artist_id" and "artist_name" in columns:
                items.append((f"{quote(columns['artist_name'])} AS artist_id", "CHECK: the name stands for an id"))
            elif column.nullable:
                items.append((f"NULL AS {column.name}", f"optional: {column.about}"))
            else:
                items.append((f"NULL AS {column.name}", f"FILL IN, required: {column.about}"))
            continue
        expression, note = expression_of(column.name, source, group)
        items.append((f"{expression} AS {column.name}" if expression != column.name else expression, note))
    lines = ["SELECT"]
    for n, (item, note) in enumerate(items):
        comma = "," if n < len(items) - 1 else ""
        lines.append(f"  {item}{comma}" + (f"  -- {note}" if note else ""))
    return [*lines, f"FROM {name}"]


def expression_of(column: str, source: str, group: Group) -> tuple[str, str]:
    """Return the SQL of a column and a note, by the column's meaning and the values in the first rows."""
    values, name = group.values(source), quote(source)
    is_text = group.format in ("csv", "json")
    special: dict[str, Callable[[str, str, list[Any], bool], tuple[str, str]]] = {
        "ts": _time, "registered_at": _time, "added_at": _time, "age": _age, "release_date": _release_date,
        "duration_s": _seconds, "listened_s": _seconds, "country": _country,
    }  # fmt: skip
    if column in special:
        return special[column](name, source, values, is_text)
    if column in VALUES and values:
        return _mapped_values(column, name, values)
    if values and isinstance(values[0], dict):
        inner = next(iter(values[0]))
        return f"{name}.{quote(inner)}", "CHECK: a part of a nested value"
    return name, ""


def quote(name: str) -> str:
    """Return a column's name as SQL needs it."""
    return name if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) else "`" + name.replace("`", "``") + "`"


def _time(name: str, source: str, values: list[Any], is_text: bool) -> tuple[str, str]:
    numbers = _numbers(values)
    if numbers:
        size = sorted(abs(n) for n in numbers)[len(numbers) // 2]
        unit = "seconds" if size < 1e11 else "millis" if size < 1e14 else "micros"
        number = f"CAST({name} AS BIGINT)" if isinstance(values[0], str | float) else name
        return f"timestamp_{unit}({number})", ""
    if values and isinstance(values[0], datetime | date):
        return name, ""
    texts = [str(value) for value in values]
    if texts and all(re.match(r"\d{4}-\d{2}-\d{2}", text) for text in texts):
        return (name if is_text else f"to_timestamp({name})"), ""
    shapes = ((r"\d{1,2}/\d{1,2}/\d{4} ", "d/M/yyyy H:mm[:ss]"), (r"\d{1,2}\.\d{1,2}\.\d{4} ", "d.M.yyyy H:mm[:ss]"))
    for shape, pattern in shapes:
        if texts and all(re.match(shape, text) for text in texts):
            return f"try_to_timestamp({name}, '{pattern}')", "CHECK: day or month first"
    return f"try_to_timestamp({name})", f"CHECK: the format of {texts[0][:30]!r}" if texts else "CHECK"


def _age(name: str, source: str, values: list[Any], is_text: bool) -> tuple[str, str]:
    numbers = _numbers(values)
    if numbers and sum(1880 < n < 2100 for n in numbers) > len(numbers) / 2:
        number = f"CAST({name} AS INT)" if isinstance(values[0], str) else name
        return f"year(DATE'{{day}}') - {number}", "from the year of birth"
    if numbers or not values:
        return name, ""
    return f"year(DATE'{{day}}') - year({name})", "from the date of birth"


def _release_date(name: str, source: str, values: list[Any], is_text: bool) -> tuple[str, str]:
    numbers = _numbers(values)
    if numbers:
        number = f"CAST({name} AS INT)" if isinstance(values[0], str) else name
        return f"make_date({number}, 1, 1)", "from the year"
    if values and isinstance(values[0], str) and not is_text:
        return f"to_date({name})", ""
    return name, ""


def _seconds(name: str, source: str, values: list[Any], is_text: bool) -> tuple[str, str]:
    numbers = sorted(_numbers(values))
    in_ms = bool(re.search(r"(^|_)ms(_|$)|milli", normalized(source)))
    if in_ms or (numbers and numbers[len(numbers) // 2] > 20_000):
        number = f"CAST({name} AS BIGINT)" if values and not isinstance(values[0], int) else name
        return f"{number} div 1000", "" if in_ms else "CHECK: milliseconds"
    return name, ""


def _country(name: str, source: str, values: list[Any], is_text: bool) -> tuple[str, str]:
    texts = [str(value) for value in values]
    if texts and not all(len(text) == 2 for text in texts):
        return f"upper({name})", "CHECK: needs two-letter codes (ISO 3166-1)"
    return (f"upper({name})" if any(text != text.upper() for text in texts) else name), ""


def _mapped_values(column: str, name: str, values: list[Any]) -> tuple[str, str]:
    """Return the values of the contract for the source's ones; values without one make bad rows."""
    allowed = contracts.load("events").columns[column].values or ()
    seen = sorted({str(value) for value in values})
    if set(seen) <= set(allowed):
        return name, ""
    cases = [f"WHEN '{v}' THEN '{VALUES[column][v.lower()]}'" for v in seen if v.lower() in VALUES[column]]
    note = f"CHECK: the values are {', '.join(seen)[:80]}; allowed are {', '.join(allowed)}"
    return (f"CASE {name} {' '.join(cases)} ELSE {name} END" if cases else name), note


def _numbers(values: list[Any]) -> list[float]:
    """Return the values as numbers if all of them are numbers or digits, else nothing."""
    numbers = []
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            return []
        if isinstance(value, str) and not re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
            return []
        numbers.append(float(value))
    return [n for n in numbers if n == n]


def _absent(table: str) -> list[str]:
    if table == "users":
        return ["users: no input found; they are derived from events (registration = first event)"]
    if table == "playlists":
        return ["playlists: no input found; listening sessions stand for them"]
    columns = ", ".join(c.name for c in contracts.load(table).columns.values() if not c.nullable)
    return [f"{table}: |  # FILL IN, required: no input found", f"  SELECT {columns}", "  FROM <input>"]


def _days(group: Group) -> list[date]:
    if not group.has_day:
        return []
    days = []
    for file in (group.files[0], group.files[-1]):
        for text in re.findall(r"\d{4}-\d{2}-\d{2}", str(file)):
            try:
                days.append(date.fromisoformat(text))
            except ValueError:
                continue
    return days
