"""The paper's tables and figures as numbers: spread over chunks, Figure 4, Figure 5, Table 2, slices.

Shapes   B test listeners, U warm users, N tracks, K segments, k places
Source   Briand et al. 2021: Table 1 (section 4.1.4), Figures 4 and 5, Table 2; the ± as in the authors' code
Differs  intervals of Figure 4 are bootstrapped over listeners; the paper draws none. The public files name no country
         and no genre: a country is known by its vector, the same for all its users, and is called after its size
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from jobs.cold_start.segment_cards import lifts, of_people
from models.cold_start.input_vector import AGE_CLASSES, SCALARS, Layout, age_classes
from models.cold_start.segments import segment_members
from models.evaluation.metrics import bootstrap

CHUNKS, PERMUTATIONS = 5, 2
# Lower ends of the classes of Figure 4.
ARTISTS = (0, 1, 2, 3, 5, 8, 12)
TRACKS = (0, 1, 2, 5, 10, 20, 50)
TOP_COUNTRIES = 5
BINS = 40
BOOTSTRAP = 500
MIN_CLASS = 20


def spread(values: np.ndarray) -> float:
    """The ± of the published table: standard deviation of ten means, of 5 chunks in each of 2 permutations of (B,).

    It says how means of a fifth of the listeners differ, for one fitted model; it is no error of the mean, and nothing
    about another seed. 0 for fewer listeners than chunks.
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
    """Means of values (B,) by classes of counts (B,), which begin at `starts`; classes of fewer users are left out."""
    found = []
    ends = [*starts[1:], None]
    for start, end in zip(starts, ends, strict=True):
        chosen = counts >= start if end is None else (counts >= start) & (counts < end)
        if chosen.sum() < max(1, min_users):
            continue
        low, high = bootstrap(values[chosen], BOOTSTRAP, seed)
        name = f"{start}+" if end is None else str(start) if end == start + 1 else f"{start}-{end - 1}"
        row = {
            "class": name,
            "users": int(chosen.sum()),
            "value": float(values[chosen].mean()),
            "low": low,
            "high": high,
        }
        found.append(row)
    return found


def popularity(tracks_BK: np.ndarray, n_tracks: int, top: int) -> dict[str, Any]:
    """Popularity ranks of what is recommended (B, k), 0 = most popular of n_tracks: quantiles and a histogram."""
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
    """Who did nothing at all on the first day, (B,) bool: every count is 0."""
    counts = [layout.scalar(name) for name in SCALARS if name != "age_value"]
    return np.asarray((np.asarray(x_BF[:, counts]) == 0).all(axis=1))


class Countries:
    """Countries by their vectors: `country 1` has the most warm users."""

    def __init__(self, x_UF: np.ndarray, layout: Layout) -> None:
        """From the country blocks of the warm users' input rows."""
        self.layout = layout
        unknown = bytes(4 * layout.d)
        found = Counter(key for key in self._keys(x_UF) if key != unknown)
        by_size = sorted(found.items(), key=lambda item: (-item[1], item[0]))
        self.name_of = {key: f"country {n}" for n, (key, _) in enumerate(by_size, 1)}

    def _keys(self, x_BF: np.ndarray) -> list[bytes]:
        block = np.asarray(x_BF[:, self.layout.block("country")], np.float32) + np.float32(0)  # -0 is 0
        return [row.tobytes() for row in block]

    def of(self, x_BF: np.ndarray) -> list[str | None]:
        """Names (B,); None for a zero vector, and for one that no warm user has."""
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
    """Segments of at least `min_users`: countries and age classes by lift, their first songs; the most marked first."""
    member = csr_matrix(segment_members(labels_U, k))
    classes = age_classes(ages_U)
    by_country = lifts(of_people(member, countries), 1)
    by_age = lifts(of_people(member, [AGE_CLASSES[c] if c >= 0 else None for c in classes]), 1)
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

    def marked(row: dict[str, Any]) -> float:
        """How far the first country and the first age class stand out, weighed by the share they hold."""
        first = [traits[0] for traits in (row["countries"], row["ages"]) if traits]
        return float(sum(trait["share"] * np.log(max(trait["lift"], 1e-9)) for trait in first))

    return sorted(rows, key=lambda row: (-marked(row), row["segment"]))
