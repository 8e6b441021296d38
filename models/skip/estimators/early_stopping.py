"""When iterative training ends, and what it leaves: the weights of the epoch with the best validation loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from models.skip.estimators.base import Epoch, Losses


def stop_early(
    epoch: Callable[[], float],
    valid_loss: Callable[[], float],
    weights: Sequence[np.ndarray],
    epochs: int,
    patience: int,
) -> Losses:
    """Losses by epoch; `weights`, which `epoch` changes in place, end as they were after the best.

    `epoch` trains once through its plays and gives their mean loss. It is called at most `epochs` times, and no more
    after `patience` calls without a better validation loss, or after a loss that is not finite.
    """
    losses: Losses = []
    best: list[np.ndarray] = []
    for _ in range(epochs):
        losses.append(Epoch(epoch(), valid_loss()))
        waited = len(losses) - 1 - int(np.argmin([h.valid for h in losses]))
        if not np.isfinite(losses[-1].train) or waited >= patience:
            break
        if not waited:
            best = [array.copy() for array in weights]
    for array, kept in zip(weights, best, strict=False):
        array[...] = kept
    return losses
