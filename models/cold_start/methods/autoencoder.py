"""Our own, fully personalised: a network that says from first-day tokens which tracks will be streamed.

Shapes   as in models/cold_start/methods/first_day_network.py; the head has a logit a track
Source   softmax over all tracks after Liang et al. 2018 (Mult-DAE), eq. 2
Differs  a listener's truth is weighted by the square root of its size, between one vote a track and one a listener;
         first days, start and bag as in models/cold_start/methods/first_day_network.py
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import Needs, WarmListeners, check_k, require_first_days
from models.cold_start.methods.first_day_network import (
    Batch,
    FirstDayNetwork,
    FirstDayNetworkRecipe,
    Floats,
    OnEpoch,
    fit,
)
from models.cold_start.top_k import top_k_of_scores


class FirstDayAutoencoder:
    """The tracks of the highest logits; a listener without a token gets the most popular ones."""

    name = "first_day_autoencoder"
    needs = Needs(days=True)

    def __init__(
        self, warm: WarmListeners, recipe: FirstDayNetworkRecipe, seed: int = 0, on_epoch: OnEpoch | None = None
    ) -> None:
        """Learn from the warm users."""
        count_N = np.asarray(csr_array(warm.heard_UN).sum(axis=0), np.float64).ravel()
        # Half a listener more, or a track that nobody streamed could never be learned.
        start_N = np.log((count_N + 0.5) / (count_N + 0.5).sum()).astype(np.float32)
        self.network: FirstDayNetwork = fit(self.name, warm, start_N, likelihood, recipe, seed, on_epoch)
        self.n_tracks = len(start_N)

    def scores(self, days: FirstDays) -> Floats:
        """Chance of each track over that of the listener's most likely one, (B, N), above 0 to 1."""
        out = np.empty((len(days), self.n_tracks), np.float32)
        for here, logits in self.network.logits(self.network.vocabulary.first_day_tokens(days)):
            out[here] = np.exp(logits - logits.max(axis=1, keepdims=True))
        return out

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, self.n_tracks, "the number of tracks")
        out = np.empty((len(days), k), np.int32)
        for here, logits in self.network.logits(self.network.vocabulary.first_day_tokens(days)):
            out[here] = top_k_of_scores(logits, k)
        return out


def likelihood(logits_BN: Tensor, batch: Batch) -> Tensor:
    """Mean negative log-likelihood of the truths' tracks."""
    truth = batch.truth
    size_B = np.diff(truth.indptr)
    row = torch.from_numpy(np.repeat(np.arange(len(size_B)), size_B))
    column = torch.from_numpy(truth.indices.astype(np.int64))
    weight = torch.from_numpy(np.repeat(1 / np.sqrt(np.maximum(size_B, 1)), size_B).astype(np.float32))
    said = torch.log_softmax(logits_BN, dim=1)[row, column]
    return -(said * weight).sum() / weight.sum().clamp(min=1e-12)
