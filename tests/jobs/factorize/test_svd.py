"""Randomised SVD on Spark against scipy; blocks do not matter; the job's two tables."""

import numpy as np
import pyarrow as pa
import pytest
import scipy.sparse as sp
from scipy.sparse.linalg import svds
from sklearn.utils import extmath

from blockfactor import csr_blocks
from contracts.errors import BadArgument, CheckFailed
from jobs.factorize import svd as job
from jobs.platform.list_columns import to_matrix
from jobs.settings.matrix import SvdSettings
from tests.helpers.small_tables import fill_matrix, frame, ratings

SETTINGS = SvdSettings(d=10, oversampling=20, power_iterations=2)


def decaying(m, n, seed=0):
    """A sparse matrix whose singular values fall off, as those of PMI do."""
    rng = np.random.default_rng(seed)
    x = sp.random(m, n, 0.3, "csr", rng=rng)
    scale = [sp.diags(np.geomspace(1, 1e-3, k)) for k in (m, n)]
    return sp.csr_matrix((scale[0] @ x @ scale[1]).astype(np.float32))


def factorise(spark, x, n_blocks, folder, settings=SETTINGS, *, spread=True):
    folder.mkdir()
    a = csr_blocks.pack(frame(spark, x), "a", x.shape, n_blocks, folder, spread=spread)
    b = csr_blocks.pack(frame(spark, x.T.tocsr()), "b", x.shape[::-1], n_blocks, folder, spread=spread)
    found = job.factorise(spark, a, b, settings, seed=5)
    return found, np.array(found.u()), np.array(found.v())


@pytest.mark.parametrize("shape", [(300, 120), (90, 400), (300, 31)])
def test_sigma_and_vectors_of_a_rectangular_matrix(spark, tmp_path, shape):
    x = decaying(*shape)
    found, u, v = factorise(spark, x, 3, tmp_path / "three")
    expected = np.sort(svds(x.astype(np.float64), 10, return_singular_vectors=False))[::-1]
    np.testing.assert_allclose(found.values, expected, rtol=1e-3)
    np.testing.assert_allclose(u.T @ u, np.eye(10), atol=1e-4)
    np.testing.assert_allclose(v.T @ v, np.eye(10), atol=1e-4)
    left = np.linalg.svd(x.toarray())[0][:, :1]
    assert abs(float((left.T @ u[:, :1])[0, 0])) == pytest.approx(1, abs=1e-3)
    assert (u[np.abs(u).argmax(axis=0), np.arange(10)] > 0).all()
    explained = 1 - (found.values**2).sum() / float(x.multiply(x).sum())
    assert found.unexplained == pytest.approx(explained, rel=1e-3)
    assert 0 <= found.residual < 0.1


def test_keeping_the_step_before_the_last_lowers_the_error(spark, tmp_path):
    rng = np.random.default_rng(1)
    x = sp.random(1500, 1500, 0.02, "csr", rng=rng)
    x = sp.csr_matrix(x + x.T).astype(np.float32)
    x.data *= 1 + rng.random(1500)[x.indices].astype(np.float32)
    found, _, _ = factorise(spark, x, 2, tmp_path / "flat", SvdSettings(d=40, oversampling=30, power_iterations=2))
    expected = np.sort(svds(x.astype(np.float64), 20, return_singular_vectors=False))[::-1]
    classical = extmath.randomized_svd(
        x, 40, n_oversamples=30, n_iter=2, power_iteration_normalizer="QR", random_state=5
    )
    worst = lambda values: float(np.abs(values[:20] / expected - 1).max())  # noqa: E731
    assert worst(found.values) < 0.65 * worst(classical[1])


def test_one_block_and_four_agree(spark, tmp_path):
    x = decaying(150, 100)
    one, u, v = factorise(spark, x, 1, tmp_path / "one")
    four, u4, v4 = factorise(spark, x, 4, tmp_path / "four")
    np.testing.assert_allclose(one.values, four.values, rtol=1e-5)
    np.testing.assert_allclose(u[:, :5], u4[:, :5], atol=1e-3)
    np.testing.assert_allclose(v[:, :5], v4[:, :5], atol=1e-3)


def test_spreading_the_rows_changes_nothing_but_the_balance(spark, tmp_path):
    x = decaying(150, 100)
    one, u, v = factorise(spark, x, 3, tmp_path / "spread")
    two, u2, v2 = factorise(spark, x, 3, tmp_path / "plain", spread=False)
    np.testing.assert_allclose(one.values, two.values, rtol=1e-4)
    np.testing.assert_allclose(u[:, :3], u2[:, :3], atol=1e-2)
    np.testing.assert_allclose(v[:, :3], v2[:, :3], atol=1e-2)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 100, 4000, 20_000])
def test_a_stride_visits_every_place_once_and_spreads_neighbours(n):
    places = np.arange(n) * csr_blocks.stride(n) % n
    assert sorted(places) == list(range(n))
    if n >= 100:
        halves = places[: n // 10] < n // 2
        assert 0.4 < halves.mean() < 0.6


def test_a_rank_above_the_matrix_is_refused(spark, tmp_path):
    with pytest.raises(BadArgument, match=r"svd\.d: rank 10 of a matrix of 30 x 8; allowed are 1 to 8"):
        factorise(spark, decaying(30, 8), 1, tmp_path / "a")


def test_the_job_writes_unit_tracks_and_mean_users(spark, context):
    context.settings = context.settings.model_copy(update={"svd": SvdSettings(d=6, oversampling=4)})
    x = ratings(30, 20)
    fill_matrix(context, x)
    week = context.week.name
    dense = np.triu(np.random.default_rng(1).random((20, 20)), 1)
    dense[dense < 0.6] = 0
    dense[4] = dense[:, 4] = 0
    i, j = np.nonzero(dense)
    columns = [*(pa.array(a, pa.int32()) for a in (i, j, np.full(len(i), 2))), pa.array(dense[i, j], pa.float32())]
    context.lake.write("track_pairs", pa.table(columns, ["track_idx_i", "track_idx_j", "n_together", "pmi"]), week=week)
    report = job.run(context)

    key = {"week": week, "space": "tt_svd"}
    tracks = to_matrix(context.lake.read("track_vectors", **key))
    lengths = np.linalg.norm(tracks, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 4), 1, rtol=1e-5)
    assert lengths[4] == 0
    assert report["tracks_without_a_pair"] == 1
    users = context.lake.read("user_vectors", **key).sort_by("user_idx")
    heard = (x.toarray() > 0.3).astype(float)
    mean = heard @ tracks
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(to_matrix(users), mean / np.where(length > 0, length, 1), atol=1e-5)
    job.run(context)
    assert context.lake.read("user_vectors", **key).sort_by("user_idx") == users
    np.testing.assert_array_equal(to_matrix(context.lake.read("track_vectors", **key)), tracks)


def test_no_pairs_is_said(spark, context):
    fill_matrix(context, ratings(30, 20))
    with pytest.raises(CheckFailed, match=r"track_pairs: .* has not been written"):
        job.run(context)
