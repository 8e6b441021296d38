"""`overture make-tables`: made-up files of a service of its own, in the forms that services have.

Output   OUT/accounts.csv.gz                      listeners; a field with a newline, and odd rows
         OUT/catalogue/part-*.parquet             tracks
         OUT/playlists.jsonl.gz                   playlists, private ones among them
         OUT/listens/day=YYYY-MM-DD/part-0.jsonl  events, with late rows and odd rows
         OUT/overture.yaml                        settings with the mapping

The listeners are those of the source `simulate`, under UUIDs and other column names. Equal options give equal files.
Odd rows are a small share, below `source.max_bad_share`: an unknown country, an impossible birth year, an empty id, a
time of 1970, a track that does not exist, a NaN, a text instead of a number, and a torn last line.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ingest.made_up import new_folder, simulated_lake
from jobs.ingest.tables.example_settings import example_settings
from jobs.platform.lake import Lake

ODD_EVERY = 2_000  # one odd row of each kind in so many rows
LATE_EVERY = 500
PARTS = 2


@dataclass(frozen=True)
class TablesOptions:
    """Sizes of the made-up service.

    Attributes:
        users: Number of listeners.
        tracks: Number of tracks.
        playlists: Number of playlists.
        first_day: First day with events.
        last_day: Last day with events, included.
        seed: Random seed.
    """

    users: int = 10_000
    tracks: int = 4_000
    playlists: int = 4_000
    first_day: str = "2026-06-29"
    last_day: str = "2026-11-22"
    seed: int = 7


def run(out: Path, options: TablesOptions) -> dict[str, Any]:
    """Write the files; return their numbers.

    Raises:
        BadArgument: The folder contains files.
    """
    new_folder(out)
    sizes = {
        "n_users": options.users,
        "n_tracks": options.tracks,
        "n_playlists": options.playlists,
        "first_day": options.first_day,
        "last_day": options.last_day,
        "seed": options.seed,
    }
    with simulated_lake(out, sizes) as lake:
        report = {
            "accounts": write_accounts(out, lake, options.seed),
            "catalogue": write_catalogue(out, lake),
            "playlists": write_playlists(out, lake),
            **write_listens(out, lake, options.seed),
        }
    (out / "overture.yaml").write_text(example_settings(options.users, options.tracks))
    return {"source": "tables", "path": str(out), "rows": report}


def uuids(kind: str, ids: np.ndarray) -> np.ndarray:
    """Return a UUID (n,) for each id (n,), the same in every file."""
    unique, index = np.unique(ids, return_inverse=True)
    texts = [str(uuid.UUID(bytes=hashlib.md5(f"{kind}{i}".encode()).digest(), version=4)) for i in unique.tolist()]
    return np.array(texts, object)[index]


def write_accounts(out: Path, lake: Lake, seed: int) -> int:
    """Write the listeners as gzip-compressed CSV; return the number of rows."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 61)))
    users = lake.read("users").sort_by("user_id")
    ids = uuids("user", users["user_id"].to_numpy())
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["account_uuid", "country", "birth_year", "created", "about"])
    columns = zip(
        ids, users["country"].to_pylist(), users["age"].to_pylist(), users["registered_at"].to_pylist(), strict=True
    )
    for n, (account, country, age, created) in enumerate(columns):
        about = "likes\nlong songs" if n % 100 == 0 else ('prefers "soft" songs, often' if n % 100 == 1 else "")
        born = "" if age is None else created.year - age
        writer.writerow([account, (country or "").lower(), born, created.isoformat(), about])
        if rng.random() < 1 / ODD_EVERY:
            odd = str(uuid.UUID(int=n))
            writer.writerows(
                [[odd, "zz", born, created.isoformat(), ""], [odd[:-1] + "x", "de", 1850, created.isoformat(), ""]]
            )
            writer.writerow(["", "fr", 1990, created.isoformat(), "without an id"])
    _write_gzip(out / "accounts.csv.gz", text.getvalue())
    return int(users.num_rows)


def write_catalogue(out: Path, lake: Lake) -> int:
    """Write the tracks as Parquet; return the number of rows."""
    tracks = lake.read("tracks").sort_by("track_id")
    seconds = tracks["duration_s"].to_pylist()
    table = pa.table(
        {
            "uuid": pa.array(uuids("track", tracks["track_id"].to_numpy())),
            "artist_uuid": pa.array(uuids("artist", tracks["artist_id"].to_numpy())),
            "album_uuid": pa.array(uuids("album", tracks["album_id"].to_numpy())),
            "style": tracks["genre"],
            "length_ms": pa.array([None if s is None else s * 1000 for s in seconds], pa.int64()),
            "released": tracks["release_date"],
            "name": tracks["title"],
            "performer": tracks["artist_name"],
            "explicit": pa.array([n % 9 == 0 for n in tracks["track_id"].to_pylist()]),
            "isrc": pa.array([f"ZZ{n % 10**10:010d}" for n in tracks["track_id"].to_pylist()]),
            "markets": pa.array(
                [["DE", "FR", "BR"] if n % 50 == 0 else None for n in tracks["track_id"].to_pylist()],
                pa.list_(pa.string()),
            ),
        }
    )
    folder = out / "catalogue"
    folder.mkdir()
    size = -(-table.num_rows // PARTS)
    for n in range(PARTS):
        pq.write_table(table.slice(n * size, size), folder / f"part-{n}.parquet")
    return int(table.num_rows)


def write_playlists(out: Path, lake: Lake) -> int:
    """Write the playlists as JSON lines, one track a line; a third of the owned ones is private."""
    rows = lake.read("playlists").sort_by([("playlist_id", "ascending"), ("position", "ascending")])
    playlist = rows["playlist_id"].to_numpy()
    lists, tracks = uuids("playlist", playlist), uuids("track", rows["track_id"].to_numpy())
    owners = rows["user_id"].to_pylist()
    known = {o: u for o in {o for o in owners if o is not None} for u in uuids("user", np.array([o]))}
    columns = zip(
        lists,
        playlist.tolist(),
        rows["position"].to_pylist(),
        tracks,
        owners,
        rows["added_at"].to_pylist(),
        strict=True,
    )
    lines = [
        json.dumps(
            {
                "playlist": name,
                "owner": known.get(owner),
                "public": owner is None or number % 3 != 0,
                "title": f"Playlist {number % 10_000}",
                "pos": position,
                "track": track,
                "added": int(added.timestamp() * 1000),
            }
        )
        for name, number, position, track, owner, added in columns
    ]
    _write_gzip(out / "playlists.jsonl.gz", "\n".join(lines) + "\n")
    return len(lines)


def write_listens(out: Path, lake: Lake, seed: int) -> dict[str, int]:
    """Write the events as JSON lines by day; return the numbers of events, late ones and odd rows."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 62)))
    late: list[str] = []
    n_events = n_late = n_odd = 0
    days = [partition["day"] for partition in lake.partitions("events")]
    for day in days:
        events = lake.read("events", day=day).sort_by([("ts", "ascending"), ("user_id", "ascending")])
        lines, held = late, []
        users, times = uuids("user", events["user_id"].to_numpy()), events["ts"].to_pylist()
        kinds, entities = events["kind"].to_pylist(), events["entity"].to_pylist()
        ids = events["entity_id"].to_numpy()
        items = np.empty(len(ids), object)
        for entity in set(entities):
            at = np.flatnonzero(np.array(entities) == entity)
            items[at] = uuids(entity, ids[at])
        seconds = events["listened_s"].to_pylist()
        draws = rng.random(len(ids))
        for n in range(len(ids)):
            row = {
                "listener": users[n],
                "at": times[n].isoformat(),
                "action": kinds[n],
                "type": entities[n],
                "item": items[n],
            }
            if seconds[n] is not None:
                row["seconds"] = seconds[n]
            if draws[n] < 1 / LATE_EVERY and day != days[-1]:
                held.append(json.dumps(row))
                continue
            lines.append(json.dumps(row))
            if draws[n] > 1 - 1 / ODD_EVERY:
                lines += _odd_rows(row)
                n_odd += 3
        torn = rng.random() < 0.05
        text = "\n".join(lines) + "\n" + (lines[-1][: len(lines[-1]) // 2] if torn and lines else "")
        folder = out / "listens" / f"day={day}"
        folder.mkdir(parents=True)
        (folder / "part-0.jsonl").write_text(text)
        n_events, n_late, n_odd, late = n_events + len(ids), n_late + len(held), n_odd + torn, held
    return {"listens": n_events, "late": n_late, "odd": n_odd}


def _odd_rows(row: dict[str, Any]) -> list[str]:
    return [
        json.dumps(row | {"at": "1970-01-01T00:00:00+00:00"}),
        json.dumps(row | {"type": "track", "action": "stream", "item": str(uuid.UUID(int=1))}),
        json.dumps(row | {"seconds": float("nan")}),
    ]


def _write_gzip(path: Path, text: str) -> None:
    with path.open("wb") as sink, gzip.GzipFile("", "wb", fileobj=sink, mtime=0) as packed:
        packed.write(text.encode())
