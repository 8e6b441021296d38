"""Match the segments of two weeks by the listeners that they share."""

import numpy as np
import pytest

from models.cold_start.segment_match import match_segments


def test_renumbered_segments_are_matched():
    before = np.array([0, 0, 1, 1, 1, 2])
    matched = match_segments(before, np.array([2, 0, 1])[before], 3, 3)
    assert matched.before_K.tolist() == [1, 2, 0]
    assert matched.jaccard_K.tolist() == [1, 1, 1]
    assert matched.same_share == 1


def test_moving_a_listener_lowers_both_overlaps():
    matched = match_segments([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], 2, 2)
    assert matched.before_K.tolist() == [0, 1]
    np.testing.assert_allclose(matched.jaccard_K, [2 / 3, 2 / 3])
    assert matched.same_share == pytest.approx(4 / 5)


def test_new_segment_has_no_predecessor():
    matched = match_segments([0, 0, 0], [0, 0, 0], 1, 2)
    assert matched.before_K.tolist() == [0, -1]
    assert matched.jaccard_K.tolist() == [1, 0]


def test_each_old_segment_has_at_most_one_successor():
    matched = match_segments([0, 0, 0, 0], [0, 0, 0, 1], 1, 2)  # a split segment: the larger half is matched
    assert matched.before_K.tolist() == [0, -1]
    assert matched.same_share == pytest.approx(3 / 4)


def test_invalid_labels_raise():
    with pytest.raises(ValueError, match="same listeners"):
        match_segments([0, 1], [0], 2, 1)
    with pytest.raises(ValueError, match="after must be from 0 to 1, got 0 to 2"):
        match_segments([0, 1], [0, 2], 2, 2)
