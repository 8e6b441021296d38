"""Two-stage recommendation: candidates of several methods, ordered by a learned ranker.

Shapes   B listeners, N tracks, C candidates, F features, R rows, L tracks of a list
Source   gradient-boosted trees over the features of models/cold_start/methods/candidates.py; trained by
         models/cold_start/methods/ranker.py
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import FloatMatrix, FloatVector, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, check_k, require_first_days, with_popular_tracks
from models.cold_start.methods.candidates import CandidateStage, DayScores
from models.cold_start.top_k import top_k_of_scores

if TYPE_CHECKING:
    from models.cold_start.methods.mixture import SegmentMixture  # imports PyTorch, which the service does without

CHUNK = 64  # listeners whose scores and features are in memory together
Rank = Callable[[FloatMatrix], FloatVector]
"""The ranker as a function: features (R, F) -> relevance (R,), comparable within a listener."""


class RankedCandidates:
    """Recommends the candidates by the ranker's relevance; after them, the other tracks by the blend's score."""

    name = "ranked_candidates"
    needs = Needs(first_days=True)

    def __init__(self, stage: CandidateStage, rank: Rank) -> None:
        """Combine a fitted first stage and a trained ranker."""
        self.stage, self.rank = stage, rank

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.stage.n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        out = np.empty((len(first_days), k), np.int32)
        for start in range(0, len(first_days), CHUNK):
            chunk = first_days.rows(start, min(start + CHUNK, len(first_days)))
            scores = self.stage.score(chunk)
            ranked_BC = rank_candidates(self.stage, self.rank, scores, self.candidates(scores, chunk))
            n_ranked = min(k, ranked_BC.shape[1])
            out[start : start + CHUNK, :n_ranked] = ranked_BC[:, :n_ranked]
            if n_ranked < k:
                rest_BN = scores.blend_BN.copy()
                np.put_along_axis(rest_BN, ranked_BC, np.float32(-1), axis=1)
                out[start : start + CHUNK, n_ranked:] = top_k_of_scores(rest_BN, k - n_ranked)
            out[start : start + CHUNK] = with_popular_tracks(out[start : start + CHUNK], scores.tokens_BV)
        return out

    def candidates(self, scores: DayScores, first_days: FirstDays) -> IntMatrix:
        """Return the candidates of listeners, (B, C) track_idx."""
        return self.stage.candidates(scores)


class RankedMixture(RankedCandidates):
    """Recommends the best tracks of the segment mixture, reordered by the ranker: semi-personalised."""

    name = "segment_mixture_ranked"

    def __init__(self, stage: CandidateStage, rank: Rank, mixture: SegmentMixture, list_length: int) -> None:
        """Combine a fitted mixture, whose best `list_length` tracks are the candidates, with a trained ranker."""
        super().__init__(stage, rank)
        self.mixture, self.list_length = mixture, min(list_length, stage.n_tracks)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.list_length

    def candidates(self, scores: DayScores, first_days: FirstDays) -> IntMatrix:
        """Return the mixture's best tracks, (B, C) track_idx."""
        return top_k_of_scores(self.mixture.scores(first_days), self.list_length)


def rank_candidates(stage: CandidateStage, rank: Rank, scores: DayScores, track_BC: IntMatrix) -> IntMatrix:
    """Return the candidates by relevance, highest first, (B, C); ties keep the order of the candidates."""
    features_BCF = stage.features(scores, track_BC)
    n_listeners, n_candidates, n_features = features_BCF.shape
    if not n_listeners:
        return track_BC
    relevance_BC = rank(features_BCF.reshape(-1, n_features)).reshape(n_listeners, n_candidates)
    return np.take_along_axis(track_BC, np.argsort(-relevance_BC, axis=1, kind="stable"), axis=1)
