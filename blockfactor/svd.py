"""Truncated singular value decomposition of a large sparse matrix by random projection, on Spark.

Problem  Find A ~ U diag(sigma) V' for the d largest singular values of a sparse matrix A (M, N).
Method   Multiply A with a random matrix of d + oversampling columns; the result spans nearly the same space as the
         leading left singular vectors. A few power iterations (multiply with A' and A again, QR after each product)
         improve the space. The SVD of A restricted to it is small and is computed exactly.
Source   Halko, Martinsson, Tropp 2011, Finding Structure with Randomness, SIAM Review, algorithm 4.4; the result is
         taken from the last two steps together, after Musco and Musco 2015. `svd_kernels.py` contains the formulas and
         lists the differences.

Distribution: the matrix and its transpose are packed into blocks of rows (`csr_blocks.py`), and one Spark job runs the
workers (`worker_pool.py`). For a product each worker reads the dense factor (N, d + oversampling) from a shared
memory-mapped file and writes its rows of the product. QR follows every product: each block's own, then one of the
stacked (L, L) factors on the driver, then each block is multiplied by its part. Only factors of that size pass through
the driver. Products are float32 sums within one row, so the number of blocks changes the result only through QR: sigma
by less than 1e-5 (relative).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from blockfactor import csr_blocks, svd_kernels
from blockfactor.als_kernels import gram
from blockfactor.arrays import DoubleMatrix, DoubleVector, FloatMatrix, FloatVector, LongVector
from blockfactor.csr_blocks import Block, BlockMatrix
from blockfactor.errors import InvalidParameterError
from blockfactor.worker_pool import WorkerPool, worker_pool

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


@dataclass(frozen=True)
class SvdParameters:
    """Parameters of `factorise`, validated on construction.

    Attributes:
        d: Number of singular values and vectors.
        oversampling: Additional columns that are computed and dropped at the end; more columns lower the error.
        power_iterations: More iterations lower the error of sigma where the spectrum falls slowly.

    Raises:
        InvalidParameterError: A value is out of range.
    """

    d: int = 128
    oversampling: int = 30
    power_iterations: int = 3

    def __post_init__(self) -> None:
        for name, least in (("d", 1), ("oversampling", 1), ("power_iterations", 0)):
            if getattr(self, name) < least:
                raise InvalidParameterError(f"{name}: must be at least {least}, got {getattr(self, name)}")


@dataclass(frozen=True)
class SvdResult:
    """Result of `factorise`: A ~ U diag(values) V'. U and V are read from files, which must still exist.

    Attributes:
        left_file: Rows of U in stored order, before the signs are applied.
        right_file: Rows of V in stored order, before the signs are applied.
        values: Singular values (d,), in descending order.
        sign: Sign of each column (d,), 1 or -1.
        residual: Largest |A v - sigma u| / sigma_1 over all triplets.
        unexplained: Share of the squared Frobenius norm of A outside the triplets.
        positions: Stored position of each row of U and of V.
    """

    left_file: str
    right_file: str
    values: DoubleVector
    sign: DoubleVector
    residual: float
    unexplained: float
    positions: tuple[LongVector, LongVector]

    def left(self) -> FloatMatrix:
        """Return the left singular vectors (M, d)."""
        return _ordered_rows(self.left_file, self.positions[0], self.sign)

    def right(self) -> FloatMatrix:
        """Return the right singular vectors (N, d)."""
        return _ordered_rows(self.right_file, self.positions[1], self.sign)


def _ordered_rows(file: str, positions: LongVector, sign: DoubleVector) -> FloatMatrix:
    rows: FloatMatrix = csr_blocks.load_array(file)[positions] * sign.astype(np.float32)
    return rows


def factorise(
    spark: SparkSession, matrix: BlockMatrix, transposed: BlockMatrix, parameters: SvdParameters, seed: int
) -> SvdResult:
    """Compute the truncated SVD of a packed matrix.

    Args:
        spark: A session whose executors can read and write the folder of `matrix`.
        matrix: The matrix A (M, N).
        transposed: Its transpose, packed with the same `permute`; pass `matrix` itself if it is symmetric.
        parameters: Rank and accuracy.
        seed: Seed of the random projection.

    Raises:
        InvalidParameterError: `d` is larger than the matrix, or shape or strides of `transposed` do not match.
        WorkerPoolError: Spark lost all workers.
    """
    m, n = matrix.n_rows, matrix.n_columns
    if (transposed.n_rows, transposed.n_columns) != (n, m) or transposed.strides != matrix.strides[::-1]:
        raise InvalidParameterError(
            f"transposed: {transposed.n_rows} x {transposed.n_columns} with strides {transposed.strides} is not the "
            f"transpose of {m} x {n} with strides {matrix.strides}"
        )
    d = parameters.d
    if d > min(m, n):
        raise InvalidParameterError(f"d: rank {d} of a matrix of {m} x {n}; allowed are 1 to {min(m, n)}")
    width = min(d + parameters.oversampling, m, n)
    folder = matrix.folder
    with worker_pool(spark, max(len(matrix.blocks), len(transposed.blocks))) as workers:
        omega = svd_kernels.random_projection(n, width, seed)
        lefts, rights, corners = _power_iterations(workers, matrix, transposed, omega, parameters.power_iterations)
        left_gram = np.sum(workers.map(partial(_block_gram, lefts), matrix.blocks), axis=0)
        right_gram = np.sum(workers.map(partial(_block_gram, rights), transposed.blocks), axis=0)
        combinations, mixed = (
            np.split(x, len(lefts)) for x in svd_kernels.leading_directions(left_gram, right_gram, corners, width)
        )
        right, r = _orthogonalise(workers, transposed, partial(_add_products, rights, mixed), width, f"{folder}/right")
        small = svd_kernels.small_svd(r, d)
        u, v = (csr_blocks.create_matrix_file(f"{folder}/{name}.npy", size, d) for name, size in (("u", m), ("v", n)))
        write_left = partial(_write_products, u, lefts, [combination @ small.left for combination in combinations])
        extremes = workers.map(write_left, matrix.blocks)
        workers.map(partial(_write_products, v, [right], [small.right]), transposed.blocks)
        errors = workers.map(partial(_squared_residuals, matrix, u, v, small.values), matrix.blocks)
    first = max(float(small.values[0]), float(np.finfo(np.float32).tiny))
    residual = float(np.sqrt(np.sum(errors, axis=0)).max()) / first
    unexplained = max(0.0, 1.0 - float((small.values**2).sum()) / matrix.squares) if matrix.squares else 0.0
    positions = matrix.row_positions(), transposed.row_positions()
    return SvdResult(u, v, small.values, svd_kernels.column_signs(extremes), residual, unexplained, positions)


def _power_iterations(
    workers: WorkerPool, matrix: BlockMatrix, transposed: BlockMatrix, omega: FloatMatrix, n_iterations: int
) -> tuple[list[str], list[str], list[DoubleMatrix]]:
    """Return files of Q_j, files of Z_j, and C_j of the last two power iterations, as named in `svd_kernels.py`."""
    width = omega.shape[1]
    dense = f"{matrix.folder}/omega.npy"
    csr_blocks.save_array(dense, omega)
    lefts, rights, corners = [], [], []
    for power in range(n_iterations + 1):
        name = f"{matrix.folder}/{{}}-{power}"
        dense, _ = _orthogonalise(workers, matrix, partial(_block_product, matrix, dense), width, name.format("left"))
        lefts.append(dense)
        dense, corner = _orthogonalise(
            workers, transposed, partial(_block_product, transposed, dense), width, name.format("right")
        )
        rights.append(dense)
        corners.append(corner)
        for old in (*lefts[-3:-2], *rights[-3:-2]):
            Path(old).unlink()
    return lefts[-2:], rights[-2:], corners[-2:]


def _orthogonalise(
    workers: WorkerPool, matrix: BlockMatrix, rows: Callable[[Block], FloatMatrix], width: int, name: str
) -> tuple[str, DoubleMatrix]:
    """Compute the QR decomposition of a tall matrix that is given by blocks of rows.

    Args:
        workers: The pool.
        matrix: Its blocks are those of the tall matrix.
        rows: Returns the tall matrix's rows of a block, shape (rows, width).
        width: Number of columns.
        name: Path of the files without suffix.

    Returns:
        The file of Q (rows, K), and R (K, width).
    """
    raw = csr_blocks.create_matrix_file(f"{name}-raw.npy", matrix.n_rows, width)
    factors, r = svd_kernels.stack_qr(workers.map(partial(_block_qr, rows, raw), matrix.blocks))
    q_file = csr_blocks.create_matrix_file(f"{name}.npy", matrix.n_rows, len(r))
    workers.map(partial(_multiply_block, raw, q_file), list(zip(matrix.blocks, factors, strict=True)))
    Path(raw).unlink()
    return q_file, r


# -- calls: each receives file names and a block; arrays are exchanged in files ----------------------------------------


def _block_product(matrix: BlockMatrix, dense_file: str, block: Block) -> FloatMatrix:
    """Return a block's rows of matrix @ dense."""
    x = csr_blocks.load_array(dense_file)
    out = np.zeros((block.stop - block.start, x.shape[1]), np.float32)
    svd_kernels.multiply(*matrix.csr(block), x, out)
    return out


def _add_products(sources: list[str], factors: list[DoubleMatrix], block: Block) -> FloatMatrix:
    """Return a block's rows of the sum of source @ factor."""
    parts = (
        csr_blocks.load_array(source)[block.start : block.stop] @ factor.astype(np.float32)
        for source, factor in zip(sources, factors, strict=True)
    )
    total: FloatMatrix = reduce(np.add, parts)
    return total


def _block_qr(rows: Callable[[Block], FloatMatrix], target: str, block: Block) -> FloatMatrix:
    """Write Q of a block's own QR, with zero columns if it has fewer rows than columns; returns R."""
    x = rows(block)
    q, r = svd_kernels.thin_qr(x)
    x[:, : q.shape[1]] = q
    x[:, q.shape[1] :] = 0
    csr_blocks.write_rows(target, block.start, x)
    return r


def _multiply_block(source: str, target: str, task: tuple[Block, DoubleMatrix]) -> None:
    """Write a block's rows of source @ factor."""
    block, factor = task
    rows = csr_blocks.load_array(source)[block.start : block.stop, : len(factor)]
    csr_blocks.write_rows(target, block.start, rows @ factor.astype(np.float32))


def _write_products(target: str, sources: list[str], factors: list[DoubleMatrix], block: Block) -> FloatVector:
    """Write a block's rows of the sum of source @ factor; returns the largest entry of each column."""
    rows = _add_products(sources, factors, block)
    csr_blocks.write_rows(target, block.start, rows)
    return svd_kernels.largest_entries(rows)


def _block_gram(sources: list[str], block: Block) -> DoubleMatrix:
    """Return a block's part of the Gram matrix of all columns of the sources."""
    return gram(np.hstack([csr_blocks.load_array(source)[block.start : block.stop] for source in sources]))


def _squared_residuals(
    matrix: BlockMatrix, left_file: str, right_file: str, values: DoubleVector, block: Block
) -> DoubleVector:
    """Return the sum of squares of A v - sigma u over a block's rows, shape (d,)."""
    v, u = csr_blocks.load_array(right_file), csr_blocks.load_array(left_file)[block.start : block.stop]
    out = np.zeros(u.shape, np.float32)
    svd_kernels.multiply(*matrix.csr(block), v, out)
    error = out - u * values.astype(np.float32)
    total: DoubleVector = np.einsum("nd,nd->d", error, error, dtype=np.float64)
    return total
