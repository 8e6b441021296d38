"""Measure ingestion of the source `tables`: a first load, an added day, and a run that finds nothing new.

The made-up service has one Parquet file of listens a day, accounts, a catalogue and playlists; all ids are UUIDs. Each
run is the command `overture ingest tables` in a process of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

import harness
from harness import Measurement

FIRST_DAY = date(2026, 8, 1)
SIZES = {False: (1_000_000, 50_000, 100_000_000, 100), True: (20_000, 2_000, 1_000_000, 10)}  # by --quick
LAW = 0.8  # popularity of tracks and activity of listeners: rank to the power -LAW
LISTENERS_PER_LIST, LIST_LENGTH = 10, 30
SAMPLE_S = 0.5
SETTINGS: dict[str, Any] = {
    "name": "ingest",
    "week": "2026-11-16",
    "spark": {"driver_memory": "4g"},
    "source": {
        "kind": "tables",
        "inputs": {
            "accounts": {"format": "parquet", "path": "{data}/accounts.parquet"},
            "catalogue": {"format": "parquet", "path": "{data}/catalogue.parquet"},
            "lists": {"format": "parquet", "path": "{data}/playlists.parquet"},
            "listens": {"format": "parquet", "path": "{data}/listens/day={day}/*.parquet"},
        },
        "tables": {
            "users": "SELECT account AS user_id, country, age, created AS registered_at FROM accounts",
            "tracks": "SELECT track AS track_id, artist AS artist_id, artist AS album_id FROM catalogue",
            "events": "SELECT account AS user_id, at AS ts, 'stream' AS kind, 'track' AS entity, track AS entity_id, "
            "seconds AS listened_s FROM listens",
            "playlists": "SELECT playlist AS playlist_id, position, track AS track_id, account AS user_id, "
            "added AS added_at, true AS public FROM lists",
        },
    },
}


def uuids(n: int, seed: int) -> pa.Array:
    """Return n random UUIDs as text."""
    digits = np.random.default_rng(seed).bytes(16 * n).hex()
    words = (digits[i : i + 32] for i in range(0, len(digits), 32))
    return pa.array([f"{w[:8]}-{w[8:12]}-{w[12:16]}-{w[16:20]}-{w[20:]}" for w in words])


def write_service(folder: Path, n_users: int, n_tracks: int) -> tuple[pa.Array, pa.Array]:
    """Write accounts and catalogue; return the ids of accounts and tracks."""
    rng = np.random.default_rng(1)
    accounts, tracks = uuids(n_users, 2), uuids(n_tracks, 3)
    artists = uuids(n_tracks // 10, 4)
    registered = np.datetime64(FIRST_DAY) + rng.integers(0, 100, n_users).astype("timedelta64[D]")
    pq.write_table(
        pa.table(
            {
                "account": accounts,
                "country": pa.array(np.array(["DE", "FR", "BR"])[rng.integers(0, 3, n_users)]),
                "age": pa.array(rng.integers(18, 70, n_users), pa.int32()),
                "created": pa.array(registered.astype("datetime64[us]"), pa.timestamp("us", "UTC")),
            }
        ),
        folder / "accounts.parquet",
    )
    artist = artists.take(pa.array(rng.integers(0, len(artists), n_tracks)))
    pq.write_table(pa.table({"track": tracks, "artist": artist}), folder / "catalogue.parquet")
    n_lists = n_users // LISTENERS_PER_LIST
    pq.write_table(
        pa.table(
            {
                "playlist": uuids(n_lists, 6).take(pa.array(np.repeat(np.arange(n_lists), LIST_LENGTH))),
                "position": pa.array(np.tile(np.arange(LIST_LENGTH), n_lists), pa.int32()),
                "track": tracks.take(pa.array(rng.integers(0, n_tracks, n_lists * LIST_LENGTH))),
                "account": accounts.take(pa.array(np.repeat(rng.integers(0, n_users, n_lists), LIST_LENGTH))),
                "added": pa.array(
                    np.full(n_lists * LIST_LENGTH, np.datetime64(FIRST_DAY, "us")), pa.timestamp("us", "UTC")
                ),
            }
        ),
        folder / "playlists.parquet",
    )
    return accounts, tracks


def write_day(folder: Path, n: int, accounts: pa.Array, tracks: pa.Array, n_events: int) -> None:
    """Write the listens of the n-th day."""
    rng = np.random.default_rng((5, n))
    day = FIRST_DAY + timedelta(days=n)
    target = folder / "listens" / f"day={day}"
    target.mkdir(parents=True)

    def draw(ids: pa.Array) -> pa.Array:
        edges = np.cumsum(np.arange(1, len(ids) + 1) ** -LAW)
        index = np.searchsorted(edges, rng.random(n_events) * edges[-1]).clip(max=len(ids) - 1)
        return pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), ids)

    seconds_of_day = np.sort(rng.integers(0, 86_400_000_000, n_events))
    at = np.datetime64(day, "us") + seconds_of_day.astype("timedelta64[us]")
    columns = {
        "account": draw(accounts),
        "at": pa.array(at, pa.timestamp("us", "UTC")),
        "track": draw(tracks),
        "seconds": pa.array(rng.integers(31, 400, n_events), pa.int32()),
    }
    pq.write_table(pa.table(columns), target / "part-0.parquet", compression="zstd")


def ingest(folder: Path) -> tuple[float, dict[str, float], dict[str, Any]]:
    """Run the command; return its seconds, the peak memory of each kind of process in MiB, and its report."""
    command = [sys.executable, "-m", "jobs.cli.main", "ingest", "tables", "--data", str(folder)]
    environment = {**os.environ, "OVERTURE_HOME": str(folder / "home")}
    peaks: dict[str, float] = {}
    done = threading.Event()
    clock = harness.stopwatch()
    process = subprocess.Popen(
        [*command, "--config", str(folder / "settings.yaml")],
        env=environment,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
        text=True,
    )

    def sample() -> None:
        while not done.wait(SAMPLE_S):
            with suppress(psutil.NoSuchProcess):
                for one in (tree := psutil.Process(process.pid), *tree.children(recursive=True)):
                    with suppress(psutil.NoSuchProcess):
                        memory, kind = one.memory_info(), "java" if "java" in one.name() else "python"
                        peaks[kind] = max(peaks.get(kind, 0.0), (memory.rss - memory.shared) / 2**20)

    sampler = threading.Thread(target=sample)
    sampler.start()
    output, _ = process.communicate()
    seconds = clock()
    done.set()
    sampler.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, peaks, json.loads(output.splitlines()[-1])


def main() -> None:
    """Measure the three runs."""
    arguments = harness.parse_arguments("ingest", __doc__ or "")
    n_users, n_tracks, n_events, n_days = SIZES[arguments.quick]
    cases = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "settings.yaml").write_text(yaml.safe_dump(SETTINGS))
        harness.log(f"ingest: writing {n_events} events of {n_users} listeners")
        accounts, tracks = write_service(folder, n_users, n_tracks)
        for day in range(n_days):
            write_day(folder, day, accounts, tracks, n_events // n_days)
        minutes = {}
        for case, rows in (("first load", n_events), ("a day added", n_events // n_days), ("nothing new", 0)):
            if case == "a day added":
                write_day(folder, n_days, accounts, tracks, rows)
            seconds, peaks, report = ingest(folder)
            written = report["days"]["events"]["written"]
            if written != {"first load": n_days, "a day added": 1, "nothing new": 0}[case]:
                raise SystemExit(f"{case}: wrote {written} days")
            minutes[case] = seconds / 60
            quality = {f"{kind} MiB": peak for kind, peak in peaks.items()} | {"days written": float(written)}
            peers = {
                "overture ingest tables": harness.summary([(Measurement([seconds], quality), max(peaks.values()))], "")
            }
            about = (
                f"{rows} new events of {n_users} listeners; {report['rows'].get('events', 0)} rows in the days read."
            )
            cases.append({"case": case, "about": about, "timed": "s", "peers": peers, "ratios": {}})
            harness.log(f"  {case}: {seconds:.1f} s, {peaks}")
    harness.write_result(arguments, cases, [], ("minutes of the first load", minutes["first load"]))


if __name__ == "__main__":
    main()
