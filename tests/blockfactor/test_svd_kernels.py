"""Kernels of the randomised SVD by hand and against numpy."""

import numpy as np
import pytest
import scipy.sparse as sp

from blockfactor import svd_kernels


def test_multiply_equals_scipy():
    rng = np.random.default_rng(0)
    a = sp.random(30, 20, 0.2, "csr", dtype=np.float32, rng=rng)
    x = rng.random((20, 7), np.float32)
    out = np.zeros((30, 7), np.float32)
    svd_kernels.multiply(a.indptr.astype(np.int64), a.indices.astype(np.int32), a.data, x, out)
    np.testing.assert_allclose(out, a @ x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("heights", [[50], [20, 30], [3, 40, 7], [5, 0, 45]])
def test_stacked_qr_is_accurate_for_ill_conditioned_matrices(heights):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((50, 8)) @ np.diag(10.0 ** -np.arange(0, 16, 2)) @ rng.standard_normal((8, 8))
    parts = [svd_kernels.thin_qr(part) for part in np.split(x, np.cumsum(heights)[:-1])]
    factors, r = svd_kernels.stack_qr([part[1] for part in parts])
    q = np.vstack([part[0] @ factor for part, factor in zip(parts, factors, strict=True)])
    np.testing.assert_allclose(q.T @ q, np.eye(8), atol=1e-12)
    np.testing.assert_allclose(q @ r, x, atol=1e-12 * np.abs(x).max())


def test_small_svd_gives_the_triplets_of_the_matrix():
    rng = np.random.default_rng(2)
    a = rng.standard_normal((9, 6))
    q, _ = np.linalg.qr(a)
    q2, r2 = np.linalg.qr(a.T @ q)
    small = svd_kernels.small_svd(r2, 6)
    np.testing.assert_allclose(small.values, np.linalg.svd(a, compute_uv=False), rtol=1e-10)
    np.testing.assert_allclose((q @ small.left) * small.values @ (q2 @ small.right).T, a, atol=1e-10)


def test_signs_make_the_largest_entry_positive_for_any_blocks():
    x = np.array([[1.0, -2.0, 0.0], [-3.0, 1.0, 0.0], [2.0, 2.0, 0.0]])
    for cuts in ([], [1], [1, 2]):
        np.testing.assert_array_equal(
            svd_kernels.column_signs([svd_kernels.largest_entries(p) for p in np.split(x, cuts)]), [-1, -1, 1]
        )


def test_embed_scales_and_normalises_rows_and_keeps_zero_rows():
    u, values = np.array([[0.6, 0.8], [0.0, 0.0]]), np.array([4.0, 1.0])
    length = np.hypot(1.2, 0.8)
    np.testing.assert_allclose(svd_kernels.embed(u, values, 0.5), [[1.2 / length, 0.8 / length], [0, 0]])
    np.testing.assert_allclose(svd_kernels.embed(u, values, 0.0)[0], [0.6, 0.8], rtol=1e-6)


def test_mean_unit_rows_by_hand():
    vectors = np.array([[1, 0], [0, 1], [0, 0]], np.float32)
    got = svd_kernels.mean_unit_rows(np.array([0, 2, 2, 4]), np.array([0, 1, 1, 2], np.int32), vectors)
    np.testing.assert_allclose(got, [[2**-0.5, 2**-0.5], [0, 0], [0, 1]], rtol=1e-6)
