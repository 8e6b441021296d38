"""DropoutNet: two towers over [preference; content], trained with dropped preferences to serve cold listeners.

Shapes   U warm users, B listeners, N tracks, D width of the space, C values of content, R rank; S users and P tracks of
         a step
Source   Volkovs, Yu, Poutanen 2017 (NIPS); Briand et al. 2021, section 4.1.3: content is the input vector without
         skips and bans, preferences are the vectors of the space
Towers   Linear -> BatchNorm -> tanh twice (800, 400), then Linear to R = 200; score = dot product of the two outputs;
         mean squared error to the latent model's own score, also a dot product
Differs  The content of a track is the mean vector of the warm users who streamed it, and the logarithm of their number;
         the public data has no other content.
         A step scores S users against the same P tracks, each tower once. The original runs both towers for each of 100
         pairs, which is too slow on CPU cores. The original samples as many pairs of a user from the 2 500 best of
         50 000 tracks as from all tracks. Here the loss has two halves instead: over the best 5 % of a step's tracks
         for each user, and over all of them. Tracks are drawn uniformly from the whole catalogue.
         Target scores are scaled to mean 0 and deviation 1, which changes no ranking, so that a learning rate means the
         same in both spaces. It is higher than the original's 0.005, because a step covers more pairs. It is divided by
         ten after 60 and after 85 % of the steps, instead of after every 50 000 users. Gradients are clipped to norm 1.
         The rate was chosen within the budget of benchmarks/baselines.py. Content is standardised and clipped, as
         preferences are.
         A user or track without a vector in the space has preference 0, and is not used in training.
         Semi-personalised (the paper: "a warm user segmentation similar to ours"): k-means of the user tower's outputs
         for warm users, with preference, at unit length, into as many segments as the space has. A cold listener gets
         the ranking of the nearest segment
Cost     U / S steps per epoch of 3 (S u + P v + S P R) multiply-adds, u and v being the weights of the two towers;
         memory for S P scores beside the batch, and for the preferences, U D and N D
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from blockfactor.kmeans import kmeans
from models.arrays import BoolVector, FloatMatrix, IntMatrix, IntVector
from models.cold_start.input_vector import BLOCKS, SCALARS, FirstDays, Layout
from models.cold_start.methods.base import Needs, WarmListeners, as_input_rows, check_k
from models.cold_start.methods.scaling import Scaler
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import rankings
from models.cold_start.top_k import Similarity, as_float_matrix, normalise, top_k
from models.mixed_precision import bfloat16_autocast

OnEpoch = Callable[[int, float], None]

TOP_SHARE = 0.05  # the original's 2 500 of 50 000 tracks
MOMENTUM = 0.9
_OUTPUT_STD = 0.01
_MAX_GRADIENT_NORM = 1.0  # norm of a gradient
_DECAY_AT = (0.6, 0.85)
_CHUNK = 1024
_EXCLUDED = ("skipped", "banned")
CONTENT_BLOCKS = tuple(name for name in BLOCKS if not name.startswith(_EXCLUDED))


@dataclass(frozen=True)
class DropoutNetRecipe:
    """Size and training of the towers; validated on construction.

    Attributes:
        hidden: widths of the hidden layers.
        rank: R, the width of a tower's output.
        dropout: share of users, and of tracks, whose preference is dropped in a step.
        epochs: passes over the users.
        learning_rate: of SGD with momentum.
        batch_users: S, users per step.
        batch_tracks: P, tracks per step.
    """

    hidden: tuple[int, ...]
    rank: int
    dropout: float
    epochs: int
    learning_rate: float
    batch_users: int
    batch_tracks: int

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"dropoutnet.hidden: widths must be at least 1, got {self.hidden}")
        for field in ("rank", "epochs"):
            if getattr(self, field) < 1:
                raise ValueError(f"dropoutnet.{field}: must be at least 1, got {getattr(self, field)}")
        for field in ("batch_users", "batch_tracks"):
            if getattr(self, field) < 2:
                raise ValueError(f"dropoutnet.{field}: must be at least 2, got {getattr(self, field)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropoutnet.dropout: must be from 0 to below 1, got {self.dropout}")
        if not self.learning_rate > 0:
            raise ValueError(f"dropoutnet.learning_rate: must be above 0, got {self.learning_rate}")


def build_tower(d_in: int, recipe: DropoutNetRecipe) -> nn.Sequential:
    """Return a tower (B, d_in) -> (B, R), with weights drawn from torch's global generator."""
    layers: list[nn.Module] = []
    width = d_in
    for n in recipe.hidden:
        layers += [nn.Linear(width, n), nn.BatchNorm1d(n), nn.Tanh()]
        width = n
    last = nn.Linear(width, recipe.rank)
    nn.init.normal_(last.weight, std=_OUTPUT_STD)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*layers, last)


def content_columns(layout: Layout) -> NDArray[np.intp]:
    """Return the columns of an input vector that are content: all except skips and bans and their counts."""
    blocks = [np.arange(layout.block(name).start, layout.block(name).stop) for name in CONTENT_BLOCKS]
    scalars = [layout.scalar(name) for name in SCALARS if not name.startswith(tuple(f"nb_{p}" for p in _EXCLUDED))]
    return np.concatenate([*blocks, np.array(scalars)])


def top_and_all_loss(score_SP: Tensor, target_SP: Tensor) -> Tensor:
    """Return the mean of two errors: over each user's best 5 % of the tracks (at least one), and over all tracks.

    Both are mean squared errors of the scores (S, P) to their targets (S, P).
    """
    error_SP = (score_SP - target_SP).square()
    best_SP = target_SP.topk(max(1, round(TOP_SHARE * target_SP.shape[1])), dim=1, sorted=False).indices
    return (error_SP.gather(1, best_SP).mean() + error_SP.mean()) / 2


class DropoutNet:
    """Both towers, trained, with the precomputed outputs of all tracks."""

    def __init__(
        self, warm: WarmListeners, recipe: DropoutNetRecipe, seed: int = 0, on_epoch: OnEpoch | None = None
    ) -> None:
        """Train the towers on warm users.

        Args:
            warm: training data.
            recipe: size and training of the towers.
            seed: seed of weights, batches and dropout.
            on_epoch: called after each epoch, counted from 0, with the epoch and its mean loss.

        Raises:
            ValueError: fewer than two users or tracks have a vector, all scores are the same, the data contains NaN or
                infinity, or the loss is not finite.
        """
        user_UD = as_float_matrix("dropoutnet: user vectors", warm.user_UD)
        track_ND = as_float_matrix("dropoutnet: track vectors", warm.track_ND)
        self.layout = Layout(track_ND.shape[1])
        if warm.x_UF.shape != (len(user_UD), self.layout.size):
            raise ValueError(f"dropoutnet: x must be {(len(user_UD), self.layout.size)}, got {warm.x_UF.shape}")
        self._content = Scaler.fit("dropoutnet: x", warm.x_UF, content_columns(self.layout))
        self._known_U, self._known_N = _has_vector(user_UD), _has_vector(track_ND)
        if min(self._known_U.sum(), self._known_N.sum()) < 2:
            raise ValueError(
                f"dropoutnet: needs at least 2 users and 2 tracks with a vector, "
                f"got {self._known_U.sum()} and {self._known_N.sum()}"
            )
        self._user_UD = _preferences("user vectors", user_UD, self._known_U)
        track_NX = np.hstack([_preferences("track vectors", track_ND, self._known_N), _track_content(warm, user_UD)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._user = build_tower(self.layout.d + len(self._content.columns_C), recipe)
            track = build_tower(track_NX.shape[1], recipe)
        self._train(warm, user_UD, track_ND, track_NX, track, recipe, seed, on_epoch)
        self._user = self._user.double().eval()
        self.track_NR = _outputs(track.double().eval(), track_NX)

    def _train(
        self,
        warm: WarmListeners,
        user_UD: FloatMatrix,
        track_ND: FloatMatrix,
        track_NX: FloatMatrix,
        track: nn.Sequential,
        recipe: DropoutNetRecipe,
        seed: int,
        on_epoch: OnEpoch | None,
    ) -> None:
        d, rng = self.layout.d, np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        users, tracks = np.flatnonzero(self._known_U), np.flatnonzero(self._known_N)
        n_tracks = min(recipe.batch_tracks, len(tracks))
        sample_users = rng.choice(users, min(1000, len(users)), replace=False)
        sample = user_UD[sample_users] @ track_ND[rng.choice(tracks, min(5000, len(tracks)), replace=False)].T
        mean, deviation = float(sample.mean(dtype=np.float64)), float(sample.std(dtype=np.float64))
        if not deviation > 0:
            raise ValueError(f"dropoutnet: every user scores every track {mean}; there is nothing to train on")

        parameters = [*self._user.parameters(), *track.parameters()]
        optimiser = torch.optim.SGD(parameters, lr=recipe.learning_rate, momentum=MOMENTUM, fused=True)
        n_steps = -(-len(users) // recipe.batch_users)
        milestones = [round(share * n_steps * recipe.epochs) for share in _DECAY_AT]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.1)
        for epoch in range(recipe.epochs):
            total = torch.zeros((), dtype=torch.float64)
            # Batches of nearly equal size: a batch of a single row would make BatchNorm fail.
            for user_S in np.array_split(rng.permutation(users), n_steps):
                track_P = rng.choice(tracks, n_tracks, replace=False)
                target_SP = torch.from_numpy((user_UD[user_S] @ track_ND[track_P].T - mean) / deviation)
                user_SX = torch.from_numpy(np.hstack([self._user_UD[user_S], self._content_rows(warm.x_UF, user_S)]))
                track_PX = torch.from_numpy(track_NX[track_P])
                for x in (user_SX, track_PX):
                    x[:, :d] *= torch.rand((len(x), 1), generator=generator) >= recipe.dropout
                optimiser.zero_grad()
                with bfloat16_autocast():
                    user_SR, track_PR = self._user(user_SX), track(track_PX)
                loss = top_and_all_loss(user_SR.float() @ track_PR.float().T, target_SP)
                loss.backward()
                nn.utils.clip_grad_norm_(parameters, _MAX_GRADIENT_NORM)
                optimiser.step()
                schedule.step()
                total += loss.detach() * len(user_S)
            mean_loss = float(total) / len(users)
            if not np.isfinite(mean_loss):
                raise ValueError(
                    f"dropoutnet.learning_rate: {recipe.learning_rate} is too high: "
                    f"the loss is {mean_loss} in epoch {epoch}"
                )
            if on_epoch is not None:
                on_epoch(epoch, mean_loss)

    def _content_rows(self, x_UF: FloatMatrix, which: NDArray[np.intp]) -> FloatMatrix:
        """Return the content of some users, read in order of their rows, which is faster on a memory map."""
        order = np.argsort(which)
        out = np.empty((len(which), len(self._content.columns_C)), np.float32)
        out[order] = self._content(x_UF[which[order]])
        return out

    def warm_users(self, x_UF: FloatMatrix) -> FloatMatrix:
        """Return outputs (U, R) for the users of the training data, with their preferences; x_UF as in training."""
        return self._users(x_UF, self._user_UD)

    def cold_users(self, x_BF: FloatMatrix) -> FloatMatrix:
        """Return outputs (B, R) for listeners without preferences."""
        return self._users(x_BF, np.zeros((len(x_BF), self.layout.d), np.float32))

    def _users(self, x_BF: FloatMatrix, preference_BD: FloatMatrix) -> FloatMatrix:
        out = np.empty((len(x_BF), self.track_NR.shape[1]), np.float32)
        for start in range(0, len(x_BF), _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = as_float_matrix("dropoutnet: x", x_BF[rows])
            out[rows] = _outputs(self._user, np.hstack([preference_BD[rows], self._content(x)]))
        return out


def _has_vector(vectors: FloatMatrix) -> BoolVector:
    return np.asarray(np.any(vectors != 0, axis=1))


def _preferences(name: str, vectors: FloatMatrix, known: BoolVector) -> FloatMatrix:
    """Return the vectors standardised and clipped; 0, which is the mean, where there is no vector."""
    scaled = Scaler.fit(f"dropoutnet: {name}", vectors[known])(vectors)
    scaled[~known] = 0
    return scaled


def _track_content(warm: WarmListeners, user_UD: FloatMatrix) -> FloatMatrix:
    """Return the scaled content of tracks (N, D + 1): mean vector of their listeners, and log(1 + listeners)."""
    counts_N = np.asarray(warm.heard_UN.sum(axis=0)).ravel().astype(np.float32)
    means_ND = (warm.heard_UN.T @ user_UD) / np.maximum(counts_N, 1)[:, None]
    content = np.hstack([means_ND, np.log1p(counts_N)[:, None]]).astype(np.float32)
    return Scaler.fit("dropoutnet: listeners of tracks", content)(content)


def _outputs(net: nn.Sequential, x_BX: FloatMatrix) -> FloatMatrix:
    """Return a tower's outputs, computed in float64 and rounded once.

    The sums of a product depend on its number of rows in float64 too, but far below the precision of float32.
    """
    with torch.inference_mode():
        chunks = (torch.from_numpy(x_BX[start : start + _CHUNK]) for start in range(0, max(len(x_BX), 1), _CHUNK))
        return np.concatenate([net(rows.double()).float().numpy() for rows in chunks])


class DropoutNetFull:
    """Recommends the tracks with the highest scores of the towers."""

    name = "dropoutnet_full"
    needs = Needs(signals=CONTENT_BLOCKS)

    def __init__(self, net: DropoutNet, similarity: Similarity = "dot") -> None:
        """Use trained towers; they are trained for the dot product."""
        self.net, self.similarity = net, similarity

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.net.track_NR)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        x = as_input_rows(self.name, x_BF, self.net.layout.size)
        return top_k(self.net.cold_users(x), self.net.track_NR, k, self.similarity)


class DropoutNetSemi:
    """Recommends the ranking of the segment of warm users that is nearest in the user tower's output space."""

    name = "dropoutnet_semi"
    needs = Needs(signals=CONTENT_BLOCKS)

    def __init__(self, net: DropoutNet, warm: WarmListeners, seed: int = 0) -> None:
        """Segment the warm users into as many segments as the space has, with rankings of the same length."""
        self.net = net
        k = len(warm.centroids_KD)
        clusters = kmeans(normalise(net.warm_users(warm.x_UF)), k, seed)
        self.centroids, self.labels = clusters.centroids, clusters.labels
        self.rankings = rankings(clusters.labels, warm.heard_UN, k, warm.rankings_KL.shape[1])

    def segments(self, x_BF: ArrayLike) -> IntVector:
        """Return the segment of each listener, (B,)."""
        x = as_input_rows(self.name, x_BF, self.net.layout.size)
        return nearest_centroids(normalise(self.net.cold_users(x)), self.centroids)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return int(self.rankings.shape[1])

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        check_k(self.name, k, self.max_k, "the length of a ranking")
        return self.rankings[self.segments(x_BF), :k]
