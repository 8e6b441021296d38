"""Compiled kernels and formulas of implicit ALS with conjugate gradients.

Loss     sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum of ridge_u |x_u|^2 + sum of ridge_i |y_i|^2
         p = 1 and c = 1 + alpha * affinity for an observed pair; p = 0 and c = 1 for every other pair
         ridge_u = regularisation * (number of entries of u)^exponent, items likewise; exponent 0: equal ridges
Shapes   U users of a block (rows of a CSR matrix), N items, D factors; float32, indices int32
Source   Hu, Koren, Volinsky 2008, equations 3 to 5; conjugate gradients after Takacs, Pilaszy, Tikk 2011;
         regularisation by frequency after Rendle, Krichene, Zhang, Koren 2021, section 3.4. The items start from a
         randomised range finder (Halko, Martinsson, Tropp 2011, algorithm 4.1) instead of noise, which gives a lower
         loss after the same number of iterations
Differs  A few conjugate gradient steps from the last solution replace the exact solve. The item side never needs the
         transposed matrix: one step for all items is one pass over the users' rows that adds up an (N, D) sum, so
         blocks of users can be on different machines and only sums of that size are exchanged. Rendle et al. count the
         unobserved entries too, which moves all ridges towards the same value; only observed entries are counted, so
         exponent 1 is the loss of Spark MLlib's ALS

The unobserved part of the loss follows from the Gram matrix. The total loss follows from quantities of the conjugate
gradient method: for A x = b with residual r = b - A x the quadratic is const - b.x - r.x, and a step of length a along
p lowers it by a (r.r). No additional pass over the data is needed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from blockfactor.arrays import DoubleMatrix, FloatMatrix, FloatVector, IntVector, LongVector
from blockfactor.compiled import kernel
from blockfactor.errors import InvalidDataError

GRAM_BLOCK_ROWS = 4096
LOSS_BLOCK_ENTRIES = 1 << 18  # limits the memory of `loss` to a few hundred MiB
MIN_EIGENVALUE_SHARE = 1e-10  # of the largest; smaller eigenvalues are rounding errors
TILE = 32


@dataclass(frozen=True)
class Ratings:
    """Affinities in CSR format.

    Attributes:
        offsets: Start of each user's entries, (U + 1,) int64.
        items: Item of each entry, (nnz,) int32.
        affinities: Affinity of each entry, (nnz,) float32, above 0.
    """

    offsets: LongVector
    items: IntVector
    affinities: FloatVector

    def validate(self, n_items: int) -> None:
        """Check what the kernels do not check.

        Raises:
            InvalidDataError: The arrays have different lengths, an affinity is not finite or not above 0, an item is
                outside 0 to `n_items` - 1, or an item occurs twice in a row. The message names the first such entry.
        """
        if not len(self.items) == len(self.affinities) == self.offsets[-1]:
            raise InvalidDataError(
                f"ratings: {len(self.items)} items, {len(self.affinities)} affinities, "
                f"offsets end at {self.offsets[-1]}; all three must agree"
            )
        bad = np.flatnonzero(~np.isfinite(self.affinities) | (self.affinities <= 0))
        if len(bad):
            raise InvalidDataError(
                f"affinity: entry {bad[0]} is {self.affinities[bad[0]]}; it must be finite and above 0"
            )
        bad = np.flatnonzero((self.items < 0) | (self.items >= n_items))
        if len(bad):
            raise InvalidDataError(f"items: entry {bad[0]} is {self.items[bad[0]]}; allowed are 0 to {n_items - 1}")
        rows = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        keys = np.sort(rows * n_items + self.items)
        duplicates = np.flatnonzero(keys[1:] == keys[:-1])
        if len(duplicates):
            row, item = divmod(int(keys[duplicates[0]]), n_items)
            raise InvalidDataError(f"ratings: item {item} occurs twice in row {row}; sum its affinities first")


def gram(factors: FloatMatrix) -> DoubleMatrix:
    """Return the Gram matrix Y'Y (D, D) of factors Y (N, D).

    Blocks of rows are multiplied in float32 and summed in float64.
    """
    total = np.zeros((factors.shape[1], factors.shape[1]))
    for start in range(0, len(factors), GRAM_BLOCK_ROWS):
        part = np.ascontiguousarray(factors[start : start + GRAM_BLOCK_ROWS])
        total += part.T @ part
    return total


def noise(n_items: int, d: int, seed: int) -> FloatMatrix:
    """Return standard normal values (N, D) that depend on the seed only."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n_items, d), np.float32)


@kernel
def project(offsets: LongVector, items: IntVector, noise_ND: FloatMatrix, out_ND: FloatMatrix) -> None:
    """Add B'B noise to `out_ND`, where B is the CSR matrix with every entry 1.

    The sum over all blocks, multiplied by `whitening`, is the start of the items.
    """
    d = noise_ND.shape[1]
    x = np.empty(d, np.float32)
    for u in range(len(offsets) - 1):
        x[:] = 0
        for e in range(offsets[u], offsets[u + 1]):
            y = noise_ND[items[e]]
            for k in range(d):
                x[k] += y[k]
        for e in range(offsets[u], offsets[u + 1]):
            out = out_ND[items[e]]
            for k in range(d):
                out[k] += x[k]


def whitening(gram_DD: DoubleMatrix, n_items: int) -> FloatMatrix:
    """Return the matrix (D, D) that gives items with this Gram matrix orthogonal columns and rows of mean square 1."""
    values, vectors = np.linalg.eigh(gram_DD)
    is_significant = values > values[-1] * MIN_EIGENVALUE_SHARE
    inverse_root = vectors[:, is_significant] / np.sqrt(values[is_significant]) @ vectors[:, is_significant].T
    scaled: FloatMatrix = (inverse_root * np.sqrt(n_items / len(values))).astype(np.float32)
    return scaled


@kernel
def solve_users(
    offsets: LongVector,
    items: IntVector,
    affinities: FloatVector,
    x_UD: FloatMatrix,
    y_ND: FloatMatrix,
    gram_DD: FloatMatrix,
    ridge_U: FloatVector,
    alpha: np.float32,
    steps: int,
    residual_ND: FloatMatrix,
) -> float:
    """Update the users' factors with `steps` conjugate gradient steps and return their part of the loss.

    Args:
        offsets: CSR offsets (U + 1,).
        items: CSR columns (nnz,).
        affinities: CSR values (nnz,).
        x_UD: Factors of the users, changed in place; rows without entries become zero.
        y_ND: Factors of the items.
        gram_DD: Gram matrix of the items, float32, C order.
        ridge_U: Ridge of each user.
        alpha: Confidence is 1 + alpha * affinity.
        steps: Number of conjugate gradient steps.
        residual_ND: For each item, the sum over these users of c x - (c - 1)(x.y) x with the new x is added. This is
            the part of the items' first residual that depends on the entries.

    Returns:
        Sum over the users of x'Ax - 2 b'x + sum of c: the total loss except the ridges of the items.
    """
    n_users, d = x_UD.shape
    tile_p = np.zeros((TILE, d), np.float32)
    tile_q = np.empty((TILE, d), np.float32)
    tile_r = np.empty((TILE, d), np.float32)
    tile_b = np.empty((TILE, d), np.float32)
    norm = np.empty(TILE, np.float32)
    loss = 0.0
    for first in range(0, n_users, TILE):
        n = min(TILE, n_users - first)
        for t in range(n):
            tile_p[t] = x_UD[first + t]
        for step in range(-1, steps):
            # q = p (G + ridge) for the tile, then the part of each user's entries
            np.dot(tile_p, gram_DD, tile_q)
            for t in range(n):
                u = first + t
                p, q, r, x = tile_p[t], tile_q[t], tile_r[t], x_UD[u]
                for k in range(d):
                    q[k] += ridge_U[u] * p[k]
                if step < 0:
                    b = tile_b[t]
                    b[:] = 0
                    for e in range(offsets[u], offsets[u + 1]):
                        y = y_ND[items[e]]
                        extra = alpha * affinities[e]
                        s = np.float32(0)
                        for k in range(d):
                            s += y[k] * p[k]
                        s *= extra
                        weight = np.float32(1) + extra
                        for k in range(d):
                            q[k] += s * y[k]
                            b[k] += weight * y[k]
                    square = np.float32(0)
                    for k in range(d):
                        r[k] = b[k] - q[k]
                        p[k] = r[k]
                        square += r[k] * r[k]
                    norm[t] = square
                    continue
                for e in range(offsets[u], offsets[u + 1]):
                    y = y_ND[items[e]]
                    s = np.float32(0)
                    for k in range(d):
                        s += y[k] * p[k]
                    s *= alpha * affinities[e]
                    for k in range(d):
                        q[k] += s * y[k]
                curvature = np.float32(0)
                for k in range(d):
                    curvature += p[k] * q[k]
                if norm[t] <= 1e-20 or curvature <= 0:
                    p[:] = 0
                    continue
                length = norm[t] / curvature
                square = np.float32(0)
                for k in range(d):
                    x[k] += length * p[k]
                    r[k] -= length * q[k]
                    square += r[k] * r[k]
                momentum = square / norm[t]
                norm[t] = square
                for k in range(d):
                    p[k] = r[k] + momentum * p[k]
        for t in range(n):
            u = first + t
            x, r, b = x_UD[u], tile_r[t], tile_b[t]
            if offsets[u] == offsets[u + 1]:
                x[:] = 0
                continue
            fit = np.float32(0)
            for k in range(d):
                fit += (b[k] + r[k]) * x[k]
            loss -= float(fit)
            for e in range(offsets[u], offsets[u + 1]):
                i = items[e]
                y, out = y_ND[i], residual_ND[i]
                extra = alpha * affinities[e]
                loss += 1.0 + extra
                s = np.float32(0)
                for k in range(d):
                    s += y[k] * x[k]
                s = np.float32(1) + extra - extra * s
                for k in range(d):
                    out[k] += s * x[k]
    return loss


@kernel
def multiply_ratings(
    offsets: LongVector,
    items: IntVector,
    affinities: FloatVector,
    x_UD: FloatMatrix,
    p_ND: FloatMatrix,
    alpha: np.float32,
    out_ND: FloatMatrix,
) -> None:
    """Add, to row i of `out_ND`, the sum over the users of alpha * affinity (x_u . p_i) x_u.

    This is the part of the items' system matrix times p that depends on the entries.

    Args:
        offsets: CSR offsets (U + 1,).
        items: CSR columns (nnz,).
        affinities: CSR values (nnz,).
        x_UD: Factors of the users.
        p_ND: Directions of the items.
        alpha: Confidence is 1 + alpha * affinity.
        out_ND: Changed in place.
    """
    n_users, d = x_UD.shape
    for u in range(n_users):
        x = x_UD[u]
        for e in range(offsets[u], offsets[u + 1]):
            p, out = p_ND[items[e]], out_ND[items[e]]
            s = np.float32(0)
            for k in range(d):
                s += p[k] * x[k]
            s *= alpha * affinities[e]
            for k in range(d):
                out[k] += s * x[k]


@kernel
def step_items(y_ND: FloatMatrix, r_ND: FloatMatrix, p_ND: FloatMatrix, q_ND: FloatMatrix) -> float:
    """Take one conjugate gradient step for each item separately and return the decrease of the loss.

    Args:
        y_ND: Factors, changed in place.
        r_ND: Residuals, changed in place.
        p_ND: Directions, changed in place.
        q_ND: System matrix of each item times its direction.
    """
    n, d = y_ND.shape
    decrease = 0.0
    for i in range(n):
        y, r, p, q = y_ND[i], r_ND[i], p_ND[i], q_ND[i]
        norm = np.float32(0)
        curvature = np.float32(0)
        for k in range(d):
            norm += r[k] * r[k]
            curvature += p[k] * q[k]
        if norm <= 1e-20 or curvature <= 0:
            p[:] = 0
            continue
        length = norm / curvature
        decrease += float(length * norm)
        square = np.float32(0)
        for k in range(d):
            y[k] += length * p[k]
            r[k] -= length * q[k]
            square += r[k] * r[k]
        momentum = square / norm
        for k in range(d):
            p[k] = r[k] + momentum * p[k]
    return decrease


def ridges(n_entries: LongVector, regularisation: float, exponent: float = 0.0) -> FloatVector:
    """Return the ridge of each row or item from its number of entries; exponent 0 gives equal ridges."""
    scaled: FloatVector = (regularisation * n_entries.astype(np.float64) ** exponent).astype(np.float32)
    return scaled


def ridge_penalty(factors: FloatMatrix, ridge: FloatVector) -> float:
    """Return the sum of ridge * |row|^2: the part of the loss from the ridges (R,) of factors (R, D)."""
    return float(ridge.astype(np.float64) @ np.einsum("rd,rd->r", factors, factors, dtype=np.float64))


def loss(
    ratings: Ratings, x_UD: FloatMatrix, y_ND: FloatMatrix, alpha: float, regularisation: float, exponent: float = 0.0
) -> float:
    """Compute the total loss from its definition, summed in float64.

    Unobserved pairs enter through the Gram matrices of both sides.

    Args:
        ratings: Observed affinities.
        x_UD: Factors of the users.
        y_ND: Factors of the items.
        alpha: Confidence is 1 + alpha * affinity.
        regularisation: Ridge at exponent 0.
        exponent: Exponent of the number of entries in the ridge.
    """
    rows = np.repeat(np.arange(len(x_UD)), np.diff(ratings.offsets))
    observed = 0.0
    for start in range(0, len(rows), LOSS_BLOCK_ENTRIES):
        part = slice(start, start + LOSS_BLOCK_ENTRIES)
        fit = np.einsum("nd,nd->n", x_UD[rows[part]], y_ND[ratings.items[part]], dtype=np.float64)
        confidence = 1 + alpha * ratings.affinities[part].astype(np.float64)
        observed += float((confidence * (1 - fit) ** 2 - fit**2).sum())
    all_pairs = float((gram(x_UD) * gram(y_ND)).sum())
    ridge_U = ridges(np.diff(ratings.offsets), regularisation, exponent)
    ridge_N = ridges(np.bincount(ratings.items, minlength=len(y_ND)), regularisation, exponent)
    return all_pairs + observed + ridge_penalty(x_UD, ridge_U) + ridge_penalty(y_ND, ridge_N)


def fold_in(
    tracks: ArrayLike,
    affinities: ArrayLike,
    item_factors: FloatMatrix,
    alpha: float,
    regularisation: float,
    gram_DD: DoubleMatrix | None = None,
    exponent: float = 0.0,
) -> FloatVector:
    """Compute the factors (D,) of one new user by an exact solve; zeros if the user has no tracks.

    Args:
        tracks: Distinct item indices (n,).
        affinities: Affinity of each item (n,), finite and above 0.
        item_factors: Trained factors (N, D).
        alpha: Value used in training.
        regularisation: Value used in training.
        gram_DD: `gram(item_factors)` if already computed.
        exponent: Value used in training.

    Raises:
        InvalidDataError: An index or an affinity is out of range, or an item occurs twice.
    """
    indices = np.asarray(tracks)
    offsets = np.array([0, len(indices)])
    Ratings(offsets, indices, np.asarray(affinities, np.float64)).validate(len(item_factors))
    if not len(indices):
        return np.zeros(item_factors.shape[1], np.float32)
    y = item_factors[indices.astype(np.int64)].astype(np.float64)
    extra = alpha * np.asarray(affinities, np.float64)
    gram_of_all = gram(item_factors) if gram_DD is None else gram_DD
    ridge = float(ridges(np.array(len(y)), regularisation, exponent))
    a = gram_of_all + ridge * np.eye(y.shape[1]) + (y.T * extra) @ y
    solved: FloatVector = np.linalg.solve(a, y.T @ (1 + extra)).astype(np.float32)
    return solved
