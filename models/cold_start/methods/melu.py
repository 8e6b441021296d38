"""MeLU: affinity of listener and track, by a network that takes one gradient step for each listener (meta-learning).

Shapes   U warm users, B listeners, F values of an input vector, N tracks, D width of the space, E width of an
         embedding, H of a dense layer; S tracks of a support set, Q of a query set
Source   Lee et al. 2019 (KDD); Briand et al. 2021, section 4.1.3
Network  embeddings of the listener's and the track's content, concatenated -> 64 -> 64 -> 1, ReLU; mean squared error.
         For each user, one gradient step on the support set moves the three dense layers only. Adam then moves all
         weights by the loss on the query set after that step, differentiating through the step
Differs  The content of a listener is the standardised and clipped input vector, of a track its standardised vector. An
         embedding is one linear map of either, not one per field. Affinity is 1 for a track that the user streamed and
         0 for a track drawn uniformly from the others. Query sets (10) and support sets (10) contain half of each, and
         are drawn again in each epoch; the original splits each user's ratings once, with 3 to 90 in a support set.
         Batches have more users than 32, with a higher rate of Adam, because the original's step counts are for GPUs.
         Gradients are clipped to norm 1. The rate of a user's own step was chosen on validation, far above the
         original's 5e-6, within the budget of benchmarks/baselines.py.
         Users who streamed no track, or every track, are not used in training.
         The input vector (and the public data) does not contain which tracks a cold listener streamed, only the mean of
         their vectors. A track's embedding is linear, so that mean represents them: it is the support set, with
         affinity 1. For a listener without a stream, the network is used without a step.
         Semi-personalised: k-means, into as many segments as the space has, of the listener's part of the first dense
         layer, which is all that the network uses of a listener before the step. A listener gets the ranking of the
         segment that is nearest by Euclidean distance
Scoring  The first layer is the sum of a listener's part and a track's part, which is the same for all listeners. A step
         on one example changes it by a matrix of rank one. So a pair costs H (H + 4) multiply-adds, and E for the step
Cost     U / batch_users steps per epoch, each of some 6 users (F E + (S + Q) (D E + 2 E H + H H)) multiply-adds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import csr_array
from torch import Tensor, nn

from blockfactor.kmeans import kmeans
from models.arrays import FloatMatrix, FloatVector, IntMatrix, IntVector, LongVector
from models.cold_start.input_vector import FirstDays, Layout
from models.cold_start.methods.base import Needs, WarmListeners, as_input_rows, check_k
from models.cold_start.methods.scaling import Scaler
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import rankings
from models.cold_start.top_k import as_float_matrix

OnEpoch = Callable[[int, float], None]

_MAX_GRADIENT_NORM = 1.0  # norm of a gradient
_CHUNK = 1024
_STEP_CHUNK = 64  # listeners whose own weights are in memory at once
_TRACK_CHUNK = 8192  # tracks per product: their hidden layer fits in cache


@dataclass(frozen=True)
class MeluRecipe:
    """Size and training of the network; validated on construction.

    Attributes:
        embedding_dim: E, the width of an embedding.
        hidden: H, the width of the two dense layers.
        epochs: passes over the users.
        learning_rate: of Adam.
        inner_rate: of a listener's own step.
        batch_users: users per step of Adam.
        support: S, tracks of a support set, half of them streamed.
        query: Q, tracks of a query set, half of them streamed.
    """

    embedding_dim: int
    hidden: int
    epochs: int
    learning_rate: float
    inner_rate: float
    batch_users: int
    support: int
    query: int

    def __post_init__(self) -> None:
        for field in ("embedding_dim", "hidden", "epochs", "batch_users"):
            if getattr(self, field) < 1:
                raise ValueError(f"melu.{field}: must be at least 1, got {getattr(self, field)}")
        for field in ("support", "query"):
            if getattr(self, field) < 2 or getattr(self, field) % 2:
                raise ValueError(f"melu.{field}: must be even and at least 2, got {getattr(self, field)}")
        for field in ("learning_rate", "inner_rate"):
            if not getattr(self, field) > 0:
                raise ValueError(f"melu.{field}: must be above 0, got {getattr(self, field)}")


def dense_layers(embedding: int, hidden: int) -> nn.Sequential:
    """Return the dense layers, [listener; track] (B, 2 E) -> H -> H -> 1: the part that a listener's own step moves."""
    return nn.Sequential(
        nn.Linear(2 * embedding, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )


@dataclass(frozen=True)
class InnerStep:
    """Gradients of listeners' squared errors on their support sets, factored: B listeners, S examples.

    The gradient of a layer's weights is the sum over examples of gap x input. So the layer after the step is layer(x) -
    rate * sum over s of gap_s (x . input_s + 1), where the 1 is the bias, and no listener's own weights have to be
    stored.
    """

    inputs: tuple[Tensor, Tensor, Tensor]  # of the layers: (B, S, 2 E), (B, S, H), (B, S, H)
    gaps: tuple[Tensor, Tensor, Tensor]  # gradients at the outputs of the layers: (B, S, H), (B, S, H), (B, S, 1)

    def decrease(self, layer: int, x_BQX: Tensor) -> Tensor:
        """Return by how much a step of rate 1 lowers the output of a layer for input x."""
        return (x_BQX @ self.inputs[layer].mT + 1) @ self.gaps[layer]


def concatenate_pairs(user_BE: Tensor, track_BSE: Tensor) -> Tensor:
    """Return [listener; track] of each pair, (B, S, 2 E)."""
    return torch.cat([user_BE[:, None].expand(-1, track_BSE.shape[1], -1), track_BSE], dim=2)


def inner_step(dense: nn.Sequential, x_BSX: Tensor, affinity_S: Tensor) -> InnerStep:
    """Return the gradients of a support set, by explicit backpropagation that training can differentiate in turn.

    Args:
        dense: the dense layers.
        x_BSX: inputs of the support set, [listener; track].
        affinity_S: targets of the support set.
    """
    first, second, third = dense[0], dense[2], dense[4]
    before_BSH: Tensor = first(x_BSX)
    hidden_BSH = before_BSH.relu()
    inner_BSH: Tensor = second(hidden_BSH)
    last_BSH = inner_BSH.relu()
    gap_BS1 = 2 / x_BSX.shape[1] * (third(last_BSH) - affinity_S[:, None])
    inner_gap = gap_BS1 * third.weight * (inner_BSH > 0)
    first_gap = inner_gap @ second.weight * (before_BSH > 0)
    return InnerStep((x_BSX, hidden_BSH, last_BSH), (first_gap, inner_gap, gap_BS1))


def after_step(dense: nn.Sequential, x_BQX: Tensor, taken: InnerStep, rate: float) -> Tensor:
    """Return affinities (B, Q), with the layers of each listener after a step.

    Args:
        dense: the dense layers before the step.
        x_BQX: inputs of the query set, [listener; track].
        taken: gradients of the step.
        rate: learning rate of the step.
    """
    hidden_BQH = (dense[0](x_BQX) - rate * taken.decrease(0, x_BQX)).relu()
    last_BQH = (dense[2](hidden_BQH) - rate * taken.decrease(1, hidden_BQH)).relu()
    affinity_BQ1: Tensor = dense[4](last_BQH) - rate * taken.decrease(2, last_BQH)
    return affinity_BQ1[..., 0]


class Melu:
    """The trained network, with everything precomputed that depends on tracks only."""

    def __init__(self, warm: WarmListeners, recipe: MeluRecipe, seed: int = 0, on_epoch: OnEpoch | None = None) -> None:
        """Train on warm users.

        Args:
            warm: training data.
            recipe: size and training of the network.
            seed: seed of weights, batches, support and query sets.
            on_epoch: called after each epoch, counted from 0, with the epoch and its mean loss.

        Raises:
            ValueError: no user streamed some but not all tracks, shapes do not match, the data contains NaN or
                infinity, or the loss is not finite.
        """
        self.recipe = recipe
        track_ND = as_float_matrix("melu: track vectors", warm.track_ND)
        self.layout = Layout(track_ND.shape[1])
        if warm.x_UF.ndim != 2 or warm.x_UF.shape[1] != self.layout.size:
            raise ValueError(f"melu: x must be (U, {self.layout.size}), got {warm.x_UF.shape}")
        if warm.heard_UN.shape != (len(warm.x_UF), len(track_ND)):
            raise ValueError(f"melu: heard must be {(len(warm.x_UF), len(track_ND))}, got {warm.heard_UN.shape}")
        self._user_scale = Scaler.fit("melu: x", warm.x_UF)
        # Not clipped: the content of a mean of tracks must equal the mean of their contents.
        self._track_scale = Scaler.fit("melu: track vectors", track_ND, clip=np.inf)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.user = nn.Linear(self.layout.size, self.recipe.embedding_dim)
            self.track = nn.Linear(self.layout.d, self.recipe.embedding_dim)
            self.dense = dense_layers(self.recipe.embedding_dim, self.recipe.hidden)
        track_NC = self._track_scale(track_ND)
        self._train(warm, torch.from_numpy(track_NC), seed, on_epoch)
        for part in (self.user, self.track, self.dense):
            part.double().requires_grad_(False)
        self._weights = dict(self.dense.named_parameters())
        track_NE = self.track(torch.from_numpy(track_NC).double())
        first_HE = self._weights["0.weight"][:, self.recipe.embedding_dim :]
        self.track_NE = track_NE.float()
        self.track_NH = (track_NE @ first_HE.T + self._weights["0.bias"]).float()

    def _train(self, warm: WarmListeners, track_NC: Tensor, seed: int, on_epoch: OnEpoch | None) -> None:
        recipe, rng = self.recipe, np.random.default_rng(seed)
        heard = csr_array(warm.heard_UN).sorted_indices()
        n_heard = np.diff(heard.indptr)
        users = np.flatnonzero((n_heard > 0) & (n_heard < len(track_NC)))
        if not len(users):
            raise ValueError("melu: no warm user streamed some but not all tracks; there is nothing to train on")
        target_S, target_Q = ((torch.arange(n) % 2 == 0).float() for n in (recipe.support, recipe.query))
        n_steps = -(-len(users) // recipe.batch_users)

        parts = (self.user, self.track, self.dense)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=True)
        for epoch in range(recipe.epochs):
            total = 0.0
            for user_B in np.array_split(rng.permutation(users), n_steps):
                user_B = np.sort(user_B)
                drawn_BT = np.stack([_draw_tracks(heard, u, recipe.support + recipe.query, rng) for u in user_B])
                track_BTE = self.track(track_NC[torch.from_numpy(drawn_BT)])
                user_BE = self.user(torch.from_numpy(self._user_scale(warm.x_UF[user_B])))
                optimiser.zero_grad()
                support_BSX, query_BQX = concatenate_pairs(user_BE, track_BTE).split(
                    [recipe.support, recipe.query], dim=1
                )
                taken = inner_step(self.dense, support_BSX, target_S)
                affinity_BQ = after_step(self.dense, query_BQX, taken, recipe.inner_rate)
                loss = (affinity_BQ - target_Q).square().mean()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
                optimiser.step()
                total += float(loss.detach()) * len(user_B)
            if not np.isfinite(total):
                raise ValueError(
                    f"melu.learning_rate: {recipe.learning_rate} is too high: the loss is {total} in epoch {epoch}"
                )
            if on_epoch is not None:
                on_epoch(epoch, total / len(users))

    def user_parts(self, x_BF: FloatMatrix) -> FloatMatrix:
        """Return the listener's part of the first dense layer, (B, H)."""
        first_HE = self._weights["0.weight"][:, : self.recipe.embedding_dim]
        out = np.empty((len(x_BF), self.recipe.hidden), np.float32)
        for start in range(0, len(x_BF), _CHUNK):
            out[start : start + _CHUNK] = (self._embed(x_BF[start : start + _CHUNK]) @ first_HE.T).numpy()
        return out

    def _embed(self, x_BF: FloatMatrix) -> Tensor:
        """Return embeddings (B, E), in float64 so that a row rounded to float32 does not depend on its batch."""
        embedded: Tensor = self.user(torch.from_numpy(self._user_scale(as_float_matrix("melu: x", x_BF))).double())
        return embedded

    def affinities(self, x_BF: FloatMatrix) -> Iterator[FloatVector]:
        """Yield each listener's affinities to all tracks, (N,), after a step on the first day's streams."""
        for start in range(0, len(x_BF), _STEP_CHUNK):
            yield from self._affinities(x_BF[start : start + _STEP_CHUNK])

    @torch.no_grad()
    def _affinities(self, x_BF: FloatMatrix) -> Iterator[FloatVector]:
        rate, weights = self.recipe.inner_rate, self._weights
        user_BE = self._embed(x_BF)
        streams_BD = x_BF[:, self.layout.block("streamed_songs")]
        support_BE = self.track(torch.from_numpy(self._track_scale(streams_BD)).double())
        taken = inner_step(
            self.dense, concatenate_pairs(user_BE, support_BE[:, None]), torch.ones(1, dtype=torch.float64)
        )
        # One example: gradients of rank one. A listener without a stream takes no step.
        rate_B1 = rate * torch.from_numpy(streams_BD.any(axis=1)).double()[:, None]
        first_gap, second_gap, third_gap = (rate_B1 * gap[:, 0] for gap in taken.gaps)
        _, hidden_BH, last_BH = (layer_input[:, 0] for layer_input in taken.inputs)
        first_HE = weights["0.weight"][:, : self.recipe.embedding_dim]
        base_BH = (user_BE @ first_HE.T - first_gap * (1 + user_BE.square().sum(dim=1, keepdim=True))).float()
        shift_BH, support_BE = -first_gap.float(), support_BE.float()
        second_BHH = (weights["2.weight"] - second_gap[:, :, None] * hidden_BH[:, None, :]).float()
        second_BH = (weights["2.bias"] - second_gap).float()
        third_BH, third_B = (weights["4.weight"] - third_gap * last_BH).float(), (weights["4.bias"] - third_gap).float()
        for b in range(len(x_BF)):
            # Copies: a product may round differently with another memory layout of its operands.
            base_H, shift_H, support_E = base_BH[b].clone(), shift_BH[b].clone(), support_BE[b].clone()
            second_HH, second_H = second_BHH[b].clone(), second_BH[b].clone()
            third_H, third = third_BH[b].clone(), third_B[b]
            out_N = torch.empty(len(self.track_NH))
            for start in range(0, len(out_N), _TRACK_CHUNK):
                tracks = slice(start, start + _TRACK_CHUNK)
                hidden = torch.addr(self.track_NH[tracks], self.track_NE[tracks] @ support_E, shift_H)
                hidden = torch.addmm(second_H, hidden.add_(base_H).relu_(), second_HH.T).relu_()
                out_N[tracks] = hidden @ third_H
            yield out_N.add_(third).numpy()


def _draw_tracks(heard: csr_array, user: int, n: int, rng: np.random.Generator) -> LongVector:
    """Return n tracks for one user, streamed and others in turn; streamed ones repeat where there are too few."""
    streamed = heard.indices[heard.indptr[user] : heard.indptr[user + 1]]
    out = np.empty(n, np.int64)
    out[::2] = np.resize(rng.permutation(streamed), n // 2)
    # The r-th track that is not streamed: r plus the number of streamed tracks before it.
    r = rng.integers(heard.shape[1] - len(streamed), size=n // 2)
    out[1::2] = r + np.searchsorted(streamed - np.arange(len(streamed)), r, side="right")
    return out


def top_k_of_vector(scores_N: FloatVector, k: int) -> LongVector:
    """Return the indices of the k highest scores, best first, ties to the lower index."""
    kth = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    above = np.flatnonzero(scores_N > kth)
    tied = np.flatnonzero(scores_N == kth)[: k - len(above)]
    return np.concatenate([above[np.argsort(-scores_N[above], kind="stable")], tied])


class MeluFull:
    """Recommends the tracks with the highest affinity."""

    name = "melu_full"
    needs = Needs(signals=("all",))

    def __init__(self, net: Melu) -> None:
        """Use a trained network."""
        self.net = net

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.net.track_NE)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        x = as_input_rows(self.name, x_BF, self.net.layout.size)
        check_k(self.name, k, self.max_k, "the number of tracks")
        out = np.empty((len(x), k), np.int32)
        for b, scores_N in enumerate(self.net.affinities(x)):
            out[b] = top_k_of_vector(scores_N, k)
        return out


class MeluSemi:
    """Recommends the ranking of the segment of warm users with the most similar input to the dense layers."""

    name = "melu_semi"
    needs = Needs(signals=("all",))

    def __init__(self, net: Melu, warm: WarmListeners, seed: int = 0) -> None:
        """Segment the warm users into as many segments as the space has, with rankings of the same length."""
        self.net = net
        k = len(warm.centroids_KD)
        clusters = kmeans(net.user_parts(warm.x_UF), k, seed)
        self.centroids, self.labels = clusters.centroids, clusters.labels
        self.rankings = rankings(clusters.labels, warm.heard_UN, k, warm.rankings_KL.shape[1])

    def segments(self, x_BF: ArrayLike) -> IntVector:
        """Return the segment of each listener, (B,)."""
        return nearest_centroids(
            self.net.user_parts(as_input_rows(self.name, x_BF, self.net.layout.size)), self.centroids
        )

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return int(self.rankings.shape[1])

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        check_k(self.name, k, self.max_k, "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
