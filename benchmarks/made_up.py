"""Ratings and pairs of a made-up service, the same for every peer; sizes and a seed decide every byte."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def ratings(
    n_users: int, n_items: int, n_entries: int, seed: int = 7, n_tastes: int = 200, breadths: float = 0.0
) -> sp.csr_matrix:
    """Affinities (U, N) float32 of about `n_entries`: users share tastes, tracks are Zipf-popular within a taste.

    Some tastes are common and most are rare, which makes the singular values fall off as those of real listeners do. A
    user has one to three tastes; a fifth of what they hear is what everyone hears. Index 0 is the most popular track.
    With `breadths` tastes differ in how many tracks they hold (the sigma of a lognormal share), else all are as broad.
    """
    rng = np.random.default_rng(seed)
    lengths = rng.lognormal(0.0, 0.7, n_users)
    drawn = 1.35 * n_entries  # what is drawn twice falls together
    lengths = np.maximum(5, np.round(lengths * drawn / lengths.sum())).astype(np.int64)
    user = np.repeat(np.arange(n_users), lengths)
    shares = 1.0 / (1.0 + np.arange(n_tastes))
    mine = rng.choice(n_tastes, (n_users, 3), p=shares / shares.sum())
    taste = mine[user, rng.choice(3, len(user), p=(0.6, 0.25, 0.15))]
    in_taste = max(20, n_items // 20)
    zipf = 1.0 / (1.0 + np.arange(n_items)) ** 0.8
    everywhere = np.searchsorted(np.cumsum(zipf) / zipf.sum(), rng.random(len(user)))
    members = np.array([rng.choice(n_items, in_taste, replace=False, p=zipf / zipf.sum()) for _ in range(n_tastes)])
    inside = 1.0 / (1.0 + np.arange(in_taste)) ** 0.7
    breadth = np.full(n_tastes, in_taste)
    if breadths:
        breadth = (in_taste * rng.lognormal(-breadths, breadths, n_tastes)).astype(np.int64).clip(10, in_taste)
    total = np.cumsum(inside)
    place = np.searchsorted(total, rng.random(len(user)) * total[breadth[taste] - 1])
    item = np.where(rng.random(len(user)) < 0.2, everywhere, members[taste, place])
    key = np.unique(user * n_items + np.minimum(item, n_items - 1))
    key = key[np.sort(rng.permutation(len(key))[: min(n_entries, len(key))])]
    rows, columns = np.divmod(key, n_items)
    order = np.argsort(np.argsort(-np.bincount(columns, minlength=n_items), kind="stable"))
    values = rng.geometric(0.4, len(key)).astype(np.float32)
    matrix = sp.csr_matrix((values, (rows, order[columns])), shape=(n_users, n_items))
    matrix.sort_indices()
    return matrix


def pairs(n_items: int, n_collections: int, seed: int = 7) -> sp.csr_matrix:
    """Positive PMI (N, N) float32, symmetric, of the tracks of made-up collections; pairs seen twice or more.

    Narrow and broad tastes make the singular values fall off as they do for real playlists; equally broad ones would
    leave them nearly flat from the middle on.
    """
    held = ratings(n_collections, n_items, 30 * n_collections, seed, breadths=1.0)
    held.data[:] = 1
    together = (held.T @ held).tocoo()
    counts = np.bincount(held.indices, minlength=n_items).astype(np.float64)
    kept = (together.data >= 2) & (together.row != together.col)
    row, column, both = together.row[kept], together.col[kept], together.data[kept].astype(np.float64)
    value = np.log(n_collections * both / (counts[row] * counts[column])).astype(np.float32)
    positive = value > 0
    found = sp.csr_matrix((value[positive], (row[positive], column[positive])), shape=(n_items, n_items))
    found.sort_indices()
    return found
