"""Neighbours of the first day's tracks, artists and albums: the tracks that the same listeners stream.

Shapes   U warm users, V tokens (tracks, artists, albums), N tracks, B listeners
Score    of track t: the sum over the first day's tokens v of weight(kind of v) * c(v, t) / (n_v^a n_t^b + shrinkage),
         where c counts the warm users who stream both, and n those who stream each
Source   asymmetric cosine (Aiolli 2013, eq. 2) with a shrunk denominator
Differs  artists and albums have neighbours too; only the `max_neighbours` strongest tracks of a token are stored
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array, vstack

from models.arrays import FloatMatrix, FloatVector, IntMatrix
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

_CHUNK = 2048  # tokens whose co-occurrences are counted in one product


@dataclass(frozen=True)
class NeighbourRecipe:
    """How neighbours are scored and how many are stored; validated on construction.

    Attributes:
        token_exponent: a, the exponent of the number of listeners of the token.
        track_exponent: b, the exponent of the number of listeners of the track.
        shrinkage: added to the denominator of a score.
        artist_weight: weight of an artist's neighbours; a track's have weight 1.
        album_weight: weight of an album's neighbours.
        max_neighbours: tracks stored per token.
    """

    token_exponent: float
    track_exponent: float
    shrinkage: float
    artist_weight: float
    album_weight: float
    max_neighbours: int

    def __post_init__(self) -> None:
        for name in ("token_exponent", "track_exponent", "shrinkage", "artist_weight", "album_weight"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"neighbours.{name}: must be at least 0, got {getattr(self, name)}")
        if self.max_neighbours < 1:
            raise ValueError(f"neighbours.max_neighbours: must be at least 1, got {self.max_neighbours}")


class Neighbours:
    """Recommends the tracks with the highest score; for a first day without a known token, the most popular ones."""

    needs = Needs(first_days=True, cold_users=False)

    def __init__(self, vocabulary: Vocabulary, score_VN: csr_array, name: str = "neighbours") -> None:
        """Store precomputed scores; use `fit` to compute them.

        Args:
            vocabulary: the tokens.
            score_VN: score of each track for each token, sparse.
            name: name of the method.

        Raises:
            ValueError: score_VN does not have the vocabulary's shape.
        """
        if score_VN.shape != (vocabulary.size, vocabulary.n_tracks):
            expected = (vocabulary.size, vocabulary.n_tracks)
            raise ValueError(f"{name}: scores must be {expected} for this vocabulary, got {score_VN.shape}")
        self.name, self.vocabulary, self.score_VN, self.n_tracks = name, vocabulary, score_VN, vocabulary.n_tracks

    @classmethod
    def fit(cls, warm: WarmListeners, recipe: NeighbourRecipe, name: str = "neighbours") -> Neighbours:
        """Count which tracks and tokens the same warm users stream, and return the method.

        Raises:
            ValueError: the data has no ids.
        """
        catalogue, first_days = require_ids(name, warm)
        vocabulary = Vocabulary.build(catalogue, first_days)
        heard_UN = csr_array(warm.heard_UN)
        weight_V = np.zeros(vocabulary.size, np.float32)
        for kind, weight in (("track", 1.0), ("artist", recipe.artist_weight), ("album", recipe.album_weight)):
            weight_V[vocabulary.spans[kind]] = weight
        return cls(vocabulary, _neighbour_scores(vocabulary.track_tokens(heard_UN), heard_UN, weight_V, recipe), name)

    def scores(self, first_days: FirstDays) -> FloatMatrix:
        """Return the score of each track over the listener's highest, (B, N), 0 to 1; all 0 without a known token."""
        return self.scale(self.sums(self.vocabulary.first_day_tokens(first_days)))

    def sums(self, tokens_BV: csr_array) -> FloatMatrix:
        """Return the sum of the scores of a first day's tokens for each track, (B, N), at least 0."""
        sum_BN: FloatMatrix = (tokens_BV @ self.score_VN).toarray()
        return sum_BN

    @staticmethod
    def scale(sum_BN: FloatMatrix) -> FloatMatrix:
        """Return sums over the listener's highest, 0 to 1."""
        scaled_BN: FloatMatrix = sum_BN / np.maximum(sum_BN.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        return scaled_BN

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        return top_k_in_chunks(self.scores, first_days, k)


def _neighbour_scores(
    tokens_UV: csr_array, heard_UN: csr_array, weight_V: FloatVector, recipe: NeighbourRecipe
) -> csr_array:
    """Return the scores, sparse (V, N), zero between a track and itself."""
    n_V = np.maximum(np.asarray(tokens_UV.sum(axis=0)).ravel(), 1) ** recipe.token_exponent
    n_N = np.maximum(np.asarray(heard_UN.sum(axis=0)).ravel(), 1) ** recipe.track_exponent
    users_VU = csr_array(tokens_UV.T)
    chunks = []
    for start in range(0, len(weight_V), _CHUNK):
        chunk = csr_array(users_VU[start : start + _CHUNK] @ heard_UN)
        row = np.repeat(np.arange(chunk.shape[0]), np.diff(chunk.indptr)) + start
        chunk.data = weight_V[row] * chunk.data / (n_V[row] * n_N[chunk.indices] + recipe.shrinkage)
        chunk.data[row == chunk.indices] = 0
        chunks.append(_keep_strongest(chunk.astype(np.float32), recipe.max_neighbours))
    return csr_array(vstack(chunks))


def _keep_strongest(scores: csr_array, n: int) -> csr_array:
    """Return the matrix with only the n largest positive entries of each row, ties to the lower index."""
    lengths = np.diff(scores.indptr)
    row = np.repeat(np.arange(scores.shape[0]), lengths)
    order = np.lexsort((scores.indices, -scores.data, row))
    rank = np.arange(scores.nnz) - np.repeat(scores.indptr[:-1], lengths)
    chosen = order[(rank < n) & (scores.data[order] > 0)]
    column = scores.indices[chosen].astype(np.int32)  # half the bytes of int64, in memory and in a release
    strongest = csr_array((scores.data[chosen], (row[chosen].astype(np.int32), column)), shape=scores.shape)
    strongest.sort_indices()
    return strongest
