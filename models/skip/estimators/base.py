"""Base class of the skip models: fit on labelled plays, predict the probability that a play is listened to.

Shapes   N plays in time order

Row n of a prediction depends on play n only; repeated predictions are equal; a second fit with the same seed, on the
same CPU and with the same number of threads, gives the same model. An id that is not in the training plays gets the
prediction of an unknown id (see `Needs`) and no error.
"""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from contracts import atomic_files
from models.skip.data.arrays import State
from models.skip.data.plays import Plays

CARD, ARRAYS = "model.json", "arrays.npz"
_CHUNK = 1 << 17  # plays per step of a prediction: bounds its memory


@dataclass(frozen=True)
class Needs:
    """The inputs of a play that a model uses.

    Attributes:
        ids: Those of user, track, artist, album and genre. An id that is missing from the training plays, or too rare,
            has the same effect as any other such id: a weight learned from all rare ids, or none.
        numbers: Names of numeric features; "all" for all features of the training plays.
        categories: Names of categorical columns; "all" for all of the training plays.
        history: Whether the model uses the user's earlier plays, which `observe` adds to.
    """

    ids: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    history: bool = False


@dataclass(frozen=True)
class Epoch:
    """Mean log losses of one pass over the training plays; `train` is measured during training."""

    train: float
    valid: float


Losses = list[Epoch]


def best_pass(losses: Sequence[Epoch]) -> int:
    """Return the number of the epoch or round with the best validation loss, from 1."""
    return 1 + min(range(len(losses)), key=lambda n: losses[n].valid)


@dataclass(frozen=True)
class NoRecipe:
    """Recipe of a model without hyperparameters."""


class SkipModel(ABC):
    """Base class of models that predict the probability of listening; subclasses implement the abstract methods."""

    name: ClassVar[str]
    needs: ClassVar[Needs]
    Recipe: ClassVar[type] = NoRecipe

    def __init__(self, recipe: Any = None) -> None:
        """Create a model that is not fitted.

        Args:
            recipe: Instance of the class's `Recipe`; None for its defaults.

        Raises:
            ValueError: `recipe` has another type.
        """
        self.recipe: Any = self.Recipe() if recipe is None else recipe
        if not isinstance(self.recipe, self.Recipe):
            raise ValueError(f"{self.name}: recipe must be a {self.Recipe.__name__}, got {type(recipe).__name__}")
        self._fitted = False

    def fit(self, train: Plays, valid: Plays, seed: int = 0) -> Losses:
        """Fit the model on labelled plays.

        Args:
            train: Training plays.
            valid: Validation plays for early stopping, in models that train by epochs.
            seed: Seed of all random numbers.

        Returns:
            The losses of each epoch.

        Raises:
            ValueError: Labels are missing, `train` has one class only, `valid` is empty, a feature or category that the
                model needs is missing, or a loss is not finite.
        """
        history = self._train_checked(self._fit, train, valid, seed)
        self._fitted = True
        return history

    def refit(self, plays: Plays, n_passes: int, seed: int = 0) -> Losses:
        """Fit the model on all labelled plays, with the number of passes that the validation of another fit chose.

        Args:
            plays: All labelled plays, validation and test included.
            n_passes: Number of epochs or rounds (`best_pass`), for models that stop early; the others ignore it.
            seed: Seed of all random numbers.

        Returns:
            The losses of each epoch; `valid` is that of the newest tenth, which is trained on, too.

        Raises:
            ValueError: As in fit().
        """
        recipe = self.recipe
        names = {field.name for field in fields(recipe)}
        if "patience" in names:
            passes = "rounds" if "rounds" in names else "epochs"
            self.recipe = replace(recipe, **{passes: n_passes, "patience": 0})
        try:
            return self.fit(plays, plays.rows(slice(-max(1, len(plays) // 10), None)), seed)
        finally:
            self.recipe = recipe

    def partial_fit(self, new: Plays, valid: Plays, seed: int = 0) -> Losses:
        """Continue training on later plays, whose outcomes must have been passed to `observe` before.

        Vocabularies, ranks, strengths and fields from fit() do not change, so an id that fit() did not see is still
        unknown.

        Args:
            new: Plays after the training plays.
            valid: Plays after `new`, for early stopping.
            seed: Seed of all random numbers.

        Returns:
            The losses of each epoch.

        Raises:
            ValueError: As in fit(), or the model must be fitted again from scratch: factorisations, RBM, graph and
                one-hot regressions, whose fields and rows would have to grow with the ids.
        """
        self._require_fitted()
        return self._train_checked(self._partial_fit, new, valid, seed)

    def predict_proba(self, plays: Plays) -> NDArray[np.float64]:
        """Return the probability that each play is listened to, (N,) float64 in 0 to 1.

        Raises:
            ValueError: The model is not fitted, or a feature or category that it needs is missing.
        """
        self._require_fitted()
        return self._predict_in_chunks(plays)

    def observe(self, plays: Plays) -> None:
        """Add plays with known outcomes to the history of later plays; models without a history ignore them."""
        self._require_fitted()
        plays.labels(f"{self.name}, observed plays")
        if self.needs.history:
            self._observe(plays)

    def save(self, folder: Path) -> None:
        """Write the model as JSON and arrays.

        An existing model is replaced. The digest of the arrays in the JSON file detects a partly written model.
        """
        self._require_fitted()
        facts, arrays = self._state()
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        digest = hashlib.sha256(buffer.getbuffer()).hexdigest()
        card = {"model": self.name, "recipe": asdict(self.recipe), "facts": facts, "sha256": digest}
        atomic_files.replace(folder / ARRAYS, buffer.getvalue())
        atomic_files.replace(folder / CARD, json.dumps(card, indent=1, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Load a model that save() wrote.

        Raises:
            ValueError: The folder has no model, a model of another class or version, or files of different saves.
        """
        card = read_card(folder)
        if card.get("model") != cls.name:
            raise ValueError(f"{folder}: contains the model {card.get('model')!r}, not {cls.name!r}")
        model = cls(cls.Recipe(**tuples(card["recipe"])))
        try:
            model._restore(card["facts"], read_arrays(folder, card["sha256"]))
        except KeyError as error:
            raise ValueError(f"{folder}: {error} is missing; another version of this program saved the model") from None
        model._fitted = True
        return model

    def _require_fitted(self) -> None:
        if not self._fitted:
            raise ValueError(f"{self.name}: not fitted; call fit() or load() first")

    def _train_checked(
        self, train_step: Callable[[Plays, Plays, int], Losses], train: Plays, valid: Plays, seed: int
    ) -> Losses:
        """Run `train_step` and check its plays and its losses."""
        train.require_both_classes(self.name)
        if not len(valid):
            raise ValueError(f"{self.name}: needs validation plays, got none")
        valid.labels(f"{self.name}, validation")
        history = train_step(train, valid, seed)
        if not history or not all(np.isfinite([h.train, h.valid]).all() for h in history):
            raise ValueError(f"{self.name}: the loss is not finite: {history}; is the learning rate too high?")
        return history

    def _predict_in_chunks(self, plays: Plays) -> NDArray[np.float64]:
        """Return predictions (N,) float64, computed in chunks; also for validation during a fit."""
        out_N = np.empty(len(plays))
        for start in range(0, len(plays), _CHUNK):
            part = plays.rows(slice(start, start + _CHUNK))
            out_N[start : start + len(part)] = self._predict_chunk(part)
        return out_N

    def _partial_fit(self, new: Plays, valid: Plays, seed: int) -> Losses:
        raise ValueError(f"{self.name}: does not support incremental training; fit it again from scratch")

    def _observe(self, plays: Plays) -> None:
        raise AssertionError(f"{self.name} uses a history, but does not implement _observe")

    @abstractmethod
    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        """Fit the model; both sets have labels, and `train` has both classes."""

    @abstractmethod
    def _predict_chunk(self, plays: Plays) -> NDArray[np.float64]:
        """Predict a chunk."""

    @abstractmethod
    def _state(self) -> State:
        """Return everything that was learned as JSON values and arrays."""

    @abstractmethod
    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Restore the output of _state()."""


def read_card(folder: Path) -> dict[str, Any]:
    """Return the JSON part of a saved model.

    Raises:
        ValueError: The folder has no saved model.
    """
    try:
        card = json.loads((folder / CARD).read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: contains no saved skip model ({error})") from None
    if not isinstance(card, dict) or not {"model", "recipe", "facts", "sha256"} <= set(card):
        raise ValueError(f"{folder / CARD}: does not describe a skip model")
    return card


def read_arrays(folder: Path, digest: str) -> dict[str, np.ndarray]:
    """Return the arrays of a saved model.

    Raises:
        ValueError: The file is missing or does not match the digest.
    """
    try:
        raw = (folder / ARRAYS).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{folder / ARRAYS}: missing") from None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError(f"{folder / ARRAYS}: does not match {CARD}, which is of another save; save the model again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def tuples(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe read from JSON with its lists converted to tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}
