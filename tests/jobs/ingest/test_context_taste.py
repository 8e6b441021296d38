"""Test simulate.context_taste: today's bytes without it, with it a taste that depends on day part and kind of day."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from jobs.ingest.event_buffer import DAY_US, code
from jobs.ingest.simulate import adapter as simulate
from jobs.ingest.simulate.adapter import read_span
from jobs.ingest.simulate.catalogue import build
from jobs.ingest.simulate.context_taste import N_CONTEXTS, contexts
from jobs.ingest.simulate.listeners import DAY, Ids, draw_block
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from jobs.settings.source import SimulateSettings

SIZES = {"n_users": 600, "n_tracks": 1500, "n_playlists": 200, "first_day": "2026-09-28", "last_day": "2026-11-15"}
# Digest of the rows before the option existed.
WITHOUT_OPTION = "5eef7caaaee90b906f99474b07f714920f24a04cd6dddd38a7b96563dbe442d2"


def draw(block=0, **changes):
    """Return the world, the public ids and one block of the simulated service."""
    settings = SimulateSettings(**{**SIZES, **changes})
    world = build(settings)
    ids = Ids.of(world, settings)
    return world, ids, draw_block(world, ids, settings, read_span(settings), block)


def digest(block):
    """Return a hash of all rows of a block."""
    sha = hashlib.sha256(block.events.tobytes() + block.event_day.astype(np.int64).tobytes())
    for columns in (block.users, block.playlists):
        for name, values in sorted(columns.items()):
            sha.update(name.encode() + repr(values.tolist()).encode())
    return sha.hexdigest()


def streams_of(world, ids, block):
    """Return user, context and scene of every stream; the context is that of the first stream of the day."""
    events = block.events[block.events["code"] == code("stream", "track")]
    order = np.argsort(ids.track)
    track = order[np.searchsorted(ids.track[order], events["entity_id"])]
    day, second = events["ts"] // DAY_US, events["ts"] % DAY_US // 1_000_000
    _, session = np.unique(events["user_id"] * 100_000 + day, return_inverse=True)
    start = np.full(session.max() + 1, DAY)
    np.minimum.at(start, session, second)
    scene = world.artist_scene[world.track_artist[track]]
    return events["user_id"].astype(np.int64), contexts(start[session], (day + 3) % 7), scene


def dependence(user, context, scene, n_scenes):
    """Return the sum over users of the chi-square statistic of context and scene."""
    total = 0.0
    for one in np.unique(user):
        own = user == one
        table = np.zeros((N_CONTEXTS, n_scenes))
        np.add.at(table, (context[own], scene[own]), 1)
        expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
        seen = expected > 0
        total += ((table[seen] - expected[seen]) ** 2 / expected[seen]).sum()
    return total


def deviation(strength):
    """Return by how many standard deviations the dependence exceeds that of streams with exchanged contexts."""
    world, ids, block = draw(context_taste=strength)
    user, context, scene = streams_of(world, ids, block)
    chosen = np.isin(user, np.unique(user)[:150])
    user, context, scene = user[chosen], context[chosen], scene[chosen]
    rng, exchanged = np.random.default_rng(0), []
    by_user = np.argsort(user, kind="stable")
    user, context, scene = user[by_user], context[by_user], scene[by_user]
    for _ in range(20):
        within = np.lexsort((rng.random(len(user)), user))
        exchanged.append(dependence(user, context[within], scene, world.n_scenes))
    return (dependence(user, context, scene, world.n_scenes) - np.mean(exchanged)) / np.std(exchanged)


def test_rows_without_the_option_are_those_before_it_existed():
    assert digest(draw()[2]) == WITHOUT_OPTION


def test_scenes_of_a_listener_depend_on_the_context_only_with_the_option():
    assert abs(deviation(0.0)) < 4
    assert deviation(0.5) > 10


def test_genres_are_preferred_in_the_same_contexts_by_all_listeners():
    def spread(strength):
        world, ids, block = draw(context_taste=strength)
        _, context, scene = streams_of(world, ids, block)
        table = np.zeros((N_CONTEXTS, 12))
        np.add.at(table, (context, world.scene_genre[scene]), 1)
        table = table[table.sum(1) > 300]
        return np.log((table + 1) / (table + 1).sum(1, keepdims=True)).std(axis=0).mean()

    assert spread(1.0) > 2 * spread(0.0)


def test_with_the_option_sessions_start_at_all_hours():
    _, _, block = draw(context_taste=0.5)
    streams = block.events[block.events["code"] == code("stream", "track")]
    parts = np.bincount(streams["ts"] % DAY_US // (DAY_US // 4), minlength=4) / len(streams)
    assert parts.min() > 0.1
    assert parts.max() < 0.45


def test_the_strength_changes_taste_but_not_who_registers_when():
    blocks = {strength: draw(context_taste=strength)[2] for strength in (0.0, 0.5, 1.0)}
    for name in ("user_id", "country", "age", "registered_at"):
        for block in blocks.values():
            np.testing.assert_array_equal(block.users[name], blocks[0.0].users[name])
    assert len({digest(block) for block in blocks.values()}) == 3


def lake_digest(folder, **changes):
    """Return a hash of all events that the adapter writes."""
    simulation = {**SIZES, "n_users": 8500, "n_tracks": 300, "first_day": "2026-11-08", "context_taste": 0.5, **changes}
    context = Context(Settings(name="t", week="2026-11-16", simulate=simulation), Week.parse("2026-11-16"), folder)
    simulate.run(context)
    sha = hashlib.sha256()
    for partition in context.lake.partitions("events"):
        for file in context.lake.files("events", **partition):
            sha.update(Path(file).read_bytes())
    return sha.hexdigest()


def test_equal_seeds_give_equal_bytes_for_any_chunk_size(tmp_path):
    one = lake_digest(tmp_path / "one")
    assert lake_digest(tmp_path / "two", chunk_users=1) == one
    assert lake_digest(tmp_path / "three", seed=8) != one


@pytest.mark.parametrize("strength", [-0.1, 1.1])
def test_a_strength_outside_0_to_1_is_refused(strength):
    with pytest.raises(ValueError, match="context_taste"):
        SimulateSettings(context_taste=strength)
