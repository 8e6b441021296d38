"""Read the service's exposure log and the app's outcomes into the lake, one day at a time.

Reads    <folder>/exposures-<day>*.jsonl, written by the service (serving/experiment/exposure_log.py), and
         outcomes-<day>*.jsonl with {"request_id", "user_id", "track_id", "ts", "kind"} per line; ts is ISO 8601 with a
         time zone. Ids are external ids, as text; an integer id may be a number
Writes   exposures, exposure_contexts (if lines contain signals), outcomes, partition day=<day>
Files    plain, rotated (outcomes-<day>.jsonl.1) and compressed (.gz, .bz2, .zst) ones are read together. Any other file
         whose name begins like a log is refused by name: a day is replaced, so a part must not be left out silently
Re-run   safe: the folder must contain all lines of the days that it names; each of these days is replaced
Invalid  lines are excluded and counted by reason. If their share exceeds source.max_bad_share, nothing is written.
         Repeated lines are excluded and counted too, but not as invalid: senders repeat lines
Memory   the request ids of a day, one day of outcomes, and a batch of its other rows
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
from pydantic import ValidationError

import contracts
from contracts.arrow import arrow_schema
from contracts.entity_ids import Form, internal_id
from contracts.errors import BadArgument, CheckFailed
from jobs.platform.context import Context
from jobs.platform.entity_forms import entity_forms
from jobs.platform.progress import progress
from models.cold_start.input_vector import INTERACTIONS
from serving.recommend.signals import BLOCK
from serving.release.loaded import ID_KIND_OF
from serving.schema import Listener, ListOptions

BEGINS_LIKE_A_LOG = re.compile(r"(exposures|outcomes)-", re.I)
# A number after .jsonl is of a rotation: outcomes-2026-11-23.jsonl.1, outcomes-2026-11-23.jsonl.2.gz
FILE = re.compile(r"(exposures|outcomes)-(\d{4}-\d{2}-\d{2})(?!\d)[^/]*\.jsonl(\.\d+)?(\.gz|\.bz2|\.zst)?")
KINDS = ("stream", "favorite")
REPEATED = "repeated"
TABLES = {"exposures": ("exposures", "exposure_contexts"), "outcomes": ("outcomes",)}
BATCH_ROWS = 50_000  # rows in memory as Python objects
Rows = dict[str, list[dict[str, Any]]]
Forms = Mapping[str, Form]


class InvalidLine(Exception):
    """Reason why a line is invalid. The reason is counted; the content of the line is not reported."""


def run(context: Context, folder: Path) -> dict[str, Any]:
    """Read a folder of logs into the lake.

    Raises:
        BadArgument: The folder does not exist, contains no log, or contains a log that cannot be read.
        CheckFailed: Too many lines are invalid, or a file is damaged.
    """
    logs = find_logs(folder)
    by_day: dict[tuple[str, str], list[Path]] = {}
    for path, match in logs:
        by_day.setdefault((match[1], match[2]), []).append(path)
    forms = entity_forms(context.lake)
    read: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    n_rows: dict[tuple[str, str], Counter[str]] = {}
    # All lines are checked first, so that nothing is written if too many are invalid.
    for (kind, day), paths in progress(by_day.items(), len(by_day), "logs checked"):
        n_rows[kind, day] = Counter(dict.fromkeys(TABLES[kind], 0))
        for rows in _valid_rows(kind, day, paths, forms, read, bad):
            n_rows[kind, day].update({table: len(table_rows) for table, table_rows in rows.items()})
    invalid = Counter({reason: n for reason, n in bad.items() if not reason.endswith(REPEATED)})
    n_bad, share = sum(invalid.values()), context.settings.source.max_bad_share
    if n_bad > share * sum(read.values()):
        reasons = ", ".join(f"{reason}: {n}" for reason, n in invalid.most_common())
        raise CheckFailed(
            f"{folder}: {n_bad} of {sum(read.values())} lines are invalid, more than {share:.1%} ({reasons})"
        )
    written: Counter[str] = Counter()
    for (kind, day), paths in progress(by_day.items(), len(by_day), "logs written"):
        report = {"commit": context.commit, "files": [path.name for path in paths]}
        for table, n in n_rows[kind, day].items():
            if n:
                frame = _batches(table, _valid_rows(kind, day, paths, forms, Counter(), Counter()))
                written[table] += context.lake.write(table, frame, report=report, day=day).rows
            elif context.lake.exists(table, day=day):
                context.lake.drop(table, day=day)
    days = sorted({day for _, day in by_day})
    counts = {"rows": dict(written), "lines": dict(read), "bad": dict(bad)}
    return {**counts, "days": len(days), "first": days[0], "last": days[-1]}


def find_logs(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    """Return the logs of a folder by name, each with its kind and day.

    Raises:
        BadArgument: The folder does not exist, contains no log, or contains a log that cannot be read.
    """
    if not folder.is_dir():
        raise BadArgument(f"--data: no such folder {folder}")
    named_like_logs = [path for path in sorted(folder.iterdir()) if BEGINS_LIKE_A_LOG.match(path.name)]
    logs = [(path, match) for path in named_like_logs if (match := FILE.fullmatch(path.name)) and path.is_file()]
    readable = {path for path, _ in logs}
    refused = [path.name for path in named_like_logs if path not in readable]
    if refused:
        more = f" and {len(refused) - 5} more" if len(refused) > 5 else ""
        raise BadArgument(
            f"--data: {folder}: cannot read {', '.join(refused[:5])}{more}; a log is a file <kind>-<day>*.jsonl, also "
            "with .<number> and .gz, .bz2 or .zst after it. Unpack, rename or move these files: a day is replaced by "
            "the files that are read"
        )
    if not logs:
        raise BadArgument(f"--data: {folder} contains no exposures-<day>*.jsonl and no outcomes-<day>*.jsonl")
    return logs


def _valid_rows(
    kind: str, day: str, paths: list[Path], forms: Forms, read: Counter[str], bad: Counter[str]
) -> Iterator[Rows]:
    """Yield the rows of each valid line of a day, by table.

    Args:
        kind: `exposures` or `outcomes`.
        day: Day of the files.
        paths: Files of the day.
        forms: Form of each kind of id.
        read: Counter of lines by kind; it is updated.
        bad: Counter of invalid lines by reason; it is updated.
    """
    parse = exposure_rows if kind == "exposures" else outcome_rows
    seen: set[Any] = set()
    for text in _lines(paths):
        read[kind] += 1
        try:
            key, rows = _parse(text, day, lambda line, at: parse(line, at, forms))
            if key in seen:
                raise InvalidLine(REPEATED)
            seen.add(key)
            yield rows
        except InvalidLine as reason:
            bad[f"{kind}: {reason}"] += 1


def _batches(table: str, lines: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one table in batches. Of several equal outcomes the first one is used."""
    schema = arrow_schema(contracts.load(table))
    if table == "outcomes":
        first: dict[Any, dict[str, Any]] = {}
        for rows in lines:
            for row in rows[table]:
                earlier = first.setdefault((row["request_id"], row["track_id"], row["kind"]), row)
                earlier["ts"] = min(earlier["ts"], row["ts"])
        lines = iter([{table: list(first.values())}])
    pending: list[dict[str, Any]] = []
    for rows in lines:
        pending += rows.get(table, [])
        if len(pending) >= BATCH_ROWS:
            yield pa.RecordBatch.from_pylist(pending, schema)
            pending = []
    if pending:
        yield pa.RecordBatch.from_pylist(pending, schema)


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            with _open(path) as source:
                yield from source
        except (OSError, EOFError, zlib.error) as error:  # also of a compressed file that is cut off
            raise CheckFailed(f"{path}: cannot be read: {error}; nothing was written") from None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if path.suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path))
    if path.suffix == ".zst":
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(path, compression="zstd")))
    return path.open("rb")


def _parse(text: bytes, day: str, parse: Callable[[dict[str, Any], datetime], tuple[Any, Rows]]) -> tuple[Any, Rows]:
    try:
        line = json.loads(text)
        at = datetime.fromisoformat(line["ts"])
        if at.tzinfo is None:
            raise InvalidLine("a time without a time zone")
        at = at.astimezone(UTC)
    # RecursionError: very deep JSON; OverflowError: a time in UTC before the year 1 or after 9999
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        raise InvalidLine("not JSON with a time") from None
    if f"{at:%Y-%m-%d}" != day:
        raise InvalidLine("a day other than its file's")
    try:
        return parse(line, at)
    except KeyError as missing:
        raise InvalidLine(f"without {missing.args[0]}") from None


def _text(line: dict[str, Any], name: str) -> str:
    text = line[name]
    if not isinstance(text, str) or not text or any("\ud800" <= c <= "\udfff" for c in text):  # half a character
        raise InvalidLine(f"{name} is not a text")
    return text


def _id(value: Any, name: str, form: Form) -> int:
    is_id = (type(value) is str and value != "") or (type(value) is int and form == "integer")
    inside = internal_id(value, form) if is_id else None
    if inside is None:
        raise InvalidLine(f"{name} is not an id")
    return inside


def exposure_rows(line: dict[str, Any], at: datetime, forms: Forms) -> tuple[str, Rows]:
    """Return the request id and the rows of one displayed list: one per position, one for the listener's signals."""
    request, user = _text(line, "request_id"), _id(line["user_id"], "user_id", forms["user"])
    tracks = line["tracks"]
    if not isinstance(tracks, list) or not tracks:
        raise InvalidLine("tracks is not a list")
    propensities = line.get("propensities") or [None] * len(tracks)
    if not isinstance(propensities, list) or len(propensities) != len(tracks):
        raise InvalidLine("propensities and tracks differ in length")
    for p in propensities:
        if p is not None and (type(p) not in (int, float) or not 0 < p <= 1):
            raise InvalidLine("a propensity is not in (0, 1]")
    external_id = line["user_id"] if forms["user"] == "text" else None
    shared = {"request_id": request, "user_id": user, "user_external_id": external_id, "ts": at}
    shared |= {name: _text(line, name) for name in ("experiment", "arm", "method", "release")}
    rows: Rows = {
        "exposures": [
            {**shared, "position": place, "track_id": _id(track, "track_id", forms["track"]), "propensity": p}
            for place, (track, p) in enumerate(zip(tracks, propensities, strict=True), start=1)
        ]
    }
    if "context" in line:
        rows["exposure_contexts"] = [context_row(request, user, line["context"], forms)]
    return request, rows


def ids_as_text(value: Any) -> Any:
    """Return a JSON value with the numbers in its lists as text: logs of earlier versions have ids as numbers."""
    if isinstance(value, dict):
        return {name: ids_as_text(inner) for name, inner in value.items()}
    return [str(one) if type(one) is int else one for one in value] if isinstance(value, list) else value


def context_row(request: str, user: int, context: Any, forms: Forms) -> dict[str, Any]:
    """Return the row of exposure_contexts: the signals of the listener at the time of the request."""
    try:
        listener = Listener.model_validate(ids_as_text(context["listener"]))
        lists = {
            BLOCK[signal]: [_id(one, signal, forms[ID_KIND_OF[signal.split(".")[1]]]) for one in ids]
            for signal, ids in listener.lists().items()
        }
        leave_out = [_id(track, "leave_out", forms["track"]) for track in context["leave_out"]]
        streamed, options = context.get("leave_out_first_day"), context.get("options")
        if options is not None:
            ListOptions.model_validate(options)
    except (ValidationError, KeyError, TypeError, AttributeError):
        raise InvalidLine("its context is not a listener") from None
    if streamed is not None and type(streamed) is not bool:
        raise InvalidLine("its context is not a listener")
    # The service completes an absent level. It must be stored as an empty list: null has another meaning.
    blocks = {name: lists.get(name, []) for name in INTERACTIONS}
    return {
        "request_id": request,
        "user_id": user,
        "country": listener.country,
        "age": listener.age,
        **blocks,
        "leave_out": leave_out,
        "leave_out_first_day": streamed,
        "options": None if options is None else json.dumps(options, sort_keys=True),
    }


def outcome_rows(line: dict[str, Any], at: datetime, forms: Forms) -> tuple[Any, Rows]:
    """Return the key and the row of one outcome."""
    row: dict[str, Any] = {
        f"{kind}_id": _id(line[f"{kind}_id"], f"{kind}_id", forms[kind]) for kind in ("user", "track")
    }
    row |= {"request_id": _text(line, "request_id"), "ts": at, "kind": line["kind"]}
    if row["kind"] not in KINDS:
        raise InvalidLine("kind is neither stream nor favorite")
    return (row["request_id"], row["track_id"], row["kind"], at), {"outcomes": [row]}
