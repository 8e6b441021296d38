"""Every method by its name in the evaluation table, and how it is built; the two of one network share its training.

Importing this brings PyTorch in; models.cold_start.methods alone does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.cold_start.methods.autoencoder import FirstDayAutoencoder
from models.cold_start.methods.base import Method, Predict, WarmListeners
from models.cold_start.methods.baselines import Popularity, RegistrationDayStreams
from models.cold_start.methods.blend import Blend, RerankedMixture
from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull, DropoutNetRecipe, DropoutNetSemi
from models.cold_start.methods.first_day_network import FirstDayNetworkRecipe
from models.cold_start.methods.input_clusters import InputFeaturesClustering
from models.cold_start.methods.melu import Melu, MeluFull, MeluRecipe, MeluSemi
from models.cold_start.methods.mixture import NearSegments, SegmentMixture
from models.cold_start.methods.neighbours import NeighbourRecipe, Neighbours
from models.cold_start.methods.peers import Ease, IalsFoldIn, item_knn
from models.cold_start.methods.semi_personalised import FullPers, SemiPers
from models.cold_start.top_k import Similarity

OnLoss = Callable[[str, int, float], None]


@dataclass(frozen=True)
class InHouseConfig:
    """How our own methods are made; every number is explained in models/methods."""

    autoencoder: FirstDayNetworkRecipe
    mixture: FirstDayNetworkRecipe
    neighbours: NeighbourRecipe
    smoothing: float
    sharpness: float
    autoencoder_weight: float
    list_length: int
    mixture_weight: float


@dataclass(frozen=True)
class AlsRecipe:
    """How the factors of ut_als were trained: what a fold-in into them must repeat."""

    alpha: float
    regularisation: float
    exponent: float


@dataclass(frozen=True, eq=False)
class MethodInputs:
    """What methods are built from: all of it is cheap to hand over, `warm` and `predict` are called only when needed.

    `similarity` is that of the methods over the space's own vectors; DropoutNet's score is a dot product by definition.
    `on_loss(network, epoch, loss)` is called while dropoutnet or melu is trained.
    """

    track_ND: NDArray[np.float32]
    centroids_KD: NDArray[np.float32]
    rankings_KL: NDArray[np.int32]
    predict: Predict
    warm: Callable[[], WarmListeners]
    similarity: Similarity
    seed: int
    dropoutnet: DropoutNetRecipe
    melu: MeluRecipe
    in_house: InHouseConfig
    als: AlsRecipe
    on_loss: OnLoss | None = None


class MethodFactory:
    """Builds methods by name and makes each thing that they share once."""

    def __init__(self, inputs: MethodInputs) -> None:
        self.inputs = inputs

    @cached_property
    def warm(self) -> WarmListeners:
        """What is learned from."""
        return self.inputs.warm()

    @cached_property
    def dropoutnet(self) -> DropoutNet:
        """Trained once for Full and Semi."""
        return DropoutNet(self.warm, self.inputs.dropoutnet, self.inputs.seed, self._report("dropoutnet"))

    @cached_property
    def melu(self) -> Melu:
        """Trained once for Full and Semi."""
        return Melu(self.warm, self.inputs.melu, self.inputs.seed, self._report("melu"))

    @cached_property
    def autoencoder(self) -> FirstDayAutoencoder:
        """Alone and in the blend."""
        report = self._report("first_day_autoencoder")
        return FirstDayAutoencoder(self.warm, self.inputs.in_house.autoencoder, self.inputs.seed, report)

    @cached_property
    def mixture(self) -> SegmentMixture:
        """Alone and in the order of the blend."""
        in_house, report = self.inputs.in_house, self._report("segment_mixture")
        return SegmentMixture(self.warm, in_house.mixture, in_house.smoothing, self.inputs.seed, report)

    @cached_property
    def neighbours(self) -> Neighbours:
        """Alone and in the blend."""
        return Neighbours.fit(self.warm, self.inputs.in_house.neighbours)

    @cached_property
    def blend(self) -> Blend:
        """Alone and as the order of the mixture."""
        return Blend(self.autoencoder, self.neighbours, self.inputs.in_house.autoencoder_weight)

    def build(self, name: str) -> Method:
        """The method of this name; ValueError for an unknown one, and for whatever it refuses to learn from."""
        if name not in _MAKE:
            raise ValueError(f"methods: no {name!r}; there are {', '.join(METHOD_NAMES)}")
        return _MAKE[name](self, self.inputs)

    def _report(self, network: str) -> Callable[[int, float], None] | None:
        on_loss = self.inputs.on_loss
        return None if on_loss is None else lambda epoch, loss: on_loss(network, epoch, loss)


_MAKE: dict[str, Callable[[MethodFactory, MethodInputs], Method]] = {
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
    "near_segments": lambda w, p: NearSegments(p.predict, w.warm, p.in_house.smoothing, p.in_house.sharpness),
    "segment_mixture": lambda w, p: w.mixture,
    "segment_mixture_reranked": lambda w, p: RerankedMixture(
        w.mixture, w.blend, p.in_house.list_length, p.in_house.mixture_weight
    ),
    "neighbours": lambda w, p: w.neighbours,
    "first_day_autoencoder": lambda w, p: w.autoencoder,
    "blend": lambda w, p: w.blend,
    "item_knn": lambda w, p: item_knn(w.warm),
    "ease": lambda w, p: Ease(w.warm),
    "ials_fold_in": lambda w, p: IalsFoldIn(w.warm, p.als.alpha, p.als.regularisation, p.als.exponent),
}
METHOD_NAMES = tuple(_MAKE)  # the paper's Table 1 in its order, our own, peers
METHODS_WITHOUT_IDS = METHOD_NAMES[
    : METHOD_NAMES.index("near_segments") + 1
]  # need no ids, so the paper's public data has all they need
