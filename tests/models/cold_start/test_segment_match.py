"""Segments of two weeks, matched by the listeners whom they share."""

import numpy as np
import pytest

from models.cold_start.segment_match import match_segments


def test_renamed_segments_are_found_again():
    before = np.array([0, 0, 1, 1, 1, 2])
    found = match_segments(before, np.array([2, 0, 1])[before], 3, 3)
    assert found.before_K.tolist() == [1, 2, 0]
    assert found.jaccard_K.tolist() == [1, 1, 1]
    assert found.same_share == 1


def test_one_who_moved_lowers_both_overlaps():
    found = match_segments([0, 0, 0, 1, 1], [0, 0, 1, 1, 1], 2, 2)
    assert found.before_K.tolist() == [0, 1]
    np.testing.assert_allclose(found.jaccard_K, [2 / 3, 2 / 3])
    assert found.same_share == pytest.approx(4 / 5)


def test_a_new_segment_continues_none():
    found = match_segments([0, 0, 0], [0, 0, 0], 1, 2)
    assert found.before_K.tolist() == [0, -1]
    assert found.jaccard_K.tolist() == [1, 0]


def test_each_old_segment_is_continued_once():
    found = match_segments([0, 0, 0, 0], [0, 0, 0, 1], 1, 2)  # split in two: the larger half continues it
    assert found.before_K.tolist() == [0, -1]
    assert found.same_share == pytest.approx(3 / 4)


def test_wrong_labels_are_refused():
    with pytest.raises(ValueError, match="same listeners"):
        match_segments([0, 1], [0], 2, 1)
    with pytest.raises(ValueError, match="after must be from 0 to 1, got 0 to 2"):
        match_segments([0, 1], [0, 2], 2, 2)
