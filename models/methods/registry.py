"""Every method by its name in the evaluation table, and how it is built; the two of one network share its training.

Importing this brings PyTorch in; models.methods alone does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.methods.deezer import FullPers, SemiPers
from models.methods.dropoutnet import DropoutNet, DropoutNetFull, DropoutNetRecipe, DropoutNetSemi
from models.methods.input_clusters import InputFeaturesClustering
from models.methods.interface import Method, Predict, Warm
from models.methods.melu import Melu, MeluFull, MeluRecipe, MeluSemi
from models.methods.simple import Popularity, RegistrationDayStreams
from models.recommend import Similarity

OnLoss = Callable[[str, int, float], None]


@dataclass(frozen=True, eq=False)
class Parts:
    """What methods are built from: all of it is cheap to hand over, `warm` and `predict` are called only when needed.

    `similarity` is that of the methods over the space's own vectors; DropoutNet's score is a dot product by definition.
    `on_loss(network, epoch, loss)` is called while dropoutnet or melu is trained.
    """

    track_ND: NDArray[np.float32]
    centroids_KD: NDArray[np.float32]
    rankings_KL: NDArray[np.int32]
    predict: Predict
    warm: Callable[[], Warm]
    similarity: Similarity = "cosine"
    seed: int = 0
    dropoutnet: DropoutNetRecipe = field(default_factory=DropoutNetRecipe)
    melu: MeluRecipe = field(default_factory=MeluRecipe)
    on_loss: OnLoss | None = None


class _Workshop:
    """Makes each shared thing once."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts

    @cached_property
    def warm(self) -> Warm:
        return self.parts.warm()

    @cached_property
    def dropoutnet(self) -> DropoutNet:
        return DropoutNet(self.warm, self.parts.dropoutnet, self.parts.seed, self._report("dropoutnet"))

    @cached_property
    def melu(self) -> Melu:
        return Melu(self.warm, self.parts.melu, self.parts.seed, self._report("melu"))

    def _report(self, network: str) -> Callable[[int, float], None] | None:
        on_loss = self.parts.on_loss
        return None if on_loss is None else lambda epoch, loss: on_loss(network, epoch, loss)


_MAKE: dict[str, Callable[[_Workshop, Parts], Method]] = {
    "popularity": lambda w, p: Popularity(len(p.track_ND)),
    "registration_day_streams": lambda w, p: RegistrationDayStreams(p.track_ND, p.similarity),
    "registration_day_streams_no_fallback": lambda w, p: RegistrationDayStreams(p.track_ND, p.similarity, False),
    "input_features_clustering": lambda w, p: InputFeaturesClustering(w.warm, seed=p.seed),
    "dropoutnet_full": lambda w, p: DropoutNetFull(w.dropoutnet),
    "dropoutnet_semi": lambda w, p: DropoutNetSemi(w.dropoutnet, w.warm, p.seed),
    "melu_full": lambda w, p: MeluFull(w.melu),
    "melu_semi": lambda w, p: MeluSemi(w.melu, w.warm, p.seed),
    "full_pers": lambda w, p: FullPers(p.predict, p.track_ND, p.similarity),
    "semi_pers": lambda w, p: SemiPers(p.predict, p.centroids_KD, p.rankings_KL),
}
NAMES = tuple(_MAKE)  # in the order of the paper's Table 1


def build(names: Iterable[str], parts: Parts) -> list[Method]:
    """The methods of these names, in their order.

    Raises:
        ValueError: an unknown name; whatever a method refuses to learn from.
    """
    chosen = list(names)
    for name in chosen:
        if name not in _MAKE:
            raise ValueError(f"methods: no {name!r}; there are {', '.join(NAMES)}")
    workshop = _Workshop(parts)
    return [_MAKE[name](workshop, parts) for name in chosen]
