"""Lines of the exposure log and of the app's outcomes, into the lake a day at a time.

Reads    <folder>/exposures-<day>*.jsonl as the service writes them (serving/experiment/exposure_log.py); outcomes-<day>*.jsonl
         with {"request_id", "user_id", "track_id", "ts", "kind"} a line, ts in ISO 8601 with a zone
Writes   exposures, exposure_contexts (where lines hold signals), outcomes, partition day=<day>
Re-run   safe: the folder is the whole truth of the days that it names, each is replaced
Bad      lines are counted by reason and left out; more than source.max_bad_share of them stop the run before it writes.
         Repeated lines are counted and left out too, but senders repeat: they stop nothing
Memory   the request ids of a day, a day of outcomes, and a piece of its other rows
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.platform.context import Context
from jobs.platform.progress import progress
from models.cold_start.input_vector import INTERACTIONS
from serving.recommend.signals import BLOCK
from serving.schema import Listener

FILE = re.compile(r"^(exposures|outcomes)-(\d{4}-\d{2}-\d{2})[^/]*\.jsonl$")
KINDS = ("stream", "favorite")
BIGGEST = 2**63 - 1
REPEATED = "repeated"
TABLES = {"exposures": ("exposures", "exposure_contexts"), "outcomes": ("outcomes",)}
PIECE = 50_000  # rows held as Python objects
Rows = dict[str, list[dict[str, Any]]]


class BadLine(Exception):
    """Why a line cannot be used, in few words: the reason is counted, the line is not repeated."""


def run(context: Context, folder: Path) -> dict[str, Any]:
    """Read a folder of logs into the lake.

    Raises:
        BadArgument: there is no such folder, or nothing in it is named like a log.
        CheckFailed: too many lines are bad.
    """
    if not folder.is_dir():
        raise BadArgument(f"--data: no such folder {folder}")
    named = [(path, found) for path in sorted(folder.iterdir()) if (found := FILE.match(path.name))]
    if not named:
        raise BadArgument(f"--data: {folder} holds no exposures-<day>*.jsonl and no outcomes-<day>*.jsonl")
    by_day: dict[tuple[str, str], list[Path]] = {}
    for path, found in named:
        by_day.setdefault((found[1], found[2]), []).append(path)
    read: Counter[str] = Counter()
    bad: Counter[str] = Counter()
    held: dict[tuple[str, str], Counter[str]] = {}
    # First all lines are looked at, so that nothing is written where too many are bad.
    for (kind, day), paths in progress(by_day.items(), len(by_day), "logs checked"):
        held[kind, day] = Counter(dict.fromkeys(TABLES[kind], 0))
        for rows in _good(kind, day, paths, read, bad):
            held[kind, day].update({table: len(found) for table, found in rows.items()})
    wrong = Counter({reason: n for reason, n in bad.items() if not reason.endswith(REPEATED)})
    n_bad, share = sum(wrong.values()), context.settings.source.max_bad_share
    if n_bad > share * sum(read.values()):
        reasons = ", ".join(f"{reason}: {n}" for reason, n in wrong.most_common())
        raise CheckFailed(f"{folder}: {n_bad} of {sum(read.values())} lines are bad, more than {share:.1%} ({reasons})")
    written: Counter[str] = Counter()
    for (kind, day), paths in progress(by_day.items(), len(by_day), "logs written"):
        report = {"commit": context.commit, "files": [path.name for path in paths]}
        for table, n in held[kind, day].items():
            if n:
                frame = _batches(table, _good(kind, day, paths, Counter(), Counter()))
                written[table] += context.lake.write(table, frame, report=report, day=day).rows
            elif context.lake.exists(table, day=day):
                context.lake.drop(table, day=day)
    days = sorted({day for _, day in by_day})
    counts = {"rows": dict(written), "lines": dict(read), "bad": dict(bad)}
    return {**counts, "days": len(days), "first": days[0], "last": days[-1]}


def _good(kind: str, day: str, paths: list[Path], read: Counter[str], bad: Counter[str]) -> Iterator[Rows]:
    """The rows of each good line of a day, by table; counts lines into `read` and bad ones into `bad`."""
    parse = exposure_rows if kind == "exposures" else outcome_rows
    seen: set[Any] = set()
    for text in _lines(paths):
        read[kind] += 1
        try:
            key, rows = _parsed(text, day, parse)
            if key in seen:
                raise BadLine(REPEATED)
            seen.add(key)
            yield rows
        except BadLine as reason:
            bad[f"{kind}: {reason}"] += 1


def _batches(table: str, lines: Iterator[Rows]) -> Iterator[pa.RecordBatch]:
    """The rows of one table in pieces; what happened more than once counts the first time."""
    schema = arrow_schema(contracts.load(table))
    if table == "outcomes":
        first: dict[Any, dict[str, Any]] = {}
        for rows in lines:
            for row in rows[table]:
                known = first.setdefault((row["request_id"], row["track_id"], row["kind"]), row)
                known["ts"] = min(known["ts"], row["ts"])
        lines = iter([{table: list(first.values())}])
    waiting: list[dict[str, Any]] = []
    for rows in lines:
        waiting += rows.get(table, [])
        if len(waiting) >= PIECE:
            yield pa.RecordBatch.from_pylist(waiting, schema)
            waiting = []
    if waiting:
        yield pa.RecordBatch.from_pylist(waiting, schema)


def _lines(paths: list[Path]) -> Iterator[bytes]:
    for path in paths:
        with path.open("rb") as source:
            yield from source


def _parsed(text: bytes, day: str, parse: Callable[[dict[str, Any], datetime], tuple[Any, Rows]]) -> tuple[Any, Rows]:
    try:
        line = json.loads(text)
        at = datetime.fromisoformat(line["ts"])
    except (ValueError, TypeError, KeyError):
        raise BadLine("not JSON with a time") from None
    if at.tzinfo is None:
        raise BadLine("a time without a zone")
    at = at.astimezone(UTC)
    if f"{at:%Y-%m-%d}" != day:
        raise BadLine("of another day than its file")
    try:
        return parse(line, at)
    except KeyError as missing:
        raise BadLine(f"without {missing.args[0]}") from None


def _text(line: dict[str, Any], name: str) -> str:
    if not isinstance(line[name], str) or not line[name]:
        raise BadLine(f"{name} is no text")
    return str(line[name])


def _id(value: Any, name: str) -> int:
    if type(value) is not int or not 0 <= value <= BIGGEST:
        raise BadLine(f"{name} is no id")
    return value


def exposure_rows(line: dict[str, Any], at: datetime) -> tuple[str, Rows]:
    """Rows of one list that was shown: one a place, and one for what was known of the listener."""
    request, user = _text(line, "request_id"), _id(line["user_id"], "user_id")
    tracks = line["tracks"]
    if not isinstance(tracks, list) or not tracks:
        raise BadLine("tracks is no list")
    propensities = line.get("propensities") or [None] * len(tracks)
    if not isinstance(propensities, list) or len(propensities) != len(tracks):
        raise BadLine("propensities and tracks differ in length")
    for p in propensities:
        if p is not None and (type(p) not in (int, float) or not math.isfinite(p) or not 0 < p <= 1):
            raise BadLine("a propensity is not in (0, 1]")
    same = {"request_id": request, "user_id": user, "ts": at}
    same |= {name: _text(line, name) for name in ("experiment", "arm", "method", "release")}
    rows: Rows = {
        "exposures": [
            {**same, "position": place, "track_id": _id(track, "track_id"), "propensity": p}
            for place, (track, p) in enumerate(zip(tracks, propensities, strict=True), start=1)
        ]
    }
    if "context" in line:
        rows["exposure_contexts"] = [context_row(request, user, line["context"])]
    return request, rows


def context_row(request: str, user: int, context: Any) -> dict[str, Any]:
    """What was known of the listener, as exposure_contexts holds it."""
    try:
        listener = Listener.model_validate(context["listener"])
        lists = {BLOCK[signal]: ids for signal, ids in listener.lists().items()}
        leave_out = [_id(track, "leave_out") for track in context["leave_out"]]
        streamed = context["leave_out_first_day"]
    except (ValidationError, KeyError, TypeError):
        raise BadLine("its context is no listener") from None
    if streamed is not None and type(streamed) is not bool:
        raise BadLine("its context is no listener")
    # A level that the request left out is completed by the service again; null would be another thing than empty.
    blocks = {name: lists.get(name, []) for name in INTERACTIONS}
    return {
        "request_id": request,
        "user_id": user,
        "country": listener.country,
        "age": listener.age,
        **blocks,
        "leave_out": leave_out,
        "leave_out_first_day": streamed,
    }


def outcome_rows(line: dict[str, Any], at: datetime) -> tuple[Any, Rows]:
    """The row of one outcome."""
    row: dict[str, Any] = {name: _id(line[name], name) for name in ("user_id", "track_id")}
    row |= {"request_id": _text(line, "request_id"), "ts": at, "kind": line["kind"]}
    if row["kind"] not in KINDS:
        raise BadLine("kind is neither stream nor favorite")
    return (row["request_id"], row["track_id"], row["kind"], at), {"outcomes": [row]}
