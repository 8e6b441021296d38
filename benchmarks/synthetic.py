"""Generate synthetic ratings and track pairs; equal sizes and seed give equal bytes, so all peers get the same data."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def ratings(
    n_users: int, n_items: int, n_entries: int, seed: int = 7, n_tastes: int = 200, breadths: float = 0.0
) -> sp.csr_matrix:
    """Return affinities (U, N) float32 with about `n_entries` entries.

    Users share tastes, and tracks have Zipf popularity within a taste. A few tastes are common and most are rare, so
    the singular values fall off as those of real listeners do. A user has one to three tastes; a fifth of the entries
    come from the overall popularity. Index 0 is the most popular track.

    Args:
        n_users: number of users U.
        n_items: number of tracks N.
        n_entries: approximate number of entries.
        seed: seed of all draws.
        n_tastes: number of tastes.
        breadths: sigma of the lognormal share of its tracks that a taste uses; 0 makes all tastes equally broad.
    """
    rng = np.random.default_rng(seed)
    n_draws = rng.lognormal(0.0, 0.7, n_users)
    n_drawn = 1.35 * n_entries  # repeated draws are merged into one entry
    n_draws = np.maximum(5, np.round(n_draws * n_drawn / n_draws.sum())).astype(np.int64)
    user = np.repeat(np.arange(n_users), n_draws)
    taste_shares = 1.0 / (1.0 + np.arange(n_tastes))
    user_tastes = rng.choice(n_tastes, (n_users, 3), p=taste_shares / taste_shares.sum())
    taste = user_tastes[user, rng.choice(3, len(user), p=(0.6, 0.25, 0.15))]
    in_taste = max(20, n_items // 20)
    zipf = 1.0 / (1.0 + np.arange(n_items)) ** 0.8
    popular_items = np.searchsorted(np.cumsum(zipf) / zipf.sum(), rng.random(len(user)))
    taste_items = np.array([rng.choice(n_items, in_taste, replace=False, p=zipf / zipf.sum()) for _ in range(n_tastes)])
    taste_weights = 1.0 / (1.0 + np.arange(in_taste)) ** 0.7
    breadth = np.full(n_tastes, in_taste)
    if breadths:
        breadth = (in_taste * rng.lognormal(-breadths, breadths, n_tastes)).astype(np.int64).clip(10, in_taste)
    total = np.cumsum(taste_weights)
    position = np.searchsorted(total, rng.random(len(user)) * total[breadth[taste] - 1])
    item = np.where(rng.random(len(user)) < 0.2, popular_items, taste_items[taste, position])
    key = np.unique(user * n_items + np.minimum(item, n_items - 1))
    key = key[np.sort(rng.permutation(len(key))[: min(n_entries, len(key))])]
    rows, columns = np.divmod(key, n_items)
    order = np.argsort(np.argsort(-np.bincount(columns, minlength=n_items), kind="stable"))
    values = rng.geometric(0.4, len(key)).astype(np.float32)
    matrix = sp.csr_matrix((values, (rows, order[columns])), shape=(n_users, n_items))
    matrix.sort_indices()
    return matrix


def pairs(n_items: int, n_collections: int, seed: int = 7) -> sp.csr_matrix:
    """Return positive PMI (N, N) float32, symmetric, of tracks in synthetic collections.

    A pair needs at least two common collections. Tastes are narrow and broad, so the singular values fall off as those
    of real playlists do; equally broad tastes would make them nearly constant from the middle on.
    """
    collections = ratings(n_collections, n_items, 30 * n_collections, seed, breadths=1.0)
    collections.data[:] = 1
    cooccurrences = (collections.T @ collections).tocoo()
    counts = np.bincount(collections.indices, minlength=n_items).astype(np.float64)
    mask = (cooccurrences.data >= 2) & (cooccurrences.row != cooccurrences.col)
    row, column, cooccurrence = (
        cooccurrences.row[mask],
        cooccurrences.col[mask],
        cooccurrences.data[mask].astype(np.float64),
    )
    value = np.log(n_collections * cooccurrence / (counts[row] * counts[column])).astype(np.float32)
    positive = value > 0
    matrix = sp.csr_matrix((value[positive], (row[positive], column[positive])), shape=(n_items, n_items))
    matrix.sort_indices()
    return matrix
