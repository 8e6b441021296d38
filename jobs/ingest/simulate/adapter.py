"""A simulated music service of any size; the tastes of its listeners depend on country and age.

Input    none                        Output  users, tracks, playlists, events (one partition per day)
Seed     the same seed and sizes give the same rows; `chunk_users` changes the peak of memory, never a row
Memory   one chunk of users, then one day of events; the log is sorted by day on disk under OVERTURE_HOME

Some users registered before the log begins; the others register on every day of it, so each week has a cohort. About
77 % of them stream on that day, 95 % do something. The log continues after the settings' week on purpose: a
job that reads the future would change its results. With `simulate.release_share`, albums are released on days of the
log; no event, first signal or playlist entry is about a track before its release. The hidden parameters
(`catalogue.py`) are in no table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument
from jobs.ingest.event_buffer import Batches, EventBuffer, times
from jobs.ingest.simulate.catalogue import PLAYLIST, World, build, playlist_titles, track_table
from jobs.ingest.simulate.listeners import BLOCK, Block, Ids, Span, draw_block
from jobs.ingest.write_tables import write_source
from jobs.platform.progress import progress
from jobs.platform.temp_dirs import temp_dir
from jobs.settings.source import SimulateSettings

if TYPE_CHECKING:
    from jobs.platform.context import Context

PRIVATE_EVERY = 5  # of the listeners' playlists, one in so many is private


def run(context: Context, data: Path | None = None) -> dict[str, Any]:
    """Write the whole service into the lake; return rows, paths, days and what was dropped."""
    if data is not None:
        raise BadArgument(f"--data: simulate reads no files; omit --data (got {data})")
    settings = context.settings.simulate
    span = read_span(settings)
    world = build(settings)
    ids = Ids.of(world, settings)
    n_blocks = -(-settings.n_users // BLOCK)
    per_chunk = max(1, settings.chunk_users // BLOCK)
    with temp_dir(context, "ingest") as folder:
        users = Batches(folder, "users", arrow_schema(contracts.load("users"), optional=False))
        playlists = Batches(folder, "playlists", arrow_schema(contracts.load("playlists")))
        log = EventBuffer(folder, "events")
        playlists.add(editorial(world, ids, settings, span))
        for first in progress(range(0, n_blocks, per_chunk), -(-n_blocks // per_chunk), "listeners by chunk"):
            chunk = range(first, min(first + per_chunk, n_blocks))
            add_chunk([draw_block(world, ids, settings, span, block) for block in chunk], users, playlists, log)
        return write_source(
            context,
            users=users.read(),
            tracks=track_table(world, settings),
            playlists=playlists.read(),
            events=log,
            facts={"source": "simulate", "seed": settings.seed},
        )


def read_span(settings: SimulateSettings) -> Span:
    """Return the first and last day of the settings; an invalid one is named in the error."""
    days = {}
    for name in ("first_day", "last_day"):
        try:
            days[name] = int(np.datetime64(getattr(settings, name), "D").astype(np.int64))
        except ValueError:
            raise BadArgument(
                f"simulate.{name}: '{getattr(settings, name)}' is not a date; write YYYY-MM-DD, such as 2026-06-29"
            ) from None
    if days["last_day"] <= days["first_day"]:
        raise BadArgument(f"simulate.last_day: {settings.last_day} must be after first_day {settings.first_day}")
    return Span(days["first_day"], days["last_day"] - days["first_day"] + 1)


def add_chunk(blocks: list[Block], users: Batches, playlists: Batches, log: EventBuffer) -> None:
    """Write a chunk's rows to disk."""
    for block in blocks:
        u, p = block.users, block.playlists
        users.add(
            [
                pa.array(u["user_id"]),
                pa.array(u["country"], pa.string(), mask=u["country_unknown"]),
                pa.array(u["age"], mask=u["age_unknown"]),
                times(u["registered_at"]),
            ]
        )
        if len(p["track_id"]):
            number = p["playlist_id"] - PLAYLIST - 1
            playlists.add(
                [
                    pa.array(p["playlist_id"]),
                    pa.array(p["position"].astype(np.int32)),
                    pa.array(p["track_id"]),
                    pa.array(p["user_id"]),
                    times(p["added_at"]),
                    pa.nulls(len(number), pa.string()),
                    playlist_titles(number),
                    pa.array(number % PRIVATE_EVERY != 0),
                ]
            )
    log.add(np.concatenate([b.event_day for b in blocks]), np.concatenate([b.events for b in blocks]))


def editorial(world: World, ids: Ids, settings: SimulateSettings, span: Span) -> list[pa.Array]:
    """Return the columns of the playlists without an owner: each about one scene, complete before the log begins."""
    rng = np.random.default_rng(np.random.SeedSequence((settings.seed, 50)))
    n, width = world.n_editorial, 40
    which = np.repeat(np.arange(n), width)
    scene = which % world.n_scenes
    stray = rng.random(len(which)) < 0.05
    scene[stray] = rng.integers(0, world.n_scenes, int(stray.sum()))
    start, end = world.scene_start[scene], world.scene_start[scene + 1]
    track = world.draw_released(start, end, np.full(len(which), span.first - 1), rng)
    _, once = np.unique(which * len(world.track_artist) + track, return_index=True)
    once.sort()
    which, track = which[once], track[once]
    position = np.arange(len(which)) - np.searchsorted(which, np.arange(n))[which]
    made = span.start_us - 1_000_000 * rng.integers(86_400, 300 * 86_400, n)
    return [
        pa.array(PLAYLIST + 1 + which),
        pa.array(position.astype(np.int32)),
        pa.array(ids.track[track]),
        pa.nulls(len(which), pa.int64()),
        times(made[which]),
        pa.nulls(len(which), pa.string()),
        playlist_titles(which),
        pa.repeat(True, len(which)),
    ]
