"""Nearest centroids and rankings of segments against their definitions; ties and invalid input."""

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array

from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import NO_SEGMENT, assign_segments, listener_counts, merge_small_segments, rankings


def test_nearest_centroids_equal_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((2500, 8)).astype("f4"), rng.standard_normal((37, 8)).astype("f4")
    distance = np.square(x[:, None].astype(float) - c[None]).sum(axis=2)
    got = nearest_centroids(x, c)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, distance.argmin(axis=1))
    for b in range(0, 2500, 101):
        assert nearest_centroids(x[b : b + 1], c)[0] == got[b]
    assert nearest_centroids(x[:0], c).shape == (0,)


def test_nearest_centroid_ties_are_broken_by_the_lower_segment() -> None:
    c = np.array([[3.0, 0], [1, 1], [-1, 1], [1, 1]], np.float32)
    assert nearest_centroids(np.array([[0.0, 0.3], [1, 1], [9, 0]], np.float32), c).tolist() == [1, 1, 0]


def play_matrix(lists: list[list[int]], n: int) -> csr_array:
    row = np.repeat(np.arange(len(lists)), [len(a) for a in lists])
    return csr_array(coo_array((np.ones(row.size, np.int8), (row, np.concatenate(lists).astype(int))), (len(lists), n)))


def test_rankings_equal_a_manual_calculation() -> None:
    heard = play_matrix([[5, 2, 7], [2, 7], [7, 9], [0], [9, 1]], 10)
    got = rankings(np.array([1, 1, 1, 0, 3]), heard, 4, 5)
    assert got.dtype == np.int32
    assert got.tolist() == [
        [0, 1, 2, 3, 4],  # one track, then the most popular others
        [7, 2, 5, 9, 0],  # track 7 has three plays, track 2 has two; 5 and 9 tie: the more popular one is first
        [0, 1, 2, 3, 4],  # no listeners: by popularity
        [1, 9, 0, 2, 3],
    ]


def test_rankings_equal_a_full_sort() -> None:
    rng = np.random.default_rng(0)
    heard = csr_array((rng.random((300, 80)) < 0.15).astype(np.float32))
    labels = rng.integers(0, 9, 300)
    got = rankings(labels, heard, 9, 40)
    for s in range(9):
        count = heard.toarray()[labels == s].sum(axis=0)
        np.testing.assert_array_equal(got[s], np.lexsort((np.arange(80), -count))[:40])
    assert all(len(set(row)) == 40 for row in rankings(labels, heard, 9, 80)[:, :40].tolist())


def test_rankings_do_not_depend_on_column_order_within_a_row() -> None:
    unsorted = csr_array((np.ones(3), np.array([7, 2, 5]), np.array([0, 3])), shape=(1, 10))
    assert rankings(np.zeros(1, int), unsorted, 1, 3).tolist() == [[2, 5, 7]]
    assert unsorted.indices.tolist() == [7, 2, 5]  # the input is not modified


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_centroids(np.ones((1, 3)), np.ones((2, 2))), "share D"),
        (lambda: nearest_centroids(np.full((1, 2), np.inf), np.ones((2, 2))), "x: row 0 contains NaN"),
        (
            lambda: rankings(np.array([0]), play_matrix([[1]], 3), 1, 4),
            r"segments.ranking_length: .*tracks \(3\), got 4",
        ),
        (lambda: rankings(np.array([2]), play_matrix([[1]], 3), 2, 1), "labels must be from 0 to 1"),
        (lambda: rankings(np.array([0, 1]), play_matrix([[1]], 3), 2, 1), "labels must be"),
        (lambda: rankings(np.array([0]), 2.0 * play_matrix([[1]], 3), 1, 1), "with value 1"),
        (lambda: rankings(np.array([0]), np.ones((1, 3)), 1, 1), "sparse"),
    ],
)
def test_invalid_input_raises(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_duplicate_entries_raise() -> None:
    twice = csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    with pytest.raises(ValueError, match="once, with value 1"):
        rankings(np.array([0]), twice, 1, 1)


def test_users_without_a_segment_are_not_counted() -> None:
    heard = play_matrix([[1, 3], [3], [2], [2]], 4)
    assert rankings(np.array([0, NO_SEGMENT, 1, NO_SEGMENT]), heard, 2, 4).tolist() == [[1, 3, 0, 2], [2, 0, 1, 3]]
    assert listener_counts(np.array([0, NO_SEGMENT, 1, NO_SEGMENT]), heard, 2).toarray().tolist() == [
        [0, 1, 0, 1],
        [0, 0, 1, 0],
    ]
    none = np.full(4, NO_SEGMENT)
    assert rankings(none, heard, 1, 4).tolist() == [[0, 1, 2, 3]]


def test_a_zero_vector_is_in_no_segment() -> None:
    centroids = np.array([[1.0, 0], [0.05, 0]], np.float32)
    x = np.array([[0.9, 0.1], [0, 0], [0.1, 0.1]], np.float32)
    assert assign_segments(x, centroids).tolist() == [0, NO_SEGMENT, 1]


def test_small_segments_are_merged_into_the_nearest() -> None:
    x = np.array([[0, 0], [0, 1], [9, 9], [9, 8], [1, 1]], np.float32)
    labels = np.array([0, 0, 2, 2, 1], np.int32)
    centroids = np.array([[0, 0.5], [1, 1], [9, 8.5]], np.float32)
    got, means = merge_small_segments(x, labels, centroids, 2)
    assert (got.tolist(), got.dtype) == ([0, 0, 1, 1, 0], np.int32)
    np.testing.assert_allclose(means, [[1 / 3, 2 / 3], [9, 8.5]])
    assert labels.tolist() == [0, 0, 2, 2, 1]  # the arguments are not changed
    assert centroids[0].tolist() == [0, 0.5]
    unchanged = merge_small_segments(x, labels, centroids, 1)
    assert unchanged[0] is labels
    assert unchanged[1] is centroids


def test_one_segment_remains_if_all_are_small() -> None:
    x = np.arange(12, dtype=np.float32).reshape(6, 2)
    labels, means = merge_small_segments(x, np.array([0, 1, 2, 0, 1, 2], np.int32), x[:3].copy(), 100)
    assert labels.tolist() == [0] * 6
    np.testing.assert_allclose(means, [x.mean(axis=0)])


def test_merged_segments_have_enough_members_and_plain_means() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((300, 4)).astype(np.float32)
    labels = rng.integers(0, 60, 300).astype(np.int32)
    labels[:60] = np.arange(60)
    centroids = np.stack([x[labels == s].mean(axis=0) for s in range(60)])
    merged, means = merge_small_segments(x, labels, centroids, 10)
    assert np.bincount(merged).min() >= 10
    assert len(np.bincount(merged)) == len(means) > 1
    np.testing.assert_allclose(means, [x[merged == s].mean(axis=0) for s in range(len(means))], atol=1e-6)
