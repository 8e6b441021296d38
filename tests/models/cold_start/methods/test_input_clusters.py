"""Input Features Clustering and input scaling: rows on disk, directions and invalid input."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from models.cold_start.methods import WarmListeners
from models.cold_start.methods.input_clusters import InputFeaturesClustering
from models.cold_start.methods.scaling import Scaler

F, N, U = 9, 30, 120


@pytest.fixture(scope="module")
def warm() -> WarmListeners:
    """Users in three directions with very different lengths; each direction has its own tracks."""
    rng = np.random.default_rng(0)
    group = np.arange(U) % 3
    x = np.eye(F)[group] + 0.05 * rng.standard_normal((U, F))
    x *= 10 ** rng.uniform(-2, 2, (U, 1))
    heard = csr_array((np.arange(N) % 3 == group[:, None]).astype(np.float32))
    space = np.zeros((U, 2), np.float32)
    lists = np.zeros((3, 10), np.int32)
    return WarmListeners(x.astype(np.float32), space, space[:N], heard, group.astype(np.int32), space[:3], lists)


def test_listener_gets_tracks_of_users_with_the_same_direction(warm) -> None:
    method = InputFeaturesClustering(warm, 3)
    recommended = method.recommend(1000 * np.eye(F, dtype=np.float32)[:3], 10)
    for group in range(3):
        assert (recommended[group] % 3 == group).all()
    assert method.rankings.shape == (3, 10)  # as long as the rankings of the segments


def test_memory_mapped_rows_give_equal_results(warm, tmp_path) -> None:
    np.save(tmp_path / "x.npy", warm.x_UF)
    mapped = replace(warm, x_UF=np.load(tmp_path / "x.npy", mmap_mode="r"))
    one, two = InputFeaturesClustering(warm, 5), InputFeaturesClustering(mapped, 5)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.rankings, two.rankings)


@pytest.mark.parametrize("k", [0, U + 1])
def test_more_clusters_than_users_raise(warm, k: int) -> None:
    with pytest.raises(ValueError, match=rf"input_features_clustering: k must be from 1 .* \({U}\), got {k}"):
        InputFeaturesClustering(warm, k)


def test_nan_raises(warm) -> None:
    method = InputFeaturesClustering(warm, 3)
    with pytest.raises(ValueError, match="input_features_clustering: x: row 1 contains NaN"):
        method.recommend(np.array([[1] * F, [np.nan] * F]), 3)


def test_scaled_columns_have_mean_0_and_deviation_1(tmp_path) -> None:
    rng = np.random.default_rng(1)
    x = (rng.standard_normal((9_000, 3)) * [1, 100, 1e-3] + [0, 1e4, 5]).astype(np.float32)
    x = np.hstack([x, np.full((9_000, 1), 7, np.float32)])
    np.save(tmp_path / "x.npy", x)
    scaler = Scaler.fit("x", np.load(tmp_path / "x.npy", mmap_mode="r"), clip=np.inf)
    scaled = scaler(x)
    np.testing.assert_allclose(scaled.mean(axis=0), 0, atol=2e-3)
    np.testing.assert_allclose(scaled.std(axis=0), [1, 1, 1, 0], rtol=2e-3)
    assert scaler(np.array([[0, 1e4, 5, 1e9]], np.float32))[0, 3] == 0  # a constant column is scaled to zero
    clipped = Scaler.fit("x", x, columns=[1])(np.array([[0, 1e9, 0, 0], [0, -1e9, 0, 0]], np.float32))
    assert clipped.tolist() == [[5], [-5]]


def test_scaling_does_not_change_its_input() -> None:
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(np.float32)
    original = x.copy()
    scaled = Scaler.fit("x", x)(x)
    scaled[:] = 9
    np.testing.assert_array_equal(x, original)


def test_scaling_reports_the_column_that_is_not_finite() -> None:
    x = np.ones((5, 4), np.float32)
    x[3, 2] = np.inf
    with pytest.raises(ValueError, match="melu: x: column 2 contains NaN or infinity"):
        Scaler.fit("melu: x", x)
    with pytest.raises(ValueError, match="at least one row"):
        Scaler.fit("melu: x", x[:0])
