"""The user-track matrix: affinities by hand, time boundaries, repeated runs."""

import pytest

from contracts.errors import CheckFailed
from jobs.matrix import catalog, user_track
from tests.helpers.small_tables import DAY, event, fill, streams


@pytest.fixture
def filled_context(spark, context):
    """Tracks 2 and 3 share artist 101 and album 201; catalogue: 2 (idx 0), then 1, 3, 6 by id."""
    week = context.week
    inside = week.as_of - DAY
    users = [{"user_id": u, "registered_at": week.cohort_start - DAY} for u in (10, 20)]
    events = [
        *streams(10, [2, 2, 2, 3, 1], inside),
        *streams(20, [2, 6], inside),
        event(10, "favorite", "track", 2, inside + DAY / 2),
        event(10, "favorite", "track", 2, inside + DAY / 3),
        event(10, "favorite", "artist", 101, inside + DAY / 2),
        event(10, "favorite", "album", 201, inside + DAY / 2),
        event(10, "skip", "track", 3, inside + DAY / 2),
        event(10, "ban", "track", 1, inside + DAY / 2),
        event(10, "search", "track", 6, inside + DAY / 2),
        event(10, "favorite", "track", 6, inside + DAY / 2),
        event(20, "favorite", "track", 6, week.as_of),
        event(20, "favorite", "artist", 101, week.window_start(90) - DAY),
    ]
    fill(context, users=users, events=events)
    catalog.run(context)
    return context


def test_affinity_by_hand_and_time_boundaries(filled_context):
    report = user_track.run(filled_context)
    rows = (
        filled_context.lake.read("user_track", week=filled_context.week.name)
        .sort_by([("user_idx", "ascending")])
        .to_pylist()
    )
    ids = {
        r["track_idx"]: r["track_id"]
        for r in filled_context.lake.read("catalog", week=filled_context.week.name).to_pylist()
    }
    got = {(r["user_idx"], ids[r["track_idx"]]): (r["affinity"], r["n_streams"]) for r in rows}
    assert got == {
        (0, 2): (3 + 5 + 2 + 1, 3),
        (0, 3): (1 - 0.5 + 2 + 1, 1),
        (0, 6): (5.0, 0),
        (1, 2): (1.0, 1),
        (1, 6): (1.0, 1),
    }
    assert report["dropped"] == 1


def test_a_second_run_gives_the_same_rows(filled_context):
    user_track.run(filled_context)
    first = filled_context.lake.read("user_track", week=filled_context.week.name)
    user_track.run(filled_context)
    keys = [("user_idx", "ascending"), ("track_idx", "ascending")]
    assert filled_context.lake.read("user_track", week=filled_context.week.name).sort_by(keys) == first.sort_by(keys)


def test_weights_without_a_positive_affinity_raise(filled_context):
    weights = filled_context.settings.matrix.weights.model_copy(
        update={"stream": -1.0, "favorite_track": 0.0, "favorite_album": 0.0, "favorite_artist": 0.0}
    )
    matrix = filled_context.settings.matrix.model_copy(update={"weights": weights})
    filled_context.settings = filled_context.settings.model_copy(update={"matrix": matrix})
    with pytest.raises(CheckFailed, match=r"no positive affinity.*matrix\.weights"):
        user_track.run(filled_context)
