"""Properties of the top-k: equal to a stable sort of exact scores, and independent of the batch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.sparse import csr_array

from models.cold_start.top_k import exclude_items, top_k, top_k_of_scores

quick = settings(derandomize=True, deadline=None, max_examples=100)
small_integers = st.integers(-3, 3)  # exact products in float32, and many ties
hundredths = st.integers(-1000, 1000).map(lambda n: float(np.float32(n / 100)))  # far from an underflow of a square


@st.composite
def products(draw, elements=small_integers):
    """Draw queries (B, d), items (N, d) and k."""
    b, n, d = draw(st.integers(1, 8)), draw(st.integers(1, 25)), draw(st.integers(1, 5))
    queries, items = (draw(arrays(np.float32, (rows, d), elements=elements)) for rows in (b, n))
    return queries, items, draw(st.integers(1, n))


@quick
@given(products())
def test_lists_by_dot_product_equal_a_stable_sort(drawn):
    queries, items, k = drawn
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    np.testing.assert_array_equal(top_k(queries, items, k, "dot"), np.argsort(-scores, axis=1, kind="stable")[:, :k])


@quick
@given(products(hundredths), st.sampled_from(["dot", "cosine"]))
def test_batch_equals_single_queries_and_longer_lists_begin_alike(drawn, similarity):
    queries, items, k = drawn
    whole = top_k(queries, items, k, similarity)
    single = np.concatenate([top_k(query[None], items, k, similarity) for query in queries])
    np.testing.assert_array_equal(whole, single)
    np.testing.assert_array_equal(top_k(queries, items, len(items), similarity)[:, :k], whole)
    assert all(len(set(row)) == k for row in whole.tolist())


@quick
@given(products(hundredths))
def test_no_item_outside_a_list_has_a_higher_cosine(drawn):
    queries, items, k = drawn
    length = [np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True) for x in (queries, items)]
    unit_q, unit_i = (x / np.where(n == 0, 1, n) for x, n in zip((queries, items), length, strict=True))
    scores = unit_q @ unit_i.T
    chosen = top_k(queries, items, k, "cosine")
    worst = np.take_along_axis(scores, chosen, axis=1).min(axis=1)
    np.put_along_axis(scores, chosen.astype(np.int64), -np.inf, axis=1)
    assert (scores.max(axis=1) <= worst + 1e-5).all()


@quick
@given(arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 25)), elements=small_integers), st.data())
def test_top_k_of_scores_equals_a_stable_sort(scores, data):
    k = data.draw(st.integers(1, scores.shape[1]))
    np.testing.assert_array_equal(top_k_of_scores(scores, k), np.argsort(-scores, axis=1, kind="stable")[:, :k])


@quick
@given(st.data())
def test_exclusion_keeps_the_order_of_the_other_items(data):
    n, b = data.draw(st.integers(1, 20)), data.draw(st.integers(1, 5))
    lists = np.array([data.draw(st.permutations(range(n))) for _ in range(b)], np.int32)
    excluded = np.array([[data.draw(st.booleans()) for _ in range(n)] for _ in range(b)])
    free = [[item for item in row if not excluded[r, item]] for r, row in enumerate(lists.tolist())]
    k = min(map(len, free))
    if k:
        got = exclude_items(lists, csr_array(excluded.astype(np.float32)), k)
        assert got.tolist() == [row[:k] for row in free]
