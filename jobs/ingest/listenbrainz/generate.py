"""`overture make-listenbrainz`: made-up listens and feedback in the format of the ListenBrainz dumps, of any size.

Output   OUT/listens/<year>/<month>.listens                        JSON lines, one listen each
         OUT/feedback/listens/<year>/<month>/<day>/data.json       JSON lines: love and hate of recordings

The listeners are those of the source `simulate`, under names: their streams are listens, their favorites and bans of
tracks are feedback. Some tracks have a mapped MBID, some one that the client sent, some none. Equal options give equal
files. Odd rows are a small share, below `source.max_bad_share`: a listen of 1970, one without a name, and a torn line;
some listens are repeated, and some feedback was taken back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jobs.ingest.made_up import new_folder, simulated_lake
from jobs.ingest.tables.generate import uuids
from jobs.platform.lake import Lake

ODD_EVERY = 2_000  # one odd row of each kind in so many listens
REPEAT_EVERY, TAKEN_BACK_EVERY = 500, 50
SCORES = {"favorite": 1, "ban": -1}


@dataclass(frozen=True)
class ListenBrainzOptions:
    """Sizes of the made-up dump.

    Attributes:
        users: Number of listeners.
        tracks: Number of tracks.
        first_day: First day with events.
        last_day: Last day with events, included.
        seed: Random seed.
    """

    users: int = 3_000
    tracks: int = 2_000
    first_day: str = "2026-06-29"
    last_day: str = "2026-11-22"
    seed: int = 7


def run(out: Path, options: ListenBrainzOptions) -> dict[str, Any]:
    """Write the files; return their numbers of rows.

    Raises:
        BadArgument: The folder contains files.
    """
    new_folder(out)
    sizes = {
        "n_users": options.users,
        "n_tracks": options.tracks,
        "n_playlists": 1,
        "first_day": options.first_day,
        "last_day": options.last_day,
        "seed": options.seed,
    }
    with simulated_lake(out, sizes) as lake:
        rows = write_days(out, lake, options.seed)
    return {"out": str(out), "made_up": True, "seed": options.seed, "rows": rows}


def metadata_of_tracks(lake: Lake) -> dict[int, tuple[str, dict[str, Any]]]:
    """Return the MSID and the `track_metadata` of each track."""
    tracks = lake.read("tracks").sort_by("track_id")
    ids = tracks["track_id"].to_numpy()
    msids, mbids = uuids("msid", ids), uuids("recording", ids)
    artists = uuids("artist", tracks["artist_id"].to_numpy())
    releases = uuids("release", tracks["album_id"].to_numpy())
    metadata = {}
    for n, row in enumerate(tracks.to_pylist()):
        info = {"recording_msid": msids[n], "submission_client": "made up"}
        if row["duration_s"] is not None:
            info["duration_ms"] = row["duration_s"] * 1000
        track: dict[str, Any] = {
            "artist_name": row["artist_name"] or f"Artist {row['artist_id']}",
            "track_name": row["title"] or f"Track {row['track_id']}",
            "release_name": f"Album {row['album_id']}",
            "additional_info": info,
        }
        known = {"recording_mbid": mbids[n], "artist_mbids": [artists[n]], "release_mbid": releases[n]}
        if row["track_id"] % 7 > 2:
            track["mbid_mapping"] = known
        elif row["track_id"] % 7 > 0:
            track["additional_info"] = info | known
        metadata[row["track_id"]] = (msids[n], track)
    return metadata


def write_days(out: Path, lake: Lake, seed: int) -> dict[str, int]:
    """Write all days; return the numbers of listens, feedback, repeated and odd rows."""
    rng = np.random.default_rng(np.random.SeedSequence((seed, 73)))
    metadata = metadata_of_tracks(lake)
    counts = dict.fromkeys(("listens", "repeated", "odd", "feedback", "taken_back"), 0)
    for partition in lake.partitions("events"):
        day = partition["day"]
        year, month, number = (int(part) for part in day.split("-"))
        events = lake.read("events", day=day).sort_by([("ts", "ascending"), ("user_id", "ascending")]).to_pylist()
        listens, feedback = [], []
        for event, draw in zip(events, rng.random(len(events)).tolist(), strict=True):
            if event["entity"] != "track" or event["kind"] not in ("stream", *SCORES):
                continue
            msid, track = metadata[event["entity_id"]]
            who = {"user_id": event["user_id"], "user_name": f"listener_{event['user_id']}"}
            if event["kind"] in SCORES:
                score = SCORES[event["kind"]] if draw > 1 / TAKEN_BACK_EVERY else 0
                counts["taken_back"] += score == 0
                row = {"user_name": who["user_name"], "recording_msid": msid, "feedback": score}
                feedback.append(json.dumps(row | {"created": event["ts"].isoformat()}))
                continue
            if event["listened_s"] is not None:
                played = {"duration_played": event["listened_s"]}
                track = track | {"additional_info": track["additional_info"] | played}
            row = who | {"timestamp": int(event["ts"].timestamp()), "track_metadata": track, "recording_msid": msid}
            listens.append(json.dumps(row))
            if draw < 1 / REPEAT_EVERY:
                listens.append(listens[-1])
                counts["repeated"] += 1
            elif draw > 1 - 1 / ODD_EVERY:
                nameless = json.dumps(row | {"track_metadata": track | {"track_name": " "}})
                odd = [json.dumps(row | {"timestamp": 0}), nameless, listens[-1][:99]]
                listens += odd
                counts["odd"] += len(odd)
        counts["listens"] += len(listens)
        counts["feedback"] += len(feedback)
        _append(out / "listens" / str(year) / f"{month}.listens", listens)
        _append(out / "feedback" / "listens" / str(year) / f"{month:02}" / f"{number:02}" / "data.json", feedback)
    return counts


def _append(file: Path, lines: list[str]) -> None:
    if lines:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as target:
            target.writelines(f"{line}\n" for line in lines)
