"""Read the lines of the two Last.fm files; lines that cannot be read are counted by reason."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from contracts.demographics import is_age
from contracts.errors import CheckFailed
from jobs.ingest.bad_lines import EXAMPLES, BadLines
from jobs.ingest.lastfm_1k.countries import CODES
from jobs.ingest.time_bounds import TimeBounds, microseconds

BLOCK_BYTES = 1 << 25
COLUMNS = ("user", "time", "artist_mbid", "artist", "track_mbid", "title")
LATEST_US = 1 << 33  # seconds: the year 2242; ids of sessions cannot encode a later time
MONTHS = {
    "Jan": 1,
    "Feb": 2,
    "Mar": 3,
    "Apr": 4,
    "May": 5,
    "Jun": 6,
    "Jul": 7,
    "Aug": 8,
    "Sep": 9,
    "Oct": 10,
    "Nov": 11,
    "Dec": 12,
}
USER = re.compile(r"user_(\d{1,9})")


def read_blocks(file: Path, bad: BadLines, bounds: TimeBounds) -> Iterator[pa.Table]:
    """Yield the readable lines, a block of bytes at a time: user_id, ts_us (int64), and the four texts of COLUMNS.

    Args:
        file: The log.
        bad: Receives the other lines.
        bounds: Bounds of the times.
    """
    torn = array("q")

    def refuse(row: Any) -> str:
        torn.append(row.number)
        bad.total += 1
        bad.add(row.number, f"{row.actual_columns} columns instead of 6", row.text)
        return "skip"

    seen = 0
    try:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(use_threads=False, column_names=list(COLUMNS), block_size=BLOCK_BYTES),
            parse_options=csv.ParseOptions(
                delimiter="\t", quote_char=False, ignore_empty_lines=False, invalid_row_handler=refuse
            ),
            convert_options=csv.ConvertOptions(column_types={name: pa.binary() for name in COLUMNS}),
        )
        for batch in reader:
            bad.total += batch.num_rows
            yield from _readable(batch, seen, torn, bad, bounds)
            seen += batch.num_rows
    except pa.ArrowException as error:
        if "Empty CSV" in str(error):
            return
        raise CheckFailed(f"{file}: cannot be read as tab-separated text: {error}") from None


def _readable(
    batch: pa.RecordBatch, seen: int, torn: array[int], bad: BadLines, bounds: TimeBounds
) -> Iterator[pa.Table]:
    """Yield the readable lines of a batch; the others are counted, each for its first reason."""
    texts, utf8 = {}, np.ones(batch.num_rows, bool)
    for name in COLUMNS:
        texts[name], valid = _decode(batch.column(name))
        utf8 &= valid
    blank = np.ones(batch.num_rows, bool)
    for name in COLUMNS:
        blank &= _numpy(pc.equal(texts[name], ""))
    user_ok = _numpy(pc.match_substring_regex(texts["user"], "^user_[0-9]{1,9}$"))
    ts = moments(texts["time"])
    has = {name: ~_numpy(pc.equal(pc.utf8_trim_whitespace(texts[name]), "")) for name in COLUMNS[2:]}
    nameless = ~((has["artist_mbid"] | has["artist"]) & (has["track_mbid"] | has["title"]))
    fine = np.ones(batch.num_rows, bool)
    for reason, wrong in (
        ("empty line", blank),
        ("no UTF-8", ~utf8),
        ("user is not user_<digits>", ~user_ok),
        ("time is not YYYY-MM-DDThh:mm:ssZ since 1970", (ts < 0) | (ts >= LATEST_US * 1_000_000)),
        (f"time {bounds.too_early}", ts < microseconds(bounds.earliest)),
        (f"time {bounds.too_late}", ts >= microseconds(bounds.latest)),
        ("no artist or no track", nameless),
    ):
        for i in np.flatnonzero(wrong & fine).tolist():
            bad.add(line_of(seen + i, torn), reason, "\t".join(str(texts[name][i]) for name in COLUMNS))
        fine &= ~wrong
    if not fine.any():
        return
    keep = pa.array(np.flatnonzero(fine))
    columns = {name: texts[name].take(keep) for name in COLUMNS}
    user = pc.cast(pc.utf8_slice_codeunits(columns.pop("user"), 5), pa.int64())
    columns.pop("time")
    yield pa.table({"user_id": user, "ts_us": pa.array(ts[fine]), **columns})


def moments(texts: pa.Array) -> np.ndarray:
    """Return microseconds since 1970 (n,) int64 of texts like 2009-05-04T23:08:57Z; -1 for anything else."""
    shaped = pc.match_substring_regex(texts, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:[0-5]\dZ$")
    # strptime is lax: it accepts other widths, and reads February 30 as March 2.
    text = pc.if_else(shaped, texts, "1969-12-31T00:00:00Z")
    time = pc.strptime(text, "%Y-%m-%dT%H:%M:%SZ", "us", error_is_null=True)
    same_day = pc.equal(pc.day(time), pc.cast(pc.utf8_slice_codeunits(text, 8, 10), pa.int64()))
    timestamps = pc.if_else(pc.fill_null(same_day, False), pc.cast(time, pa.int64()), -1)
    us: np.ndarray = np.array(timestamps.to_numpy(zero_copy_only=False))
    us[us < 0] = -1
    return us


def line_of(row: int, torn: array[int]) -> int:
    """Return the line (from 1) of the row-th (from 0) line of six columns; `torn` lists the other lines, ascending."""
    line = row + 1
    while True:
        moved = row + 1 + bisect_right(torn, line)
        if moved == line:
            return line
        line = moved


def _numpy(mask: pa.Array) -> np.ndarray:
    return np.asarray(mask.to_numpy(zero_copy_only=False), bool)


def _decode(column: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """Return bytes as text, and which rows were UTF-8; the others contain replacement characters."""
    try:
        return pc.cast(column, pa.string()), np.ones(len(column), bool)
    except pa.ArrowException:
        pass
    texts = [value.decode("utf-8", "replace") for value in column.to_pylist()]
    valid = [text.encode() == value for text, value in zip(texts, column.to_pylist(), strict=True)]
    return pa.array(texts, pa.string()), np.array(valid, bool)


@dataclass(frozen=True)
class Profile:
    """The usable fields of a profile; None where a field is missing or unusable."""

    country: str | None
    age: int | None
    registered_us: int | None


def read_profile(file: Path, latest: datetime) -> tuple[dict[int, Profile], dict[str, Any], BadLines]:
    """Return profiles by user id, counts of fields that became null, and lines that could not be read.

    Args:
        file: The profiles.
        latest: A registration at or after it, or before 1970, becomes unknown.
    """
    bad = BadLines(file)
    profiles: dict[int, Profile] = {}
    unknown: Counter[str] = Counter()
    facts = {"profile_ages_unknown": 0, "profile_dates_unknown": 0}
    for number, raw in enumerate(file.read_bytes().removeprefix(BOM_UTF8).split(b"\n"), 1):
        if (number == 1 and raw.startswith(b"#")) or not raw.strip():
            continue
        bad.total += 1
        text = raw.decode("utf-8", "replace").rstrip("\r")
        fields = text.split("\t")
        user = USER.fullmatch(fields[0])
        if len(fields) != 5:
            bad.add(number, f"{len(fields)} columns instead of 5", text)
        elif user is None:
            bad.add(number, "user is not user_<digits>", text)
        elif int(user[1]) in profiles:
            bad.add(number, "user has more than one line", text)
        else:
            _, _, age_text, country, date_text = fields
            age = int(age_text) if re.fullmatch(r"\d{1,3}", age_text) else None
            if age is not None and not is_age(age):
                age = None
            facts["profile_ages_unknown"] += bool(age_text) and age is None
            registered = profile_day(date_text)
            if registered is not None and not 0 <= registered < microseconds(latest):
                registered = None
            facts["profile_dates_unknown"] += bool(date_text) and registered is None
            if country and country not in CODES:
                unknown[country] += 1
            profiles[int(user[1])] = Profile(CODES.get(country), age, registered)
    return profiles, {**facts, "profile_countries_unknown": dict(sorted(unknown.items()))}, bad


def enforce_fields(file: Path, n_lines: int, facts: dict[str, Any], max_share: float) -> None:
    """Raise CheckFailed if too large a share of the profiles had to lose a field.

    Args:
        file: The profiles.
        n_lines: Number of lines that were read.
        facts: Counts of fields that became null, from `read_profile`.
        max_share: Largest share.
    """
    countries = facts["profile_countries_unknown"]
    for field, n in (
        ("country", sum(countries.values())),
        ("age", facts["profile_ages_unknown"]),
        ("registered", facts["profile_dates_unknown"]),
    ):
        if n > max_share * n_lines:
            examples = f" ({', '.join(list(countries)[:EXAMPLES])})" if field == "country" else ""
            raise CheckFailed(
                f"{file}: column '{field}': {n} of {n_lines} values are not valid{examples}, more than "
                f"source.max_bad_share = {max_share:g} allows; nothing was written. Mend the file or raise the setting"
            )


def profile_day(text: str) -> int | None:
    """Return 'Aug 13, 2006' as microseconds since 1970, 00:00 UTC; None if it is not such a date."""
    match = re.fullmatch(r"([A-Z][a-z]{2}) (\d{1,2}), (\d{4})", text)
    if match is None or match[1] not in MONTHS:
        return None
    try:
        moment = datetime(int(match[3]), MONTHS[match[1]], int(match[2]), tzinfo=UTC)
    except ValueError:
        return None
    return round(moment.timestamp()) * 1_000_000
