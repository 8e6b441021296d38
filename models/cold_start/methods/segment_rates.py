"""Rates of tracks in segments: how many of the listeners like a new one stream each track.

Shapes   B listeners, N tracks, V tokens (tracks, artists, albums, countries, age classes), K segments
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from models.arrays import DoubleMatrix, FloatMatrix, LongVector
from models.cold_start.methods.base import WarmListeners, require_ids
from models.cold_start.methods.vocabulary import Vocabulary
from models.cold_start.segments import listener_counts


class SegmentRates:
    """How many members of each segment stream each track, and weights of the segments by naive Bayes.

    weight(s) ~ (n_s + smoothing) * exp(sum over tokens v of log(P(v | s) / P(v)) / sqrt(number of tokens)), where
    P(v | s) = (members of s with v + smoothing * P(v)) / (n_s + smoothing). The tokens of one track are correlated, so
    more evidence counts less than in proportion, as in the first-day network.
    """

    def __init__(self, count_KV: csr_array, members_K: LongVector, smoothing: float, n_tracks: int) -> None:
        """Prepare the logarithms.

        Args:
            count_KV: members of each segment with each token, sparse.
            members_K: n_s.
            smoothing: listeners with the rates of all listeners that are added to each segment.
            n_tracks: N; the first N tokens are the tracks.

        Raises:
            ValueError: smoothing is not above 0.
        """
        if not smoothing > 0:
            raise ValueError(f"ranker.segment_smoothing: must be above 0, got {smoothing}")
        counts = csr_array(count_KV, dtype=np.float64)
        self.count_KV, self.members_K, self.smoothing = count_KV, members_K, smoothing
        self.rate_V = (np.asarray(counts.sum(axis=0)).ravel() + 0.5) / (members_K.sum() + 1.0)
        evidence = np.log1p(counts.data / (smoothing * self.rate_V[counts.indices]))
        self._evidence_VK = csr_array(csr_array((evidence, counts.indices, counts.indptr), shape=counts.shape).T)
        self._total_K = members_K + smoothing
        self._count_NK = csr_array(csr_array(counts.T)[:n_tracks])
        self.rate_N = self.rate_V[:n_tracks]

    @classmethod
    def count(cls, warm: WarmListeners, vocabulary: Vocabulary, smoothing: float) -> SegmentRates:
        """Count the tokens of each segment's members: those of their streams, country and age class.

        Raises:
            ValueError: the data has no ids, or smoothing is not above 0.
        """
        _, first_days = require_ids("ranked_candidates", warm)
        tokens_UV = vocabulary.track_tokens(csr_array(warm.heard_UN)) + vocabulary.demographic_tokens(first_days)
        n_segments = len(warm.centroids_KD)
        members_K = np.bincount(warm.labels_U, minlength=n_segments).astype(np.int64)
        counts = listener_counts(warm.labels_U, csr_array(tokens_UV), n_segments)
        return cls(counts, members_K, smoothing, vocabulary.n_tracks)

    def weights(self, tokens_BV: csr_array) -> DoubleMatrix:
        """Return the weights of the segments for tokens of first days (sparse, ones), (B, K), rows sum to 1."""
        n_tokens_B1 = np.diff(tokens_BV.indptr)[:, None]
        evidence_BK = (tokens_BV.astype(np.float64) @ self._evidence_VK).toarray()
        evidence_BK += n_tokens_B1 * np.log(self.smoothing / self._total_K)
        logits_BK = np.log(self._total_K) + evidence_BK / np.sqrt(np.maximum(n_tokens_B1, 1))
        weight_BK: DoubleMatrix = np.exp(logits_BK - logits_BK.max(axis=1, keepdims=True))
        weight_BK /= weight_BK.sum(axis=1, keepdims=True)
        return weight_BK

    def rates(self, tokens_BV: csr_array) -> FloatMatrix:
        """Return the share of listeners like each of B who stream each track, (B, N), above 0."""
        share_BK = self.weights(tokens_BV) / self._total_K
        rate_BN = (self._count_NK @ share_BK.T).T
        rate_BN += self.smoothing * share_BK.sum(axis=1, keepdims=True) * self.rate_N
        return np.ascontiguousarray(rate_BN, np.float32)
