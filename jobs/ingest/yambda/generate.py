"""`overture make-yambda`: made-up files in the format of the Yambda dataset.

Input    none; numbers of listeners and tracks, and seed
Output   OUT/artist_item_mapping.parquet, OUT/album_item_mapping.parquet, OUT/flat/made_up/*.parquet
Time     seconds in steps of 5 since ORIGIN, the default of source.time_origin; the last day is day 300, as published
Seed     equal options give equal rows
Memory   all listens, about 60 bytes each

The listeners and their taste are those of the source `simulate`: its streams are listens of 60 % or more of a track,
its skips shorter ones. Recommended tracks that are skipped are added, so that the skip engine has a signal: each
listener has a rate of such skips, and some tracks are skipped far more often than others. A share of the likes and
dislikes is taken back, some on the same day. One track in UNMAPPED_EVERY has no album and no artist.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ingest.made_up import new_folder, simulated_lake
from jobs.ingest.yambda.files import DAY_S, EVENT
from jobs.platform.lake import Lake

ORIGIN = int(datetime(2026, 1, 26, tzinfo=UTC).timestamp())
FIRST_DAY, LAST_DAY = "2026-06-29", "2026-11-22"
BASE = 10**12  # ids of the simulation are above a multiple of it
STEP_S = 5
UNMAPPED_EVERY = 250
SKIPS, SKIP_SPREAD = 0.35, 1.0  # added skips per stream; log-normal spread of tracks and of listeners
RECOMMENDED, TAKEN_BACK, REPLAYED = 0.45, 0.3, 0.005
TYPES = {
    "uid": pa.uint32(),
    "timestamp": pa.uint32(),
    "item_id": pa.uint32(),
    "is_organic": pa.uint8(),
    "played_ratio_pct": pa.uint16(),
    "track_length_seconds": pa.uint32(),
    "artist_id": pa.uint32(),
    "album_id": pa.uint32(),
}


def run(out: Path, users: int = 10_000, tracks: int = 4_000, seed: int = 7) -> dict[str, Any]:
    """Write the files; return their folder and numbers of rows.

    Args:
        out: Folder to write to.
        users: Number of listeners.
        tracks: Number of tracks.
        seed: Seed of all draws.

    Raises:
        BadArgument: The folder contains files.
    """
    new_folder(out)
    size = out / "flat" / "made_up"
    size.mkdir(parents=True)
    sizes = {"n_users": users, "n_tracks": tracks, "n_playlists": tracks, "seed": seed}
    with simulated_lake(out, sizes | {"first_day": FIRST_DAY, "last_day": LAST_DAY}) as lake:
        catalogue = lake.read("tracks").sort_by("track_id")
        events = read_events(lake)
    rng = np.random.default_rng(np.random.SeedSequence((seed, 71)))
    length_T = catalogue["duration_s"].fill_null(200).to_numpy().astype(np.int64) // STEP_S * STEP_S
    item_T = catalogue["track_id"].to_numpy() % BASE
    rows = {}
    for kind in ("artist", "album"):
        known = item_T % UNMAPPED_EVERY != 0
        columns = {f"{kind}_id": catalogue[f"{kind}_id"].to_numpy()[known] % BASE, "item_id": item_T[known]}
        rows[f"{kind}_item_mapping"] = write(out / f"{kind}_item_mapping.parquet", columns)
    index = np.searchsorted(item_T, events["item_id"])
    is_listen = np.isin(events["kind"], ("stream", "skip"))
    listens = {name: values[is_listen] for name, values in events.items()}
    rows["listens"] = write(size / "listens.parquet", draw_listens(listens, index[is_listen], item_T, length_T, rng))
    for given, removed, kind in (("likes", "unlikes", "favorite"), ("dislikes", "undislikes", "ban")):
        of_kind = events["kind"] == kind
        reactions = {name: events[name][of_kind] for name in EVENT[:3]}
        reactions["is_organic"] = (rng.random(int(of_kind.sum())) >= RECOMMENDED).astype(np.int64)
        rows[given] = write(size / f"{given}.parquet", reactions)
        rows[removed] = write(size / f"{removed}.parquet", draw_removals(reactions, rng))
    return {"out": str(out), "made_up": True, "seed": seed, "rows": rows}


def read_events(lake: Lake) -> dict[str, np.ndarray]:
    """Return kind, uid, timestamp, item_id (n,) of all events of tracks that the dataset has."""
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("kind", *EVENT[:3])}
    for partition in lake.partitions("events"):
        day = lake.read("events", columns=["kind", "entity", "user_id", "ts", "entity_id"], **partition)
        day = day.sort_by([(name, "ascending") for name in ("user_id", "ts", "kind", "entity_id")])
        kind = np.array(day["kind"].to_pylist())
        used = (np.array(day["entity"].to_pylist()) == "track") & np.isin(kind, ("stream", "skip", "favorite", "ban"))
        seconds = day["ts"].cast(pa.int64()).to_numpy() // 1_000_000 - ORIGIN
        parts["kind"].append(kind[used])
        parts["uid"].append(day["user_id"].to_numpy()[used])
        parts["timestamp"].append(seconds[used] // STEP_S * STEP_S)
        parts["item_id"].append(day["entity_id"].to_numpy()[used] % BASE)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def draw_listens(
    listens: dict[str, np.ndarray],
    index: np.ndarray,
    item_T: np.ndarray,
    length_T: np.ndarray,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Return the columns of listens: the simulated ones and added skips.

    Args:
        listens: kind, uid, timestamp, item_id (n,) of the simulated streams and skips.
        index: Position (n,) of each listen's track in the catalogue.
        item_T: Ids of the tracks, ascending.
        length_T: Lengths of the tracks in seconds.
        rng: Source of the draws.
    """
    is_stream = listens["kind"] == "stream"
    user, of_user = np.unique(listens["uid"], return_inverse=True)
    rate_U = SKIPS * rng.lognormal(-(SKIP_SPREAD**2) / 2, SKIP_SPREAD, len(user))
    weight_T = np.bincount(index, minlength=len(item_T)) * rng.lognormal(0, SKIP_SPREAD, len(item_T))
    n_added = rng.poisson(rate_U[of_user] * is_stream)
    at = np.repeat(np.arange(len(index)), n_added)
    added = rng.choice(len(item_T), len(at), p=weight_T / weight_T.sum())
    n, total = len(index), len(index) + len(at)
    track = np.concatenate([index, added])
    ratio = np.concatenate([np.where(is_stream, rng.integers(60, 101, n), rng.integers(0, 50, n)), np.zeros(len(at))])
    ratio[:n][is_stream & (rng.random(n) < 0.7)] = 100
    ratio[:n][is_stream & (rng.random(n) < REPLAYED)] = 130
    ratio[n:] = rng.integers(0, 50, len(at))
    organic = rng.random(total) >= RECOMMENDED
    organic[n:] = False
    # Skips come up to a minute after the stream, on the same day.
    ts = listens["timestamp"]
    later = np.minimum(ts[at] + STEP_S * rng.integers(1, 13, len(at)), ts[at] // DAY_S * DAY_S + DAY_S - STEP_S)
    return {
        "uid": np.concatenate([listens["uid"], listens["uid"][at]]),
        "timestamp": np.concatenate([ts, later]),
        "item_id": item_T[track],
        "is_organic": organic.astype(np.int64),
        "played_ratio_pct": ratio.astype(np.int64),
        "track_length_seconds": length_T[track],
    }


def draw_removals(reactions: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Return the columns of unlikes or undislikes: a share of the reactions, minutes to weeks later."""
    chosen = np.flatnonzero(rng.random(len(reactions["uid"])) < TAKEN_BACK)
    last = int(reactions["timestamp"].max(initial=0))
    delay = np.exp(rng.uniform(np.log(60), np.log(30 * DAY_S), len(chosen))).astype(np.int64) // STEP_S * STEP_S
    removed = {name: values[chosen] for name, values in reactions.items()}
    removed["timestamp"] = removed["timestamp"] + delay
    removed["is_organic"] = np.ones(len(chosen), np.int64)
    return {name: values[removed["timestamp"] <= last] for name, values in removed.items()}


def write(file: Path, columns: dict[str, np.ndarray]) -> int:
    """Write columns with the dataset's types, events sorted by uid and time; return the rows."""
    order = ("uid", "timestamp", "item_id") if "uid" in columns else tuple(columns)
    rows = np.lexsort([columns[name] for name in reversed(order)])
    pq.write_table(pa.table({name: pa.array(values[rows], TYPES[name]) for name, values in columns.items()}), file)
    return len(rows)
