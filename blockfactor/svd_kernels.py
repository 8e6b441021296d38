"""Truncated singular value decomposition of a sparse matrix by random projection: the pieces.

Shapes   A is (M, N) sparse in blocks of rows (CSR); L = rank + oversampling columns are carried, float32
Source   Halko, Martinsson, Tropp 2011, algorithm 4.4; tall-skinny QR after Demmel et al. 2012; answers from the
         last two steps together, not from one alone, after Musco and Musco 2015
Differs  every product, with A and with its transpose, is a product of row blocks with a dense matrix: the transpose is
         packed too (a symmetric matrix is its own), so nothing of size (N, L) is ever added up between tasks

    Q_0 R = A omega                                     the range finder
    Z_j C_j = A' Q_j; Q_j+1 R = A Z_j                   for each power iteration, QR after every product
    Z_p C_p = A' Q_p                                    p power iterations make 2 p + 2 products
    S = [Q_p-1 Q_p] T has L orthonormal columns         those that hold most of A, see `leading`
    B' = A' S = [Z_p-1 C_p-1 Z_p C_p] T = Q2 R2         no further product with A; R2 = V sigma W'
    A = (S W) sigma (Q2 V)'

The last Q alone is the classical answer. Keeping the one before costs no product with A and lowers the error of sigma.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import block_diag, qr

from blockfactor.compiled import kernel

REPEATED = 0.01  # of a unit length; its inverse is how much of float32's rounding may be magnified


@kernel
def multiply(
    offsets: np.ndarray, columns: np.ndarray, values: np.ndarray, dense_NL: np.ndarray, out_RL: np.ndarray
) -> None:
    """Add A dense to `out`, for R rows of A as CSR; `out` starts as zeros."""
    n_rows, width = out_RL.shape
    for row in range(n_rows):
        out = out_RL[row]
        e, stop = offsets[row], offsets[row + 1]
        while e + 4 <= stop:  # four at a time: a quarter of the traffic of `out`
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


def start(n_columns: int, width: int, seed: int) -> np.ndarray:
    """Omega (N, L) float32 of standard normal values, from the seed alone."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n_columns, width), np.float32)


def thin_qr(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Householder QR of a tall block, float32: Q (R, K), R (K, L), K = min(R, L); stable however ill-conditioned."""
    q, r = qr(x, mode="economic", check_finite=False)
    return q, r


def stack_qr(parts: list[np.ndarray]) -> tuple[list[np.ndarray], np.ndarray]:
    """QR of the blocks' R factors on top of each other.

    Args:
        parts: (K_b, L) of each block, in order.

    Returns:
        For each block the (K_b, L) by which its Q must be multiplied, and the R (L, L) of the whole.
    """
    q, r = np.linalg.qr(np.vstack(parts).astype(np.float64))
    ends = np.cumsum([len(part) for part in parts])
    return np.split(q, ends[:-1]), r


def leading(
    left_gram: np.ndarray, right_gram: np.ndarray, corners: list[np.ndarray], width: int
) -> tuple[np.ndarray, np.ndarray]:
    """Which combinations of the steps' columns hold most of A: T (K, width), and blockdiag(corners) T.

    Args:
        left_gram: Gram matrix (K, K) of the Q's next to each other.
        right_gram: Gram matrix (K, K) of the Z's.
        corners: the C's (L, L).
        width: columns wanted, at most L.

    Directions in which the Q's nearly repeat each other are left out: float32 rounding would be all they hold.
    """
    values, vectors = np.linalg.eigh(left_gram)
    kept = values > REPEATED**2
    turn = vectors[:, kept] / np.sqrt(values[kept])
    mixed = block_diag(*corners) @ turn
    _, best = np.linalg.eigh(mixed.T @ right_gram @ mixed)
    best = best[:, ::-1][:, :width]
    return turn @ best, mixed @ best


@dataclass(frozen=True)
class Small:
    """SVD of the last small factor: rotations of both sides (r, d) and (K, d), and the singular values (d,)."""

    left: np.ndarray
    values: np.ndarray
    right: np.ndarray


def small_svd(r: np.ndarray, d: int) -> Small:
    """From B' = Q2 R2, R2 (K, r): A = (S left) diag(values) (Q2 right)', the first d of them."""
    right, values, left_t = np.linalg.svd(r, full_matrices=False)
    return Small(np.ascontiguousarray(left_t.T[:, :d]), values[:d], np.ascontiguousarray(right[:, :d]))


def peaks(x: np.ndarray) -> np.ndarray:
    """The entry of largest size of each column, with its sign (d,); the first one where several are as large."""
    if not len(x):
        return np.zeros(x.shape[1], x.dtype)
    values: np.ndarray = x[np.abs(x).argmax(axis=0), np.arange(x.shape[1])]
    return values


def signs(found: list[np.ndarray]) -> np.ndarray:
    """+1 or -1 a column, so that the entry of largest size is positive: singular vectors have no sign of their own.

    Sizes that agree to five digits count as equal and the first block's wins: rounding must not turn a column over.
    """
    stacked = np.array(found, np.float64)
    size = np.abs(stacked)
    first = (size >= size.max(axis=0) * (1 - 1e-5)).argmax(axis=0)
    values = stacked[first, np.arange(stacked.shape[1])]
    return np.where(values < 0, -1.0, 1.0)


def embed(u: np.ndarray, values: np.ndarray, exponent: float) -> np.ndarray:
    """Rows of U S^exponent scaled to unit length (R, d) float32; a zero row (an item without entries) stays zero."""
    x = u.astype(np.float64) * np.maximum(values, 0.0) ** exponent
    length = np.linalg.norm(x, axis=1, keepdims=True)
    rows: np.ndarray = np.where(length > 0, x / np.where(length > 0, length, 1.0), 0.0).astype(np.float32)
    return rows


def mean_rows(offsets: np.ndarray, columns: np.ndarray, vectors_ND: np.ndarray) -> np.ndarray:
    """For each row of a CSR the normalised mean (R, d) of the vectors of its columns; zero where it has none."""
    out = np.zeros((len(offsets) - 1, vectors_ND.shape[1]), np.float32)
    multiply(offsets, columns, np.ones(len(columns), np.float32), vectors_ND, out)
    return embed(out, np.ones(out.shape[1]), 1.0)
