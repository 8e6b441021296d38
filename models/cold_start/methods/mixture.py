"""Segment mixtures: semi-personalised lists from several segments, weighted, instead of the nearest one only.

Shapes   B listeners, U warm users, K segments, N tracks, D width
Score    of track t: sum over segments s of w_s P(t | s), where
         P(t | s) = (members of s who streamed t + smoothing * popularity of t) / (streams of s + smoothing).
         Segments and their members stay the same
Source   smoothing after Dirichlet priors (Zhai, Lafferty 2004, section 3.1); weights by distance after Liu et al. 2011
         (soft assignment), or learned by maximum likelihood of the users' streams
Differs  in training, a user's own streams are subtracted from the counts of the user's segment; otherwise the network
         would memorise its users instead of their tastes
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor

from models.arrays import DoubleMatrix, FloatMatrix, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import (
    Needs,
    Predict,
    WarmListeners,
    as_input_rows,
    check_k,
    predict_vectors,
    require_first_days,
    top_k_in_chunks,
    with_popular_tracks,
)
from models.cold_start.methods.first_day_network import (
    Batch,
    FirstDayNetwork,
    FirstDayNetworkRecipe,
    Loss,
    OnEpoch,
    fit,
)
from models.cold_start.segments import listener_counts
from models.cold_start.top_k import normalise, top_k_of_scores

_CHUNK = 256
_N_TARGETS = 20  # target tracks sampled per user and step


class SegmentTrackProbabilities:
    """Probabilities of tracks given a segment, smoothed by the popularity of the tracks."""

    def __init__(self, warm: WarmListeners, smoothing: float) -> None:
        """Count the streams of each segment.

        Args:
            warm: training data.
            smoothing: number of streams by overall popularity that are added to each segment's.

        Raises:
            ValueError: smoothing is not above 0.
        """
        if not smoothing > 0:
            raise ValueError(f"segment_mixture.smoothing: must be above 0, got {smoothing}")
        heard = csr_array(warm.heard_UN)
        self.count_KN = listener_counts(warm.labels_U, heard, len(warm.centroids_KD))
        self.total_K = np.asarray(self.count_KN.sum(axis=1), np.float64).ravel()
        count_N = np.asarray(heard.sum(axis=0), np.float64).ravel()
        self.popularity_N = (count_N + 0.5) / (count_N + 0.5).sum()
        self.smoothing = smoothing
        self.labels_U, self.streams_U = warm.labels_U.astype(np.int64), np.diff(heard.indptr)

    def mix(self, weight_BK: DoubleMatrix) -> FloatMatrix:
        """Return the probability of each track, (B, N), for the listeners' weights of the segments (B, K)."""
        share_BK = weight_BK / (self.total_K + self.smoothing)
        mixed_BN = (self.count_KN.T @ share_BK.T).T + self.smoothing * np.outer(share_BK.sum(axis=1), self.popularity_N)
        return np.ascontiguousarray(mixed_BN, np.float32)


class NearSegments:
    """Recommends from the segments near to the network's prediction, weighted by exp(-sharpness * distance^2)."""

    name = "near_segments"
    needs = Needs(signals=("all",), parts=("network", "centroids"))

    def __init__(self, predict: Predict, warm: WarmListeners, smoothing: float, sharpness: float) -> None:
        """Count the streams of the segments.

        Args:
            predict: input vectors (B, F) -> vectors (B, D).
            warm: training data.
            smoothing: see `SegmentTrackProbabilities`.
            sharpness: how fast a segment's weight falls with the squared distance of its centroid.

        Raises:
            ValueError: smoothing or sharpness is not above 0.
        """
        if not sharpness > 0:
            raise ValueError(f"near_segments.sharpness: must be above 0, got {sharpness}")
        self.predict, self.probabilities = predict, SegmentTrackProbabilities(warm, smoothing)
        self.sharpness = sharpness
        self.centroids_KD = np.asarray(warm.centroids_KD, np.float64)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.probabilities.popularity_N)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        check_k(self.name, k, self.max_k, "the number of tracks")
        vectors_BD = predict_vectors(
            self.name, self.predict, as_input_rows(self.name, x_BF), self.centroids_KD.shape[1]
        )
        out = np.empty((len(vectors_BD), k), np.int32)
        square_K = np.vecdot(self.centroids_KD, self.centroids_KD)
        for start in range(0, len(vectors_BD), _CHUNK):
            unit_BD = normalise(vectors_BD[start : start + _CHUNK]).astype(np.float64)
            distance_BK = square_K - 2 * unit_BD @ self.centroids_KD.T
            weight_BK = np.exp(-self.sharpness * (distance_BK - distance_BK.min(axis=1, keepdims=True)))
            # For a zero prediction, a segment is weighted by its share of all streams.
            weight_BK[~unit_BD.any(axis=1)] = self.probabilities.total_K + self.probabilities.smoothing
            weight_BK /= weight_BK.sum(axis=1, keepdims=True)
            out[start : start + _CHUNK] = top_k_of_scores(self.probabilities.mix(weight_BK), k)
        return out


class SegmentMixture:
    """Recommends from all segments, with weights that a first-day network predicts."""

    name = "segment_mixture"
    needs = Needs(first_days=True)

    def __init__(
        self,
        warm: WarmListeners,
        recipe: FirstDayNetworkRecipe,
        smoothing: float,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        """Train the network by maximum likelihood of the users' streams; see `first_day_network.fit` for the errors.

        Args:
            warm: training data with ids.
            recipe: size and training of the network.
            smoothing: see `SegmentTrackProbabilities`.
            seed: seed of the training.
            on_epoch: called after each epoch, counted from 0, with the epoch and its mean loss.
        """
        self.probabilities = SegmentTrackProbabilities(warm, smoothing)
        share_K = (self.probabilities.total_K + smoothing) / (self.probabilities.total_K + smoothing).sum()
        bias_K = np.log(share_K).astype(np.float32)
        self.network: FirstDayNetwork = fit(self.name, warm, bias_K, self._loss(seed), recipe, seed, on_epoch)

    def weights(self, first_days: FirstDays) -> DoubleMatrix:
        """Return each listener's weights of the segments, (B, K), rows sum to 1."""
        out = np.empty((len(first_days), len(self.probabilities.total_K)))
        for rows, logits in self.network.logits(self.network.vocabulary.first_day_tokens(first_days)):
            out[rows] = np.exp(logits - logits.max(axis=1, keepdims=True))
        out /= out.sum(axis=1, keepdims=True)
        return out

    def scores(self, first_days: FirstDays) -> FloatMatrix:
        """Return the probability of each track over that of the listener's most likely track, (B, N), above 0 to 1."""
        score_BN = self._probabilities(first_days)
        score_BN /= score_BN.max(axis=1, keepdims=True)
        return score_BN

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.probabilities.popularity_N)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        lists_BK = top_k_in_chunks(self._probabilities, first_days, k)
        return with_popular_tracks(lists_BK, self.network.vocabulary.first_day_tokens(first_days))

    def _probabilities(self, first_days: FirstDays) -> FloatMatrix:
        return self.probabilities.mix(self.weights(first_days))

    def _loss(self, seed: int) -> Loss:
        """Return the loss: mean negative log-likelihood of target tracks, the user's own streams not counted."""
        probabilities, rng = self.probabilities, np.random.default_rng(seed)
        count_NK = torch.from_numpy(np.ascontiguousarray(probabilities.count_KN.T.toarray(), np.float32))
        total_K = torch.from_numpy(probabilities.total_K.astype(np.float32))
        popularity_N = torch.from_numpy(probabilities.popularity_N.astype(np.float32))
        labels_U = torch.from_numpy(probabilities.labels_U)
        streams_U = torch.from_numpy(probabilities.streams_U.astype(np.float32))
        smoothing = probabilities.smoothing

        def loss(logits_BK: Tensor, batch: Batch) -> Tensor:
            target = batch.target_BN
            size_B = np.diff(target.indptr)
            offset_BT = (rng.random((len(size_B), _N_TARGETS)) * size_B[:, None]).astype(int)
            # The position of a user without targets is that of another user's track; has_target_B masks it.
            position_BT = np.minimum(target.indptr[:-1, None] + offset_BT, max(target.nnz - 1, 0))
            track_BT = torch.from_numpy(target.indices[position_BT].astype(np.int64))
            has_target_B = torch.from_numpy((size_B > 0).astype(np.float32))
            prior_BT = smoothing * popularity_N[track_BT]
            probability_BTK = (count_NK[track_BT] + prior_BT[:, :, None]) / (total_K + smoothing)
            users = torch.from_numpy(batch.users)
            is_member_B = (labels_U[users] >= 0).float()  # the streams of others are in no segment's counts
            own_B = labels_U[users].clamp(min=0)
            own_BT = count_NK[track_BT, own_B[:, None].expand_as(track_BT)] - is_member_B[:, None]
            own_BT = (own_BT + prior_BT) / (total_K[own_B] - is_member_B * streams_U[users] + smoothing)[:, None]
            probability_BTK = probability_BTK.scatter(
                2, own_B[:, None, None].expand(-1, _N_TARGETS, 1), own_BT[:, :, None]
            )
            weight_BK = torch.softmax(logits_BK, dim=1)
            log_probability_BT = torch.log((weight_BK[:, None, :] * probability_BTK).sum(dim=2).clamp(min=1e-30))
            return -(log_probability_BT.mean(dim=1) * has_target_B).sum() / has_target_B.sum().clamp(min=1)

        return loss
