"""Playlists of the Spotify Million Playlist Dataset as listeners: a cold-start task on real data.

Input    DATA/mpd.slice.<first>-<last>.json, as published (jobs/ingest/mpd/slices.py), or
         DATA/playlist_track.parquet (row, track), DATA/track_uri_map.parquet (track, track_uri, artist_uri, album_uri)
Output   users, tracks, playlists, events (one partition per day), quarantine
Memory   all pairs of a playlist and a track at once, about 100 bytes each; with slices also the distinct tracks

A playlist represents a listener (user_id = playlist_id = pid or row), who streams each of its tracks once.
- The first three quarters of the playlists, by pid or row, are warm. They register at a constant rate in the part of
  the trailing window (`matrix.window_days`) that ends 31 days before the week's as_of and before its cohort.
- The catalogue is the `source.catalogue_tracks` tracks that most warm playlists contain; ties go to the smaller number.
  Tracks of slices are numbered as they first appear: with these numbers, both forms give the same events.
- Each other playlist with at least `source.min_playlist_tracks` catalogue tracks is cold: it registers in the cohort
  window of the week. The rest are dropped and counted.
- 1 to 5 random tracks are streamed on the registration day, from the catalogue while it lasts; all others
  on days 1 to 30 after it: for a cold listener, the ground truth.
- Playlists are public, because the publisher released them. Slices also contain titles, names and durations, and the
  tables store the URIs of tracks, artists and albums as external ids.

Differs  The dataset has no listeners and no times of streams: both are generated as described, from `source.seed`.
         Country, age and genre are null. In the Parquet form names and lengths are null too, and a track without a row
         in the map gets an artist and an album of its own. A playlist's rows are dated like its streams, so a cold
         listener's are excluded from training by the ordinary rule.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.event_buffer import DAY_US, EventBuffer, code, events, times
from jobs.ingest.ids import MADE, stable_ids
from jobs.ingest.mpd.slices import Slices, find_slices, read_slices
from jobs.ingest.write_tables import write_source
from jobs.platform.temp_dirs import temp_dir

if TYPE_CHECKING:
    from jobs.platform.context import Context

PAIRS, MAP = "playlist_track.parquet", "track_uri_map.parquet"
TRUTH_DAYS = 30
MAX_FIRST_DAY = 5
RUN = 5_000_000


@dataclass(frozen=True)
class Playlists:
    """The playlists of either form.

    Attributes:
        source: The file or folder, for errors.
        row: Playlist (n,) of each distinct pair of a playlist and a track.
        number: Track (n,) of each pair; the pairs are ordered by playlist, then by track.
        repeated: Number of repeated pairs.
        uris: The map of the Parquet form, or the slices.
    """

    source: Path
    row: np.ndarray
    number: np.ndarray
    repeated: int
    uris: pa.Table | Slices

    def track_ids(self, number: np.ndarray) -> np.ndarray:
        """Return the ids (n,) of tracks (n,)."""
        return self.uris.track_id[number] if isinstance(self.uris, Slices) else number

    def tracks(self, number: np.ndarray) -> tuple[pa.Table, int]:
        """Return the table `tracks` of the numbers (N,) ascending, and how many have a known artist."""
        if not isinstance(self.uris, Slices):
            return track_table(number, self.uris)
        at = np.searchsorted(self.uris.tracks["track_id"].to_numpy(), self.track_ids(number))
        return self.uris.tracks.take(pa.array(at)), len(number)

    def titles(self, playlist_id: np.ndarray) -> pa.Array:
        """Return the titles (n,) of playlists (n,)."""
        if not isinstance(self.uris, Slices):
            return pa.nulls(len(playlist_id), pa.string())
        at = np.searchsorted(self.uris.titles["playlist_id"].to_numpy(), playlist_id)
        return self.uris.titles["title"].combine_chunks().take(pa.array(at))


def read(data: Path, max_bad_share: float) -> Playlists:
    """Return the playlists of the form that is in the folder.

    Raises:
        BadArgument: The folder has the files of both forms, or of neither.
        CheckFailed: A file is damaged, or too many rows of slices are bad.
    """
    slices = find_slices(data)
    if not slices:
        row, number, repeated = read_pairs(data / PAIRS)
        return Playlists(data / PAIRS, row, number, repeated, read_map(data / MAP))
    for name in (PAIRS, MAP):
        if (data / name).exists():
            raise BadArgument(
                f"--data: {data} has both forms of the dataset, {slices[0].name} and {name}; remove one of them"
            )
    content = read_slices(slices, max_bad_share)
    return Playlists(data, *distinct_pairs(content.row, content.number), content)


def run(context: Context, data: Path | None) -> dict[str, Any]:
    """Write the task of the settings' week; return rows, paths, and who was dropped."""
    if data is None:
        raise BadArgument(f"--data: mpd needs the folder with mpd.slice.*.json, or with {PAIRS} and {MAP}")
    source, week = context.settings.source, context.week
    window_days = context.settings.matrix.window_days
    window_start = week.window_start(window_days)
    warm_days = days_between(window_start, week.cohort_start)
    settled = days_between(window_start, week.as_of) - TRUTH_DAYS - 1
    if min(warm_days, settled) < 1:
        raise BadArgument(
            f"matrix.window_days: {window_days} leaves warm listeners no day to register before "
            "the cohort and 31 days before as_of; use at least 38"
        )
    content = read(data, source.max_bad_share)
    track = content.number
    playlist, member = np.unique(content.row, return_inverse=True)
    rng = np.random.default_rng(np.random.SeedSequence((source.seed, 3)))
    # The catalogue: by the number of warm playlists with the track, then by the track's number.
    n_warm = len(playlist) * 3 // 4
    warm = member < n_warm
    number, count = np.unique(track[warm], return_counts=True)
    catalogue = number[np.lexsort((number, -count))][: source.catalogue_tracks]
    known = np.isin(track, catalogue)
    size = np.bincount(member[known], minlength=len(playlist))
    kept = (np.arange(len(playlist)) < n_warm) | (size >= source.min_playlist_tracks)
    if not kept[n_warm:].any():
        raise CheckFailed(
            f"{content.source}: no playlist of the last quarter has {source.min_playlist_tracks} catalogue tracks; "
            "lower source.min_playlist_tracks or bring more playlists"
        )
    registered = registrations(
        np.arange(len(playlist)) < n_warm,
        microseconds(window_start),
        min(warm_days, settled),
        microseconds(week.cohort_start),
        days_between(week.cohort_start, week.cohort_end),
        rng,
    )
    ts = stream_times(member, known, registered, rng)
    inside = kept[member]
    member, track, ts = member[inside], track[inside], ts[inside]
    order = np.lexsort((track, ts, member))
    member, track, ts = member[order], track[order], ts[order]
    with temp_dir(context, "ingest") as folder:
        log = EventBuffer(folder, "events")
        for first in range(0, len(ts), RUN):
            part = slice(first, first + RUN)
            track_id = content.track_ids(track[part])
            log.add(ts[part] // DAY_US, events(playlist[member[part]], ts[part], code("stream", "track"), track_id))
        tracks, named = content.tracks(np.unique(track))
        return write_source(
            context,
            users=user_table(playlist[kept], registered[kept]),
            tracks=tracks,
            playlists=collections(content, playlist[member], track, ts),
            events=log,
            bad={"playlists": content.uris.bad} if isinstance(content.uris, Slices) else {},
            facts={
                "source": "mpd",
                "week": str(week),
                "warm": n_warm,
                "cold": int(kept[n_warm:].sum()),
                "cold_left_out": int((~kept).sum()),
                "catalogue": len(catalogue),
                "pairs_repeated": content.repeated,
                "tracks_with_known_artist": named,
                **(content.uris.facts if isinstance(content.uris, Slices) else {}),
            },
        )


def registrations(
    warm: np.ndarray, window_us: int, warm_days: int, cohort_us: int, cohort_days: int, rng: np.random.Generator
) -> np.ndarray:
    """Return registration times (U,), microseconds: random days of the warm and the cold window, before 22:00."""
    n = len(warm)
    day = (rng.random(n) * np.where(warm, warm_days, cohort_days)).astype(np.int64)
    midnight = np.where(warm, window_us, cohort_us) + day * DAY_US
    return np.add(midnight, rng.integers(0, 22 * 3600, n) * 1_000_000)


def stream_times(member: np.ndarray, known: np.ndarray, registered: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the time (n,) at which each track of a listener (n,) is streamed.

    The 1 to 5 first-day tracks are drawn at random, catalogue tracks (`known`, (n,) bool) before all others.
    """
    n, n_users = len(member), len(registered)
    first = rng.integers(1, MAX_FIRST_DAY + 1, n_users)
    order = np.lexsort((rng.random(n), ~known, member))
    starts = np.searchsorted(member[order], np.arange(n_users))
    place = np.empty(n, np.int64)
    place[order] = np.arange(n) - starts[member[order]]
    at = np.take(registered, member)
    soon = at + (60 + 300 * place + rng.integers(0, 240, n)) * 1_000_000
    later = (at // DAY_US + rng.integers(1, TRUTH_DAYS + 1, n)) * DAY_US + rng.integers(0, 86_400, n) * 1_000_000
    return np.where(place < first[member], soon, later)


def user_table(user_id: np.ndarray, registered: np.ndarray) -> pa.Table:
    """Return the table `users`; country and age are unknown."""
    n = len(user_id)
    return pa.table(
        {
            "user_id": pa.array(user_id),
            "country": pa.nulls(n, pa.string()),
            "age": pa.nulls(n, pa.int32()),
            "registered_at": times(registered),
        }
    )


def track_table(track: np.ndarray, uris: pa.Table) -> tuple[pa.Table, int]:
    """Return the table `tracks` of the numbers (N,) ascending, and how many have a known artist."""
    at = np.searchsorted(uris["track"].to_numpy(), track)
    at = np.minimum(at, max(0, uris.num_rows - 1))
    named = uris["track"].to_numpy()[at] == track if uris.num_rows else np.zeros(len(track), bool)
    columns: dict[str, pa.Array] = {"track_id": pa.array(track)}
    for name in ("artist", "album"):
        entity_id = MADE + track
        entity_id[named] = stable_ids(uris[f"{name}_uri"].take(pa.array(at[named])))
        columns[f"{name}_id"] = pa.array(entity_id)
    empty = {"genre": pa.string(), "duration_s": pa.int32(), "release_date": pa.date32(), "title": pa.string()}
    columns |= {name: pa.nulls(len(track), kind) for name, kind in (empty | {"artist_name": pa.string()}).items()}
    return pa.table(columns), int(named.sum())


def collections(
    content: Playlists, playlist_id: np.ndarray, track: np.ndarray, ts: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Yield rows of the table `playlists`: each listener's tracks in the order in which they were streamed.

    Args:
        content: The playlists.
        playlist_id: Playlist (n,) of each stream, ascending.
        track: Number (n,) of its track.
        ts: Its time (n,), microseconds, ascending within a playlist.
    """
    position = np.arange(len(ts)) - np.searchsorted(playlist_id, playlist_id)
    for first in range(0, len(ts), RUN):
        part = slice(first, first + RUN)
        yield pa.record_batch(
            {
                "playlist_id": pa.array(playlist_id[part]),
                "position": pa.array(position[part].astype(np.int32)),
                "track_id": pa.array(content.track_ids(track[part])),
                "user_id": pa.array(playlist_id[part]),
                "added_at": times(ts[part]),
                "title": content.titles(playlist_id[part]),
                "public": pa.array(np.ones(len(ts[part]), bool)),
            }
        )


def read_pairs(file: Path) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the columns row and track (n,) int64 without repeats, ordered, and the number of repeats."""
    table = read_columns(file, {"row": "integer", "track": "integer"})
    row, track = (table[name].to_numpy().astype(np.int64) for name in ("row", "track"))
    if not len(row):
        raise CheckFailed(f"{file}: has no rows")
    for name, values in (("row", row), ("track", track)):
        if values.min() < 0 or values.max() >= MADE:
            raise CheckFailed(f"{file}: column '{name}' must be 0 or more, found {values.min()} to {values.max()}")
    return distinct_pairs(row, track)


def distinct_pairs(row: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the pairs (n,) without repeats, ordered, and the number of repeats."""
    order = np.lexsort((track, row))
    row, track = row[order], track[order]
    new = np.concatenate([[True], (row[1:] != row[:-1]) | (track[1:] != track[:-1])])
    return row[new], track[new], int((~new).sum())


def read_map(file: Path) -> pa.Table:
    """Return track, artist_uri, album_uri, one row per track, ascending; of repeated tracks the first row is used."""
    table = read_columns(file, {"track": "integer", "artist_uri": "text", "album_uri": "text"})
    _, once = np.unique(table["track"].to_numpy(), return_index=True)
    return table.take(pa.array(once))


def read_columns(file: Path, wanted: dict[str, str]) -> pa.Table:
    """Return the named columns without nulls; an error names the file and the column."""
    if not file.is_file():
        raise BadArgument(
            f"{file}: no such file; the folder of --data must contain mpd.slice.*.json, or {PAIRS} and {MAP}"
        )
    try:
        source = pq.ParquetFile(file)
        missing = [name for name in wanted if name not in source.schema_arrow.names]
        if missing:
            raise CheckFailed(
                f"{file}: column '{missing[0]}' is missing; found {', '.join(source.schema_arrow.names)}, "
                f"needed {', '.join(wanted)}"
            )
        table = source.read(columns=list(wanted))
    except (pa.ArrowException, OSError) as error:
        raise CheckFailed(f"{file}: cannot be read as Parquet, possibly truncated: {error}") from None
    for name, kind in wanted.items():
        column = table[name]
        is_kind = pa.types.is_integer if kind == "integer" else _is_text
        if not is_kind(column.type):
            raise CheckFailed(f"{file}: column '{name}' must be {kind}, found {column.type}")
        if column.null_count:
            raise CheckFailed(f"{file}: column '{name}' has {column.null_count} nulls; none are allowed")
    return table


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def days_between(start: datetime, end: datetime) -> int:
    """Return the number of whole days from start to end."""
    return (end - start).days


def microseconds(moment: datetime) -> int:
    """Return a time as microseconds since 1970."""
    return round(moment.timestamp()) * 1_000_000
