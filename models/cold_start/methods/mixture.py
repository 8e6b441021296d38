"""Our own, semi-personalised: a mixture of segments instead of the nearest one.

Shapes   B listeners, U warm users, K segments, N tracks, D width
Segments keep their members; a list is made of what they stream: track t has the score sum over s of w_s P(t | s), where
         P(t | s) = (members of s who streamed t + smoothing * popularity of t) / (streams of s + smoothing)
Source   smoothing after Dirichlet priors (Zhai, Lafferty 2004, section 3.1); weights by distance after Liu et al. 2011
         (soft assignment), or learned by the likelihood of what users streamed
Differs  while it learns, a user's own streams are taken out of the user's segment: else it would learn to recognise
         its users instead of tastes
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor

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
)
from models.cold_start.methods.first_day_network import (
    Batch,
    FirstDayNetwork,
    FirstDayNetworkRecipe,
    Floats,
    Loss,
    OnEpoch,
    fit,
)
from models.cold_start.segments import listener_counts
from models.cold_start.top_k import normalise, top_k_of_scores

_CHUNK = 256
_TRUTHS = 20  # tracks of a user's truth that a step looks at


class SegmentTrackProbabilities:
    """What the members of each segment stream, smoothed by what everybody streams."""

    def __init__(self, warm: WarmListeners, smoothing: float) -> None:
        """Needs the users' segments and streams; ValueError for a smoothing that is not above 0."""
        if not smoothing > 0:
            raise ValueError(f"segment_mixture.smoothing: must be above 0, got {smoothing}")
        heard = csr_array(warm.heard_UN)
        self.count_KN = listener_counts(warm.labels_U, heard, len(warm.centroids_KD))
        self.total_K = np.asarray(self.count_KN.sum(axis=1), np.float64).ravel()
        count_N = np.asarray(heard.sum(axis=0), np.float64).ravel()
        self.popularity_N = (count_N + 0.5) / (count_N + 0.5).sum()
        self.smoothing = smoothing
        self.labels_U, self.streams_U = warm.labels_U.astype(np.int64), np.diff(heard.indptr)

    def scores(self, weight_BK: NDArray[np.float64]) -> Floats:
        """Chance of each track, (B, N)."""
        share_BK = weight_BK / (self.total_K + self.smoothing)
        mixed = (self.count_KN.T @ share_BK.T).T + self.smoothing * np.outer(share_BK.sum(axis=1), self.popularity_N)
        return np.ascontiguousarray(mixed, np.float32)


class NearSegments:
    """The paper's network, then the segments near to its prediction, weighted by exp(-sharpness * distance^2)."""

    name = "near_segments"
    needs = Needs(signals=("all",), parts=("network", "centroids"))

    def __init__(self, predict: Predict, warm: WarmListeners, smoothing: float, sharpness: float) -> None:
        """Needs `predict` (B, F) -> (B, D)."""
        if not sharpness > 0:
            raise ValueError(f"near_segments.sharpness: must be above 0, got {sharpness}")
        self.predict, self.tastes, self.sharpness = predict, SegmentTrackProbabilities(warm, smoothing), sharpness
        self.centroids_KD = np.asarray(warm.centroids_KD, np.float64)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        check_k(self.name, k, len(self.tastes.popularity_N), "the number of tracks")
        vectors = predict_vectors(self.name, self.predict, as_input_rows(self.name, x_BF), self.centroids_KD.shape[1])
        out = np.empty((len(vectors), k), np.int32)
        square_K = np.vecdot(self.centroids_KD, self.centroids_KD)
        for start in range(0, len(vectors), _CHUNK):
            unit = normalise(vectors[start : start + _CHUNK]).astype(np.float64)
            distance_BK = square_K - 2 * unit @ self.centroids_KD.T
            weight = np.exp(-self.sharpness * (distance_BK - distance_BK.min(axis=1, keepdims=True)))
            # A prediction of zero says nothing: then every segment weighs what it has of all streams.
            weight[~unit.any(axis=1)] = self.tastes.total_K + self.tastes.smoothing
            weight /= weight.sum(axis=1, keepdims=True)
            out[start : start + _CHUNK] = top_k_of_scores(self.tastes.scores(weight), k)
        return out


class SegmentMixture:
    """Weights of the segments from first-day tokens, learned by the likelihood of what the users streamed."""

    name = "segment_mixture"
    needs = Needs(days=True)

    def __init__(
        self,
        warm: WarmListeners,
        recipe: FirstDayNetworkRecipe,
        smoothing: float,
        seed: int = 0,
        on_epoch: OnEpoch | None = None,
    ) -> None:
        """Learn from the warm users."""
        self.tastes = SegmentTrackProbabilities(warm, smoothing)
        share_K = (self.tastes.total_K + smoothing) / (self.tastes.total_K + smoothing).sum()
        start_K = np.log(share_K).astype(np.float32)
        self.network: FirstDayNetwork = fit(self.name, warm, start_K, self._loss(seed), recipe, seed, on_epoch)

    def weights(self, days: FirstDays) -> NDArray[np.float64]:
        """How much of each segment a listener is, (B, K), rows sum to 1."""
        out = np.empty((len(days), len(self.tastes.total_K)))
        for here, logits in self.network.logits(self.network.vocabulary.first_day_tokens(days)):
            out[here] = np.exp(logits - logits.max(axis=1, keepdims=True))
        out /= out.sum(axis=1, keepdims=True)
        return out

    def scores(self, days: FirstDays) -> Floats:
        """Chance of each track over that of the listener's most likely one, (B, N), above 0 to 1."""
        mixed = self.tastes.scores(self.weights(days))
        mixed /= mixed.max(axis=1, keepdims=True)
        return mixed

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, len(self.tastes.popularity_N), "the number of tracks")
        return top_k_in_chunks(lambda part: self.tastes.scores(self.weights(part)), days, k)

    def _loss(self, seed: int) -> Loss:
        """Mean negative log-likelihood of the truths' tracks under the mixture, without the user's own streams."""
        tastes, rng = self.tastes, np.random.default_rng(seed)
        count_NK = torch.from_numpy(np.ascontiguousarray(tastes.count_KN.T.toarray(), np.float32))
        total_K = torch.from_numpy(tastes.total_K.astype(np.float32))
        popularity_N = torch.from_numpy(tastes.popularity_N.astype(np.float32))
        labels_U = torch.from_numpy(tastes.labels_U)
        streams_U = torch.from_numpy(tastes.streams_U.astype(np.float32))
        smoothing = tastes.smoothing

        def loss(logits_BK: Tensor, batch: Batch) -> Tensor:
            size_B = np.diff(batch.truth.indptr)
            pick_BT = batch.truth.indptr[:-1, None] + (rng.random((len(size_B), _TRUTHS)) * size_B[:, None]).astype(int)
            # A user without a truth points at somebody else's track, which the mask takes out again.
            pick_BT = np.minimum(pick_BT, max(batch.truth.nnz - 1, 0))
            track_BT = torch.from_numpy(batch.truth.indices[pick_BT].astype(np.int64))
            there_B = torch.from_numpy((size_B > 0).astype(np.float32))
            prior_BT = smoothing * popularity_N[track_BT]
            chance_BTK = (count_NK[track_BT] + prior_BT[:, :, None]) / (total_K + smoothing)
            users = torch.from_numpy(batch.users)
            own_B = labels_U[users]
            own_BT = count_NK[track_BT, own_B[:, None].expand_as(track_BT)] - 1
            own_BT = (own_BT + prior_BT) / (total_K[own_B] - streams_U[users] + smoothing)[:, None]
            chance_BTK = chance_BTK.scatter(2, own_B[:, None, None].expand(-1, _TRUTHS, 1), own_BT[:, :, None])
            said_BT = torch.log((torch.softmax(logits_BK, dim=1)[:, None, :] * chance_BTK).sum(dim=2).clamp(min=1e-30))
            return -(said_BT.mean(dim=1) * there_B).sum() / there_B.sum().clamp(min=1)

        return loss
