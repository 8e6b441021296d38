"""Test benchmarks/time_and_context.py: contexts, pairs of plays, and columns without context, by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from models.skip.data.plays import Plays

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import context_task
import time_and_context

MONDAY = 4 * 86_400  # 1970-01-05
HOUR, DAY = 3600, 86_400


def log(moment):
    """Return the log of two listeners: three tracks of listener 5 on the Tuesday after, one track of listener 9."""
    second = MONDAY + DAY + HOUR * np.array([7, 8, 8, 20, 7])
    return context_task.Log(np.array([5, 5, 5, 5, 9]), second, np.array([2, 0, 2, 1, 3]), moment)


def test_time_columns_are_the_position_on_the_clock_and_the_weekday():
    columns = context_task.time_columns(np.array([MONDAY + 6 * HOUR, MONDAY + 6 * DAY + 12 * HOUR]))
    np.testing.assert_allclose(columns[:, :2], [[1, 0], [0, -1]], atol=1e-6)
    np.testing.assert_array_equal(columns[:, 2:].argmax(axis=1), [0, 6])
    np.testing.assert_array_equal(columns[:, 2:].sum(axis=1), [1, 1])


def test_streams_in_the_context_of_the_first_day_are_those_of_the_same_day_part_and_kind_of_day():
    morning = log({5: MONDAY + 9 * HOUR, 9: MONDAY + 23 * HOUR})
    np.testing.assert_array_equal(morning.same_context, [True, True, True, False, False])
    np.testing.assert_array_equal(morning.days_since, [1] * 5)
    sunday = log({5: MONDAY - DAY + 9 * HOUR, 9: MONDAY + 9 * HOUR})
    np.testing.assert_array_equal(sunday.same_context, [False, False, False, False, True])


def test_tracks_are_distinct_and_in_the_order_of_the_listeners():
    chosen = np.array([True, True, True, False, True])
    tracks = log({5: MONDAY, 9: MONDAY}).tracks_of(np.array([9, 7, 5]), chosen)
    assert [tracks.row(b).tolist() for b in range(3)] == [[3], [], [0, 2]]


def test_popular_items_of_a_group_are_those_with_the_most_listeners_in_it_and_among_all():
    user, item, group = np.array([1, 1, 2, 2, 3, 4]), np.array([1, 1, 1, 0, 2, 2]), np.array([0, 0, 0, 0, 1, 0])
    ranking = context_task.popular_by_group(user, item, group, 3, 0.0, 2)
    assert ranking[0].tolist() == [1, 0]  # two listeners; one each for 0 and 2
    assert ranking[1].tolist() == [2, 0]
    smoothed = context_task.popular_by_group(user, item, group, 3, 1.0, 2)
    assert smoothed[0].tolist() == [1, 2]  # 2 has two listeners in all, 0 has one
    assert smoothed[2].tolist() == [1, 2]  # a group without a play has the list of everybody


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:divide by zero")  # resamples of two listeners
def test_pairs_are_of_one_listener_on_different_days_or_of_two_listeners():
    # Listener 1: genre 4 twice in group 0 and once in group 1, genre 6 in group 0; listener 2: 4 in 0 and 6 in 1.
    second = MONDAY + HOUR * np.array([8, 8 + 24, 20 + 48, 9 + 24, 8, 8])
    user, genre, group = np.array([1, 1, 1, 1, 2, 2]), np.array([4, 4, 4, 6, 4, 6]), np.array([0, 0, 1, 0, 0, 1])
    result = context_task.alike(user, second, genre, group)
    assert result["own pairs"] == 5  # six of listener 1, but one pair is of one day, as that of 2
    assert result["equal in one, %"] == pytest.approx(50)  # (4, 4) and (4, 6)
    assert result["in different, %"] == pytest.approx(100 * 2 / 3)
    assert result["ratio"] == pytest.approx(0.75)
    assert result["others: equal in one, %"] == pytest.approx(50)  # two of three in group 0, none of one in 1
    assert result["others: in different, %"] == pytest.approx(50)  # one of three, and one of one


def test_equal_shares_in_all_groups_have_the_ratio_1():
    rng = np.random.default_rng(0)
    user, second, genre = rng.integers(0, 400, 20_000), rng.integers(0, 60 * DAY, 20_000), rng.integers(0, 5, 20_000)
    context = context_task.context_of(second)
    result = context_task.alike(user, second, genre, context)
    assert result["low"] < 1 < result["high"]
    assert result["others: low"] < 1 < result["others: high"]
    for prefer in (context, (context + user) % 8):  # of everybody, and of each listener
        half = np.where(rng.random(20_000) < 0.5, prefer, genre)
        biased = context_task.alike(user, second, half, context)
        assert biased["low"] > 1.5
        assert (biased["others: low"] > 1.5) == (prefer is context)


def test_columns_of_two_kinds_of_context_need_both():
    names = ("user_plays", "user_daypart_plays", "context_platform_plays", "context_listened", "user_family_plays")
    zeros = np.zeros(2, np.int64)
    plays = Plays(
        zeros,
        *[zeros] * 5,
        categories={"hour": zeros.astype(np.int32), "user_gender": zeros.astype(np.int32)},
        numbers_NF=np.tile(np.arange(5, dtype=np.float32), (2, 1)),
        names=names,
        is_flow_N=zeros.astype(bool),
    )
    columns = {row: time_and_context.restricted(plays, kinds) for row, kinds in time_and_context.ROWS.items()}
    assert columns["without"].names == ("user_plays",)
    assert set(columns["without"].categories) == {"user_gender"}
    assert columns["with hour and weekday"].names == ("user_plays", "user_daypart_plays")
    assert columns["with platform"].numbers_NF[0].tolist() == [0, 4]
    assert columns["with context type"].names == ("user_plays", "context_listened")
    assert columns["with all three"].names == names
