"""Randomised SVD on Spark: accuracy against scipy and scikit-learn, independence of the number of blocks, errors."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from sklearn.utils import extmath

from blockfactor import csr_blocks
from blockfactor.errors import InvalidParameterError
from blockfactor.svd import SvdParameters
from blockfactor.svd import factorise as factorise_blocks
from tests.helpers.small_tables import frame

PARAMETERS = SvdParameters(d=10, oversampling=20, power_iterations=2)


def decaying(m, n, seed=0):
    """Return a sparse matrix whose singular values decrease, as those of a PMI matrix do."""
    rng = np.random.default_rng(seed)
    x = sp.random(m, n, 0.3, "csr", rng=rng)
    scale = [sp.diags(np.geomspace(1, 1e-3, k)) for k in (m, n)]
    return sp.csr_matrix((scale[0] @ x @ scale[1]).astype(np.float32))


def factorise(spark, x, n_blocks, folder, parameters=PARAMETERS, *, permute=True):
    folder.mkdir()
    a = csr_blocks.pack(frame(spark, x), "a", x.shape, n_blocks, folder, permute=permute)
    b = csr_blocks.pack(frame(spark, x.T.tocsr()), "b", x.shape[::-1], n_blocks, folder, permute=permute)
    result = factorise_blocks(spark, a, b, parameters, seed=5)
    return result, np.array(result.left()), np.array(result.right())


@pytest.mark.parametrize("shape", [(300, 120), (90, 400), (300, 31)])
def test_sigma_and_vectors_of_a_rectangular_matrix(spark, tmp_path, shape):
    x = decaying(*shape)
    result, u, v = factorise(spark, x, 3, tmp_path / "three")
    expected = np.sort(svds(x.astype(np.float64), 10, return_singular_vectors=False))[::-1]
    np.testing.assert_allclose(result.values, expected, rtol=1e-3)
    np.testing.assert_allclose(u.T @ u, np.eye(10), atol=1e-4)
    np.testing.assert_allclose(v.T @ v, np.eye(10), atol=1e-4)
    left = np.linalg.svd(x.toarray())[0][:, :1]
    assert abs(float((left.T @ u[:, :1])[0, 0])) == pytest.approx(1, abs=1e-3)
    assert (u[np.abs(u).argmax(axis=0), np.arange(10)] > 0).all()
    signal_contributions = 1 - (result.values**2).sum() / float(x.multiply(x).sum())
    assert result.unexplained == pytest.approx(signal_contributions, rel=1e-3)
    assert 0 <= result.residual < 0.1


def test_using_the_last_two_steps_lowers_the_error(spark, tmp_path):
    rng = np.random.default_rng(1)
    x = sp.random(1500, 1500, 0.02, "csr", rng=rng)
    x = sp.csr_matrix(x + x.T).astype(np.float32)
    x.data *= 1 + rng.random(1500)[x.indices].astype(np.float32)
    result, _, _ = factorise(spark, x, 2, tmp_path / "flat", SvdParameters(d=40, oversampling=30, power_iterations=2))
    expected = np.sort(svds(x.astype(np.float64), 20, return_singular_vectors=False))[::-1]
    classical = extmath.randomized_svd(
        x, 40, n_oversamples=30, n_iter=2, power_iteration_normalizer="QR", random_state=5
    )
    worst = lambda values: float(np.abs(values[:20] / expected - 1).max())  # noqa: E731
    assert worst(result.values) < 0.65 * worst(classical[1])


def test_one_block_and_four_agree(spark, tmp_path):
    x = decaying(150, 100)
    one, u, v = factorise(spark, x, 1, tmp_path / "one")
    four, u4, v4 = factorise(spark, x, 4, tmp_path / "four")
    np.testing.assert_allclose(one.values, four.values, rtol=1e-5)
    np.testing.assert_allclose(u[:, :5], u4[:, :5], atol=1e-3)
    np.testing.assert_allclose(v[:, :5], v4[:, :5], atol=1e-3)


def test_permuting_the_rows_does_not_change_the_result(spark, tmp_path):
    x = decaying(150, 100)
    one, u, v = factorise(spark, x, 3, tmp_path / "permuted")
    two, u2, v2 = factorise(spark, x, 3, tmp_path / "plain", permute=False)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-4)
    np.testing.assert_allclose(u[:, :3], u2[:, :3], atol=1e-2)
    np.testing.assert_allclose(v[:, :3], v2[:, :3], atol=1e-2)


def test_a_rank_above_the_matrix_raises(spark, tmp_path):
    with pytest.raises(InvalidParameterError, match=r"^d: rank 10 of a matrix of 30 x 8; allowed are 1 to 8"):
        factorise(spark, decaying(30, 8), 1, tmp_path / "a")


def test_a_transpose_of_another_shape_raises(spark, tmp_path):
    x = decaying(30, 20)
    a = csr_blocks.pack(frame(spark, x), "a", x.shape, 1, tmp_path)
    with pytest.raises(InvalidParameterError, match=r"^transposed: 30 x 20 .* is not the transpose of 30 x 20"):
        factorise_blocks(spark, a, a, PARAMETERS, seed=5)


@pytest.mark.parametrize(("field", "value"), [("d", 0), ("oversampling", 0), ("power_iterations", -1)])
def test_a_parameter_out_of_range_raises(field, value):
    with pytest.raises(InvalidParameterError, match=rf"^{field}: must be at least"):
        SvdParameters(**{field: value})
