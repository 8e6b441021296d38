"""Tests of what a known listener streamed and banned: which events count, and how lists leave the bans out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import CheckFailed
from jobs.release import user_history
from jobs.release.banned_tracks import banned_tracks, best_without
from models.cold_start.list_rules import TrackFacts
from models.cold_start.ragged import Ragged
from models.cold_start.top_k import ItemIndex
from serving.stores.interface import HISTORY, UNKNOWN, History, country_number, pack_history, unpack_history
from tests.helpers import small_week
from tests.helpers.small_tables import DAY, SECOND, event, fill, streams

AS_OF = datetime(2026, 11, 16, tzinfo=UTC)
WINDOW = AS_OF - 90 * DAY
USERS = [
    {"user_id": user, "registered_at": when, "country": country, "age": age}
    for user, when, country, age in (
        (1, AS_OF - 400 * DAY, "DE", 31),
        (2, AS_OF - 3 * DAY, None, None),
        (3, AS_OF - 300 * DAY, "ZZ", 20),
        (4, AS_OF + DAY, "AA", 20),
    )
]
EVENTS = [
    *streams(1, [7, 8, 7, 9], AS_OF - 5 * DAY),
    event(1, "stream", "track", 8, WINDOW),
    event(1, "stream", "track", 5, WINDOW - SECOND),
    event(1, "stream", "track", 6, AS_OF),
    event(1, "ban", "track", 9, AS_OF - 300 * DAY),
    event(1, "ban", "track", 7, AS_OF - SECOND),
    event(1, "ban", "track", 7, AS_OF - 2 * SECOND),
    event(1, "ban", "artist", 103, AS_OF - DAY),
    event(1, "ban", "album", 201, AS_OF - DAY),
    event(1, "ban", "artist", 104, AS_OF),
    event(1, "favorite", "artist", 105, AS_OF - DAY),
    event(1, "search", "album", 206, AS_OF - DAY),
    event(1, "skip", "track", 4, AS_OF - DAY),
    event(2, "ban", "album", 200, AS_OF - DAY),
    event(3, "ban", "album", 200, AS_OF - DAY),
    event(4, "ban", "album", 200, AS_OF - DAY),
]


@pytest.fixture
def world(context, spark):
    """Return a context with users and events; only user 1 is warm, user 2 is new."""
    fill(context, users=USERS, events=EVENTS)
    warm = {"user_idx": pa.array([0], pa.int32()), "user_id": [1], "n_tracks": pa.array([3], pa.int32())}
    context.lake.write("warm_users", pa.table(warm), week=context.week.name)
    return context


def rows(context):
    table = context.lake.read("user_history", week=context.week.name).sort_by("user_id")
    return {row.pop("user_id"): row for row in table.to_pylist()}


def test_history_contains_streams_of_the_window_and_bans_of_each_level_before_the_as_of_time(world):
    user_history.update(world)
    bans = {"banned_tracks": [7, 9], "banned_artists": [103], "banned_albums": [201]}
    no_bans = {"banned_tracks": [], "banned_artists": [], "banned_albums": [200]}
    assert rows(world) == {
        1: {"heard_tracks": [9, 7, 8], **bans, "demographics": [country_number("DE"), 31]},
        2: {"heard_tracks": [], **no_bans, "demographics": [UNKNOWN, UNKNOWN]},
    }


@pytest.mark.parametrize(
    ("country", "age"), [("AA", 0), ("DE", 31), ("ZZ", 120), (None, 20), ("XK", None), (None, None)]
)
def test_country_and_age_of_a_history(country, age):
    numbers = np.array([country_number(country), UNKNOWN if age is None else age])
    history = unpack_history(pack_history(History(demographics=numbers)))
    assert (history.country, history.age) == (country, age)
    assert (History().country, History().age) == (None, None)


def test_history_is_written_again_only_if_its_users_or_settings_changed(world):
    user_history.update(world)
    version = world.lake.version("user_history", week=world.week.name)
    user_history.update(world)
    assert world.lake.version("user_history", week=world.week.name) == version
    store = world.settings.store.model_copy(update={"max_heard": 2})
    world.settings = world.settings.model_copy(update={"store": store})
    user_history.update(world)
    assert rows(world)[1]["heard_tracks"] == [9, 7]
    assert world.lake.version("user_history", week=world.week.name) != version


def test_opened_histories_are_found_by_user(home):
    context = small_week.ready(home)
    with user_history.opened(context) as histories:
        assert all(not lists.ids.size for lists in histories.of(np.array([5, 6])).values())
    small_week.write_history(
        context, [{"user_id": 9, "heard_tracks": [3, 1], "banned_albums": [7]}, {"user_id": 4, "banned_artists": [2]}]
    )
    default = {name: Ragged.from_lists([[50], [51], [52]]) for name in HISTORY}
    with user_history.opened(context) as histories:
        found = histories.of(np.array([4, 9, 8]))
        assert [found["heard_tracks"].row(b).tolist() for b in range(3)] == [[], [3, 1], []]
        assert [found["banned_artists"].row(b).tolist() for b in range(3)] == [[2], [], []]
        found = histories.of(np.array([4, 8, 9]), default)
        assert [found["banned_albums"].row(b).tolist() for b in range(3)] == [[], [51], [7]]
    assert not any((home / "scratch").iterdir())
    context.lake.drop("user_history", week=context.week.name)
    with pytest.raises(CheckFailed, match="user_history"), user_history.opened(context):
        pass


def test_banned_tracks_are_those_of_each_level():
    facts = TrackFacts.unknown(np.array([1, 2, 1, 3]), np.array([7, 7, 8, 10]))

    def banned(history):
        return banned_tracks(facts, {30: 0, 10: 1, 20: 2, 40: 3}, history)

    assert banned(History()) == []
    assert banned(History(banned_tracks=np.array([10, 99]))) == [1]
    assert banned(History(banned_artists=np.array([1, 9]))) == [0, 2]
    assert banned(History(banned_albums=np.array([7]))) == [0, 1]
    every = History(np.array([40]), np.array([10]), np.array([1]), np.array([7]))
    assert banned(every) == [0, 1, 2], "a heard track is not a banned one"


@pytest.mark.parametrize("n_banned", [0, 1, 5, 33, 40])
def test_lists_are_the_best_tracks_that_are_not_banned(n_banned):
    rng = np.random.default_rng(n_banned)
    items, vectors = (rng.standard_normal((n, 6)).astype(np.float32) for n in (40, 9))
    index = ItemIndex(items, "cosine")
    banned = [rng.permutation(40)[: n_banned if b % 2 else b].tolist() for b in range(9)]
    lists = best_without(index, vectors, 10, banned)
    for b, whole in enumerate(index.top_k(vectors, 40).tolist()):
        wanted = [track for track in whole if track not in banned[b]][:10]
        assert lists[b].tolist() == wanted + [-1] * (10 - len(wanted))


@pytest.mark.parametrize(
    "lists", [[[]] * 5, [[2**63 - 1, 0], [], [], [], []], [[], [1], [2, 3], [4, 5, 6], [-1, -1]], [[7]] * 5]
)
def test_packed_history_round_trips(lists):
    history = History(*(np.array(ids, np.int64) for ids in lists))
    packed = pack_history(history)
    assert [ids.tolist() for ids in unpack_history(packed)] == lists
    for damaged in (packed[:-1], packed + b"x", packed + b"12345678", b""):
        with pytest.raises(ValueError):
            unpack_history(damaged)


def test_window_is_the_one_of_the_settings(context):
    assert timedelta(days=context.settings.matrix.window_days) == AS_OF - WINDOW
