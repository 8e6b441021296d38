"""First-day autoencoder: a network that predicts from first-day tokens which tracks a listener will stream.

Shapes   B listeners, N tracks; the network's head has one logit per track
         (models/cold_start/methods/first_day_network.py)
Source   softmax over all tracks after Liang et al. 2018 (Mult-DAE), eq. 2
Differs  a listener's tracks are weighted by one over the square root of their number, which is between one vote per
         track and one vote per listener; input and training as in models/cold_start/methods/first_day_network.py
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor

from models.arrays import FloatMatrix, IntMatrix
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, WarmListeners, check_k, require_first_days, with_popular_tracks
from models.cold_start.methods.first_day_network import Batch, FirstDayNetwork, FirstDayNetworkRecipe, OnEpoch, fit
from models.cold_start.top_k import top_k_of_scores


class FirstDayAutoencoder:
    """Recommends the tracks with the highest logits; without a token, the most popular ones."""

    name = "first_day_autoencoder"
    needs = Needs(first_days=True)

    def __init__(
        self, warm: WarmListeners, recipe: FirstDayNetworkRecipe, seed: int = 0, on_epoch: OnEpoch | None = None
    ) -> None:
        """Train the network on warm users; see `first_day_network.fit` for the arguments and errors."""
        count_N = np.asarray(csr_array(warm.heard_UN).sum(axis=0), np.float64).ravel()
        # Half a listener more: the logarithm of zero would leave a track without streams at minus infinity.
        bias_N = np.log((count_N + 0.5) / (count_N + 0.5).sum()).astype(np.float32)
        self.network: FirstDayNetwork = fit(self.name, warm, bias_N, negative_log_likelihood, recipe, seed, on_epoch)
        self.n_tracks = len(bias_N)

    def scores(self, tokens_BV: csr_array) -> FloatMatrix:
        """Return the probability of each track over that of the listener's most likely track, (B, N), above 0 to 1."""
        out = np.empty((tokens_BV.shape[0], self.n_tracks), np.float32)
        for rows, logits in self.network.logits(tokens_BV):
            out[rows] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return out

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return self.n_tracks

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        out = np.empty((len(first_days), k), np.int32)
        tokens_BV = self.network.vocabulary.first_day_tokens(first_days)
        for rows, logits in self.network.logits(tokens_BV):
            out[rows] = top_k_of_scores(logits, k)
        return with_popular_tracks(out, tokens_BV)


def negative_log_likelihood(logits_BN: Tensor, batch: Batch) -> Tensor:
    """Return the weighted mean negative log-likelihood of the target tracks of a batch."""
    target = batch.target_BN
    size_B = np.diff(target.indptr)
    row = torch.from_numpy(np.repeat(np.arange(len(size_B)), size_B))
    column = torch.from_numpy(target.indices.astype(np.int64))
    weight = torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(size_B, 1)), size_B).astype(np.float32))
    log_probability = torch.log_softmax(logits_BN, dim=1)[row, column]
    return -(log_probability * weight).sum() / weight.sum().clamp(min=1e-12)
