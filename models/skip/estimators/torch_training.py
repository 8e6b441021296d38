"""How the networks of the skip engine are trained: one loop for all, log loss, early stop on validation.

Shapes   N training plays, B plays of a step
Differs  from the report's Keras loops: products in bfloat16 where the processor has them (models/mixed_precision.py); on
         millions of plays an epoch is a part of them, so that the stop is asked about often enough
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.mixed_precision import bfloat16_autocast
from models.skip.estimators.base import Losses
from models.skip.estimators.early_stopping import stop_early

Batch = Callable[[NDArray[np.int64]], tuple[Tensor, ...]]
STOPPED_ON = 100_000  # validation plays whose loss decides when to stop, after every epoch
_LEAST, _MOST, _STEPS = 128, 8192, 100  # plays of a step: so many that an epoch has about _STEPS of them


@dataclass(frozen=True)
class Schedule:
    """How long and how fast; every network's recipe extends it.

    Attributes:
        learning_rate: of Adam.
        weight_decay: pulled off weights and embeddings at each step, times the learning rate.
        epochs: at most.
        patience: epochs without a better validation loss after which training ends.
        epoch_plays: an epoch is at most so many plays, drawn without replacement.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    epochs: int = 20
    patience: int = 3
    epoch_plays: int = 1_000_000

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(f"network: learning_rate must be above 0 and weight_decay not below, got {self}")
        if min(self.epochs, self.patience, self.epoch_plays) < 1:
            raise ValueError(f"network: epochs, patience and epoch_plays must be at least 1, got {self}")


def gently(recipe: Schedule) -> Schedule:
    """The recipe to go on with from a trained network, by few plays: they must not undo what many have taught."""
    return replace(recipe, learning_rate=recipe.learning_rate / 10, epochs=min(recipe.epochs, 3))


def train_net(
    net: nn.Module,
    batch: Batch,
    listened_N: NDArray[np.int8],
    valid_loss: Callable[[], float],
    recipe: Schedule,
    seed: int,
) -> Losses:
    """Train `net` in place; it ends in eval mode with the weights of the best validation loss.

    `batch` gives the network's inputs for some of the N plays; the network gives their log odds, (B,). torch's global
    generator must be seeded by the caller, around the network's making too (`seeded`).
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    labels_N = torch.from_numpy(listened_N.astype(np.float32))
    n = min(len(listened_N), recipe.epoch_plays)
    size = min(max(n // _STEPS, _LEAST), _MOST)
    order_N, at = rng.permutation(len(listened_N)), 0

    def epoch() -> float:
        nonlocal order_N, at
        if at + n > len(order_N):
            order_N, at = rng.permutation(len(listened_N)), 0
        net.train()
        total = 0.0
        for start in range(at, at + n, size):
            index_B = order_N[start : min(start + size, at + n)]
            optimiser.zero_grad()
            with bfloat16_autocast():
                logit_B = net(*batch(index_B))
            loss = nn.functional.binary_cross_entropy_with_logits(logit_B.float(), labels_N[index_B])
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            total += float(loss.detach()) * len(index_B)
        at += n
        net.eval()
        return total / n

    shared = [tensor.numpy() for tensor in net.state_dict().values()]  # the network's own memory
    return stop_early(epoch, valid_loss, shared, recipe.epochs, recipe.patience)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's random numbers follow from `seed`; afterwards they go on as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def weights(net: nn.Module) -> dict[str, np.ndarray]:
    """A network's state as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def set_weights(net: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Put back what weights() gave; ValueError where it does not fit."""
    try:
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    except RuntimeError as error:
        raise ValueError(f"network: arrays do not fit together: {error}") from None
    net.eval()
