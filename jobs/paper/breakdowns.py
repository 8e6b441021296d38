"""Compute the paper's tables and figures as numbers: spread over chunks, Figure 4, Figure 5, Table 2, slices.

Shapes   B test listeners, U warm users, N tracks, K segments, k places
Source   Briand et al. 2021: Table 1 (section 4.1.4), Figures 4 and 5, Table 2; the ± as in the authors' code
Differs  intervals of Figure 4 are bootstrapped over listeners; the paper draws none. The public files name no country
         and no genre: a country is identified by its vector, which all its users share, and is named by its size rank
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from jobs.cold_start.segment_cards import lifts, member_traits
from models.cold_start.input_vector import AGE_CLASSES, SCALARS, Layout, age_classes
from models.cold_start.segments import segment_members
from models.evaluation.metrics import bootstrap

CHUNKS, PERMUTATIONS = 5, 2
# Lower bounds of the classes of Figure 4.
ARTISTS = (0, 1, 2, 3, 5, 8, 12)
TRACKS = (0, 1, 2, 5, 10, 20, 50)
TOP_COUNTRIES = 5
BINS = 40
BOOTSTRAP = 500
MIN_CLASS = 20


def spread(values: np.ndarray) -> float:
    """Return the ± of the published table: standard deviation of ten means.

    The means are taken over 5 chunks in each of 2 permutations of values (B,). The result describes how means over a
    fifth of the listeners vary for one fitted model. It is neither the standard error of the mean nor the variation
    between seeds. It is 0 if there are fewer listeners than chunks.
    """
    import torch

    size = len(values) // CHUNKS
    if not size:
        return 0.0
    means = []
    for seed in range(PERMUTATIONS):
        order = torch.randperm(len(values), generator=torch.Generator().manual_seed(seed)).numpy()
        means += [values[order[start : start + size]].mean() for start in range(0, size * CHUNKS, size)]
    return float(np.std(means, ddof=1))


def by_count(
    values: np.ndarray, counts: np.ndarray, starts: tuple[int, ...], min_users: int = MIN_CLASS, seed: int = 0
) -> list[dict[str, Any]]:
    """Return the mean of values (B,) with its bootstrap interval by class of counts (B,).

    Args:
        values: metric of each listener (B,).
        counts: count of each listener (B,), such as streams on the first day.
        starts: lower bounds of the classes, ascending; the last class has no upper bound.
        min_users: classes with fewer listeners are excluded.
        seed: seed of the bootstrap.
    """
    rows = []
    ends = [*starts[1:], None]
    for start, end in zip(starts, ends, strict=True):
        in_class = counts >= start if end is None else (counts >= start) & (counts < end)
        if in_class.sum() < max(1, min_users):
            continue
        low, high = bootstrap(values[in_class], BOOTSTRAP, seed)
        name = f"{start}+" if end is None else str(start) if end == start + 1 else f"{start}-{end - 1}"
        row = {
            "class": name,
            "users": int(in_class.sum()),
            "value": float(values[in_class].mean()),
            "low": low,
            "high": high,
        }
        rows.append(row)
    return rows


def popularity(tracks_BK: np.ndarray, n_tracks: int, top: int) -> dict[str, Any]:
    """Return quantiles and a histogram of the popularity ranks of recommended tracks.

    Args:
        tracks_BK: recommended tracks (B, k) by popularity rank, 0 = most popular.
        n_tracks: number of tracks.
        top: the share of recommendations with a rank below `top` is also returned.
    """
    ranks = np.asarray(tracks_BK).ravel()
    width = max(1, n_tracks // BINS)
    counts = np.bincount(ranks // width, minlength=-(-n_tracks // width))
    low, middle, high = (float(q) for q in np.quantile(ranks, [0.1, 0.5, 0.9]))
    return {
        "median": middle,
        "low": low,
        "high": high,
        "in_top": float((ranks < top).mean()),
        "top": top,
        "distinct": int(np.unique(ranks).size),
        "bin": width,
        "share": (counts / max(1, ranks.size)).tolist(),
    }


def no_interaction(x_BF: np.ndarray, layout: Layout) -> np.ndarray:
    """Return which listeners have no interaction on the first day, (B,) bool: every count is 0."""
    counts = [layout.scalar(name) for name in SCALARS if name != "age_value"]
    return np.asarray((np.asarray(x_BF[:, counts]) == 0).all(axis=1))


class Countries:
    """Names of countries by their vectors: `country 1` has the most warm users."""

    def __init__(self, x_UF: np.ndarray, layout: Layout) -> None:
        """Number the countries of the warm users by the country blocks of their input rows (U, F)."""
        self.layout = layout
        unknown = bytes(4 * layout.d)
        n_users_by_key = Counter(key for key in self._keys(x_UF) if key != unknown)
        by_size = sorted(n_users_by_key.items(), key=lambda item: (-item[1], item[0]))
        self.name_of = {key: f"country {n}" for n, (key, _) in enumerate(by_size, 1)}

    def _keys(self, x_BF: np.ndarray) -> list[bytes]:
        block = np.asarray(x_BF[:, self.layout.block("country")], np.float32) + np.float32(0)  # -0 is 0
        return [row.tobytes() for row in block]

    def of(self, x_BF: np.ndarray) -> list[str | None]:
        """Return country names (B,); None for a zero vector and for a vector that no warm user has."""
        return [self.name_of.get(key) for key in self._keys(x_BF)]


def table_2(
    labels_U: np.ndarray,
    k: int,
    countries: list[str | None],
    ages_U: np.ndarray,
    rankings_KL: np.ndarray,
    song_index_N: np.ndarray,
    min_users: int,
) -> list[dict[str, Any]]:
    """Return the rows of Table 2: segments with countries and age classes by lift and their first songs.

    Segments whose first country and first age class are most over-represented come first.

    Args:
        labels_U: segment of each warm user (U,).
        k: number of segments.
        countries: country name of each warm user, None where unknown.
        ages_U: age of each warm user (U,) in years, -1 where unknown.
        rankings_KL: tracks of each segment (K, L), most popular first.
        song_index_N: song_index of each track (N,).
        min_users: segments with fewer users are excluded.
    """
    member = csr_matrix(segment_members(labels_U, k))
    classes = age_classes(ages_U)
    by_country = lifts(member_traits(member, countries), 1)
    by_age = lifts(member_traits(member, [AGE_CLASSES[c] if c >= 0 else None for c in classes]), 1)
    sizes = np.bincount(labels_U, minlength=k)
    rows = [
        {
            "segment": int(s),
            "users": int(sizes[s]),
            "countries": by_country[s],
            "ages": by_age[s],
            "songs": [int(song_index_N[track]) for track in rankings_KL[s, :5]],
        }
        for s in range(k)
        if sizes[s] >= min_users
    ]

    def distinctiveness(row: dict[str, Any]) -> float:
        """Return the logarithmic lift of the first country and the first age class, weighted by their shares."""
        first = [traits[0] for traits in (row["countries"], row["ages"]) if traits]
        return float(sum(trait["share"] * np.log(max(trait["lift"], 1e-9)) for trait in first))

    return sorted(rows, key=lambda row: (-distinctiveness(row), row["segment"]))
