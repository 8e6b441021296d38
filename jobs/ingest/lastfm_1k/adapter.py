"""Last.fm 1K: the listening histories of about a thousand listeners, with profiles.

Input    DATA/userid-timestamp-artid-artname-traid-traname*.tsv   user, ISO time, artist mbid, artist, track mbid, track
         DATA/userid-profile.tsv                                  #id, gender, age, country, registered
Output   users, tracks, playlists, events (one partition per day), quarantine
Memory   one block of lines, one day of events, one 64th of the listeners, and the distinct tracks; never the whole log

Rules
- A line is an event of kind stream with unknown length. Exact repeats are dropped and counted.
- A line that cannot be read, or whose time is before `source.earliest_day` or more than a day in the future, goes to
  the quarantine and is counted by reason, the first ones with file and line; more than `source.max_bad_share` of a file
  stops the run before anything is written.
- A track or an artist without mbid is identified by its name (artist and title), trimmed, in lower case and in
  composed form (NFC).
- An artist has one generated album, because the dataset names none. Of several titles or artists of a track, those of
  the first line are used.
- Listeners are the users of either file. Without a profile, country and age are null. `registered_at` is the profile's
  day, or the first event if that is earlier or the profile has none; a listener with neither is dropped and counted.
- A country name without a code, an age outside the contract, and a date that is none or in the future become null and
  are counted; more than `source.max_bad_share` of one of them stops the run. Gender is not stored.

Differs  Last.fm has no playlists: a listening session (no gap above 30 minutes) with at least two distinct tracks
         represents one, owned by its listener and private; each track is dated when it was streamed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from contracts.errors import BadArgument
from jobs.ingest.bad_lines import BadLines
from jobs.ingest.distinct_rows import DistinctRows
from jobs.ingest.event_buffer import DAY_US, EventBuffer, code, events, times
from jobs.ingest.ids import MADE, stable_ids
from jobs.ingest.lastfm_1k.parse import Profile, enforce_fields, read_blocks, read_profile
from jobs.ingest.listening_log import BUCKETS, earliest, sessions
from jobs.ingest.normalize import nfc
from jobs.ingest.time_bounds import time_bounds
from jobs.ingest.write_tables import write_source
from jobs.platform.progress import progress
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from jobs.platform.context import Context

EVENTS, PROFILE = "userid-timestamp-artid-artname-traid-traname*.tsv", "userid-profile.tsv"


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Write the four tables; return rows, paths, and what was dropped and why."""
    if data is None:
        raise BadArgument(f"--data: lastfm_1k needs the folder with {EVENTS} and {PROFILE}")
    file, profile_file = find_files(data)
    limit, bounds = context.settings.source.max_bad_share, time_bounds(context.settings.source)
    profiles, profile_facts, profile_bad = read_profile(profile_file, bounds.latest)
    profile_bad.enforce(limit)
    enforce_fields(profile_file, profile_bad.total, profile_facts, limit)
    bad = BadLines(file)
    names = Names()
    first_seen: dict[int, int] = {}
    with temp_dir(context, "ingest") as folder:
        log, by_listener = EventBuffer(folder, "events"), EventBuffer(folder, "listeners")
        for block in progress(read_blocks(file, bad, bounds), None, "blocks of lines"):
            track_id = names.add(block)
            user, ts = block["user_id"].to_numpy(), block["ts_us"].to_numpy()
            for listener, moment in earliest(user, ts):
                first_seen[listener] = min(moment, first_seen.get(listener, moment))
            rows = events(user, ts, code("stream", "track"), track_id)
            log.add(ts // DAY_US, rows)
            by_listener.add(user % BUCKETS, rows)
        bad.enforce(limit)
        users, user_facts = user_table(profiles, first_seen)
        return write_source(
            context,
            users=users,
            tracks=names.table(),
            playlists=sessions(by_listener, session_ids),
            events=log,
            bad={"events": [bad], "users": [profile_bad]},
            facts={
                "source": "lastfm_1k",
                "lines": bad.report(),
                "profile_lines": profile_bad.report(),
                **profile_facts,
                **user_facts,
            },
        )


def find_files(data: Path) -> tuple[Path, Path]:
    """Return the file of events and the file of profiles; a missing one is named in the error."""
    event_files = sorted(data.glob(EVENTS))
    if len(event_files) != 1:
        names = ", ".join(f.name for f in event_files) or "none"
        raise BadArgument(f"{data}: needs exactly one file {EVENTS}, found {names}")
    if not (data / PROFILE).is_file():
        raise BadArgument(f"{data / PROFILE}: no such file; it is part of the dataset")
    return event_files[0], data / PROFILE


class Names:
    """The distinct tracks seen so far, each with the names of its first line."""

    def __init__(self) -> None:
        self._rows = DistinctRows("track_id")

    def add(self, block: pa.Table) -> np.ndarray:
        """Return the track ids (n,) of a block with the columns artist_mbid, artist, track_mbid, title."""
        artist, title = nfc(block["artist"]), nfc(block["title"])
        artist_key = _key(block["artist_mbid"], _fold(artist))
        track_key = _key(block["track_mbid"], pc.binary_join_element_wise(_fold(artist), _fold(title), "\x1f"))
        artist_id, track_id = stable_ids(artist_key), stable_ids(track_key)
        self._rows.add(
            pa.table(
                {
                    "track_id": pa.array(track_id),
                    "artist_id": pa.array(artist_id),
                    "title": title,
                    "artist_name": artist,
                }
            )
        )
        return track_id

    def table(self) -> pa.Table:
        """Return the table `tracks`, by id."""
        tracks = self._rows.table()
        n = tracks.num_rows
        return pa.table(
            {
                "track_id": tracks["track_id"],
                "artist_id": tracks["artist_id"],
                "album_id": pa.array(MADE + tracks["artist_id"].to_numpy()),
                "genre": pa.nulls(n, pa.string()),
                "duration_s": pa.nulls(n, pa.int32()),
                "release_date": pa.nulls(n, pa.date32()),
                "title": _null_if_empty(tracks["title"]),
                "artist_name": _null_if_empty(tracks["artist_name"]),
            }
        )


def _fold(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.utf8_lower(pc.utf8_trim_whitespace(text))


def _key(mbid: pa.ChunkedArray, name: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the mbid, or the name behind a prefix that no mbid has."""
    named = pc.binary_join_element_wise("name", name, "\x1f")
    return pc.if_else(pc.equal(mbid, ""), named, mbid)


def _null_if_empty(text: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def user_table(profiles: dict[int, Profile], first_seen: dict[int, int]) -> tuple[pa.Table, dict[str, int]]:
    """Return the table `users` by id, and counts of users without profile, without date, or with earlier events."""
    empty = Profile(None, None, None)
    facts = {"users_without_profile": 0, "users_without_date": 0, "users_heard_before_registration": 0}
    rows: list[tuple[int, str | None, int | None, int]] = []
    for user_id in sorted(profiles.keys() | first_seen.keys()):
        profile, heard = profiles.get(user_id, empty), first_seen.get(user_id)
        facts["users_without_profile"] += user_id not in profiles
        moments = [m for m in (profile.registered_us, heard) if m is not None]
        if not moments:
            facts["users_without_date"] += 1
            continue
        if profile.registered_us is not None and heard is not None and heard < profile.registered_us:
            facts["users_heard_before_registration"] += 1
        rows.append((user_id, profile.country, profile.age, min(moments)))
    table = pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], pa.int64()),
            "country": pa.array([row[1] for row in rows], pa.string()),
            "age": pa.array([row[2] for row in rows], pa.int32()),
            "registered_at": times(np.array([row[3] for row in rows], np.int64)),
        }
    )
    return table, facts


def session_ids(user: np.ndarray, start_s: np.ndarray) -> np.ndarray:
    """Return ids (n,) of sessions that contain the listener's number (30 bits) and the start (33 bits)."""
    return np.asarray((user << 33) | start_s)
