"""Splits of plays, and cleaning rules for rare values and durations from training rows."""

import json

import numpy as np
import pytest

from models.skip.data import splits
from models.skip.data.cleaning import Cleaning, frequent, frequent_by_quantile, iqr_bounds


def test_by_time_does_not_split_seconds_and_approximates_the_shares():
    ts = np.sort(np.random.default_rng(0).integers(0, 40, 1_000))
    split = splits.by_time(ts, 0.7, 0.15)
    assert (np.diff(split) >= 0).all()
    for code in (splits.VALIDATION, splits.TEST):
        assert ts[split == code].min() > ts[split < code].max()
    assert abs((split == splits.TRAIN).mean() - 0.7) < 0.05
    assert splits.by_time(ts[:0], 0.7, 0.15).size == 0


def test_by_time_with_distinct_seconds_has_the_exact_sizes():
    assert np.bincount(splits.by_time(np.arange(100), 0.7, 0.15)).tolist() == [70, 15, 15]


def test_at_random_is_reproducible_and_has_the_exact_sizes():
    one = splits.at_random(200, 0.7, 0.15, 3)
    assert np.bincount(one).tolist() == [140, 30, 30]
    np.testing.assert_array_equal(one, splits.at_random(200, 0.7, 0.15, 3))
    assert (one != splits.at_random(200, 0.7, 0.15, 4)).any()


@pytest.mark.parametrize("last", [1, 2])
def test_by_user_holds_out_the_last_plays_of_users_with_enough_plays(last):
    user = np.array([1, 2, 1, 1, 2, 3, 1, 1, 1])
    split = splits.by_user(user, np.arange(9), last)
    mine = split[user == 1].tolist()
    if last == 1:
        assert mine == [0, 0, 0, 0, 1, 2]
    else:
        assert mine == [0, 0, 1, 1, 2, 2]
    assert (split[user != 1] == splits.TRAIN).all()  # users with one or two rows are not split


def test_competition_split():
    user = np.array([1, 1, 1, 1, 1, 1, 2, 2, 3, 3, 4])
    flow = np.array([1, 0, 1, 0, 1, 0, 0, 0, 0, 1, 1], bool)
    split = splits.competition(user, np.arange(11), flow)
    train, validation, test, out = splits.TRAIN, splits.VALIDATION, splits.TEST, splits.EXCLUDED
    assert split[:6].tolist() == [train, train, validation, out, test, out]
    assert split[6:].tolist() == [train, train, train, test, test]
    assert (splits.competition(user, np.arange(11), np.zeros(11, bool)) == train).all()


def test_training_plays_precede_the_evaluation_plays_of_a_user():
    rng = np.random.default_rng(1)
    user, ts, flow = rng.integers(0, 20, 500), np.sort(rng.integers(0, 300, 500)), rng.random(500) < 0.3
    split = splits.competition(user, ts, flow)
    for one in np.unique(user):
        mine, code = ts[user == one], split[user == one]
        if (code > splits.TRAIN).any() and (code == splits.TRAIN).any():
            assert mine[code == splits.TRAIN].max() < mine[code > splits.TRAIN].min()


def test_frequent_values_by_count_and_by_quantile():
    values = np.repeat([5, 7, 9, 11], [49, 50, 51, 1])
    assert frequent(values, 50).tolist() == [7, 9]
    assert frequent_by_quantile(values, 0.25).tolist() == [5, 7, 9]
    assert frequent(values[:0], 50).size == frequent_by_quantile(values[:0], 0.05).size == 0


def test_unseen_and_rare_values_become_minus_one_and_other_columns_do_not_change():
    cleaning = Cleaning({"genre_id": np.array([3, 8]), "empty": np.zeros(0, np.int64)}, 30.0, 600.0)
    assert cleaning.category("genre_id", np.array([8, 4, 99, 3, -5])).tolist() == [8, -1, -1, 3, -1]
    assert cleaning.category("empty", np.array([1], np.int32)).tolist() == [-1]
    assert cleaning.category("hour", np.array([99])).tolist() == [99]
    assert cleaning.durations(np.array([0, 65_535, 200])).tolist() == [30, 600, 200]
    again = Cleaning.from_json(json.loads(json.dumps(cleaning.to_json())))
    assert again.category("genre_id", np.array([8, 4])).tolist() == [8, -1]
    assert (again.shortest_s, again.longest_s) == (30.0, 600.0)


def test_quartile_bounds():
    assert iqr_bounds(np.array([100, 200, 200, 300, 300, 400])) == (50.0, 450.0)
    with pytest.raises(ValueError, match="at least one training play"):
        iqr_bounds(np.zeros(0))
