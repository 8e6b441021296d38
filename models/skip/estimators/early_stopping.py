"""Early stopping: training ends with the weights of the epoch with the best validation loss."""

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
    """Train until the validation loss stops improving, then restore the best weights.

    Training stops after `epochs` epochs, after `patience` epochs without a better validation loss, or after a training
    loss that is not finite. With a patience of 0 it runs all epochs and keeps the weights of the last one.

    Args:
        epoch: Trains for one epoch and returns the mean training loss; changes `weights` in place.
        valid_loss: Returns the validation loss of the current weights.
        weights: Arrays of the model.
        epochs: Largest number of epochs.
        patience: Number of epochs without a better validation loss; 0: no early stopping.

    Returns:
        The losses of each epoch.
    """
    losses: Losses = []
    best: list[np.ndarray] = []
    for _ in range(epochs):
        losses.append(Epoch(epoch(), valid_loss()))
        n_worse = len(losses) - 1 - int(np.argmin([h.valid for h in losses]))
        if not np.isfinite(losses[-1].train) or (patience and n_worse >= patience):
            break
        if patience and not n_worse:
            best = [array.copy() for array in weights]
    for array, best_array in zip(weights, best, strict=False):
        array[...] = best_array
    return losses
