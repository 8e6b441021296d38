"""Linear regression: the least squares solution, columns without information, chunks, invalid input."""

import numpy as np
import pytest

from models.cold_start import linear_regression
from models.cold_start.linear_regression import fit_linear_regression


@pytest.fixture
def task() -> tuple[np.ndarray, np.ndarray]:
    """Inputs of very different scales, as vectors and counts are, and noisy targets."""
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((500, 6)) * [0.05, 0.1, 1, 20, 3, 1] + [0, 0, 5, 40, 0, 0]).astype(np.float32)
    y = x @ rng.standard_normal((6, 3)) + 7 + rng.standard_normal((500, 3))
    return x, y.astype(np.float32)


def test_it_equals_least_squares_with_an_intercept(task) -> None:
    x, y = task
    with_one = np.hstack([x.astype(np.float64), np.ones((500, 1))])
    weights = np.linalg.lstsq(with_one, y.astype(np.float64), rcond=None)[0]
    np.testing.assert_allclose(fit_linear_regression(x, y, ridge=1e-9)(x), with_one @ weights, rtol=1e-4, atol=1e-4)


def test_the_ridge_is_relative_to_the_variance_of_a_column(task) -> None:
    x, y = task[0][:, 3:4], task[1]
    centred, scale = x - x.mean(axis=0, dtype=np.float64), x.std(axis=0, dtype=np.float64)
    slope = (centred * (y - y.mean(axis=0))).mean(axis=0) / scale**2
    expected = centred * slope / 1.5 + y.mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(fit_linear_regression(x, y, ridge=0.5)(x), expected, rtol=1e-4)


def test_constant_and_equal_columns_change_nothing(task) -> None:
    x, y = task
    plain = fit_linear_regression(x, y, ridge=1e-6)(x)
    wider = np.hstack([x, np.full((500, 1), 33.3, np.float32), np.zeros((500, 1), np.float32), x[:, :1]])
    predict = fit_linear_regression(wider, y, ridge=1e-6)
    np.testing.assert_allclose(predict(wider), plain, rtol=1e-3, atol=1e-3)
    wider[:, 6] = 1e6
    np.testing.assert_allclose(predict(wider), plain, rtol=1e-3, atol=1e-3)  # a constant column has no weight


def test_chunks_do_not_change_the_result(task, monkeypatch) -> None:
    x, y = task
    whole = fit_linear_regression(x, y)(x)
    monkeypatch.setattr(linear_regression, "_CHUNK", 64)
    np.testing.assert_allclose(fit_linear_regression(x, y)(x), whole, rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, y[:-1], 0.1), "a row for each user"),
        (lambda x, y: (x[:0], y[:0], 0.1), "a row for each user"),
        (lambda x, y: (np.where(x > 60, np.nan, x), y, 0.1), "NaN or infinity"),
        (lambda x, y: (x, y, 0.0), "ridge must be above 0"),
    ],
)
def test_invalid_input_raises(task, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_linear_regression(*change(*task))
