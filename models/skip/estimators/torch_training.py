"""Training loop of the skip networks: log loss, AdamW, early stopping on validation.

Shapes   N training plays, B plays of a step
Differs  from the report's Keras loops: matrix products in bfloat16 on processors that support it
         (models/mixed_precision.py); with millions of plays an epoch is a sample of them, so that validation is
         frequent enough for early stopping
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
MAX_VALIDATION_PLAYS = 100_000  # validation plays for early stopping
_MIN_BATCH, _MAX_BATCH, _BATCHES_PER_EPOCH = (
    128,
    8192,
    100,
)  # bounds of the batch size, and the number of batches per epoch between them


@dataclass(frozen=True)
class Schedule:
    """Hyperparameters of training; the recipe of every network extends it.

    Attributes:
        learning_rate: Learning rate of AdamW.
        weight_decay: Decoupled weight decay of weights and embeddings.
        epochs: Largest number of epochs.
        patience: Number of epochs without a better validation loss after which training stops; 0: none stops it.
        epoch_plays: Largest number of plays per epoch, sampled without replacement.
    """

    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    epochs: int = 20
    patience: int = 3
    epoch_plays: int = 1_000_000

    def __post_init__(self) -> None:
        if not self.learning_rate > 0 or self.weight_decay < 0:
            raise ValueError(f"network: learning_rate must be above 0 and weight_decay at least 0, got {self}")
        if min(self.epochs, self.epoch_plays) < 1 or self.patience < 0:
            raise ValueError(f"network: epochs, epoch_plays must be at least 1, patience at least 0, got {self}")


def incremental_schedule(recipe: Schedule) -> Schedule:
    """Return a recipe for incremental training: a tenth of the learning rate and at most 3 epochs.

    A few new plays must not overwrite what many earlier plays have trained.
    """
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

    The caller must seed torch's global generator with `seeded`, also around the creation of the network.

    Args:
        net: Network that returns log odds (B,).
        batch: Returns the network's inputs for positions (B,) of the N plays.
        listened_N: Labels.
        valid_loss: Returns the validation loss of the current weights.
        recipe: Hyperparameters of training.
        seed: Seed of the order of the plays.

    Returns:
        The losses of each epoch.
    """
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.AdamW(
        net.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay, fused=True
    )
    labels_N = torch.from_numpy(listened_N.astype(np.float32))
    n = min(len(listened_N), recipe.epoch_plays)
    size = min(max(n // _BATCHES_PER_EPOCH, _MIN_BATCH), _MAX_BATCH)
    order_N, position = rng.permutation(len(listened_N)), 0

    def epoch() -> float:
        nonlocal order_N, position
        if position + n > len(order_N):
            order_N, position = rng.permutation(len(listened_N)), 0
        net.train()
        total = 0.0
        for start in range(position, position + n, size):
            index_B = order_N[start : min(start + size, position + n)]
            optimiser.zero_grad()
            with bfloat16_autocast():
                logit_B = net(*batch(index_B))
            loss = nn.functional.binary_cross_entropy_with_logits(logit_B.float(), labels_N[index_B])
            loss.backward()
            optimiser.step()
            total += float(loss.detach()) * len(index_B)
        position += n
        net.eval()
        return total / n

    state = [tensor.numpy() for tensor in net.state_dict().values()]  # views of the network's memory
    return stop_early(epoch, valid_loss, state, recipe.epochs, recipe.patience)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's random numbers within the context; the previous state is restored afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def weights(net: nn.Module) -> dict[str, np.ndarray]:
    """Return a copy of a network's state as arrays."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def set_weights(net: nn.Module, arrays: dict[str, np.ndarray]) -> None:
    """Load the output of weights() into a network.

    Raises:
        ValueError: The arrays do not match the network.
    """
    try:
        net.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
    except RuntimeError as error:
        raise ValueError(f"network: arrays do not match the network: {error}") from None
    net.eval()
