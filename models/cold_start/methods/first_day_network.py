"""A network over first-day tokens: pooled embeddings, tanh, and a linear head over tracks or segments.

Shapes   B listeners, U warm users, V tokens, H width, C outputs of the head, N tracks, T padded tokens
Source   an autoencoder for implicit feedback (Sedhain et al. 2015; softmax over items after Liang et al. 2018)
Differs  Trained on synthetic first days (data augmentation): in each epoch, a `real_share` of the users have their real
         first day, and the others a few tracks drawn at random from their own, as many as first days have. The targets
         are the other tracks that the user streamed.
         The sum of a listener's embeddings is divided by the number of tokens to the power of `size_exponent`. 1 is the
         mean, which does not depend on the amount of evidence, and 0 the sum; between them more evidence gives larger
         logits, but less than in proportion.
         Embeddings are initialised with the space's vectors: of the tracks, and their means for artists and albums
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn

from models.arrays import BoolVector, FloatMatrix, FloatVector, LongVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import WarmListeners, require_ids
from models.cold_start.methods.vocabulary import Vocabulary
from models.cold_start.sparse_rows import binarise, draw_from_rows
from models.mixed_precision import bfloat16_autocast

OnEpoch = Callable[[int, float], None]
_VECTOR_STD = 0.15  # standard deviation of the space's vectors in the initial embeddings
_NOISE_STD = 0.05  # standard deviation of the noise in initial weights
_CHUNK = 256
_WARM_UP_SHARE = 0.1  # share of the steps in which the learning rate rises, which are at least two


@dataclass(frozen=True)
class FirstDayNetworkRecipe:
    """Size and training of a first-day network; validated on construction.

    Attributes:
        width: H, the width of an embedding.
        epochs: passes over the users.
        learning_rate: the highest of the one-cycle schedule of AdamW.
        weight_decay: of all weights but the head's bias.
        dropout: share of the pooled embedding that is dropped in training.
        batch_users: users per step.
        real_share: share of users per epoch with their real first day; the others get synthetic ones.
        size_exponent: exponent of the number of tokens in the divisor of the pooled embedding, 0 to 1.
        from_vectors: whether embeddings are initialised with the space's vectors, not with noise only.
        kinds: kinds of tokens that are used in training.
    """

    width: int
    epochs: int
    learning_rate: float
    weight_decay: float
    dropout: float
    batch_users: int
    real_share: float
    size_exponent: float = 0.5
    from_vectors: bool = True
    kinds: tuple[str, ...] = ("track", "artist", "album", "country", "age")

    def __post_init__(self) -> None:
        bounds = {"width": self.width, "epochs": self.epochs, "batch_users": self.batch_users}
        for name, value in bounds.items():
            if value < 1:
                raise ValueError(f"first_day_network.{name}: must be at least 1, got {value}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"first_day_network: learning_rate must be above 0 and weight_decay at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        if not 0 <= self.size_exponent <= 1:
            raise ValueError(f"first_day_network.size_exponent: must be from 0 to 1, got {self.size_exponent}")
        if not (0 <= self.dropout < 1 and 0 <= self.real_share <= 1):
            raise ValueError(
                f"first_day_network: dropout must be in [0, 1) and real_share in [0, 1], "
                f"got {self.dropout} and {self.real_share}"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """A training batch: users (B,) by user_idx, input tokens (B, V) and target tracks (B, N), both sparse of ones."""

    users: LongVector
    tokens_BV: csr_array
    target_BN: csr_array


Loss = Callable[[Tensor, Batch], Tensor]


class FirstDayNetwork(nn.Module):
    """Tokens of B listeners (B, V) -> logits (B, C); `fit` trains it, `logits` predicts."""

    def __init__(self, vocabulary: Vocabulary, bias_C: FloatVector, recipe: FirstDayNetworkRecipe) -> None:
        """Draw the weights from torch's global generator; `bias_C` are the logits of a listener without tokens."""
        super().__init__()
        self.vocabulary, self.size_exponent = vocabulary, recipe.size_exponent
        self.embedding = nn.EmbeddingBag(vocabulary.size, recipe.width, mode="sum")
        self.activation = nn.Sequential(nn.Tanh(), nn.Dropout(recipe.dropout))
        self.head = nn.Linear(recipe.width, len(bias_C))
        with torch.no_grad():
            self.embedding.weight.normal_(std=_NOISE_STD)
            self.head.weight.normal_(std=_NOISE_STD)
            self.head.bias.copy_(torch.from_numpy(bias_C))

    def forward(self, tokens_BV: csr_array) -> Tensor:
        """Return logits (B, C) in training precision."""
        size_B = torch.from_numpy(np.maximum(np.diff(tokens_BV.indptr), 1).astype(np.float32))
        sums_BH = self.embedding(
            torch.from_numpy(tokens_BV.indices.astype(np.int64)),
            torch.from_numpy(tokens_BV.indptr[:-1].astype(np.int64)),
        )
        logits: Tensor = self.head(self.activation(sums_BH / size_B[:, None] ** self.size_exponent))
        return logits

    def logits(self, tokens_BV: csr_array) -> Iterator[tuple[slice, FloatMatrix]]:
        """Yield row ranges and their logits (b, C), a chunk at a time.

        Computed in float64 and rounded once, so that a row's logits do not depend on its batch.
        """
        emb_VH = self.embedding.weight.detach().numpy()
        head_CH, bias_C = self.head.weight.detach().double().T, self.head.bias.detach().double()
        size_B = np.maximum(np.diff(tokens_BV.indptr), 1) ** self.size_exponent
        for start in range(0, tokens_BV.shape[0], _CHUNK):
            rows = slice(start, min(start + _CHUNK, tokens_BV.shape[0]))
            hidden_BH = np.tanh((tokens_BV[rows] @ emb_VH).astype(np.float64) / size_B[rows, None])
            yield rows, (torch.from_numpy(hidden_BH) @ head_CH + bias_C).float().numpy()


class PaddedFirstDayNetwork(nn.Module):
    """A trained network for export: padded tokens (B, T), V in unused positions -> logits (B, C)."""

    def __init__(self, network: FirstDayNetwork) -> None:
        """Take over the weights of `network`; token V gets an embedding of zero."""
        super().__init__()
        known_VH = network.embedding.weight.detach()
        self.padding, self.size_exponent = len(known_VH), network.size_exponent
        self.embedding = nn.Embedding.from_pretrained(torch.cat([known_VH, known_VH.new_zeros(1, known_VH.shape[1])]))
        self.head = network.head

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return logits (B, C)."""
        size_B1 = (tokens_BT < self.padding).sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head(torch.tanh(self.embedding(tokens_BT).sum(dim=1) / size_B1**self.size_exponent))
        return logits


def fit(
    name: str,
    warm: WarmListeners,
    bias_C: FloatVector,
    loss: Loss,
    recipe: FirstDayNetworkRecipe,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> FirstDayNetwork:
    """Train a network on the warm users.

    Args:
        name: name of the method, for errors.
        warm: training data with ids.
        bias_C: initial bias of the head, the logits of a listener without tokens.
        loss: computes the mean loss of a batch from logits (B, C).
        recipe: size and training of the network.
        seed: seed of weights, batches and synthetic first days.
        on_epoch: called after each epoch, counted from 0, with the epoch and its mean loss.

    Returns:
        The network in eval mode.

    Raises:
        ValueError: the data has no ids, no user has two tracks, or the loss is not finite.
    """
    catalogue, first_days = require_ids(name, warm)
    vocabulary = Vocabulary.build(catalogue, first_days)
    users = TrainingUsers(warm, vocabulary, first_days, recipe)
    if not len(users.learners):
        raise ValueError(
            f"{name}: none of {len(first_days)} warm users streamed two tracks; there is nothing to train on"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FirstDayNetwork(vocabulary, bias_C, recipe)
        if recipe.from_vectors:
            _add_vectors(net, warm.track_ND)
        rng = np.random.default_rng(seed)
        bias = [net.head.bias]
        weights = [p for p in net.parameters() if p is not net.head.bias]
        groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": bias, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        steps = recipe.epochs * -(-len(users.learners) // recipe.batch_users)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.learning_rate, total_steps=steps + 1, pct_start=max(_WARM_UP_SHARE, 2 / (steps + 1))
        )
        for epoch in range(recipe.epochs):
            total = 0.0
            for batch in users.batches(rng):
                optimiser.zero_grad()
                with bfloat16_autocast():
                    logits = net(batch.tokens_BV)
                value = loss(logits.float(), batch)
                value.backward()
                optimiser.step()
                schedule.step()
                total += float(value.detach()) * len(batch.users)
            mean_loss = total / len(users.learners)
            if not np.isfinite(mean_loss):
                raise ValueError(
                    f"{name}.learning_rate: {recipe.learning_rate} is too high: "
                    f"the loss is {mean_loss} in epoch {epoch}"
                )
            if on_epoch is not None:
                on_epoch(epoch, mean_loss)
    return net.eval()


def _add_vectors(net: FirstDayNetwork, track_ND: FloatMatrix) -> None:
    """Add the space's vectors, scaled, to the first columns of the embeddings."""
    vocabulary = net.vocabulary
    mean_VD = vocabulary.tokens_of_tracks_NV.T.tocsr() @ track_ND
    mean_VD /= np.maximum(vocabulary.tokens_of_tracks_NV.sum(axis=0), 1)[:, None]
    width = min(mean_VD.shape[1], net.embedding.weight.shape[1])
    scale = _VECTOR_STD / max(float(mean_VD.std()), 1e-12)
    with torch.no_grad():
        net.embedding.weight[:, :width] += torch.from_numpy((scale * mean_VD[:, :width]).astype(np.float32))


class TrainingUsers:
    """Warm users as training batches: real first days of some, new synthetic ones of the others in each epoch."""

    def __init__(
        self, warm: WarmListeners, vocabulary: Vocabulary, first_days: FirstDays, recipe: FirstDayNetworkRecipe
    ) -> None:
        """Select the users with two tracks or more, which can be split into a first day and targets."""
        heard = csr_array(warm.heard_UN)
        self.heard_UN, self.vocabulary, self.recipe = heard, vocabulary, recipe
        self.learners = np.flatnonzero(np.diff(heard.indptr) >= 2)
        used_V = np.zeros(vocabulary.size, np.float32)
        for kind in recipe.kinds:
            used_V[vocabulary.spans[kind]] = 1
        self.used_V = used_V
        self.demographics_UV = vocabulary.demographic_tokens(first_days)
        self.first_days_UV = vocabulary.first_day_tokens(first_days)
        n_tracks = vocabulary.spans["track"].stop
        self.first_day_tracks_UN = csr_array(self.first_days_UV[:, :n_tracks])
        self.n_first_day_tracks_U = np.diff(self.first_day_tracks_UN.indptr)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """Yield the batches of one epoch, in a new random order."""
        order = rng.permutation(self.learners)
        for start in range(0, len(order), self.recipe.batch_users):
            yield self.make_batch(order[start : start + self.recipe.batch_users], rng)

    def make_batch(self, users: LongVector, rng: np.random.Generator) -> Batch:
        """Return the batch of these users; tracks that the input contains are not among the targets."""
        heard_BN = self.heard_UN[users]
        is_real_B = rng.random(len(users)) < self.recipe.real_share
        # As many tracks as first days have, and at least one track remains as a target.
        n_drawn_B = np.minimum(rng.choice(self.n_first_day_tracks_U, len(users)), np.diff(heard_BN.indptr) - 1)
        drawn_BN = draw_from_rows(heard_BN, np.where(is_real_B, 0, n_drawn_B), rng)
        synthetic_BV = self.vocabulary.track_tokens(drawn_BN) + self.demographics_UV[users]
        real_BV = _keep_rows(self.first_days_UV[users], is_real_B)
        input_BV = real_BV + _keep_rows(csr_array(synthetic_BV), ~is_real_B)
        tokens_BV = binarise(input_BV.multiply(self.used_V[None, :]))
        input_BN = drawn_BN + _keep_rows(self.first_day_tracks_UN[users], is_real_B)
        target_BN = heard_BN - heard_BN.multiply(binarise(input_BN))
        return Batch(users, tokens_BV, binarise(csr_array(target_BN)))


def _keep_rows(matrix: csr_array, keep_B: BoolVector) -> csr_array:
    """Return the matrix with all rows emptied that keep_B does not select."""
    lengths = np.diff(matrix.indptr)
    inside = np.repeat(keep_B, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.where(keep_B, lengths, 0))])
    return csr_array((matrix.data[inside], matrix.indices[inside], offsets), shape=matrix.shape)
