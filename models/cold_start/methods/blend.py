"""Our own, together: what the autoencoder says and what neighbours say; and a semi-personalised list in that order.

Shapes   B listeners, N tracks
Source   weighted mean of scores, each over the listener's highest (CombSUM after Fox, Shaw 1994)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, Scorer, check_k, require_first_days, top_k_in_chunks
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.top_k import top_k_of_scores

if TYPE_CHECKING:
    from models.cold_start.methods.mixture import SegmentMixture  # brings PyTorch in, which an answer does not need

_CHUNK = 256


class Blend:
    """Autoencoder and neighbours, `share` of the first."""

    name = "blend"
    needs = Needs(days=True)

    def __init__(self, autoencoder: Scorer, neighbours: Neighbours, share: float = 0.5) -> None:
        """Both of the same catalogue."""
        if not 0 <= share <= 1:
            raise ValueError(f"blend.share: must be from 0 to 1, got {share}")
        self.autoencoder, self.neighbours, self.share = autoencoder, neighbours, np.float32(share)

    def scores(self, days: FirstDays) -> NDArray[np.float32]:
        """Weighted mean of both, (B, N), 0 to 1."""
        score_BN = self.autoencoder.scores(days)
        score_BN *= self.share
        score_BN += (1 - self.share) * self.neighbours.scores(days)
        return score_BN

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, self.autoencoder.n_tracks, "the number of tracks")
        return top_k_in_chunks(self.scores, days, k)


class RerankedMixture:
    """The mixture's list of `length` tracks, in the order of the mixture's and the blend's scores together."""

    name = "segment_mixture_reranked"
    needs = Needs(days=True)

    def __init__(self, mixture: SegmentMixture, blend: Blend, length: int = 200, share: float = 0.5) -> None:
        """`share` of the mixture's own score; the lists come from segments, the blend only orders them."""
        if length < 1 or not 0 <= share <= 1:
            raise ValueError(f"reranked: length must be at least 1 and share from 0 to 1, got {length} and {share}")
        self.mixture, self.blend, self.share = mixture, blend, np.float32(share)
        self.length = min(length, blend.autoencoder.n_tracks)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, self.length, "the length of the mixture's list")
        out = np.empty((len(days), k), np.int32)
        for start in range(0, len(days), _CHUNK):
            part = days.rows(start, min(start + _CHUNK, len(days)))
            own_BN = self.mixture.scores(part)
            list_BL = np.sort(top_k_of_scores(own_BN, self.length), axis=1)
            own, other = (np.take_along_axis(scores, list_BL, axis=1) for scores in (own_BN, self.blend.scores(part)))
            first_BK = top_k_of_scores(self.share * own + (1 - self.share) * other, k)
            out[start : start + _CHUNK] = np.take_along_axis(list_BL, first_BK, axis=1)
        return out
