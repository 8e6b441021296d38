"""Neighbours of what was streamed on the first day: tracks that the same listeners stream.

Shapes   U warm users, V tokens (tracks, artists, albums), N tracks, B listeners
Score    of track t: sum over the tokens v of the first day of weight(kind of v) * c(v, t) / (n_v^a n_t^b + shrinkage),
         where c counts the warm users who stream both, n those who stream each
Source   asymmetric cosine (Aiolli 2013, eq. 2) with a shrunk denominator
Differs  artists and albums have neighbours of their own. Only the `max_neighbours` strongest tracks of a token are kept
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array, vstack

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import (
    Needs,
    WarmListeners,
    check_k,
    require_first_days,
    require_ids,
    top_k_in_chunks,
)
from models.cold_start.methods.vocabulary import Vocabulary

_ROWS = 2048  # tokens counted at once


@dataclass(frozen=True)
class NeighbourRecipe:
    """Exponents of the token's and the track's listeners, shrinkage, and what a token of each kind weighs."""

    token_exponent: float = 0.7
    track_exponent: float = 0.3
    shrinkage: float = 5.0
    artist_weight: float = 0.5
    album_weight: float = 0.5
    max_neighbours: int = 1_000

    def __post_init__(self) -> None:
        for name in ("token_exponent", "track_exponent", "shrinkage", "artist_weight", "album_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"neighbours.{name}: must be at least 0, got {getattr(self, name)}")
        if self.max_neighbours < 1:
            raise ValueError(f"neighbours.max_neighbours: must be at least 1, got {self.max_neighbours}")


class Neighbours:
    """The tracks with the highest score; where nothing is known of a first day, the most popular ones."""

    needs = Needs(days=True, cold_users=False)

    def __init__(self, vocabulary: Vocabulary, score_VN: csr_array, name: str = "neighbours") -> None:
        """`score_VN` is what a token says about each track, as `fit` finds it.

        Raises:
            ValueError: it is not of the vocabulary's size.
        """
        if score_VN.shape != (vocabulary.size, vocabulary.n_tracks):
            wanted = (vocabulary.size, vocabulary.n_tracks)
            raise ValueError(f"{name}: scores must be {wanted} for this vocabulary, got {score_VN.shape}")
        self.name, self.vocabulary, self.score_VN, self.n_tracks = name, vocabulary, score_VN, vocabulary.n_tracks

    @classmethod
    def fit(cls, warm: WarmListeners, recipe: NeighbourRecipe, name: str = "neighbours") -> Neighbours:
        """Count who streams what together."""
        catalogue, days = require_ids(name, warm)
        vocabulary = Vocabulary.build(catalogue, days)
        heard_UN = csr_array(warm.heard_UN)
        weight_V = np.zeros(vocabulary.size, np.float32)
        for kind, weight in (("track", 1.0), ("artist", recipe.artist_weight), ("album", recipe.album_weight)):
            weight_V[vocabulary.spans[kind]] = weight
        return cls(vocabulary, _scores(vocabulary.track_tokens(heard_UN), heard_UN, weight_V, recipe), name)

    def scores(self, days: FirstDays) -> NDArray[np.float32]:
        """Score of each track over the listener's highest, (B, N), 0 to 1; by popularity, below all, where it is 0."""
        score_BN: NDArray[np.float32] = (self.vocabulary.first_day_tokens(days) @ self.score_VN).toarray()
        score_BN /= np.maximum(score_BN.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return score_BN

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, self.n_tracks, "the number of tracks")
        return top_k_in_chunks(self.scores, days, k)


def _scores(
    tokens_UV: csr_array, heard_UN: csr_array, weight_V: NDArray[np.float32], recipe: NeighbourRecipe
) -> csr_array:
    """(V, N), zero between a track and itself."""
    n_V = np.maximum(np.asarray(tokens_UV.sum(axis=0)).ravel(), 1) ** recipe.token_exponent
    n_N = np.maximum(np.asarray(heard_UN.sum(axis=0)).ravel(), 1) ** recipe.track_exponent
    users_VU = csr_array(tokens_UV.T)
    parts = []
    for start in range(0, len(weight_V), _ROWS):
        part = csr_array(users_VU[start : start + _ROWS] @ heard_UN)
        row = np.repeat(np.arange(part.shape[0]), np.diff(part.indptr)) + start
        part.data = weight_V[row] * part.data / (n_V[row] * n_N[part.indices] + recipe.shrinkage)
        part.data[row == part.indices] = 0
        parts.append(_strongest(part.astype(np.float32), recipe.max_neighbours))
    return csr_array(vstack(parts))


def _strongest(part: csr_array, most: int) -> csr_array:
    """The `most` largest entries of each row above zero, ties to the lower index."""
    lengths = np.diff(part.indptr)
    row = np.repeat(np.arange(part.shape[0]), lengths)
    order = np.lexsort((part.indices, -part.data, row))
    place = np.arange(part.nnz) - np.repeat(part.indptr[:-1], lengths)
    kept = order[(place < most) & (part.data[order] > 0)]
    found = csr_array((part.data[kept], (row[kept], part.indices[kept])), shape=part.shape)
    found.sort_indices()
    return found
