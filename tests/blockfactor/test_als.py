"""ALS on Spark: the result does not depend on the number of blocks, the loss is correct, invalid input raises."""

from dataclasses import replace

import numpy as np
import pytest

from blockfactor import als, als_kernels, csr_blocks
from blockfactor.als import AlsParameters, train
from blockfactor.errors import ConvergenceError, InvalidParameterError
from tests.helpers.small_tables import frame, ratings

PARAMETERS = AlsParameters(d=8, iterations=4, cg_steps=3, alpha=5.0, regularisation=2.0, tolerance=0.0)


def fit(spark, x, n_blocks, folder, parameters=PARAMETERS):
    folder.mkdir()
    packed = csr_blocks.pack(frame(spark, x), "user_track", x.shape, n_blocks, folder, positive=True)
    result = train(spark, packed, parameters, 3)
    users = np.vstack([result.user_factors(block) for block in packed.blocks])
    return np.array(result.item_factors()), users, result.losses


def test_one_block_and_four_agree_and_the_loss_matches_its_definition(spark, tmp_path):
    x = ratings()
    items, users, losses = fit(spark, x, 1, tmp_path / "one")
    items4, users4, losses4 = fit(spark, x, 4, tmp_path / "four")
    np.testing.assert_allclose(losses, losses4, rtol=1e-4)
    np.testing.assert_allclose(items, items4, atol=1e-3)
    np.testing.assert_allclose(users, users4, atol=1e-3)
    all_ratings = als_kernels.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data)
    assert losses[-1] == pytest.approx(als_kernels.loss(all_ratings, users, items, 5.0, 2.0), rel=1e-4)
    assert list(losses) == sorted(losses, reverse=True)


def test_training_stops_when_the_loss_falls_by_less_than_the_tolerance(spark, tmp_path):
    parameters = replace(PARAMETERS, tolerance=0.5, iterations=10)
    assert len(fit(spark, ratings(), 2, tmp_path / "a", parameters)[2]) == 2


def test_a_rank_above_the_matrix_raises(spark, tmp_path):
    with pytest.raises(
        InvalidParameterError, match=r"^d: 8 factors of a matrix of 5 users by 40 items; allowed are 1 to 5"
    ):
        fit(spark, ratings(5), 1, tmp_path / "a")


def test_the_loss_includes_regularisation_by_frequency(spark, tmp_path):
    x = ratings().tolil()
    x[:, 7] = 0  # a track without a listener
    x[9] = 0  # a listener without a track
    x = x.tocsr()
    x.eliminate_zeros()
    parameters = replace(PARAMETERS, frequency_exponent=1.0, regularisation=0.3)
    items, users, losses = fit(spark, x, 2, tmp_path / "a", parameters)
    all_ratings = als_kernels.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data)
    assert losses[-1] == pytest.approx(als_kernels.loss(all_ratings, users, items, 5.0, 0.3, 1.0), rel=1e-4)
    assert list(losses) == sorted(losses, reverse=True)
    assert np.isfinite(items).all()
    np.testing.assert_array_equal(users[9], 0)


def test_the_start_from_main_directions_gives_a_lower_loss_than_noise(spark, tmp_path):
    x = ratings(200, 80)
    packed = csr_blocks.pack(frame(spark, x), "user_track", x.shape, 2, tmp_path, positive=True)
    noise = als_kernels.noise(80, 8, 3) * np.float32(0.1 / np.sqrt(8))
    assert train(spark, packed, PARAMETERS, 3).losses[1] < train(spark, packed, PARAMETERS, noise).losses[1]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d", 0, "at least 1"),
        ("iterations", 0, "at least 1"),
        ("alpha", -1.0, "finite and above 0"),
        ("alpha", float("inf"), "finite and above 0"),
        ("alpha", float("nan"), "finite and above 0"),
        ("regularisation", -20.0, "finite and above 0"),
        ("frequency_exponent", 1.5, "from 0 to 1"),
        ("cg_steps", 0, "at least 1"),
        ("tolerance", float("nan"), "at least 0"),
    ],
)
def test_a_parameter_out_of_range_raises(field, value, message):
    with pytest.raises(InvalidParameterError, match=rf"^{field}: must be {message}"):
        AlsParameters(**{field: value})


def test_an_increasing_loss_ends_training(spark, tmp_path, monkeypatch):
    x = ratings()
    packed = csr_blocks.pack(frame(spark, x), "user_track", x.shape, 2, tmp_path, positive=True)
    monkeypatch.setattr(als, "MAX_LOSS_INCREASE", -1.0)
    with pytest.raises(ConvergenceError, match=r"the loss increased from .* in iteration 2"):
        train(spark, packed, PARAMETERS, 3)
