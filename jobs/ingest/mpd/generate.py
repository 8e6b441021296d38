"""`overture make-mpd`: made-up playlists in the format of the Million Playlist Dataset, of any size.

Input    none; numbers of playlists and tracks, and a seed
Output   OUT/mpd.slice.<first>-<last>.json, 1 000 playlists each
Seed     equal options give equal bytes
Memory   one slice, and the tracks

The fields are those of the page "The Million Playlist Dataset README" (recsys-challenge.spotify.com/readme); texts and
numbers are made up. A playlist contains mostly tracks of one style, the popular ones more often. Odd rows are a small
share, below `source.max_bad_share`: a repeated track, a row without `track_uri`, an empty title, a duration of -1.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from jobs.ingest.made_up import new_folder
from jobs.platform.progress import progress

SLICE = 1_000
STYLES = 20
ARTIST_TRACKS, ALBUM_TRACKS = 12, 6
STYLE_SHARE = 0.85
MEAN_LENGTH, MAX_LENGTH = 60, 250
ODD_EVERY = 2_000  # one odd row of each kind in so many rows
FIRST_EDIT, LAST_EDIT = 1_262_304_000, 1_509_408_000  # 2010-01-01 to 2017-10-31
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
STYLE_NAMES = ("calm", "loud", "summer", "road", "gym", "rain", "party", "focus", "old", "new")


@dataclass(frozen=True)
class MpdOptions:
    """Sizes of the made-up dataset.

    Attributes:
        playlists: Number of playlists.
        tracks: Number of tracks.
        seed: Random seed.
    """

    playlists: int = 4_000
    tracks: int = 3_000
    seed: int = 7


def run(out: Path, options: MpdOptions) -> dict[str, Any]:
    """Write the slices; return their number and the numbers of playlists, rows and odd rows.

    Raises:
        BadArgument: The folder contains files.
    """
    new_folder(out)
    rng = np.random.default_rng(np.random.SeedSequence((options.seed, 71)))
    tracks = make_tracks(options.tracks, rng)
    style = np.arange(options.tracks) % STYLES
    weight = 1 / (np.arange(options.tracks) + 20.0)
    by_style = [np.flatnonzero(style == s) for s in range(min(STYLES, options.tracks))]
    edges = [np.cumsum(weight[of_style]) for of_style in by_style]
    all_tracks, all_edges = np.arange(options.tracks), np.cumsum(weight)
    n_rows = n_odd = 0
    starts = range(0, options.playlists, SLICE)
    for first in progress(starts, len(starts), "make-mpd: slices"):
        last = min(first + SLICE, options.playlists) - 1
        playlists = []
        for pid in range(first, last + 1):
            length = min(max(int(rng.geometric(1 / MEAN_LENGTH)), 5), MAX_LENGTH)
            own = int(rng.integers(len(by_style)))
            in_style = rng.random(length) < STYLE_SHARE
            draws = rng.random(length)
            chosen = np.where(
                in_style,
                by_style[own][np.searchsorted(edges[own], draws * edges[own][-1])],
                all_tracks[np.searchsorted(all_edges, draws * all_edges[-1])],
            )
            _, once = np.unique(chosen, return_index=True)
            rows = [tracks[i] for i in chosen[np.sort(once)].tolist()]
            rows, odd = add_odd_rows(rows, rng)
            n_rows, n_odd = n_rows + len(rows), n_odd + odd
            playlists.append(make_playlist(pid, own, rows, rng))
        info = {"generated_on": "2017-12-01 00:00:00.000000", "slice": f"{first}-{last}", "version": "v1"}
        content = orjson.dumps({"info": info, "playlists": playlists}, option=orjson.OPT_INDENT_2)
        (out / f"mpd.slice.{first}-{last}.json").write_bytes(content)
    return {
        "out": str(out),
        "made_up": True,
        "seed": options.seed,
        "slices": len(starts),
        "rows": {"playlists": options.playlists, "playlist_rows": n_rows, "odd": n_odd},
    }


def make_tracks(n: int, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Return tracks of artists and albums, without a position."""
    tracks = []
    for i in range(n):
        artist = i % STYLES + STYLES * (i // (STYLES * ARTIST_TRACKS))
        album = f"{artist}/{i // STYLES % ARTIST_TRACKS // ALBUM_TRACKS}"
        tracks.append(
            {
                "artist_name": f"Artist {artist}",
                "track_uri": uri("track", i),
                "artist_uri": uri("artist", artist),
                "track_name": f"Track {i}",
                "album_uri": uri("album", album),
                "duration_ms": int(rng.integers(90_000, 420_000)) if i % 500 != 250 else -1,
                "album_name": f"Album {album}",
            }
        )
    return tracks


def make_playlist(pid: int, style: int, rows: list[dict[str, Any]], rng: np.random.Generator) -> dict[str, Any]:
    """Return one playlist with the fields of the format."""
    name = f"{STYLE_NAMES[style % len(STYLE_NAMES)]} {style}" if rng.random() > 1 / ODD_EVERY else ""
    modified = int(rng.integers(FIRST_EDIT, LAST_EDIT)) // 86_400 * 86_400
    return {
        "name": name,
        "collaborative": "true" if rng.random() < 0.02 else "false",
        "pid": pid,
        "modified_at": modified,
        "num_tracks": len(rows),
        "num_albums": len({row["album_uri"] for row in rows}),
        "num_followers": int(rng.geometric(0.6)),
        "num_edits": int(rng.geometric(0.1)),
        "num_artists": len({row["artist_uri"] for row in rows}),
        "duration_ms": sum(row["duration_ms"] for row in rows),
        "tracks": [{"pos": position, **row} for position, row in enumerate(rows)],
    }


def add_odd_rows(rows: list[dict[str, Any]], rng: np.random.Generator) -> tuple[list[dict[str, Any]], int]:
    """Return the rows with a few odd ones, and the number of odd ones."""
    changed = list(rows)
    for row, draw in zip(rows, rng.integers(0, ODD_EVERY, len(rows)).tolist(), strict=True):
        if draw == 0:
            changed.append(row)
        elif draw == 1:
            changed.append({key: value for key, value in row.items() if key != "track_uri"})
    return changed, len(changed) - len(rows)


def uri(kind: str, name: object) -> str:
    """Return a made-up URI: the kind and 22 letters and digits."""
    number = int.from_bytes(hashlib.md5(f"{kind} {name}".encode()).digest(), "big")
    letters = []
    for _ in range(22):
        number, letter = divmod(number, len(LETTERS))
        letters.append(LETTERS[letter])
    return f"spotify:{kind}:{''.join(letters)}"
