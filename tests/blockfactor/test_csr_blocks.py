"""Packing of matrices into blocks of rows, and the files of dense matrices."""

import numpy as np
import pytest
import scipy.sparse as sp

from blockfactor import csr_blocks
from blockfactor.errors import InvalidDataError
from tests.helpers.small_tables import frame, ratings


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((0, 0, float("nan")), r"user_track: entry \(row 0, column 0\) is nan; it must be finite and above 0"),
        ((3, 2, float("inf")), r"entry \(row 3, column 2\) is inf"),
        ((3, 2, -1.0), r"entry \(row 3, column 2\) is -1"),
        ((60, 0, 1.0), "row index 60 is out of range; allowed are 0 to 59"),
        ((0, 40, 1.0), "column index 40 is out of range; allowed are 0 to 39"),
        ((-1, 0, 1.0), "row index -1 is out of range"),
        ((59, 1, 1.0), r"entry \(row 59, column 1\) occurs twice"),
    ],
)
def test_an_invalid_entry_raises(spark, tmp_path, entry, message):
    good = [(59, 1, 1.0), (0, 39, 2.0)]
    data = spark.createDataFrame([*good, entry], "row int, column int, value float")
    with pytest.raises(InvalidDataError, match=message):
        csr_blocks.pack(data, "user_track", (60, 40), 3, tmp_path, positive=True)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 100, 4000, 20_000])
def test_a_stride_visits_every_position_once_and_separates_neighbours(n):
    positions = np.arange(n) * csr_blocks.permutation_stride(n) % n
    assert sorted(positions) == list(range(n))
    if n >= 100:
        halves = positions[: n // 10] < n // 2
        assert 0.4 < halves.mean() < 0.6


@pytest.mark.parametrize("permute", [False, True])
def test_blocks_contain_the_matrix(spark, tmp_path, permute):
    x = ratings(50, 30).tolil()
    x[10:30] = 0  # without `permute` the second of three blocks is nearly empty
    x = x.tocsr()
    x.eliminate_zeros()
    matrix = csr_blocks.pack(frame(spark, x), "x", x.shape, 3, tmp_path, permute=permute)
    blocks = [sp.csr_matrix(matrix.csr(b)[::-1], shape=(b.stop - b.start, 30)) for b in matrix.blocks]
    columns = np.arange(30) * matrix.strides[1] % 30
    dense = np.vstack([block.toarray() for block in blocks])[matrix.row_positions()][:, columns]
    np.testing.assert_array_equal(dense, x.toarray())
    np.testing.assert_array_equal(matrix.nonempty_rows(), np.diff(x.indptr) > 0)
    assert matrix.n_entries == x.nnz
    assert matrix.total == pytest.approx(x.data.sum(dtype=float))
    assert matrix.squares == pytest.approx(np.square(x.data, dtype=float).sum())


@pytest.mark.parametrize(("n_rows", "n_blocks"), [(1, 4), (7, 3), (8, 4), (5, 100)])
def test_row_ranges_cover_all_rows_without_an_empty_block(n_rows, n_blocks):
    ranges = csr_blocks.row_ranges(n_rows, n_blocks)
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(n_rows))
    assert all(start < stop for start, stop in ranges)
    assert len(ranges) <= n_blocks


def test_rows_are_written_at_their_position(tmp_path):
    path = csr_blocks.create_matrix_file(str(tmp_path / "x.npy"), 4, 2)
    csr_blocks.write_rows(path, 1, np.array([[1, 2], [3, 4]], np.float32))
    np.testing.assert_array_equal(csr_blocks.load_array(path), [[0, 0], [1, 2], [3, 4], [0, 0]])


def test_a_saved_array_replaces_the_file_and_leaves_no_temporary_file(tmp_path):
    path = str(tmp_path / "x.npy")
    for value in (1.0, 2.0):
        csr_blocks.save_array(path, np.full(3, value))
    np.testing.assert_array_equal(csr_blocks.load_array(path), [2, 2, 2])
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]
