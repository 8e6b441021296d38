"""Read the lines of ListenBrainz dumps; lines that cannot be used are counted by reason.

The fields are documented on the pages "JSON Documentation" and "Data Dumps" of listenbrainz.readthedocs.io. A listen of
a dump has `timestamp` where the API has `listened_at`; a line of the feedback dump has `feedback` where a user's own
export has `score`. Both names are read.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson
import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.ingest.bad_lines import BadLines
from jobs.ingest.durations import MAX_DURATION_S, duration_s
from jobs.ingest.time_bounds import TimeBounds

BLOCK_BYTES = 1 << 25
# ListenBrainz itself rejects earlier listens (LISTEN_MINIMUM_DATE of listenbrainz-server).
EARLIEST = datetime(2002, 10, 1, tzinfo=UTC)
UUID = re.compile("[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Listen(NamedTuple):
    """One listen.

    Attributes:
        user: Name of the user.
        ts_s: Time, seconds since 1970.
        track: Id of the recording: its MBID, or the MSID.
        msid: The MSID, or an empty text.
        artist: Id of the main artist: its MBID, or the folded name.
        album: Id of the album: its MBID, or the folded names of artist and release, or `artist` without a release.
        title: Title as sent.
        artist_name: Name of the artist as sent.
        duration_s: Length of the track; None where unknown.
        listened_s: Time for which the track was played; -1 where unknown.
    """

    user: str
    ts_s: int
    track: str
    msid: str
    artist: str
    album: str
    title: str
    artist_name: str
    duration_s: int | None
    listened_s: int


class Feedback(NamedTuple):
    """One reaction to a recording.

    Attributes:
        user: Name of the user.
        ts_s: Time, seconds since 1970.
        mbid: MBID of the recording, or an empty text.
        msid: MSID of the recording, or an empty text.
        score: 1 for love, -1 for hate, 0 where the user took it back.
    """

    user: str
    ts_s: int
    mbid: str
    msid: str
    score: int


Row = TypeVar("Row", Listen, Feedback)


class UnusableLine(Exception):
    """A line that cannot be used; the text is the reason."""


def read_lines(
    file: Path, place: str, bad: BadLines, bounds: TimeBounds, parse: Callable[[bytes, TimeBounds], Row]
) -> Iterator[list[Row]]:
    """Yield the listens or the feedback of a file, a block of lines at a time.

    Args:
        file: A file of JSON lines, plain or compressed.
        place: Name of the file in messages.
        bad: Counts all lines and receives those that cannot be used.
        bounds: Bounds of the times.
        parse: `parse_listen` or `parse_feedback`.

    Raises:
        CheckFailed: The file cannot be read or decompressed.
    """
    for number, lines in line_blocks(file):
        rows = []
        for i, line in enumerate(lines):
            try:
                rows.append(parse(line, bounds))
            except UnusableLine as problem:
                bad.add(number + i, str(problem), line.decode("utf-8", "replace"), place)
        bad.total += len(lines)
        yield rows


def line_blocks(file: Path) -> Iterator[tuple[int, list[bytes]]]:
    """Yield blocks of lines, each with the number (from 1) of its first line."""
    rest, number = b"", 1
    try:
        with pa.input_stream(str(file), compression="detect") as source:
            while block := source.read(BLOCK_BYTES):
                *lines, rest = (rest + block).split(b"\n")
                yield number, lines
                number += len(lines)
    except (OSError, pa.ArrowException) as error:
        raise CheckFailed(f"{file}: cannot be read, possibly truncated: {error}; nothing was written") from None
    if rest:
        yield number, [rest]


def parse_listen(line: bytes, bounds: TimeBounds) -> Listen:
    """Return the listen of a line.

    Raises:
        UnusableLine: The line is not a listen with user, time, names and id.
    """
    content = json_object(line)
    metadata = content.get("track_metadata")
    if not isinstance(metadata, dict):
        raise UnusableLine("no track_metadata")
    mapping, info = (inner_object(metadata, name) for name in ("mbid_mapping", "additional_info"))
    artist_name, title = metadata.get("artist_name"), metadata.get("track_name")
    if not isinstance(artist_name, str) or not isinstance(title, str) or not fold(artist_name) or not fold(title):
        raise UnusableLine("no artist_name or no track_name")
    msid = uuid(content.get("recording_msid")) or uuid(info.get("recording_msid"))
    track = uuid(mapping.get("recording_mbid")) or uuid(info.get("recording_mbid")) or msid
    if not track:
        raise UnusableLine("no recording_mbid and no recording_msid")
    artist = first_uuid(mapping.get("artist_mbids")) or first_uuid(info.get("artist_mbids")) or fold(artist_name)
    album = uuid(mapping.get("release_mbid")) or uuid(info.get("release_mbid"))
    if not album:
        release = metadata.get("release_name")
        release = fold(release) if isinstance(release, str) else ""
        album = f"{fold(artist_name)} / {release}" if release else artist
    seconds, played = number(info.get("duration")), number(info.get("duration_played"))
    listened_at = content.get("listened_at")
    return Listen(
        user_name(content),
        time_s(content.get("timestamp") if listened_at is None else listened_at, bounds),
        track,
        msid,
        artist,
        album,
        title.strip(),
        artist_name.strip(),
        duration_s(info.get("duration_ms")) or duration_s(None if seconds is None else seconds * 1000),
        int(played) if played is not None and 0 <= played <= MAX_DURATION_S else -1,
    )


def parse_feedback(line: bytes, bounds: TimeBounds) -> Feedback:
    """Return the feedback of a line.

    Raises:
        UnusableLine: The line is not a feedback with user, time, recording and score.
    """
    content = json_object(line)
    score = content.get("score", content.get("feedback"))
    if type(score) is not int or score not in (-1, 0, 1):
        raise UnusableLine("score is not 1, 0 or -1")
    mbid, msid = uuid(content.get("recording_mbid")), uuid(content.get("recording_msid"))
    if not mbid and not msid:
        raise UnusableLine("no recording_mbid and no recording_msid")
    return Feedback(user_name(content), time_s(content.get("created"), bounds), mbid, msid, score)


def json_object(line: bytes) -> dict[str, Any]:
    """Return the JSON object of a line."""
    try:
        content = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise UnusableLine("is not JSON") from None
    if not isinstance(content, dict):
        raise UnusableLine("is not a JSON object")
    return content


def inner_object(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a field that is an object, or an empty object."""
    value = content.get(name)
    return value if isinstance(value, dict) else {}


def number(value: Any) -> int | float | None:
    """Return a value that is a number, or None."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def user_name(content: dict[str, Any]) -> str:
    """Return the name of the user, or the number where the line has no name."""
    name, number = content.get("user_name"), content.get("user_id")
    if isinstance(name, str) and name:
        return name
    if type(number) is int or (isinstance(number, str) and number):
        return str(number)
    raise UnusableLine("no user_name and no user_id")


def time_s(value: Any, bounds: TimeBounds) -> int:
    """Return a time in seconds since 1970, given as such or as text in ISO 8601 (UTC where it names no zone)."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
            value = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            raise UnusableLine("time is neither a number nor ISO 8601") from None
    seconds = number(value)
    if seconds is None:
        raise UnusableLine("time is neither a number nor ISO 8601")
    if seconds < bounds.earliest.timestamp():
        raise UnusableLine(f"time {bounds.too_early}")
    if seconds >= bounds.latest.timestamp():
        raise UnusableLine(f"time {bounds.too_late}")
    return int(seconds)


def uuid(value: Any) -> str:
    """Return an MBID or MSID in lower case, or an empty text if the value is none."""
    text = value.lower() if isinstance(value, str) else ""
    return text if UUID.fullmatch(text) else ""


def first_uuid(values: Any) -> str:
    """Return the first value of a list if it is an MBID, else an empty text."""
    return uuid(values[0]) if isinstance(values, list) and values else ""


def fold(text: str) -> str:
    """Return a name as an id: composed (NFC), without spaces around it, in lower case."""
    return unicodedata.normalize("NFC", text).strip().lower()
