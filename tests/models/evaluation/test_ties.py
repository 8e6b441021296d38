"""Ties in segment rankings: counts, required list length, and NDCG averaged over ties as in scikit-learn."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import ndcg_score

from models.cold_start.ragged import Ragged
from models.cold_start.segments import listener_counts, rankings
from models.evaluation.metrics import score
from models.evaluation.ties import length_with_ties, tie_levels

U, N, K, PLACE = 60, 90, 4, 10


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    heard = csr_array((rng.random((U, N)) < 0.2 / (1 + np.arange(N) / 30)).astype(np.float32))
    return rng.integers(0, K, U).astype(np.int32), heard


def test_counts_equal_a_manual_calculation():
    heard = csr_array(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]], np.float32))
    counts = listener_counts(np.array([0, 0, 1]), heard, 3)
    assert counts.toarray().tolist() == [[2, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_list_length_includes_the_tie_at_the_last_position():
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1]])), 2) == 4
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1]])), 1) == 1
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1], [1, 1, 1, 1, 1]])), 1) == 5
    # Only one track has plays: the second position ties with all tracks without plays.
    assert length_with_ties(csr_array(np.array([[5, 0, 0, 0, 0]])), 2) == 5


@pytest.mark.parametrize("place", [0, 6])
def test_position_out_of_range_raises(place):
    with pytest.raises(ValueError, match=f"got {place}"):
        length_with_ties(csr_array(np.ones((1, 5))), place)


def test_tied_ndcg_equals_scikit_learn_over_the_whole_catalogue(world):
    labels, heard = world
    counts = listener_counts(labels, heard, K)
    length = length_with_ties(counts, PLACE)
    lists = rankings(labels, heard, K, length)
    level_lists = tie_levels(counts, lists)
    assert PLACE < length < N
    rng = np.random.default_rng(1)
    segment = rng.integers(0, K, 40)
    truths = [rng.choice(N, rng.integers(1, 25), replace=False) for _ in segment]
    relevance = np.zeros((len(segment), N))
    for row, truth in enumerate(truths):
        relevance[row, truth] = 1
    got = score(lists[segment], Ragged.from_lists(truths), PLACE, ties="average", levels=level_lists[segment])
    scores = counts.toarray()[segment].astype(float)
    expected = [ndcg_score(relevance[i : i + 1], scores[i : i + 1], k=PLACE) for i in range(len(segment))]
    np.testing.assert_allclose(got["ndcg"], expected, rtol=1e-12)
    in_order = score(lists[segment], Ragged.from_lists(truths), PLACE)
    np.testing.assert_array_equal(got["precision"], in_order["precision"])
    np.testing.assert_array_equal(got["recall"], in_order["recall"])
    assert (got["ndcg"] != in_order["ndcg"]).any()


def test_tied_and_plain_ndcg_are_equal_without_ties(world):
    rng = np.random.default_rng(2)
    lists = np.stack([rng.permutation(N)[:30] for _ in range(20)])
    truth = Ragged.from_lists([rng.choice(N, 7, replace=False) for _ in range(20)])
    order = np.tile(np.arange(30)[::-1], (20, 1))
    for name, value in score(lists, truth, 10, ties="average", levels=order).items():
        np.testing.assert_array_equal(value, score(lists, truth, 10)[name])


def test_invalid_levels_raise():
    lists, truth = np.array([[0, 1, 2]]), Ragged.from_lists([[1]])
    with pytest.raises(ValueError, match="levels of row 0 rise"):
        score(lists, truth, 2, ties="average", levels=[[1, 2, 0]])
    with pytest.raises(ValueError, match=r"levels must be \(1, 3\)"):
        score(lists, truth, 2, ties="average", levels=[[1, 0]])
    for ties, given in (("average", None), ("order", [[2, 1, 0]]), ("sometimes", None)):
        with pytest.raises(ValueError, match="ties must be"):
            score(lists, truth, 2, ties=ties, levels=given)
