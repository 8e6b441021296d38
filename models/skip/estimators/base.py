"""What every skip model is: fitted on plays whose outcome is known, it says how likely others are to be listened to.

Shapes   N plays in time order

Row n of an answer is about play n alone; asking again gives the same; a second fit with the same seed gives the same
model. An id that training has not met is answered as every other such id (see `Needs`), never refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from models.skip.data.plays import Plays

CARD, ARRAYS = "model.json", "arrays.npz"
_CHUNK = 1 << 17  # plays that are answered at once: bounds the memory of an answer
State = tuple[dict[str, Any], dict[str, np.ndarray]]


@dataclass(frozen=True)
class Needs:
    """What a model reads of a play, and so what it can tell plays apart by.

    Attributes:
        ids: of user, track, artist, album and genre, those it reads. For an id that training has not met, or too
            rarely to keep, it answers as for any other such id: by what it has learned of the rare ones together, or
            without that part of its score.
        numbers: the names it reads; "all" stands for all that training had.
        categories: as numbers; "all" for all of training.
        history: does it look at the user's earlier plays, which `observe` adds to?
    """

    ids: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    history: bool = False


@dataclass(frozen=True)
class Epoch:
    """One pass over the training plays: mean log losses, the first as it was while training."""

    train: float
    valid: float


Losses = list[Epoch]


@dataclass(frozen=True)
class NoRecipe:
    """A model with nothing to choose."""


class SkipModel(ABC):
    """A way to say how likely a play is to be listened to; subclasses fill in the four methods at the end."""

    name: ClassVar[str]
    needs: ClassVar[Needs]
    Recipe: ClassVar[type] = NoRecipe

    def __init__(self, recipe: Any = None) -> None:
        """`recipe` is one of the class's own; its defaults where none is given."""
        self.recipe: Any = self.Recipe() if recipe is None else recipe
        if not isinstance(self.recipe, self.Recipe):
            raise ValueError(f"{self.name}: recipe must be a {self.Recipe.__name__}, got {type(recipe).__name__}")
        self._fitted = False

    def fit(self, train: Plays, valid: Plays, seed: int = 0) -> Losses:
        """Learn from `train`; `valid` decides when to stop, where that is a question. Losses by epoch.

        Raises:
            ValueError: labels are missing, `train` is of one class only, `valid` is empty, a number or category that
                the model needs is not there, or a loss is no longer finite.
        """
        history = self._learned(self._fit, train, valid, seed)
        self._fitted = True
        return history

    def learn_more(self, new: Plays, valid: Plays, seed: int = 0) -> Losses:
        """Go on from what fit() has learned, by later plays alone; their outcomes must have been observed before.

        What fit() made of the plays as a whole stays: vocabularies, ranks, strengths, fields. So an id that it has not
        met is answered as before. `valid` comes after `new` and decides when to stop. Losses by epoch.

        Raises:
            ValueError: as fit(), and for a model that can only be fitted anew: factorisations, RBM, graph and one-hot
                regressions, whose fields and rows would have to grow with the ids.
        """
        self._must_be_fitted()
        return self._learned(self._learn_more, new, valid, seed)

    def predict_proba(self, plays: Plays) -> NDArray[np.float64]:
        """How likely each play is to be listened to, (N,) float64 in 0 to 1.

        Raises:
            ValueError: not fitted yet, or a number or category that the model needs is not there.
        """
        self._must_be_fitted()
        return self.predicted(plays)

    def observe(self, plays: Plays) -> None:
        """Take note of plays whose outcome became known, for the history of later ones; others do not look at it."""
        self._must_be_fitted()
        plays.labels(f"{self.name}, observed plays")
        if self.needs.history:
            self._observe(plays)

    def save(self, folder: Path) -> None:
        """Write the model as JSON and arrays; what stood there is replaced, and half of a model is never read."""
        self._must_be_fitted()
        facts, arrays = self._state()
        kept = io.BytesIO()
        np.savez(kept, allow_pickle=False, **arrays)
        digest = hashlib.sha256(kept.getbuffer()).hexdigest()
        card = {"model": self.name, "recipe": asdict(self.recipe), "facts": facts, "sha256": digest}
        folder.mkdir(parents=True, exist_ok=True)
        replace(folder / ARRAYS, kept.getvalue())
        replace(folder / CARD, json.dumps(card, indent=1, sort_keys=True).encode())

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The model that save() wrote.

        Raises:
            ValueError: no model there, another one, of another version, or its files are not of one save.
        """
        card = read_card(folder)
        if card.get("model") != cls.name:
            raise ValueError(f"{folder}: holds {card.get('model')!r}, not {cls.name!r}")
        model = cls(cls.Recipe(**tuples(card["recipe"])))
        try:
            model._restore(card["facts"], read_arrays(folder, card["sha256"]))
        except KeyError as error:
            raise ValueError(f"{folder}: holds no {error}; another version of this program saved it") from None
        model._fitted = True
        return model

    def _must_be_fitted(self) -> None:
        if not self._fitted:
            raise ValueError(f"{self.name}: not fitted yet; fit() or load() comes first")

    def _learned(self, learn: Callable[[Plays, Plays, int], Losses], train: Plays, valid: Plays, seed: int) -> Losses:
        """What `learn` reached, its plays and its losses checked."""
        train.both_classes(self.name)
        if not len(valid):
            raise ValueError(f"{self.name}: needs plays to validate on, got none")
        valid.labels(f"{self.name}, validation")
        history = learn(train, valid, seed)
        if not history or not all(np.isfinite([h.train, h.valid]).all() for h in history):
            raise ValueError(f"{self.name}: the loss is no longer finite: {history}; is the learning rate too high?")
        return history

    def predicted(self, plays: Plays) -> NDArray[np.float64]:
        """Answers chunk by chunk, (N,) float64; what a fit says about validation plays on its way."""
        out_N = np.empty(len(plays))
        for start in range(0, len(plays), _CHUNK):
            part = plays.rows(slice(start, start + _CHUNK))
            out_N[start : start + len(part)] = self._proba(part)
        return out_N

    def _learn_more(self, new: Plays, valid: Plays, seed: int) -> Losses:
        raise ValueError(f"{self.name}: does not learn on from what it is; fit it anew")

    def _observe(self, plays: Plays) -> None:
        raise AssertionError(f"{self.name} needs a history, and does not take one")

    @abstractmethod
    def _fit(self, train: Plays, valid: Plays, seed: int) -> Losses:
        """Learn; both have labels, train both classes."""

    @abstractmethod
    def _proba(self, plays: Plays) -> NDArray[np.float64]:
        """Answer a chunk."""

    @abstractmethod
    def _state(self) -> State:
        """All that was learned: JSON and arrays."""

    @abstractmethod
    def _restore(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Take what _state() gave."""


def read_card(folder: Path) -> dict[str, Any]:
    """The facts of a saved model; ValueError where there is none."""
    try:
        card = json.loads((folder / CARD).read_text())
    except (FileNotFoundError, json.JSONDecodeError) as error:
        raise ValueError(f"{folder}: holds no saved skip model ({error})") from None
    if not isinstance(card, dict) or not {"model", "recipe", "facts", "sha256"} <= set(card):
        raise ValueError(f"{folder / CARD}: is not the card of a skip model")
    return card


def read_arrays(folder: Path, digest: str) -> dict[str, np.ndarray]:
    """The arrays of a saved model; ValueError where they are not those of its card."""
    try:
        raw = (folder / ARRAYS).read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{folder / ARRAYS}: missing") from None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError(f"{folder / ARRAYS}: is not of the same save as {CARD}; save the model again")
    with np.load(io.BytesIO(raw), allow_pickle=False) as found:
        return {name: found[name] for name in found.files}


def replace(file: Path, content: bytes) -> None:
    """Write a file in one step: at any moment there is the old one or the new one."""
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, file)


def tuples(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe read from JSON: lists are tuples again."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in recipe.items()}


def log_loss(listened_N: NDArray[np.int8], proba_N: NDArray[np.floating]) -> float:
    """Mean of -log(probability of what happened), probabilities kept 1e-7 away from 0 and 1."""
    p_N = np.clip(proba_N, 1e-7, 1 - 1e-7)
    return float(-np.log(np.where(listened_N == 1, p_N, 1 - p_N)).mean())


def sigmoid(z_N: NDArray[np.floating]) -> NDArray[np.float64]:
    """1 / (1 + exp(-z)), no overflow, (N,) float64."""
    half = np.tanh(np.asarray(z_N, np.float64) / 2)
    return np.asarray((1 + half) / 2)


def prefixed(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of a part of a model under its prefix."""
    return {f"{prefix}.{name}": array for name, array in arrays.items()}


def under(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays that prefixed() put under a prefix."""
    start = f"{prefix}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}
