"""ALS kernels against their definitions, an exact solve and the `implicit` library."""

import numpy as np
import pytest
import scipy.sparse as sp

from blockfactor import als_kernels

ALPHA, RIDGE = 7.0, 3.0


def small_ratings(n_users=40, n_items=25, seed=0, share=0.2):
    rng = np.random.default_rng(seed)
    x = sp.random(n_users, n_items, share, "csr", dtype=np.float32, rng=rng)
    x.data += 0.1
    x.sort_indices()
    return als_kernels.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data.astype(np.float32)), x


def initial_factors(n_items, d, seed):
    return als_kernels.noise(n_items, d, seed) * np.float32(0.1 / np.sqrt(d))


def solve_all(ratings, x, y, steps, exponent=0.0):
    residual = np.zeros_like(y)
    gram = als_kernels.gram(y).astype(np.float32)
    ridge = als_kernels.ridges(np.diff(ratings.offsets), RIDGE, exponent)
    part = als_kernels.solve_users(
        ratings.offsets, ratings.items, ratings.affinities, x, y, gram, ridge, np.float32(ALPHA), steps, residual
    )
    return part + als_kernels.ridge_penalty(y, item_ridges(ratings, y, exponent)), residual


def item_ridges(ratings, y, exponent):
    return als_kernels.ridges(np.bincount(ratings.items, minlength=len(y)), RIDGE, exponent)


def item_side(ratings, x, y, residual, steps, exponent=0.0):
    gram = als_kernels.gram(x).astype(np.float32)
    ridge = item_ridges(ratings, y, exponent)[:, None]
    r = residual - y @ gram - ridge * y
    p = r.copy()
    decrease = 0.0
    for _ in range(steps):
        q = p @ gram + ridge * p
        als_kernels.multiply_ratings(ratings.offsets, ratings.items, ratings.affinities, x, p, np.float32(ALPHA), q)
        decrease += als_kernels.step_items(y, r, p, q)
    return decrease


def exact_solution(matrix, factors, exponent=0.0):
    """Return the exact solution of each row, dense, as float64."""
    dense = matrix.toarray().astype(np.float64)
    factors = factors.astype(np.float64)
    rows = []
    for row in dense:
        c = 1 + ALPHA * row
        a = (factors * c[:, None]).T @ factors + RIDGE * (row > 0).sum() ** exponent * np.eye(factors.shape[1])
        rows.append(np.linalg.solve(a, factors.T @ (c * (row > 0))))
    return np.array(rows)


def test_loss_by_hand():
    ratings = als_kernels.Ratings(np.array([0, 1]), np.array([1], np.int32), np.array([2.0], np.float32))
    x, y = np.array([[0.5]], np.float32), np.array([[1.0], [2.0]], np.float32)
    # item 0 unseen: (0 - 0.5)^2; item 1: c = 1 + 3 * 2 = 7, (1 - 1)^2; ridge 2: 2 * (0.25 + 1 + 4)
    assert als_kernels.loss(ratings, x, y, 3.0, 2.0) == pytest.approx(0.25 + 0 + 10.5)


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_many_steps_reach_the_exact_solution_of_both_sides(exponent):
    ratings, matrix = small_ratings()
    y = initial_factors(25, 6, 1)
    x = np.zeros((40, 6), np.float32)
    _, residual = solve_all(ratings, x, y, 12, exponent)
    np.testing.assert_allclose(x, exact_solution(matrix, y, exponent), atol=2e-4)
    item_side(ratings, x, y, residual, 12, exponent)
    np.testing.assert_allclose(y, exact_solution(matrix.T, x, exponent), atol=2e-4)


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_the_loss_computed_by_the_steps_matches_its_definition(exponent):
    ratings, _ = small_ratings()
    y, x = initial_factors(25, 6, 1), np.zeros((40, 6), np.float32)
    losses = []
    for _ in range(4):
        after_users, residual = solve_all(ratings, x, y, 3, exponent)
        assert after_users == pytest.approx(als_kernels.loss(ratings, x, y, ALPHA, RIDGE, exponent), rel=1e-5)
        after_items = after_users - item_side(ratings, x, y, residual, 3, exponent)
        assert after_items == pytest.approx(als_kernels.loss(ratings, x, y, ALPHA, RIDGE, exponent), rel=1e-5)
        losses += [after_users, after_items]
    assert losses == sorted(losses, reverse=True)


def test_the_loss_matches_the_implicit_library():
    implicit = pytest.importorskip("implicit.cpu._als")
    ratings, matrix = small_ratings()
    rng = np.random.default_rng(4)
    x, y = rng.random((40, 6), np.float32), rng.random((25, 6), np.float32)
    counts = matrix.copy()
    counts.data = 1 + ALPHA * counts.data
    loss = als_kernels.loss(ratings, x, y, ALPHA, RIDGE) / (counts.sum() + 40 * 25 - matrix.nnz)
    implicit_loss = implicit.calculate_loss(counts, x, y, RIDGE, num_threads=1)
    assert loss == pytest.approx(implicit_loss, rel=1e-4)


def test_the_loss_is_as_low_as_with_implicit_after_equal_iterations():
    library = pytest.importorskip("implicit.cpu.als")
    ratings, matrix = small_ratings(200, 80, seed=2, share=0.1)
    weighted = matrix.copy()
    weighted.data = 1 + ALPHA * weighted.data
    peer = library.AlternatingLeastSquares(8, RIDGE, 1.0, iterations=15, num_threads=1, random_state=1)
    peer.fit(weighted, show_progress=False)
    y, x = initial_factors(80, 8, 1), np.zeros((200, 8), np.float32)
    for _ in range(15):
        _, residual = solve_all(ratings, x, y, 3)
        item_side(ratings, x, y, residual, 3)
    implicit_loss = als_kernels.loss(ratings, peer.user_factors, peer.item_factors, ALPHA, RIDGE)
    assert als_kernels.loss(ratings, x, y, ALPHA, RIDGE) < 1.005 * implicit_loss


def test_a_user_without_entries_is_zero_and_changes_no_other_user():
    ratings, _ = small_ratings()
    y = initial_factors(25, 6, 1)
    x = np.zeros((40, 6), np.float32)
    loss, residual = solve_all(ratings, x, y, 3)
    offsets = np.concatenate((ratings.offsets, ratings.offsets[-1:]))
    extended = als_kernels.Ratings(offsets, ratings.items, ratings.affinities)
    x2 = np.vstack((np.zeros((40, 6), np.float32), np.full((1, 6), 9, np.float32)))
    loss2, residual2 = solve_all(extended, x2, y, 3)
    assert (x2[40] == 0).all()
    np.testing.assert_array_equal(x2[:40], x)
    np.testing.assert_array_equal(residual, residual2)
    assert loss == loss2


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_fold_in_is_the_exact_solution(exponent):
    ratings, matrix = small_ratings()
    y = np.random.default_rng(3).standard_normal((25, 6)).astype(np.float32)
    expected = exact_solution(matrix, y, exponent)
    start, stop = ratings.offsets[5], ratings.offsets[6]
    tracks, affinities = ratings.items[start:stop], ratings.affinities[start:stop]
    got = als_kernels.fold_in(tracks, affinities, y, ALPHA, RIDGE, exponent=exponent)
    np.testing.assert_allclose(got, expected[5], rtol=1e-4, atol=1e-6)
    with_gram = als_kernels.fold_in(tracks, affinities, y, ALPHA, RIDGE, als_kernels.gram(y), exponent)
    np.testing.assert_array_equal(got, with_gram)


def test_fold_in_without_a_track_is_zero():
    y = initial_factors(25, 6, 1)
    np.testing.assert_array_equal(
        als_kernels.fold_in(np.array([]), np.array([]), y, ALPHA, RIDGE, exponent=1.0), np.zeros(6)
    )


@pytest.mark.parametrize(
    ("items", "affinities", "message"),
    [
        ([1, 2], [1.0, np.nan], "affinity: entry 1 is nan; it must be finite and above 0"),
        ([1, 2], [np.inf, 1.0], "affinity: entry 0 is inf"),
        ([1, 2], [1.0, -3.0], "affinity: entry 1 is -3.0"),
        ([1, 25], [1.0, 1.0], "items: entry 1 is 25; allowed are 0 to 24"),
        ([-1, 2], [1.0, 1.0], "items: entry 0 is -1"),
        ([2, 2], [1.0, 1.0], "item 2 occurs twice in row 0"),
        ([1, 2], [1.0], "all three must agree"),
    ],
)
def test_invalid_input_raises(items, affinities, message):
    with pytest.raises(ValueError, match=message):
        als_kernels.fold_in(np.array(items), np.array(affinities), np.ones((25, 3), np.float32), ALPHA, RIDGE)
