"""The Million Playlist Dataset as its publisher ships it: a folder of files mpd.slice.<first>-<last>.json.

Input    DATA/mpd.slice.*.json, each an object with `playlists`, usually of 1 000 playlists: `pid`, `name`, and `tracks`
         with `pos`, `track_uri`, `artist_uri`, `album_uri`, `track_name`, `artist_name`, `duration_ms`
Memory   one slice, 16 bytes for each track of a playlist, and the distinct tracks with their names

The format is documented on the page "The Million Playlist Dataset README" (recsys-challenge.spotify.com/readme). Files
are read in the order of their first playlist. Fields that are not named above are not read.

Rules
- A playlist without a `pid` of its own, or without a list of tracks, is bad. So is a row without `pos` or without one
  of the three URIs. Both are counted by reason and put into the quarantine; more than `source.max_bad_share` of either
  stops the run.
- A file that is not JSON (torn, or with NaN) stops the run: it is a thousandth of the dataset.
- A track has the names, the duration, the artist and the album of its first row. Empty names are unknown, and so are
  durations outside the contract.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from contracts.errors import CheckFailed
from jobs.ingest.bad_lines import BadLines
from jobs.ingest.distinct_rows import DistinctRows
from jobs.ingest.durations import duration_s
from jobs.ingest.ids import MADE, stable_ids
from jobs.platform.progress import progress

NAME = re.compile(r"mpd\.slice\.(\d+)-(\d+)\.json")
URIS = ("track_uri", "artist_uri", "album_uri")
NAMES = ("track_name", "artist_name")


@dataclass(frozen=True)
class Slices:
    """The playlists of all files.

    Attributes:
        row: Playlist (n,) of each good row, in the order of the files.
        number: Track (n,) of each good row; tracks are numbered from 0 as they first appear.
        track_id: Id (T,) of each number.
        tracks: The table `tracks`, by id.
        titles: `playlist_id` and `title` of each playlist, by id.
        facts: Counts of bad playlists and rows, for the report.
        bad: Bad playlists, and bad rows of playlists.
    """

    row: np.ndarray
    number: np.ndarray
    track_id: np.ndarray
    tracks: pa.Table
    titles: pa.Table
    facts: dict[str, Any]
    bad: list[BadLines]


def find_slices(data: Path) -> list[Path]:
    """Return the slices of a folder, by their first playlist."""
    named = [(NAME.fullmatch(file.name), file) for file in data.glob("mpd.slice.*.json")]
    return [file for _, file in sorted((int(match[1]), file) for match, file in named if match)]


def read_slices(files: list[Path], max_bad_share: float) -> Slices:
    """Read all slices, one at a time.

    Args:
        files: The files, at least one.
        max_bad_share: Largest share of bad playlists, and of bad rows.

    Raises:
        CheckFailed: A file is no slice, or too many playlists or rows are bad; nothing is returned.
    """
    reader = _Reader(files[0].parent)
    for file in progress(files, len(files), "slices"):
        reader.add(file)
    reader.bad_playlists.enforce(max_bad_share)
    reader.bad_rows.enforce(max_bad_share)
    tracks = reader.tracks.table()
    row, ids = np.concatenate(reader.rows), np.concatenate(reader.ids)
    unique, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    by_appearance = np.argsort(first)
    number = np.empty(len(unique), np.int64)
    number[by_appearance] = np.arange(len(unique))
    return Slices(
        row,
        number[inverse],
        unique[by_appearance],
        tracks,
        title_table(reader.titles),
        {
            "slices": len(files),
            "playlists": reader.bad_playlists.report(),
            "playlist_rows": reader.bad_rows.report(),
            "durations_unknown": tracks["duration_s"].null_count,
        },
        [reader.bad_playlists, reader.bad_rows],
    )


class _Reader:
    """What was read so far."""

    def __init__(self, folder: Path) -> None:
        self.rows: list[np.ndarray] = []
        self.ids: list[np.ndarray] = []
        self.titles: dict[int, str | None] = {}
        self.tracks = DistinctRows("track_id")
        self.bad_playlists, self.bad_rows = BadLines(folder, "playlists"), BadLines(folder, "rows of playlists")

    def add(self, file: Path) -> None:
        """Add the playlists of one file."""
        rows: list[int] = []
        tracks: list[dict[str, Any]] = []
        for n, playlist in enumerate(read_playlists(file)):
            self.bad_playlists.total += 1
            problem = self.playlist_problem(playlist)
            if problem:
                self.bad_playlists.add(f"playlists[{n}]", problem, as_json(playlist), file.name)
                continue
            pid = playlist["pid"]
            self.titles[pid] = playlist.get("name") or None
            for i, track in enumerate(playlist["tracks"]):
                self.bad_rows.total += 1
                problem = row_problem(track)
                if problem:
                    self.bad_rows.add(f"playlist {pid}, tracks[{i}]", problem, as_json(track), file.name)
                else:
                    rows.append(pid)
                    tracks.append(track)
        if tracks:
            table = self.track_table(tracks)
            self.rows.append(np.array(rows, np.int64))
            self.ids.append(table["track_id"].to_numpy())
            self.tracks.add(table)

    def playlist_problem(self, playlist: Any) -> str:
        """Return why a playlist cannot be used, or an empty text."""
        if not isinstance(playlist, dict):
            return "is not an object"
        pid = playlist.get("pid")
        if type(pid) is not int or not 0 <= pid < MADE:
            return "pid is not an integer of 0 or more"
        if pid in self.titles:
            return "pid is repeated"
        if not isinstance(playlist.get("tracks"), list):
            return "has no list of tracks"
        return "" if isinstance(playlist.get("name"), str | None) else "name is not text"

    @staticmethod
    def track_table(tracks: list[dict[str, Any]]) -> pa.Table:
        """Return good rows in the columns of the table `tracks`."""
        seconds = [duration_s(track.get("duration_ms")) for track in tracks]
        columns: dict[str, pa.Array] = {}
        for uri in URIS:
            texts = pa.array([track[uri] for track in tracks], pa.string())
            kind = uri.removesuffix("_uri")
            columns[f"{kind}_id"] = pa.array(stable_ids(texts))
            columns["external_id" if kind == "track" else f"{kind}_external_id"] = texts
        title, artist = (pa.array([track.get(name) or None for track in tracks], pa.string()) for name in NAMES)
        n = len(tracks)
        unknown = {"genre": pa.nulls(n, pa.string()), "release_date": pa.nulls(n, pa.date32())}
        known = {"duration_s": pa.array(seconds, pa.int32()), "title": title, "artist_name": artist}
        return pa.table(columns | unknown | known)


def title_table(titles: dict[int, str | None]) -> pa.Table:
    """Return `playlist_id` and `title`, by id."""
    columns = {"playlist_id": pa.array(list(titles), pa.int64()), "title": pa.array(list(titles.values()), pa.string())}
    return pa.table(columns).sort_by("playlist_id").combine_chunks()


def read_playlists(file: Path) -> list[Any]:
    """Return the playlists of a slice.

    Raises:
        CheckFailed: The file cannot be read, is not JSON, or has no list of playlists.
    """
    try:
        content = orjson.loads(file.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise CheckFailed(f"{file}: cannot be read as JSON, possibly truncated: {error}; nothing was written") from None
    playlists = content.get("playlists") if isinstance(content, dict) else None
    if not isinstance(playlists, list):
        raise CheckFailed(f"{file}: has no list 'playlists'; is it a slice of the dataset? Nothing was written")
    return playlists


def as_json(value: Any) -> str:
    """Return a value of a slice as JSON."""
    return orjson.dumps(value).decode()


def row_problem(track: Any) -> str:
    """Return why a row of a playlist cannot be used, or an empty text."""
    if not isinstance(track, dict):
        return "is not an object"
    for uri in URIS:
        if not track.get(uri) or not isinstance(track[uri], str):
            return f"no {uri}"
    position = track.get("pos")
    if type(position) is not int or position < 0:
        return "pos is not an integer of 0 or more"
    for name in NAMES:
        if not isinstance(track.get(name), str | None):
            return f"{name} is not text"
    return ""
