"""Diversity, novelty, coverage and concentration by hand."""

import numpy as np
import pytest

from models.evaluation.list_properties import gini, list_properties

UNIT = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float32)
LISTENERS = np.array([10, 5, 0, 1])
ARTISTS = np.array([7, 7, 8, 9])


def test_properties_equal_a_manual_calculation():
    values = list_properties([[0, 1], [0, 3]], UNIT, LISTENERS, 10, ARTISTS)
    assert values["diversity"] == pytest.approx((1 + 2) / 2)  # cosines 0 and -1
    assert values["novelty"] == pytest.approx(1 - (10 + 5 + 10 + 1) / 40)
    assert values["coverage"] == 3 / 4
    assert values["artist_concentration"] == pytest.approx(gini(np.array([3, 0, 1])))


def test_gini_of_equal_and_of_single_owners():
    assert gini(np.ones(5)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 4])) == pytest.approx(3 / 4)
    assert gini(np.zeros(3)) == 0
    amounts = np.array([1.0, 2, 7])
    pairs = np.abs(amounts[:, None] - amounts[None, :]).sum() / (2 * 9 * amounts.mean())
    assert gini(amounts) == pytest.approx(pairs)


def test_lists_of_one_track_have_no_diversity():
    assert list_properties([[2]], UNIT, LISTENERS, 10, ARTISTS)["diversity"] == 0
    for wrong in ([[4]], [[]], [[-1]]):
        with pytest.raises(ValueError, match="track_idx below 4"):
            list_properties(wrong, UNIT, LISTENERS, 10, ARTISTS)
