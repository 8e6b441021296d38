"""The blend of autoencoder and neighbours, and the segment mixture reranked by it.

Shapes   B listeners, N tracks, L tracks of a list to be reranked
Source   weighted mean of scores, each divided by the listener's highest (CombSUM after Fox, Shaw 1994)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from models.arrays import FloatMatrix, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, Scorer, check_k, require_first_days, with_popular_tracks
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.top_k import top_k_of_scores

if TYPE_CHECKING:
    from models.cold_start.methods.mixture import SegmentMixture  # imports PyTorch, which the service does without

_CHUNK = 256


class Blend:
    """Recommends by the weighted mean of the scores of an autoencoder and of neighbours."""

    name = "blend"
    needs = Needs(first_days=True)

    def __init__(self, autoencoder: Scorer, neighbours: Neighbours, autoencoder_weight: float) -> None:
        """Combine two fitted methods.

        Args:
            autoencoder: the first method.
            neighbours: the second, of the same vocabulary.
            autoencoder_weight: weight of the first method's scores, 0 to 1; the second gets the rest.

        Raises:
            ValueError: the weight is out of range.
        """
        if not 0 <= autoencoder_weight <= 1:
            raise ValueError(f"autoencoder_weight: must be from 0 to 1, got {autoencoder_weight}")
        self.autoencoder, self.neighbours = autoencoder, neighbours
        self.autoencoder_weight = np.float32(autoencoder_weight)

    def scores(self, first_days: FirstDays) -> FloatMatrix:
        """Return the weighted mean of both scores, (B, N), 0 to 1."""
        return self._scores(self.neighbours.vocabulary.first_day_tokens(first_days))

    def combine(self, autoencoder_BN: FloatMatrix, neighbour_BN: FloatMatrix) -> FloatMatrix:
        """Return the weighted mean of the scores of both methods, (B, N)."""
        score_BN: FloatMatrix = autoencoder_BN * self.autoencoder_weight
        score_BN += (1 - self.autoencoder_weight) * neighbour_BN
        return score_BN

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.autoencoder.n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        out = np.empty((len(first_days), k), np.int32)
        for start in range(0, len(first_days), _CHUNK):
            chunk = first_days.rows(start, min(start + _CHUNK, len(first_days)))
            tokens_BV = self.neighbours.vocabulary.first_day_tokens(chunk)
            out[start : start + _CHUNK] = with_popular_tracks(top_k_of_scores(self._scores(tokens_BV), k), tokens_BV)
        return out

    def _scores(self, tokens_BV: csr_array) -> FloatMatrix:
        neighbour_BN = self.neighbours.scale(self.neighbours.sums(tokens_BV))
        return self.combine(self.autoencoder.scores(tokens_BV), neighbour_BN)


class RerankedMixture:
    """Recommends the best tracks of the segment mixture, reordered by the scores of mixture and blend together."""

    name = "segment_mixture_reranked"
    needs = Needs(first_days=True)

    def __init__(self, mixture: SegmentMixture, blend: Blend, list_length: int, mixture_weight: float) -> None:
        """Combine a fitted mixture and a fitted blend.

        Args:
            mixture: selects the tracks.
            blend: takes part in their order only.
            list_length: how many tracks of the mixture are reordered (at most N are).
            mixture_weight: weight of the mixture's score in the order, 0 to 1; the blend's score gets the rest.

        Raises:
            ValueError: list_length is below 1, or the weight is out of range.
        """
        if list_length < 1 or not 0 <= mixture_weight <= 1:
            raise ValueError(
                f"segment_mixture_reranked: list_length must be at least 1 and mixture_weight from 0 to 1, "
                f"got {list_length} and {mixture_weight}"
            )
        self.mixture, self.blend, self.mixture_weight = mixture, blend, np.float32(mixture_weight)
        self.list_length = min(list_length, blend.autoencoder.n_tracks)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.list_length

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the length of the mixture's list")
        out = np.empty((len(first_days), k), np.int32)
        for start in range(0, len(first_days), _CHUNK):
            chunk = first_days.rows(start, min(start + _CHUNK, len(first_days)))
            mixture_BN = self.mixture.scores(chunk)
            list_BL = np.sort(top_k_of_scores(mixture_BN, self.list_length), axis=1)
            mixture_BL = np.take_along_axis(mixture_BN, list_BL, axis=1)
            blend_BL = np.take_along_axis(self.blend.scores(chunk), list_BL, axis=1)
            order_BK = top_k_of_scores(self.mixture_weight * mixture_BL + (1 - self.mixture_weight) * blend_BL, k)
            out[start : start + _CHUNK] = np.take_along_axis(list_BL, order_BK, axis=1)
        return with_popular_tracks(out, self.blend.neighbours.vocabulary.first_day_tokens(first_days))
