"""Ties in segment rankings: counts, how long a list must be, and NDCG that averages over them, as scikit-learn does."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import ndcg_score

from models.cold_start.input_vector import Ragged
from models.cold_start.segments import listener_counts, rankings
from models.evaluation.metrics import score
from models.evaluation.ties import length_with_ties, tie_levels

U, N, K, PLACE = 60, 90, 4, 10


@pytest.fixture(scope="module")
def world():
    rng = np.random.default_rng(0)
    heard = csr_array((rng.random((U, N)) < 0.2 / (1 + np.arange(N) / 30)).astype(np.float32))
    return rng.integers(0, K, U).astype(np.int32), heard


def test_counts_by_hand():
    heard = csr_array(np.array([[1, 0, 1], [1, 1, 0], [0, 1, 0]], np.float32))
    counts = listener_counts(np.array([0, 0, 1]), heard, 3)
    assert counts.toarray().tolist() == [[2, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_a_list_is_as_long_as_the_tie_at_its_last_place():
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1]])), 2) == 4
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1]])), 1) == 1
    assert length_with_ties(csr_array(np.array([[5, 3, 3, 3, 1], [1, 1, 1, 1, 1]])), 1) == 5
    # One track alone has been heard: the second place ties with all that nobody heard.
    assert length_with_ties(csr_array(np.array([[5, 0, 0, 0, 0]])), 2) == 5


@pytest.mark.parametrize("place", [0, 6])
def test_a_place_out_of_range_is_refused(place):
    with pytest.raises(ValueError, match=f"got {place}"):
        length_with_ties(csr_array(np.ones((1, 5))), place)


def test_tied_ndcg_is_that_of_scikit_learn_over_the_whole_catalogue(world):
    labels, heard = world
    counts = listener_counts(labels, heard, K)
    length = length_with_ties(counts, PLACE)
    lists = rankings(labels, heard, K, length)
    found = tie_levels(counts, lists)
    assert PLACE < length < N
    rng = np.random.default_rng(1)
    segment = rng.integers(0, K, 40)
    truths = [rng.choice(N, rng.integers(1, 25), replace=False) for _ in segment]
    relevance = np.zeros((len(segment), N))
    for row, truth in enumerate(truths):
        relevance[row, truth] = 1
    got = score(lists[segment], Ragged.from_lists(truths), PLACE, ties="average", levels=found[segment])
    scores = counts.toarray()[segment].astype(float)
    expected = [ndcg_score(relevance[i : i + 1], scores[i : i + 1], k=PLACE) for i in range(len(segment))]
    np.testing.assert_allclose(got["ndcg"], expected, rtol=1e-12)
    in_order = score(lists[segment], Ragged.from_lists(truths), PLACE)
    np.testing.assert_array_equal(got["precision"], in_order["precision"])
    np.testing.assert_array_equal(got["recall"], in_order["recall"])
    assert (got["ndcg"] != in_order["ndcg"]).any()


def test_without_ties_both_are_the_same(world):
    rng = np.random.default_rng(2)
    lists = np.stack([rng.permutation(N)[:30] for _ in range(20)])
    truth = Ragged.from_lists([rng.choice(N, 7, replace=False) for _ in range(20)])
    order = np.tile(np.arange(30)[::-1], (20, 1))
    for name, value in score(lists, truth, 10, ties="average", levels=order).items():
        np.testing.assert_array_equal(value, score(lists, truth, 10)[name])


def test_levels_that_do_not_fit_are_refused():
    lists, truth = np.array([[0, 1, 2]]), Ragged.from_lists([[1]])
    with pytest.raises(ValueError, match="levels of row 0 rise"):
        score(lists, truth, 2, ties="average", levels=[[1, 2, 0]])
    with pytest.raises(ValueError, match=r"levels must be \(1, 3\)"):
        score(lists, truth, 2, ties="average", levels=[[1, 0]])
    for ties, given in (("average", None), ("order", [[2, 1, 0]]), ("sometimes", None)):
        with pytest.raises(ValueError, match="ties must be"):
            score(lists, truth, 2, ties=ties, levels=given)
