"""ListenBrainz: the public dump of listens, and the dump of feedback where there is one.

Input    DATA/**/<year>/<month>.listens           JSON lines, one listen each, as unpacked from
                                                  listenbrainz-listens-dump-*.tar.zst; also of several dumps
         DATA/**/feedback/listens/**/data.json    JSON lines: love and hate of recordings; optional
         DATA/**/feedback.jsonl                   the same lines in one file; optional
         `tar --use-compress-program=unzstd -xf DUMP` unpacks a dump; each file may be compressed again (.zst, .gz)
Output   users, tracks, playlists, events (one partition per day), quarantine
Memory   one block of lines, one day of events, one 64th of the listeners, and the distinct tracks and listeners with
         all feedback

Rules
- A listen is an event of kind stream; `duration_played` is its length. Exact repeats, which a full dump and incremental
  dumps share, are dropped and counted. Feedback 1 is a favorite and -1 a ban; 0 was taken back and is dropped.
- A line that cannot be read, without user, names or id, or with a time before October 2002 or in the future, is
  counted by reason and put into the quarantine; more than `source.max_bad_share` of all listens or of all feedback
  stops the run before anything is written.
- A track is a recording: the MBID that ListenBrainz mapped, else the one that the client sent, else the MSID. An artist
  is the first MBID of the credit in the same order, else the name in lower case and composed form (NFC). An album is
  the release's MBID, else the names of artist and release; without a release an artist has one album.
- Names and durations of a track are those of its first line. MBIDs are in lower case.
- Feedback names a track by MBID or MSID; feedback for a track without a listen is dropped and counted.
- Users are known by name, which feedback has too; dumps contain no profiles: country and age are null, and the
  registration is derived from events (jobs/ingest/listening_log.py).

Differs  ListenBrainz dumps have no playlists: a listening session (no gap above 30 minutes) with at least two distinct
         tracks represents one. It is private, and owned by its listener.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from contracts.entity_ids import stable_id
from contracts.errors import BadArgument
from jobs.ingest.bad_lines import BadLines
from jobs.ingest.distinct_rows import DistinctRows
from jobs.ingest.event_buffer import DAY_US, EventBuffer, code, events, times
from jobs.ingest.ids import stable_ids
from jobs.ingest.listenbrainz.parse import EARLIEST, Feedback, Listen, parse_feedback, parse_listen, read_lines
from jobs.ingest.listening_log import BUCKETS, earliest, hashed_session_ids, registrations, sessions
from jobs.ingest.time_bounds import time_bounds
from jobs.ingest.write_tables import write_source
from jobs.platform.progress import progress
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from jobs.platform.context import Context

LISTENS = re.compile(r"(?:.*/)?(\d{4})/(\d{1,2})\.listens(?:\.zst|\.gz)?")
FEEDBACK = re.compile(r"(?:.*/)?(?:feedback/listens/(?:.*/)?data\.json|feedback\.jsonl)(?:\.zst|\.gz)?")
RUN = 4_000_000  # events of one run of a buffer


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Write the four tables; return rows, paths, and what was dropped and why."""
    if data is None:
        raise BadArgument("--data: listenbrainz needs the folder with <year>/<month>.listens")
    listen_files, feedback_files = find_files(data)
    limit, bounds = context.settings.source.max_bad_share, time_bounds(context.settings.source)
    bounds = replace(bounds, earliest=max(bounds.earliest, EARLIEST))
    bad_listens, bad_feedback = BadLines(data, "listens"), BadLines(data, "lines of feedback")
    feedback = [
        row
        for file in feedback_files
        for block in read_lines(file, str(file.relative_to(data)), bad_feedback, bounds, parse_feedback)
        for row in block
    ]
    if bad_feedback.total:
        bad_feedback.enforce(limit)
    with temp_dir(context, "ingest") as folder:
        log = Log(folder, {row.msid for row in feedback if row.msid})
        for file in progress(listen_files, len(listen_files), "months"):
            for listens in read_lines(file, str(file.relative_to(data)), bad_listens, bounds, parse_listen):
                log.add_listens(listens)
        bad_listens.enforce(limit)
        feedback_facts = log.add_feedback(feedback)
        users, unknown = log.users()
        return write_source(
            context,
            users=users,
            tracks=log.tracks(),
            playlists=sessions(log.by_listener, hashed_session_ids),
            events=log.events,
            bad={"events": [bad_listens, bad_feedback]},
            facts={
                "source": "listenbrainz",
                "files": {"listens": len(listen_files), "feedback": len(feedback_files)},
                "listens": bad_listens.report(),
                "feedback": bad_feedback.report() | feedback_facts,
                "users_with_unknown_registration": unknown,
            },
        )


def find_files(data: Path) -> tuple[list[Path], list[Path]]:
    """Return the files of listens by month, and those of feedback.

    Raises:
        BadArgument: The folder has no listens, or an archive that must be unpacked first.
    """
    files = sorted(file for file in data.rglob("*") if file.is_file())
    months = [(LISTENS.fullmatch(file.relative_to(data).as_posix()), file) for file in files]
    listens = [file for _, _, file in sorted((int(m[1]), int(m[2]), file) for m, file in months if m)]
    if not listens:
        archives = [file.name for file in files if ".tar" in file.name]
        hint = f"; unpack {archives[0]} first" if archives else ""
        raise BadArgument(f"{data}: has no file <year>/<month>.listens{hint}")
    return listens, [file for file in files if FEEDBACK.fullmatch(file.relative_to(data).as_posix())]


class Log:
    """Events, tracks and listeners of the lines that were read."""

    def __init__(self, folder: Path, msids: set[str]) -> None:
        """Start an empty log.

        Args:
            folder: Folder for buffers on disk.
            msids: MSIDs whose track must be known.
        """
        self.events, self.by_listener = EventBuffer(folder, "events"), EventBuffer(folder, "listeners")
        self._pending: list[np.ndarray] = []
        self._msids, self._track_of_msid = msids, dict[str, int]()
        self._tracks = DistinctRows("track_id")
        self._names: dict[int, str] = {}
        self._first: dict[int, int] = {}

    def add_listens(self, listens: list[Listen]) -> None:
        """Add one block of listens."""
        if not listens:
            return
        columns = dict(zip(Listen._fields, map(list, zip(*listens, strict=True)), strict=True))
        texts = {name: pa.array(columns[name], pa.string()) for name in ("track", "artist", "album")}
        ids = {name: stable_ids(values) for name, values in texts.items()}
        self._tracks.add(
            pa.table(
                {f"{name}_id": pa.array(ids[name]) for name in texts}
                | {
                    "duration_s": pa.array(columns["duration_s"], pa.int32()),
                    "title": pa.array(columns["title"], pa.string()),
                    "artist_name": pa.array(columns["artist_name"], pa.string()),
                    "external_id": texts["track"],
                    "artist_external_id": texts["artist"],
                    "album_external_id": texts["album"],
                }
            )
        )
        if self._msids:
            for listen, track_id in zip(listens, ids["track"].tolist(), strict=True):
                if listen.msid in self._msids:
                    self._track_of_msid.setdefault(listen.msid, track_id)
        ts = np.array(columns["ts_s"], np.int64) * 1_000_000
        user = self._listeners(columns["user"], ts)
        listened_s = np.array(columns["listened_s"], np.int32)
        self._pending.append(events(user, ts, code("stream", "track"), ids["track"], listened_s))
        if sum(len(rows) for rows in self._pending) >= RUN:
            self._flush()

    def _flush(self) -> None:
        rows = np.concatenate(self._pending)
        self._pending = []
        self.events.add(rows["ts"] // DAY_US, rows)
        self.by_listener.add(rows["user_id"] % BUCKETS, rows)

    def _listeners(self, names: list[str], ts: np.ndarray) -> np.ndarray:
        """Return the ids (n,) of listeners by name (n,), and keep names and first events of `ts` (n,)."""
        user = stable_ids(pa.array(names, pa.string()))
        self._names.update(zip(user.tolist(), names, strict=True))
        for listener, moment in earliest(user, ts):
            self._first[listener] = min(moment, self._first.get(listener, moment))
        return user

    def add_feedback(self, feedback: list[Feedback]) -> dict[str, int]:
        """Add feedback, after all listens; return how many lines were dropped because of score or track."""
        if self._pending:
            self._flush()
        known = set(self._tracks.table()["track_id"].to_pylist()) if feedback else set()
        facts = Counter({"taken_back": 0, "track_without_listen": 0})
        rows: list[tuple[str, int, int, int]] = []
        for row in feedback:
            track_id = stable_id(row.mbid) if row.mbid else -1
            if track_id not in known:
                track_id = self._track_of_msid.get(row.msid, -1)
            if row.score == 0:
                facts["taken_back"] += 1
            elif track_id < 0:
                facts["track_without_listen"] += 1
            else:
                rows.append((row.user, row.ts_s, code("favorite" if row.score > 0 else "ban", "track"), track_id))
        if rows:
            names, ts_s, codes, track_ids = zip(*rows, strict=True)
            ts = np.array(ts_s, np.int64) * 1_000_000
            user = self._listeners(list(names), ts)
            self.events.add(ts // DAY_US, events(user, ts, np.array(codes, np.uint8), np.array(track_ids, np.int64)))
        return dict(facts)

    def tracks(self) -> pa.Table:
        """Return the table `tracks`, by id."""
        tracks = self._tracks.table()
        n = tracks.num_rows
        return tracks.append_column("genre", pa.nulls(n, pa.string())).append_column(
            "release_date", pa.nulls(n, pa.date32())
        )

    def users(self) -> tuple[pa.Table, int]:
        """Return the table `users`, by id, and how many registrations are unknown."""
        ids = sorted(self._first)
        registered, unknown = registrations(np.array([self._first[user] for user in ids], np.int64), self.events)
        table = pa.table(
            {
                "user_id": pa.array(ids, pa.int64()),
                "country": pa.nulls(len(ids), pa.string()),
                "age": pa.nulls(len(ids), pa.int32()),
                "registered_at": times(registered),
                "external_id": pa.array([self._names[user] for user in ids], pa.string()),
            }
        )
        return table, unknown
