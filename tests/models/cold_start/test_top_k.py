"""top_k: equality with a full sort, ties, batches, invalid input."""

import numpy as np
import pytest

from models.cold_start import top_k as recommend
from models.cold_start.top_k import normalise, top_k


def all_scores(q: np.ndarray, items: np.ndarray, similarity: str) -> np.ndarray:
    q, items = q.astype(float), items.astype(float)
    if similarity == "cosine":
        items = items / np.linalg.norm(items, axis=1, keepdims=True)
    return q @ items.T


def full_sort(q: np.ndarray, items: np.ndarray, k: int, similarity: str) -> np.ndarray:
    return np.argsort(-all_scores(q, items, similarity), axis=1, kind="stable")[:, :k]


@pytest.fixture(scope="module")
def vectors() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    scale = rng.uniform(1, 13, (700, 1))
    return (
        rng.standard_normal((90, 24)).astype(np.float32),
        (scale * rng.standard_normal((700, 24))).astype(np.float32),
    )


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 50])
def test_top_k_equals_a_full_sort(vectors, similarity: str, k: int) -> None:
    q, items = vectors
    got = top_k(q, items, k, similarity)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, full_sort(q, items, k, similarity))


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_k_of_all_items_returns_a_full_ranking(vectors, similarity: str) -> None:
    q, items = vectors
    got, scores = top_k(q, items, 700, similarity), all_scores(q, items, similarity)
    np.testing.assert_array_equal(np.sort(got, axis=1), np.tile(np.arange(700), (90, 1)))
    np.testing.assert_allclose(np.take_along_axis(scores, got, axis=1), -np.sort(-scores, axis=1), atol=1e-4)


def test_dot_and_cosine_differ_for_different_vector_lengths(vectors) -> None:
    q, items = vectors
    assert (top_k(q, items, 5, "dot") != top_k(q, items, 5, "cosine")).any()
    np.testing.assert_array_equal(top_k(q, normalise(items), 5, "dot"), top_k(q, items, 5, "cosine"))


def test_ties_are_broken_by_the_lower_index() -> None:
    rng = np.random.default_rng(1)
    distinct = rng.standard_normal((37, 19)).astype(np.float32)
    items = np.tile(distinct, (11, 1))  # each vector eleven times, 37 apart
    q = rng.standard_normal((20, 19)).astype(np.float32)
    got = top_k(q, items, 25, "cosine")
    best = full_sort(q, distinct, 3, "cosine")
    copies = np.arange(11) * 37
    expected = np.concatenate([best[:, :1] + copies, best[:, 1:2] + copies, best[:, 2:] + copies[:3]], axis=1)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
def test_zero_query_returns_the_first_items(vectors, similarity: str) -> None:
    q = vectors[0][:3].copy()
    q[1] = 0
    got = top_k(q, vectors[1], 6, similarity)
    assert got[1].tolist() == [0, 1, 2, 3, 4, 5]
    np.testing.assert_array_equal(got[[0, 2]], full_sort(q[[0, 2]], vectors[1], 6, similarity))


def test_zero_items_score_zero() -> None:
    items = np.array([[-1, 0], [0, 0], [2, 0], [0, 0]], np.float32)
    assert top_k([[1, 0]], items, 4, "cosine").tolist() == [[2, 1, 3, 0]]


def test_results_do_not_depend_on_batches_or_blocks(vectors, monkeypatch) -> None:
    q, items = vectors
    whole = top_k(q, items, 50, "cosine")
    for b in range(len(q)):
        np.testing.assert_array_equal(top_k(q[b : b + 1], items, 50, "cosine")[0], whole[b])
    monkeypatch.setattr(recommend, "_BLOCK_SCORES", 7 * len(items))
    monkeypatch.setattr(recommend, "_BLOCK_PAIRS", 64)
    np.testing.assert_array_equal(top_k(q, items, 50, "cosine"), whole)


def test_empty_batch_returns_no_rows(vectors) -> None:
    assert top_k(np.empty((0, 24)), vectors[1], 5, "cosine").shape == (0, 5)


def test_normalise_leaves_zero_rows_unchanged() -> None:
    unit = normalise([[3, 4], [0, 0]])
    np.testing.assert_array_equal(unit, np.array([[0.6, 0.8], [0, 0]], np.float32))


@pytest.mark.parametrize(
    ("q", "items", "k", "similarity", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 3)), 5, "dot", r"number of items \(4\), got 5"),
        (np.ones((2, 3)), np.ones((4, 3)), 0, "dot", "got 0"),
        (np.ones((2, 3)), np.ones((4, 2)), 1, "dot", r"share d, got \(2, 3\) and \(4, 2\)"),
        (np.ones(3), np.ones((4, 3)), 1, "dot", "queries: must be a matrix"),
        (np.ones((2, 3)), np.ones((4, 3)), 1, "euclid", "got 'euclid'"),
        (np.array([[1.0], [np.nan]]), np.ones((4, 1)), 1, "dot", "queries: row 1 contains NaN"),
        (np.ones((1, 1)), np.array([[1.0], [2], [np.inf]]), 1, "cosine", "items: row 2 contains NaN"),
    ],
)
def test_invalid_input_raises(q, items, k, similarity, message) -> None:
    with pytest.raises(ValueError, match=message):
        top_k(q, items, k, similarity)
