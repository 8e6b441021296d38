"""MeLU: how much a listener likes a track, by a network that takes one step towards each listener before it answers.

Shapes   U warm users, B listeners, F values of an input vector, N tracks, D width of the space, E width of an
         embedding, H of a dense layer; S tracks of a support set, Q of a query set
Source   Lee et al. 2019 (KDD); Briand et al. 2021, section 4.1.3
Network  embeddings of the listener's and the track's content, side by side -> 64 -> 64 -> 1, ReLU; mean squared error.
         For each user one gradient step on the support set moves the three dense layers only; Adam then moves
         everything by the loss on the query set after that step, through the step
Differs  content of a listener is the standardised and clipped input vector, of a track its standardised vector; an
         embedding is one linear map of either, not one a field. Affinity is 1 for a track that the user streamed and 0
         for one drawn alike from those they did not: half and half in a query set (10) and in a support set (10),
         drawn anew each epoch, while the original splits each user's ratings once and has 3 to 90 of them in a support
         set. More users a step than 32, with a higher rate of Adam: step counts were made for GPUs. A gradient longer
         than 1 is shortened to that. The rate of a user's own step is chosen on validation, far above the original's
         5e-6, within the budget of benchmarks/baselines.py.
         Users who streamed nothing, or everything, are not learned from.
         Which tracks a cold listener streamed is not in the input vector (nor in the public data), only the mean of
         their vectors. As a track's embedding is linear, that mean stands for them: it is the support set, with
         affinity 1. A listener without a stream is answered by the network as it stands.
         Semi-personalised: as many segments as the space has, of the listener's part of the first dense layer, which
         is all that the answer knows of a listener before the step; the nearest by Euclidean distance
Scoring  the first layer is a listener's part plus a track's part, which is the same for all listeners; a step on one
         example changes it by a matrix of rank one. So a pair costs H (H + 4) multiply-adds and E for the step
Cost     U / batch_users steps an epoch, each of some 6 users (F E + (S + Q) (D E + 2 E H + H H)) multiply-adds
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from blockfactor.kmeans import kmeans
from models.cold_start.input_vector import FirstDays, Layout
from models.cold_start.methods.base import Needs, WarmListeners, as_input_rows, check_k
from models.cold_start.methods.scaling import Scaler
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import rankings
from models.cold_start.top_k import as_float_matrix

Floats = NDArray[np.float32]
OnEpoch = Callable[[int, float], None]

_LONGEST = 1.0  # gradient
_CHUNK = 1024
_STEP_CHUNK = 64  # listeners whose own weights are held at once
_TRACKS = 8192  # tracks a product: their hidden layer stays in cache


@dataclass(frozen=True)
class MeluRecipe:
    """How the network is made and trained; checked once, here."""

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
    """[listener; track], 2 E -> 64 -> 64 -> 1: what a listener's own step moves."""
    return nn.Sequential(
        nn.Linear(2 * embedding, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
    )


@dataclass(frozen=True)
class InnerStep:
    """The slopes of listeners' squared errors on their support sets, factored: B listeners, S examples.

    The slope of a layer's weights is the sum over examples of gap x input, so a layer that took the step answers
    layer(x) - rate * sum over s of gap_s (x . input_s + 1), the 1 being the bias. No listener's own weights are needed.
    """

    inputs: tuple[Tensor, Tensor, Tensor]  # of the layers, (B, S, 2 E), (B, S, H), (B, S, H)
    gaps: tuple[Tensor, Tensor, Tensor]  # behind the layers, (B, S, H), (B, S, H), (B, S, 1)

    def moved(self, layer: int, x_BQX: Tensor) -> Tensor:
        """How much a whole step lowers what a layer answers to x."""
        return (x_BQX @ self.inputs[layer].mT + 1) @ self.gaps[layer]


def concatenate_pairs(user_BE: Tensor, track_BSE: Tensor) -> Tensor:
    """[listener; track] of each pair, (B, S, 2 E)."""
    return torch.cat([user_BE[:, None].expand(-1, track_BSE.shape[1], -1), track_BSE], dim=2)


def inner_step(dense: nn.Sequential, x_BSX: Tensor, affinity_S: Tensor) -> InnerStep:
    """Back through the layers by hand, so that training can go back through this as well."""
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
    """Affinities (B, Q) by the layers of each listener after the step."""
    hidden_BQH = (dense[0](x_BQX) - rate * taken.moved(0, x_BQX)).relu()
    last_BQH = (dense[2](hidden_BQH) - rate * taken.moved(1, hidden_BQH)).relu()
    found: Tensor = dense[4](last_BQH) - rate * taken.moved(2, last_BQH)
    return found[..., 0]


class Melu:
    """The trained network; all that is about tracks alone is computed once."""

    def __init__(self, warm: WarmListeners, recipe: MeluRecipe, seed: int = 0, on_epoch: OnEpoch | None = None) -> None:
        """Train on warm users; after each epoch, counted from 0, `on_epoch(epoch, loss)` is called.

        Raises:
            ValueError: nobody streamed some but not all tracks; shapes that do not fit; NaN or infinity anywhere;
                a loss that is no longer finite.
        """
        self.recipe = recipe
        track_ND = as_float_matrix("melu: track vectors", warm.track_ND)
        self.layout = Layout(track_ND.shape[1])
        if warm.x_UF.ndim != 2 or warm.x_UF.shape[1] != self.layout.size:
            raise ValueError(f"melu: x must be (U, {self.layout.size}), got {warm.x_UF.shape}")
        if warm.heard_UN.shape != (len(warm.x_UF), len(track_ND)):
            raise ValueError(f"melu: heard must be {(len(warm.x_UF), len(track_ND))}, got {warm.heard_UN.shape}")
        self._user_scale = Scaler.fit("melu: x", warm.x_UF)
        # Not clipped: the mean of some tracks must stay the mean of their contents.
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
            raise ValueError("melu: no warm user streamed some but not all tracks; there is nothing to learn")
        affinity_S, affinity_Q = ((torch.arange(n) % 2 == 0).float() for n in (recipe.support, recipe.query))
        n_steps = -(-len(users) // recipe.batch_users)

        parts = (self.user, self.track, self.dense)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=recipe.learning_rate, fused=True)
        for epoch in range(recipe.epochs):
            total = 0.0
            for user_B in np.array_split(rng.permutation(users), n_steps):
                user_B = np.sort(user_B)
                drawn_BT = np.stack([_draw(heard, u, recipe.support + recipe.query, rng) for u in user_B])
                track_BTE = self.track(track_NC[torch.from_numpy(drawn_BT)])
                user_BE = self.user(torch.from_numpy(self._user_scale(warm.x_UF[user_B])))
                optimiser.zero_grad()
                support_BSX, query_BQX = concatenate_pairs(user_BE, track_BTE).split(
                    [recipe.support, recipe.query], dim=1
                )
                taken = inner_step(self.dense, support_BSX, affinity_S)
                found_BQ = after_step(self.dense, query_BQX, taken, recipe.inner_rate)
                loss = (found_BQ - affinity_Q).square().mean()
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, _LONGEST)
                optimiser.step()
                total += float(loss.detach()) * len(user_B)
            if not np.isfinite(total):
                raise ValueError(
                    f"melu.learning_rate: {recipe.learning_rate} is too high: the loss is {total} in epoch {epoch}"
                )
            if on_epoch is not None:
                on_epoch(epoch, total / len(users))

    def user_parts(self, x_BF: NDArray[np.float32]) -> Floats:
        """What the first dense layer adds up for a listener, (B, H)."""
        first_HE = self._weights["0.weight"][:, : self.recipe.embedding_dim]
        out = np.empty((len(x_BF), self.recipe.hidden), np.float32)
        for start in range(0, len(x_BF), _CHUNK):
            out[start : start + _CHUNK] = (self._embed(x_BF[start : start + _CHUNK]) @ first_HE.T).numpy()
        return out

    def _embed(self, x_BF: NDArray[np.float32]) -> Tensor:
        """(B, E) in float64: how a product sums depends on its number of rows, which float32 then no longer shows."""
        embedded: Tensor = self.user(torch.from_numpy(self._user_scale(as_float_matrix("melu: x", x_BF))).double())
        return embedded

    def affinities(self, x_BF: NDArray[np.float32]) -> Iterator[Floats]:
        """Of each listener in turn for all tracks, (N,), after the listener's own step on the day's streams."""
        for start in range(0, len(x_BF), _STEP_CHUNK):
            yield from self._affinities(x_BF[start : start + _STEP_CHUNK])

    @torch.no_grad()
    def _affinities(self, x_BF: NDArray[np.float32]) -> Iterator[Floats]:
        rate, weights = self.recipe.inner_rate, self._weights
        user_BE = self._embed(x_BF)
        streams_BD = x_BF[:, self.layout.block("streamed_songs")]
        support_BE = self.track(torch.from_numpy(self._track_scale(streams_BD)).double())
        taken = inner_step(
            self.dense, concatenate_pairs(user_BE, support_BE[:, None]), torch.ones(1, dtype=torch.float64)
        )
        # One example: slopes of rank one. A listener without a stream takes no step.
        rate_B1 = rate * torch.from_numpy(streams_BD.any(axis=1)).double()[:, None]
        first_gap, second_gap, third_gap = (rate_B1 * gap[:, 0] for gap in taken.gaps)
        _, hidden_BH, last_BH = (one[:, 0] for one in taken.inputs)
        first_HE = weights["0.weight"][:, : self.recipe.embedding_dim]
        base_BH = (user_BE @ first_HE.T - first_gap * (1 + user_BE.square().sum(dim=1, keepdim=True))).float()
        shift_BH, support_BE = -first_gap.float(), support_BE.float()
        second_BHH = (weights["2.weight"] - second_gap[:, :, None] * hidden_BH[:, None, :]).float()
        second_BH = (weights["2.bias"] - second_gap).float()
        third_BH, third_B = (weights["4.weight"] - third_gap * last_BH).float(), (weights["4.bias"] - third_gap).float()
        for b in range(len(x_BF)):
            # Copies: a product may round differently where its operand lies differently in memory.
            base_H, shift_H, support_E = base_BH[b].clone(), shift_BH[b].clone(), support_BE[b].clone()
            second_HH, second_H = second_BHH[b].clone(), second_BH[b].clone()
            third_H, third = third_BH[b].clone(), third_B[b]
            out_N = torch.empty(len(self.track_NH))
            for start in range(0, len(out_N), _TRACKS):
                here = slice(start, start + _TRACKS)
                hidden = torch.addr(self.track_NH[here], self.track_NE[here] @ support_E, shift_H)
                hidden = torch.addmm(second_H, hidden.add_(base_H).relu_(), second_HH.T).relu_()
                out_N[here] = hidden @ third_H
            yield out_N.add_(third).numpy()


def _draw(heard: csr_array, user: int, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """N tracks of one user, streamed and not by turns; a streamed one comes again only where there are too few."""
    mine = heard.indices[heard.indptr[user] : heard.indptr[user + 1]]
    out = np.empty(n, np.int64)
    out[::2] = np.resize(rng.permutation(mine), n // 2)
    # The r-th of those not streamed: r and as many more as streamed ones come before it.
    r = rng.integers(heard.shape[1] - len(mine), size=n // 2)
    out[1::2] = r + np.searchsorted(mine - np.arange(len(mine)), r, side="right")
    return out


def top_k_of_vector(scores_N: Floats, k: int) -> NDArray[np.int64]:
    """Indices of the k highest, best first; ties to the lower index."""
    kth = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    above = np.flatnonzero(scores_N > kth)
    level = np.flatnonzero(scores_N == kth)[: k - len(above)]
    return np.concatenate([above[np.argsort(-scores_N[above], kind="stable")], level])


class MeluFull:
    """Tracks with the highest affinity."""

    name = "melu_full"
    needs = Needs(signals=("all",))

    def __init__(self, net: Melu) -> None:
        """Answers with this network."""
        self.net = net

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        x = as_input_rows(self.name, x_BF, self.net.layout.size)
        check_k(self.name, k, len(self.net.track_NE), "the number of tracks")
        out = np.empty((len(x), k), np.int32)
        for b, scores_N in enumerate(self.net.affinities(x)):
            out[b] = top_k_of_vector(scores_N, k)
        return out


class MeluSemi:
    """The ranking of the segment of warm users who enter the network most alike."""

    name = "melu_semi"
    needs = Needs(signals=("all",))

    def __init__(self, net: Melu, warm: WarmListeners, seed: int = 0) -> None:
        """As many segments as the space has, with rankings as long."""
        self.net = net
        k = len(warm.centroids_KD)
        clusters = kmeans(net.user_parts(warm.x_UF), k, seed)
        self.centroids = clusters.centroids
        self.rankings = rankings(clusters.labels, warm.heard_UN, k, warm.rankings_KL.shape[1])

    def segments(self, x_BF: ArrayLike) -> NDArray[np.int32]:
        """Segment of each listener, (B,)."""
        return nearest_centroids(
            self.net.user_parts(as_input_rows(self.name, x_BF, self.net.layout.size)), self.centroids
        )

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        check_k(self.name, k, self.rankings.shape[1], "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
