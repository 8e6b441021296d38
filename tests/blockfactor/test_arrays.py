"""Test the validation of input matrices and the normalisation of rows."""

import numpy as np
import pytest

from blockfactor.arrays import checked_matrix, unit_rows
from blockfactor.errors import BlockfactorError


def test_a_matrix_becomes_contiguous_float32():
    x = checked_matrix("x", np.arange(6.0).reshape(2, 3).T)
    assert x.dtype == np.float32
    assert x.flags.c_contiguous
    np.testing.assert_array_equal(x, [[0, 3], [1, 4], [2, 5]])


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(3), r"x: must be a matrix, got shape \(3,\)"),
        ([[1.0], [np.nan]], "x: row 1 contains NaN"),
        ([[np.inf], [1.0]], "x: row 0 contains NaN, infinity"),
        ([[1.0], [1e30]], "x: row 1 .* too large to square"),
    ],
)
def test_an_invalid_matrix_raises(x, message):
    with pytest.raises(ValueError, match=message) as raised:
        checked_matrix("x", x)
    assert isinstance(raised.value, BlockfactorError)


def test_unit_rows_leave_zero_rows():
    rows = unit_rows(np.array([[3, 4], [0, 0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0]], rtol=1e-6)
