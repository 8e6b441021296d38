"""Weighted matrix factorisation for implicit feedback, solved by alternating least squares with conjugate gradients.

loss = sum over all (u, i) of c_ui (p_ui - x_u . y_i)^2 + sum of ridge_u |x_u|^2 + sum of ridge_i |y_i|^2,
p = 1 and c = 1 + alpha * affinity where there is an affinity, else p = 0 and c = 1;
ridge_u = regularisation * (number of entries of u)^exponent, and so for items; exponent 0: the same for all.

Shapes   U users of a block (rows of a CSR), N items of the catalogue, D factors; float32, indices int32
Source   Hu, Koren, Volinsky 2008, eq. 3 to 5; conjugate gradients after Takacs, Pilaszy, Tikk 2011; frequency-scaled
         regularisation after Rendle, Krichene, Zhang, Koren 2021, section 3.4; the start is a randomised range finder
         (Halko, Martinsson, Tropp 2011, algorithm 4.1) instead of noise, for a lower loss after as many iterations
Differs  a few steps from the last solution instead of an exact solve; the item side never needs the transposed
         matrix: one step for all items is one pass over the users' rows that adds up (N, D), so blocks of users can
         live anywhere and only sums of that size travel. Rendle et al. count the unobserved entries too, which moves
         every ridge towards the same; here only observed ones count, so exponent 1 is the loss of Spark MLlib's ALS

The unobserved part of the loss comes from the Gram matrix, and the loss itself from the quantities that conjugate
gradients hold anyway: for A x = b with residual r = b - A x the quadratic is const - b.x - r.x, and a step of
length a along p lowers it by a (r.r). No pass over the data is made for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from blockfactor.compiled import kernel

TILE = 32


@dataclass(frozen=True)
class Ratings:
    """CSR rows of affinities > 0: offsets (U + 1,) int64, items (nnz,) int32, affinities (nnz,) float32."""

    offsets: np.ndarray
    items: np.ndarray
    affinities: np.ndarray

    def check(self, n_items: int) -> None:
        """Refuse what the kernels would turn into silent nonsense; names the first bad entry."""
        if not len(self.items) == len(self.affinities) == self.offsets[-1]:
            raise ValueError(
                f"ratings: {len(self.items)} items, {len(self.affinities)} affinities, "
                f"offsets end at {self.offsets[-1]}; all three must agree"
            )
        bad = np.flatnonzero(~np.isfinite(self.affinities) | (self.affinities <= 0))
        if len(bad):
            raise ValueError(f"affinity: entry {bad[0]} is {self.affinities[bad[0]]}; it must be finite and above 0")
        bad = np.flatnonzero((self.items < 0) | (self.items >= n_items))
        if len(bad):
            raise ValueError(f"items: entry {bad[0]} is {self.items[bad[0]]}; allowed are 0 to {n_items - 1}")
        rows = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        keys = np.sort(rows * n_items + self.items)
        twice = np.flatnonzero(keys[1:] == keys[:-1])
        if len(twice):
            row, item = divmod(int(keys[twice[0]]), n_items)
            raise ValueError(f"ratings: item {item} comes twice in row {row}; add up its affinities first")


def gram(factors: np.ndarray) -> np.ndarray:
    """Y^T Y (D, D) float64 of (N, D), added up in blocks so that float32 keeps its digits."""
    total = np.zeros((factors.shape[1], factors.shape[1]))
    for start in range(0, len(factors), 4096):
        part = np.ascontiguousarray(factors[start : start + 4096])
        total += part.T @ part
    return total


def noise(n_items: int, d: int, seed: int) -> np.ndarray:
    """Normal values (N, D) float32 from the seed alone."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n_items, d), np.float32)


@kernel
def project(offsets: np.ndarray, items: np.ndarray, noise_ND: np.ndarray, out_ND: np.ndarray) -> None:
    """Out += B' B noise, B the rows of the CSR with every entry 1: where the items start, before `whiten`."""
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


def whiten(gram_DD: np.ndarray, n_items: int) -> np.ndarray:
    """The (D, D) float32 that turns items with this Gram matrix into orthogonal columns, rows of mean square 1."""
    values, vectors = np.linalg.eigh(gram_DD)
    kept = values > values[-1] * 1e-10  # the rest is rounding
    turned = vectors[:, kept] / np.sqrt(values[kept]) @ vectors[:, kept].T
    scaled: np.ndarray = (turned * np.sqrt(n_items / len(values))).astype(np.float32)
    return scaled


@kernel
def solve_users(
    offsets: np.ndarray,
    items: np.ndarray,
    affinities: np.ndarray,
    x_UD: np.ndarray,
    y_ND: np.ndarray,
    gram_DD: np.ndarray,
    ridge_U: np.ndarray,
    alpha: np.float32,
    steps: int,
    residual_ND: np.ndarray,
) -> float:
    """Move the users' factors by `steps` conjugate gradient steps; returns their part of the loss.

    Args:
        offsets: CSR offsets (U + 1,).
        items: CSR columns (nnz,).
        affinities: CSR values (nnz,).
        x_UD: the users' factors, changed in place; rows without entries become zero.
        y_ND: the items' factors.
        gram_DD: Gram matrix of the items, float32, C order.
        ridge_U: each user's ridge (U,) float32.
        alpha: confidence is 1 + alpha * affinity.
        steps: conjugate gradient steps.
        residual_ND: gets, for each item, the sum over these users of c x - (c - 1)(x.y) x with the new x: the part
            of the item side's first residual that comes from the entries.

    Returns:
        Sum over the users of x'Ax - 2 b'x + sum of c: the whole loss but the items' ridges.
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
            # q = p (G + ridge) for the tile, then the entries of each user
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
                curve = np.float32(0)
                for k in range(d):
                    curve += p[k] * q[k]
                if norm[t] <= 1e-20 or curve <= 0:
                    p[:] = 0
                    continue
                length = norm[t] / curve
                square = np.float32(0)
                for k in range(d):
                    x[k] += length * p[k]
                    r[k] -= length * q[k]
                    square += r[k] * r[k]
                turn = square / norm[t]
                norm[t] = square
                for k in range(d):
                    p[k] = r[k] + turn * p[k]
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
def spread(
    offsets: np.ndarray,
    items: np.ndarray,
    affinities: np.ndarray,
    x_UD: np.ndarray,
    p_ND: np.ndarray,
    alpha: np.float32,
    out_ND: np.ndarray,
) -> None:
    """One pass over the users' rows: out_i += sum over u of alpha * affinity (x_u . p_i) x_u."""
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
def step_items(y_ND: np.ndarray, r_ND: np.ndarray, p_ND: np.ndarray, q_ND: np.ndarray) -> float:
    """One conjugate gradient step of each item on its own, given q = A p; y, r, p change in place.

    Returns:
        By how much the loss fell.
    """
    n, d = y_ND.shape
    gain = 0.0
    for i in range(n):
        y, r, p, q = y_ND[i], r_ND[i], p_ND[i], q_ND[i]
        norm = np.float32(0)
        curve = np.float32(0)
        for k in range(d):
            norm += r[k] * r[k]
            curve += p[k] * q[k]
        if norm <= 1e-20 or curve <= 0:
            p[:] = 0
            continue
        length = norm / curve
        gain += float(length * norm)
        square = np.float32(0)
        for k in range(d):
            y[k] += length * p[k]
            r[k] -= length * q[k]
            square += r[k] * r[k]
        turn = square / norm
        for k in range(d):
            p[k] = r[k] + turn * p[k]
    return gain


def ridges(n_entries: np.ndarray, regularisation: float, exponent: float = 0.0) -> np.ndarray:
    """Ridge of each row or item (R,) float32 from its number of entries; exponent 0 makes them all the same."""
    scaled: np.ndarray = (regularisation * n_entries.astype(np.float64) ** exponent).astype(np.float32)
    return scaled


def penalty(factors: np.ndarray, ridge: np.ndarray) -> float:
    """What the ridges (R,) of factors (R, D) add to the loss."""
    return float(ridge.astype(np.float64) @ np.einsum("rd,rd->r", factors, factors, dtype=np.float64))


def loss(
    ratings: Ratings, x_UD: np.ndarray, y_ND: np.ndarray, alpha: float, regularisation: float, exponent: float = 0.0
) -> float:
    """The whole loss from its definition, added up in float64; unobserved pairs through the Gram matrices."""
    rows = np.repeat(np.arange(len(x_UD)), np.diff(ratings.offsets))
    seen = 0.0
    for start in range(0, len(rows), 1 << 18):  # a few hundred MiB at a time, however many entries there are
        part = slice(start, start + (1 << 18))
        fit = np.einsum("nd,nd->n", x_UD[rows[part]], y_ND[ratings.items[part]], dtype=np.float64)
        confidence = 1 + alpha * ratings.affinities[part].astype(np.float64)
        seen += float((confidence * (1 - fit) ** 2 - fit**2).sum())
    everywhere = float((gram(x_UD) * gram(y_ND)).sum())
    ridge_U = ridges(np.diff(ratings.offsets), regularisation, exponent)
    ridge_N = ridges(np.bincount(ratings.items, minlength=len(y_ND)), regularisation, exponent)
    return everywhere + seen + penalty(x_UD, ridge_U) + penalty(y_ND, ridge_N)


def fold_in(
    tracks: np.ndarray,
    affinities: np.ndarray,
    item_factors: np.ndarray,
    alpha: float,
    regularisation: float,
    gram_DD: np.ndarray | None = None,
    exponent: float = 0.0,
) -> np.ndarray:
    """The factors (D,) float32 of one new user, solved exactly; without a track they are zero.

    Args:
        tracks: distinct track indices (n,).
        affinities: (n,), finite and above 0.
        item_factors: (N, D) as trained.
        alpha: as trained.
        regularisation: as trained.
        gram_DD: `gram(item_factors)` when at hand; else it is computed.
        exponent: as trained.

    Raises:
        ValueError: an index or an affinity is out of range, or a track comes twice.
    """
    offsets = np.array([0, len(tracks)])
    Ratings(offsets, np.asarray(tracks), np.asarray(affinities, np.float64)).check(len(item_factors))
    if not len(tracks):
        return np.zeros(item_factors.shape[1], np.float32)
    y = item_factors[np.asarray(tracks, np.int64)].astype(np.float64)
    extra = alpha * np.asarray(affinities, np.float64)
    whole = gram(item_factors) if gram_DD is None else gram_DD
    ridge = float(ridges(np.array(len(y)), regularisation, exponent))
    a = whole + ridge * np.eye(y.shape[1]) + (y.T * extra) @ y
    solved: np.ndarray = np.linalg.solve(a, y.T @ (1 + extra)).astype(np.float32)
    return solved
