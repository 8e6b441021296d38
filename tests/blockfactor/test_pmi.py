"""PMI kernels by hand; `tests/jobs/matrix/test_track_pairs.py` compares the counts with a sparse product."""

import math

import numpy as np
import pytest

from blockfactor import pmi


def test_smoothing_terms_are_zero_without_smoothing_and_larger_for_rare_tracks():
    counts = np.array([100, 10, 1])
    np.testing.assert_allclose(pmi.smoothing_terms(counts, 1.0), 0, atol=1e-12)
    assert (np.diff(pmi.smoothing_terms(counts, 0.75)) > 0).all()


def test_neighbours_by_hand_and_the_counter_is_reset():
    # collections: {0, 1, 2}, {1, 2}, {1, 3}
    offsets, members = np.array([0, 3, 5, 7]), np.array([0, 1, 2, 1, 2, 1, 3], np.int32)
    counter, touched = np.zeros(4, np.int32), np.empty(4, np.int32)
    collections = np.array([0, 1, 2], np.int32)
    neighbours, counts = pmi.count_neighbours(1, collections, offsets, members, counter, touched, 1)
    assert (neighbours.tolist(), counts.tolist()) == ([0, 2, 3], [1, 2, 1])
    assert not counter.any()
    neighbours, counts = pmi.count_neighbours(1, collections, offsets, members, counter, touched, 2)
    assert (neighbours.tolist(), counts.tolist()) == ([2], [2])


def test_the_weakest_of_the_strongest_neighbours():
    neighbours, counts = np.array([2, 5, 7, 9], np.int32), np.array([3, 8, 3, 3], np.int32)
    assert pmi.weakest_of_strongest(neighbours, counts, 2) == (3, 2)
    assert pmi.weakest_of_strongest(neighbours, counts, 3) == (3, 7)
    assert pmi.weakest_of_strongest(neighbours, counts, 4) == (0, pmi.MAX_INDEX)


def test_pmi_by_hand():
    n_both, n_i, n_j = np.array([2], np.int32), np.array([4]), np.array([5])
    i, j, smoothing = np.array([0], np.int32), np.array([1], np.int32), np.array([0.1, 0.3])
    expected = math.log(10 * 2 / (4 * 5)) - 0.2
    assert pmi.pmi(n_both, n_i, n_j, 10, smoothing, i, j)[0] == pytest.approx(expected)
