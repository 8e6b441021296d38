"""A network over first-day tokens: the mean of their embeddings, a bend, and a head over tracks or segments.

Shapes   B listeners, U warm users, V tokens, H width, C choices of the head, N tracks
Source   an autoencoder for implicit feedback (Sedhain et al. 2015; softmax over items after Liang et al. 2018)
Differs  learns from made-up first days: in each pass over the users, a quarter of them as they were, the others as a
         few tracks drawn from the user's own, as many as first days have; the truth is what else the user streamed.
         A bag is divided by its size to the power of `size_exponent`: with 1 it is the mean, which forgets how much was
         seen, with 0 the sum; between them more evidence says more, but not in proportion.
         Embeddings start from the space's vectors: tracks, and means of them for artists and albums
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from torch import Tensor, nn

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import WarmListeners, require_ids
from models.cold_start.methods.vocabulary import Vocabulary
from models.mixed_precision import bfloat16_autocast

OnEpoch = Callable[[int, float], None]
Floats = NDArray[np.float32]
_START = 0.15  # length of the space's vectors in the first embeddings, against noise of 0.05
_NOISE = 0.05
_CHUNK = 256
_RISE = 0.1  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class FirstDayNetworkRecipe:
    """How a bag network is made and trained; checked once, here."""

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
                raise ValueError(f"bag.{name}: must be at least 1, got {value}")
        if not (self.learning_rate > 0 and self.weight_decay >= 0):
            raise ValueError(
                f"bag: learning_rate must be above 0 and weight_decay at least 0, "
                f"got {self.learning_rate} and {self.weight_decay}"
            )
        if not 0 <= self.size_exponent <= 1:
            raise ValueError(f"bag.size_exponent: must be from 0 to 1, got {self.size_exponent}")
        if not (0 <= self.dropout < 1 and 0 <= self.real_share <= 1):
            raise ValueError(
                f"bag: dropout must be in [0, 1) and real_share in [0, 1], got {self.dropout}, {self.real_share}"
            )


@dataclass(frozen=True, eq=False)
class Batch:
    """What the network sees and has to say: users (B,), tokens (B, V), truth (B, N), both sparse with ones."""

    users: NDArray[np.int64]
    tokens: csr_array
    truth: csr_array


Loss = Callable[[Tensor, Batch], Tensor]


class FirstDayNetwork(nn.Module):
    """Tokens of B listeners -> (B, C); trained by `fit`, asked by `logits`."""

    def __init__(self, vocabulary: Vocabulary, start_C: Floats, recipe: FirstDayNetworkRecipe) -> None:
        """`start_C` are the logits of an empty bag."""
        super().__init__()
        self.vocabulary, self.size_exponent = vocabulary, recipe.size_exponent
        self.embedding = nn.EmbeddingBag(vocabulary.size, recipe.width, mode="sum")
        self.bend = nn.Sequential(nn.Tanh(), nn.Dropout(recipe.dropout))
        self.head = nn.Linear(recipe.width, len(start_C))
        with torch.no_grad():
            self.embedding.weight.normal_(std=_NOISE)
            self.head.weight.normal_(std=_NOISE)
            self.head.bias.copy_(torch.from_numpy(start_C))

    def forward(self, tokens_BV: csr_array) -> Tensor:
        """Logits (B, C)."""
        size_B = torch.from_numpy(np.maximum(np.diff(tokens_BV.indptr), 1).astype(np.float32))
        sums_BH = self.embedding(
            torch.from_numpy(tokens_BV.indices.astype(np.int64)),
            torch.from_numpy(tokens_BV.indptr[:-1].astype(np.int64)),
        )
        logits: Tensor = self.head(self.bend(sums_BH / size_B[:, None] ** self.size_exponent))
        return logits

    def logits(self, tokens_BV: csr_array) -> Iterator[tuple[slice, Floats]]:
        """Rows and their logits (b, C), a chunk at a time; in float64, so that a row is the same in any batch."""
        emb_VH = self.embedding.weight.detach().numpy()
        head_CH, bias_C = self.head.weight.detach().double().T, self.head.bias.detach().double()
        size_B = np.maximum(np.diff(tokens_BV.indptr), 1) ** self.size_exponent
        for start in range(0, tokens_BV.shape[0], _CHUNK):
            here = slice(start, min(start + _CHUNK, tokens_BV.shape[0]))
            bend_BH = np.tanh((tokens_BV[here] @ emb_VH).astype(np.float64) / size_B[here, None])
            yield here, (torch.from_numpy(bend_BH) @ head_CH + bias_C).float().numpy()


class PaddedFirstDayNetwork(nn.Module):
    """A trained bag as one graph: tokens (B, T), V where a place is empty -> logits (B, C)."""

    def __init__(self, bag: FirstDayNetwork) -> None:
        """Takes the weights over; V itself has an embedding of zero."""
        super().__init__()
        known_VH = bag.embedding.weight.detach()
        self.empty, self.size_exponent = len(known_VH), bag.size_exponent
        self.embedding = nn.Embedding.from_pretrained(torch.cat([known_VH, known_VH.new_zeros(1, known_VH.shape[1])]))
        self.head = bag.head

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Logits (B, C)."""
        size_B1 = (tokens_BT < self.empty).sum(dim=1, keepdim=True).clamp(min=1)
        logits: Tensor = self.head(torch.tanh(self.embedding(tokens_BT).sum(dim=1) / size_B1**self.size_exponent))
        return logits


def fit(
    name: str,
    warm: WarmListeners,
    start_C: Floats,
    loss: Loss,
    recipe: FirstDayNetworkRecipe,
    seed: int,
    on_epoch: OnEpoch | None = None,
) -> FirstDayNetwork:
    """Train on the warm users; `loss(logits (B, C), batch)` is a mean over the batch.

    Raises:
        ValueError: data without ids; nobody with two tracks; a loss that is no longer finite.
    """
    catalogue, days = require_ids(name, warm)
    vocabulary = Vocabulary.build(catalogue, days)
    users = TrainingUsers(warm, vocabulary, days, recipe)
    if not len(users.learners):
        raise ValueError(
            f"{name}: nobody of {len(days)} warm users streamed two tracks; there is nothing to learn from"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = FirstDayNetwork(vocabulary, start_C, recipe)
        if recipe.from_vectors:
            _start(net, warm.track_ND)
        rng = np.random.default_rng(seed)
        bias = [net.head.bias]
        others = [p for p in net.parameters() if p is not net.head.bias]
        groups = [{"params": others, "weight_decay": recipe.weight_decay}, {"params": bias, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=recipe.learning_rate, fused=True)
        steps = recipe.epochs * -(-len(users.learners) // recipe.batch_users)
        pace = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, recipe.learning_rate, total_steps=steps + 1, pct_start=_RISE
        )
        for epoch in range(recipe.epochs):
            total = 0.0
            for batch in users.batches(rng):
                optimiser.zero_grad()
                with bfloat16_autocast():
                    logits = net(batch.tokens)
                value = loss(logits.float(), batch)
                value.backward()  # type: ignore[no-untyped-call]
                optimiser.step()
                pace.step()
                total += float(value.detach()) * len(batch.users)
            mean = total / len(users.learners)
            if not np.isfinite(mean):
                raise ValueError(
                    f"{name}.learning_rate: {recipe.learning_rate} is too high: the loss is {mean} in epoch {epoch}"
                )
            if on_epoch is not None:
                on_epoch(epoch, mean)
    return net.eval()


def _start(net: FirstDayNetwork, track_ND: Floats) -> None:
    """Put the space's vectors into the first columns of the embeddings."""
    vocabulary = net.vocabulary
    mean_VD = vocabulary.tokens_of_tracks_NV.T.tocsr() @ track_ND
    mean_VD /= np.maximum(vocabulary.tokens_of_tracks_NV.sum(axis=0), 1)[:, None]
    width = min(mean_VD.shape[1], net.embedding.weight.shape[1])
    scale = _START / max(float(mean_VD.std()), 1e-12)
    with torch.no_grad():
        net.embedding.weight[:, :width] += torch.from_numpy((scale * mean_VD[:, :width]).astype(np.float32))


class TrainingUsers:
    """Warm users as first days to learn from, new ones in each pass."""

    def __init__(
        self, warm: WarmListeners, vocabulary: Vocabulary, days: FirstDays, recipe: FirstDayNetworkRecipe
    ) -> None:
        """Those with two tracks or more can be split into a first day and a truth."""
        heard = csr_array(warm.heard_UN)
        self.heard_UN, self.vocabulary, self.recipe = heard, vocabulary, recipe
        self.learners = np.flatnonzero(np.diff(heard.indptr) >= 2)
        kept = np.zeros(vocabulary.size, np.float32)
        for kind in recipe.kinds:
            kept[vocabulary.spans[kind]] = 1
        self.kept_V = kept
        self.people_UV = vocabulary.demographic_tokens(days)
        self.days_UV = vocabulary.first_day_tokens(days)
        n_tracks = vocabulary.spans["track"].stop
        self.seen_UN = csr_array(self.days_UV[:, :n_tracks])
        self.first_U = np.diff(self.seen_UN.indptr)

    def batches(self, rng: np.random.Generator) -> Iterator[Batch]:
        """One pass over the learners in a new order."""
        order = rng.permutation(self.learners)
        for start in range(0, len(order), self.recipe.batch_users):
            yield self.batch(order[start : start + self.recipe.batch_users], rng)

    def batch(self, users: NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """First days of these users; what a made-up one shows is no part of the truth."""
        heard_BN = self.heard_UN[users]
        real = rng.random(len(users)) < self.recipe.real_share
        # As many tracks as first days have, and at least one left as truth.
        wanted = np.minimum(rng.choice(self.first_U, len(users)), np.diff(heard_BN.indptr) - 1)
        first_BN = _some(heard_BN, np.where(real, 0, wanted), rng)
        made_BV = self.vocabulary.track_tokens(first_BN) + self.people_UV[users]
        shows_BV = _rows(self.days_UV[users], real) + _rows(csr_array(made_BV), ~real)
        tokens = _ones(shows_BV.multiply(self.kept_V[None, :]))
        shown = first_BN + _rows(self.seen_UN[users], real)
        truth = heard_BN - heard_BN.multiply(_ones(shown))
        return Batch(users, tokens, _ones(csr_array(truth)))


def _rows(matrix: csr_array, keep_B: NDArray[np.bool_]) -> csr_array:
    """The matrix with the other rows empty."""
    lengths = np.diff(matrix.indptr)
    inside = np.repeat(keep_B, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.where(keep_B, lengths, 0))])
    return csr_array((matrix.data[inside], matrix.indices[inside], offsets), shape=matrix.shape)


def _some(heard_BN: csr_array, wanted_B: NDArray[np.int64], rng: np.random.Generator) -> csr_array:
    """So many tracks of each row, at random."""
    lengths = np.diff(heard_BN.indptr)
    row = np.repeat(np.arange(len(lengths)), lengths)
    order = np.lexsort((rng.random(len(row)), row))
    place = np.arange(len(row)) - np.repeat(heard_BN.indptr[:-1], lengths)
    chosen = order[place < np.repeat(wanted_B, lengths)]
    offsets = np.concatenate([[0], np.cumsum(wanted_B)])
    return csr_array((np.ones(len(chosen), np.float32), heard_BN.indices[chosen], offsets), shape=heard_BN.shape)


def _ones(matrix: csr_array) -> csr_array:
    """The same with a one wherever something is above zero."""
    found = csr_array(matrix)
    found.sum_duplicates()
    found.eliminate_zeros()
    found.data = np.ones(found.nnz, np.float32)
    return found
