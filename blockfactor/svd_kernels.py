"""Compiled kernels and formulas of the randomised SVD.

Shapes   A is (M, N), sparse, in blocks of rows (CSR); L = rank + oversampling columns are computed, float32
Source   Halko, Martinsson, Tropp 2011, algorithm 4.4; tall-skinny QR after Demmel et al. 2012; the result is taken from
         the last two steps together instead of the last one alone, after Musco and Musco 2015
Differs  Products with A and with its transpose are both products of row blocks with a dense matrix: the transpose is
         packed too (a symmetric matrix is its own), so no (N, L) sums are exchanged between tasks

    Q_0 R = A omega                                     the range finder
    Z_j C_j = A' Q_j; Q_j+1 R = A Z_j                   for each power iteration, QR after every product
    Z_p C_p = A' Q_p                                    p power iterations need 2 p + 2 products
    S = [Q_p-1 Q_p] T has L orthonormal columns         those that contain most of A, see `leading_directions`
    B' = A' S = [Z_p-1 C_p-1 Z_p C_p] T = Q2 R2         no further product with A; R2 = V sigma W'
    A = (S W) sigma (Q2 V)'

The last Q alone gives the classical result. Using the one before it too costs no product with A and lowers the error of
sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag, qr

from blockfactor.arrays import DoubleMatrix, DoubleVector, FloatMatrix, FloatVector, IntVector, LongVector
from blockfactor.compiled import kernel

MIN_INDEPENDENT_SHARE = 0.01  # of a unit length; its inverse bounds the magnification of float32 rounding errors
SIGN_TIE_TOLERANCE = 1e-5  # relative


@kernel
def multiply(
    offsets: LongVector, columns: IntVector, values: FloatVector, dense_NL: FloatMatrix, out_RL: FloatMatrix
) -> None:
    """Add A @ dense to `out_RL`, for R rows of A in CSR format.

    Args:
        offsets: CSR offsets (R + 1,).
        columns: CSR columns (nnz,).
        values: CSR values (nnz,).
        dense_NL: Dense matrix.
        out_RL: Changed in place; initialise it with zeros.
    """
    n_rows, width = out_RL.shape
    for row in range(n_rows):
        out = out_RL[row]
        e, stop = offsets[row], offsets[row + 1]
        while e + 4 <= stop:  # four entries at a time read and write `out` a quarter as often
            x0, x1, x2, x3 = (
                dense_NL[columns[e]],
                dense_NL[columns[e + 1]],
                dense_NL[columns[e + 2]],
                dense_NL[columns[e + 3]],
            )
            a0, a1, a2, a3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            for k in range(width):
                out[k] += a0 * x0[k] + a1 * x1[k] + a2 * x2[k] + a3 * x3[k]
            e += 4
        while e < stop:
            x0, a0 = dense_NL[columns[e]], values[e]
            for k in range(width):
                out[k] += a0 * x0[k]
            e += 1


def random_projection(n_columns: int, width: int, seed: int) -> FloatMatrix:
    """Return omega (N, L) of standard normal values that depend on the seed only."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n_columns, width), np.float32)


def thin_qr(x: FloatMatrix) -> tuple[FloatMatrix, FloatMatrix]:
    """Return the Householder QR of a block (R, L): Q (R, K) and R (K, L) with K = min(R, L), float32.

    Stable for any condition number.
    """
    q, r = qr(x, mode="economic", check_finite=False)
    return q, r


def stack_qr(parts: list[FloatMatrix]) -> tuple[list[DoubleMatrix], DoubleMatrix]:
    """Compute the QR decomposition of the blocks' R factors, stacked.

    Args:
        parts: R factor (K_b, L) of each block, in order.

    Returns:
        For each block the matrix (K_b, L) by which its Q must be multiplied, and R (L, L) of the complete matrix.
    """
    q, r = np.linalg.qr(np.vstack(parts).astype(np.float64))
    ends = np.cumsum([len(part) for part in parts])
    return np.split(q, ends[:-1]), r


def leading_directions(
    left_gram: DoubleMatrix, right_gram: DoubleMatrix, corners: list[DoubleMatrix], width: int
) -> tuple[DoubleMatrix, DoubleMatrix]:
    """Return the combinations of the steps' columns that contain most of A.

    Directions in which the Q's nearly repeat each other are excluded: in float32 they contain rounding errors only.

    Args:
        left_gram: Gram matrix (K, K) of the Q's side by side.
        right_gram: Gram matrix (K, K) of the Z's side by side.
        corners: The C's (L, L).
        width: Maximum number of combinations, at most L.

    Returns:
        T (K, width), and blockdiag(corners) T.
    """
    values, vectors = np.linalg.eigh(left_gram)
    is_independent = values > MIN_INDEPENDENT_SHARE**2
    basis = vectors[:, is_independent] / np.sqrt(values[is_independent])
    mixed = block_diag(*corners) @ basis
    _, best = np.linalg.eigh(mixed.T @ right_gram @ mixed)
    best = best[:, ::-1][:, :width]
    return basis @ best, mixed @ best


@dataclass(frozen=True)
class SmallSvd:
    """SVD of the last small factor.

    Attributes:
        left: Rotation of the left side (r, d).
        values: Singular values (d,).
        right: Rotation of the right side (K, d).
    """

    left: DoubleMatrix
    values: DoubleVector
    right: DoubleMatrix


def small_svd(r: DoubleMatrix, d: int) -> SmallSvd:
    """Return the first d triplets from R2 (K, r) of B' = Q2 R2, so that A = (S left) diag(values) (Q2 right)'."""
    right, values, left_t = np.linalg.svd(r, full_matrices=False)
    return SmallSvd(np.ascontiguousarray(left_t.T[:, :d]), values[:d], np.ascontiguousarray(right[:, :d]))


def largest_entries(x: FloatMatrix) -> FloatVector:
    """Return the entry of largest absolute value of each column, with its sign, (d,); the first one of equal ones."""
    if not len(x):
        return np.zeros(x.shape[1], x.dtype)
    values: FloatVector = x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])]
    return values


def column_signs(extremes: list[FloatVector]) -> DoubleVector:
    """Return 1 or -1 per column, so that the entry of largest absolute value becomes positive.

    Singular vectors are defined up to their sign. Absolute values that agree to five digits count as equal, and the
    first block decides: rounding errors must not change a sign.

    Args:
        extremes: `largest_entries` of each block of rows.
    """
    stacked = np.array(extremes, np.float64)
    size = np.abs(stacked)
    first = (size >= size.max(axis=0) * (1 - SIGN_TIE_TOLERANCE)).argmax(axis=0)
    values = stacked[first, np.arange(stacked.shape[1])]
    return np.where(values < 0, -1.0, 1.0)


def embed(u: FloatMatrix, values: DoubleVector, exponent: float) -> FloatMatrix:
    """Return the rows of U S^exponent scaled to unit length (R, d); a zero row (an item without entries) stays zero."""
    x = u.astype(np.float64) * np.maximum(values, 0.0) ** exponent
    length = np.linalg.norm(x, axis=1, keepdims=True)
    rows: FloatMatrix = np.where(length > 0, x / np.where(length > 0, length, 1.0), 0.0).astype(np.float32)
    return rows


def mean_unit_rows(offsets: LongVector, columns: IntVector, vectors_ND: FloatMatrix) -> FloatMatrix:
    """Return, for each row of a CSR matrix, the mean vector of its columns scaled to unit length (R, d).

    Rows without entries are zero.
    """
    out = np.zeros((len(offsets) - 1, vectors_ND.shape[1]), np.float32)
    multiply(offsets, columns, np.ones(len(columns), np.float32), vectors_ND, out)
    return embed(out, np.ones(out.shape[1]), 1.0)
