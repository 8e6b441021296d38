"""The cold-start network: predicts a vector of the space from first-day signals.

Shapes   B listeners of a batch, U training users, F values of an input vector, D width of the space
Source   Briand et al. 2021, section 3.2.3: three hidden layers of 400, 300, 200, each Linear -> ReLU -> BatchNorm,
         then Linear to D; mean squared error to the warm user's own vector
Recipes  CODE_RECIPE, the authors' published code: Adam at 1e-5, output at unit length, partial batch dropped.
         PAPER_RECIPE, section 3.2.3: a learning rate of 1e-4, other epochs, raw output
Differs  The paper names stochastic gradient descent. Without momentum and at that rate it learns nothing in the paper's
         epochs (benchmarks/recipes.py), because inputs and loss are not scaled: the error stays above that of the zero
         vector. PAPER_RECIPE therefore uses Adam, as the published code does.
         The published code evaluates after its 11th epoch and leaves the network in eval mode, so its BatchNorm has
         fixed statistics in the other epochs; here they are of the batch in every epoch.
         Products are in bfloat16 in training, on CPUs that support it (models/mixed_precision.py). A last batch of one
         row joins the batch before it, because BatchNorm needs two. Fewer users than a batch are one batch

A network is stored as named arrays (`state_arrays`, `from_state_arrays`), never pickled. On a CPU, a second fit with
the same seed gives the same bits if torch has the same number of threads and both fits use bfloat16 or neither. Fits
with one and with two threads, and with and without bfloat16, are four different networks.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from models.arrays import FloatMatrix
from models.cold_start.input_vector import SCALARS
from models.mixed_precision import bfloat16_autocast

Validation = tuple[ArrayLike, ArrayLike]
OnEpoch = Callable[[int, float, float | None], None]


@dataclass(frozen=True)
class NetworkRecipe:
    """Size and training of the network; validated on construction.

    Attributes:
        hidden: widths of the hidden layers.
        optimiser: "sgd" or "adam".
        learning_rate: of the optimiser.
        epochs: passes over the users.
        batch_size: users per step.
        drop_last: whether a last, smaller batch is dropped.
        normalise_output: whether predictions have unit length.
        log_counts: whether counts enter as logarithms; see `ColdStartNet`.
        device: "auto" uses a GPU where there is one.
    """

    hidden: tuple[int, ...]
    optimiser: Literal["sgd", "adam"]
    learning_rate: float
    epochs: int
    batch_size: int
    drop_last: bool
    normalise_output: bool
    log_counts: bool
    device: Literal["auto", "cpu", "cuda"]

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.hidden):
            raise ValueError(f"network.hidden: widths must be at least 1, got {self.hidden}")
        if self.optimiser not in ("sgd", "adam"):
            raise ValueError(f"network.optimiser: must be 'sgd' or 'adam', got {self.optimiser!r}")
        if not self.learning_rate > 0:
            raise ValueError(f"network.learning_rate: must be above 0, got {self.learning_rate}")
        if self.epochs < 1:
            raise ValueError(f"network.epochs: must be at least 1, got {self.epochs}")
        if self.batch_size < 2:
            raise ValueError(f"network.batch_size: must be at least 2, got {self.batch_size}")
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"network.device: must be 'auto', 'cpu' or 'cuda', got {self.device!r}")


# The authors' published code.
CODE_RECIPE = NetworkRecipe(
    hidden=(400, 300, 200),
    optimiser="adam",
    learning_rate=1e-5,
    epochs=130,
    batch_size=512,
    drop_last=True,
    normalise_output=True,
    log_counts=False,
    device="auto",
)
# Section 3.2.3 of the paper. For UT-ALS the paper has 130 epochs: dataclasses.replace(PAPER_RECIPE, epochs=130).
PAPER_RECIPE = replace(CODE_RECIPE, learning_rate=1e-4, epochs=100, drop_last=False, normalise_output=False)


class ColdStartNet(nn.Module):
    """Feed-forward network (B, d_in) -> (B, d_out).

    With `normalise_output`, predictions have unit length. With `log_counts`, which the paper does not have, the counts
    at the end of an input row enter as log(1 + count), and an unknown age as 0 with a flag instead of -1 among the
    years.
    """

    def __init__(
        self, d_in: int, d_out: int, hidden: tuple[int, ...], normalise_output: bool, log_counts: bool
    ) -> None:
        """Draw the weights from torch's global generator, which `fit` seeds and restores.

        Args:
            d_in: F, the width of an input row.
            d_out: D, the width of a prediction.
            hidden: widths of the hidden layers.
            normalise_output: whether predictions have unit length.
            log_counts: whether counts enter as logarithms.

        Raises:
            ValueError: a width is below 1, or d_in is too small for log_counts.
        """
        super().__init__()
        if d_in < 1 or d_out < 1:
            raise ValueError(f"network: d_in and d_out must be at least 1, got {d_in} and {d_out}")
        if log_counts and d_in <= len(SCALARS):
            raise ValueError(f"network.log_counts: input rows end with {len(SCALARS)} scalars, got d_in {d_in}")
        self.d_in, self.d_out, self.normalise_output, self.log_counts = d_in, d_out, normalise_output, log_counts
        layers: list[nn.Module] = []
        width = d_in + log_counts
        for n in hidden:
            layers += [nn.Linear(width, n), nn.ReLU(), nn.BatchNorm1d(n)]
            width = n
        self.layers = nn.Sequential(*layers, nn.Linear(width, d_out))

    def forward(self, x_BF: Tensor) -> Tensor:
        """Return the predicted vectors, (B, d_out)."""
        y_BD: Tensor = self.layers(_transform_scalars(x_BF) if self.log_counts else x_BF).float()
        return nn.functional.normalize(y_BD, dim=1) if self.normalise_output else y_BD

    @property
    def n_parameters(self) -> int:
        """The number of trainable parameters: 1 240 028 for 2579 -> 128, 2 289 756 for 5139 -> 256."""
        return sum(p.numel() for p in self.parameters())


def fit(
    x: ArrayLike,
    y: ArrayLike,
    recipe: NetworkRecipe,
    seed: int = 0,
    on_epoch: OnEpoch | None = None,
    validation: Validation | None = None,
) -> ColdStartNet:
    """Train a network to predict the users' vectors from their input rows.

    Args:
        x: input rows (U, F); on a CPU they are read batch by batch, never copied as a whole.
        y: vectors of the same users (U, D).
        recipe: size and training of the network.
        seed: seed of weights and batches.
        on_epoch: called after each epoch, counted from 0, with the epoch, the training loss measured during the
            epoch, and the validation loss or None; losses are mean squared errors.
        validation: input rows and vectors of users that are not trained on.

    Returns:
        The network on the CPU, in eval mode.

    Raises:
        ValueError: shapes do not match, there are fewer than two users, a row contains NaN or infinity, the device is
            cuda without a GPU, or the loss is not finite.
    """
    device = _device(recipe.device)
    x_UF, y_UD = _paired_tensors("x", x, "y", y)
    if len(x_UF) < 2:
        raise ValueError(f"network: needs at least 2 users for training, got {len(x_UF)}")
    validation_pair = None
    if validation is not None:
        validation_pair = _paired_tensors("validation x", validation[0], "validation y", validation[1])
        shapes = [tensor.shape for tensor in validation_pair]
        if shapes[0][1] != x_UF.shape[1] or shapes[1][1] != y_UD.shape[1] or not shapes[0][0]:
            raise ValueError(f"network: validation must have rows as wide as x and y, got {shapes[0]} and {shapes[1]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        widths = (x_UF.shape[1], y_UD.shape[1], recipe.hidden)
        net = ColdStartNet(*widths, recipe.normalise_output, recipe.log_counts).to(device)
    shuffle = torch.Generator().manual_seed(seed)
    x_UF, y_UD = x_UF.to(device), y_UD.to(device)
    optimiser: torch.optim.Optimizer
    if recipe.optimiser == "adam":
        optimiser = torch.optim.Adam(net.parameters(), lr=recipe.learning_rate, fused=True)
    else:
        optimiser = torch.optim.SGD(net.parameters(), lr=recipe.learning_rate, fused=True)

    net.train()
    for epoch in range(recipe.epochs):
        total, n_seen = torch.zeros((), device=device, dtype=torch.float64), 0
        for index_B in _batches(torch.randperm(len(x_UF), generator=shuffle), recipe):
            index_B = index_B.to(device)
            optimiser.zero_grad()
            with bfloat16_autocast(device):
                predicted_BD = net(x_UF.index_select(0, index_B))
            loss = nn.functional.mse_loss(predicted_BD, y_UD.index_select(0, index_B))
            loss.backward()
            optimiser.step()
            total += loss.detach() * len(index_B)
            n_seen += len(index_B)
        train_loss = float(total) / n_seen
        if not np.isfinite(train_loss):
            raise ValueError(
                f"network.learning_rate: {recipe.learning_rate} is too high: the loss is {train_loss} in epoch {epoch}"
            )
        if on_epoch is not None:
            on_epoch(epoch, train_loss, None if validation_pair is None else _mean_squared_error(net, *validation_pair))
    return net.cpu().eval()


def _batches(order_U: Tensor, recipe: NetworkRecipe) -> Iterator[Tensor]:
    """Yield a permutation in batches of at least two."""
    size, n = recipe.batch_size, len(order_U)
    rest = n % size
    if n <= size or (not recipe.drop_last and rest == 1):
        stops = [*range(size, n - 1, size), n]
    else:
        stops = [*range(size, n + 1, size)]
        if rest and not recipe.drop_last:
            stops.append(n)
    start = 0
    for stop in stops:
        yield order_U[start:stop]
        start = stop


def predict(net: ColdStartNet, x: ArrayLike, batch: int = 4096) -> FloatMatrix:
    """Predict vectors in eval mode; the network's own mode is restored.

    Args:
        net: a trained network.
        x: input rows (B, F).
        batch: rows per forward pass.

    Returns:
        Vectors (B, D) float32.

    Raises:
        ValueError: x has the wrong width or contains NaN or infinity, or batch is below 1.
    """
    x_BF = _tensor("x", x)
    if x_BF.shape[1] != net.d_in:
        raise ValueError(f"network: x must have {net.d_in} columns, got {x_BF.shape[1]}")
    if batch < 1:
        raise ValueError(f"network: batch must be at least 1, got {batch}")
    device = next(net.parameters()).device
    out = np.empty((len(x_BF), net.d_out), np.float32)
    was_training = net.training
    net.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(x_BF), batch):
                out[start : start + batch] = net(x_BF[start : start + batch].to(device)).cpu().numpy()
    finally:
        net.train(was_training)
    return out


def _mean_squared_error(net: ColdStartNet, x_BF: Tensor, y_BD: Tensor) -> float:
    gap = predict(net, x_BF.numpy()) - y_BD.numpy()
    return float(np.square(gap, dtype=np.float64).mean())


def state_arrays(net: ColdStartNet) -> dict[str, NDArray[Any]]:
    """Return copies of the weights and BatchNorm statistics by name, for `np.savez` or a digest."""
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in net.state_dict().items()}


def _transform_scalars(x_BF: Tensor) -> Tensor:
    """Return (B, F) as (B, F + 1), with counts as logarithms and a flag for an unknown age.

    The scalars are the last columns of an input row, the age first among them.
    """
    vectors, age, counts = x_BF.tensor_split([x_BF.shape[1] - len(SCALARS), x_BF.shape[1] - len(SCALARS) + 1], dim=1)
    unknown = (age < 0).to(x_BF.dtype)
    return torch.cat([vectors, age.clamp(min=0), unknown, torch.log1p(counts.clamp(min=0))], dim=1)


def from_state_arrays(arrays: Mapping[str, NDArray[Any]], normalise_output: bool, log_counts: bool) -> ColdStartNet:
    """Return the network of `state_arrays`, in eval mode; widths are taken from the arrays' shapes.

    Args:
        arrays: arrays by name.
        normalise_output: as in training.
        log_counts: as in training.

    Raises:
        ValueError: an array is missing, unknown or of a wrong shape.
    """
    weights = [np.shape(a) for name, a in arrays.items() if name.endswith(".weight") and np.ndim(a) == 2]
    if not weights:
        raise ValueError(f"network: no weights among {', '.join(arrays) or 'no arrays'}")
    hidden = tuple(shape[0] for shape in weights[:-1])
    with torch.random.fork_rng(devices=[]):
        net = ColdStartNet(weights[0][1] - log_counts, weights[-1][0], hidden, normalise_output, log_counts)
    try:
        net.load_state_dict({name: torch.tensor(np.asarray(a)) for name, a in arrays.items()})
    except RuntimeError as error:
        raise ValueError(f"network: arrays do not match each other: {error}") from None
    return net.eval()


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("network.device: is cuda, but torch finds no GPU; use auto or cpu")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def _tensor(name: str, values: ArrayLike) -> Tensor:
    """Return `values` as a finite float32 tensor (rows, columns), which shares memory with a float32 array."""
    array = np.ascontiguousarray(values, np.float32)
    if array.ndim != 2:
        raise ValueError(f"network: {name} must be a matrix, got shape {array.shape}")
    if not np.isfinite(array.sum()):
        is_finite = np.isfinite(array).all(axis=1)
        if not is_finite.all():
            raise ValueError(f"network: {name} row {int(np.argmin(is_finite))} contains NaN or infinity")
    with (
        warnings.catch_warnings()
    ):  # a read-only array (Arrow, memory map) is safe, because nothing writes to the tensor
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(array)


def _paired_tensors(x_name: str, x: ArrayLike, y_name: str, y: ArrayLike) -> tuple[Tensor, Tensor]:
    x_UF, y_UD = _tensor(x_name, x), _tensor(y_name, y)
    if len(x_UF) != len(y_UD):
        raise ValueError(
            f"network: {x_name} has {len(x_UF)} rows and {y_name} {len(y_UD)}; row u must be the same user"
        )
    return x_UF, y_UD
