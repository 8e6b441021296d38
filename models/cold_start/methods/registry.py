"""Builds every recommendation method by its name in the evaluation table.

To add a method:

1. Write its class in a file of its own in models/cold_start/methods/; `Method` in base.py is the interface.
2. Add a function under a `@_method("name")` line at the end of this file that returns an instance of it. What it needs
   comes from `factory.inputs` and from the shared artefacts of `MethodFactory`.
3. Add the name to MethodName in jobs/settings/cold_start.py, at the same place of the order.

Then add the method to `MAKE` in tests/models/cold_start/methods/test_registry.py, which applies the laws of base.py to
it. Settings of a method are a section in jobs/settings/cold_start.py, and reach it through a field of `MethodInputs`.

This module imports PyTorch; the package models.cold_start.methods does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

from models.arrays import FloatMatrix, IntMatrix
from models.cold_start.methods.autoencoder import FirstDayAutoencoder
from models.cold_start.methods.base import Method, Predict, WarmListeners
from models.cold_start.methods.baselines import Popularity, RegistrationDayStreams
from models.cold_start.methods.blend import Blend, RerankedMixture
from models.cold_start.methods.candidates import CandidateStage, listener_totals
from models.cold_start.methods.country_age import CountryAge, WithCountryAge
from models.cold_start.methods.dropoutnet import DropoutNet, DropoutNetFull, DropoutNetRecipe, DropoutNetSemi
from models.cold_start.methods.first_day_network import FirstDayNetworkRecipe
from models.cold_start.methods.input_clusters import InputFeaturesClustering
from models.cold_start.methods.melu import Melu, MeluFull, MeluRecipe, MeluSemi
from models.cold_start.methods.mixture import NearSegments, SegmentMixture
from models.cold_start.methods.neighbours import NeighbourRecipe, Neighbours
from models.cold_start.methods.peers import Ease, IalsFoldIn, item_knn
from models.cold_start.methods.ranked_candidates import RankedCandidates, RankedMixture
from models.cold_start.methods.ranker import Queries, Ranker, RankerRecipe, cross_fitted_queries
from models.cold_start.methods.segment_rates import SegmentRates
from models.cold_start.methods.semi_personalised import FullPers, SemiPers
from models.cold_start.top_k import Similarity

OnLoss = Callable[[str, int, float], None]


@dataclass(frozen=True)
class InHouseConfig:
    """Settings of our own methods; jobs/settings/cold_start.py describes each number.

    Attributes:
        autoencoder: network of first_day_autoencoder, also part of blend.
        mixture: network of segment_mixture.
        neighbours: recipe of neighbours, also part of blend.
        smoothing: of segment_mixture and near_segments.
        sharpness: of near_segments.
        autoencoder_weight: weight of the autoencoder in blend.
        list_length: tracks of the mixture that segment_mixture_reranked reorders.
        mixture_weight: weight of the mixture in segment_mixture_reranked.
        ranker: training of the ranker of ranked_candidates and segment_mixture_ranked.
    """

    autoencoder: FirstDayNetworkRecipe
    mixture: FirstDayNetworkRecipe
    neighbours: NeighbourRecipe
    smoothing: float
    sharpness: float
    autoencoder_weight: float
    list_length: int
    mixture_weight: float
    ranker: RankerRecipe


@dataclass(frozen=True)
class AlsRecipe:
    """How the factors of ut_als were trained; a fold-in into them must use the same numbers."""

    alpha: float
    regularisation: float
    exponent: float


@dataclass(frozen=True, eq=False)
class MethodInputs:
    """Everything that methods are built from.

    Attributes:
        track_ND: track vectors of the space by track_idx.
        centroids_KD: centroids of the segments.
        rankings_KL: the most streamed tracks of each segment, as track_idx.
        predict: the cold-start network; called by a method's recommend only.
        warm: loads the training data; called once, when the first method that learns is built.
        similarity: of full_pers and registration_day_streams; DropoutNet's score is a dot product by definition.
        seed: seed of everything that is trained here.
        dropoutnet: recipe of both DropoutNet methods.
        melu: recipe of both MeLU methods.
        in_house: settings of our own methods.
        als: recipe of the ALS factors, for ials_fold_in.
        on_loss: called after each epoch of each network, with its name, the epoch from 0 and the mean loss.
        country_age: lists of listeners without a known interaction; None where countries and ages are unknown (the
            paper's public files): the methods then recommend to these listeners too.
    """

    track_ND: FloatMatrix
    centroids_KD: FloatMatrix
    rankings_KL: IntMatrix
    predict: Predict
    warm: Callable[[], WarmListeners]
    similarity: Similarity
    seed: int
    dropoutnet: DropoutNetRecipe
    melu: MeluRecipe
    in_house: InHouseConfig
    als: AlsRecipe
    on_loss: OnLoss | None = None
    country_age: CountryAge | None = None


class MethodFactory:
    """Builds methods by name; artefacts that several methods share are built on first use and cached by name."""

    def __init__(self, inputs: MethodInputs) -> None:
        """Store the inputs; nothing is loaded or trained yet."""
        self.inputs = inputs

    def build(self, name: str) -> Method:
        """Return the fitted method of this name.

        Raises:
            ValueError: the name is unknown, or the training data does not suffice for the method.
        """
        if name not in _BUILDERS:
            raise ValueError(f"methods: no {name!r}; there are {', '.join(METHOD_NAMES)}")
        return _BUILDERS[name](self)

    @cached_property
    def warm(self) -> WarmListeners:
        """The training data."""
        return self.inputs.warm()

    @cached_property
    def dropoutnet(self) -> DropoutNet:
        """The trained towers of dropoutnet_full and dropoutnet_semi."""
        return DropoutNet(self.warm, self.inputs.dropoutnet, self.inputs.seed, self._loss_callback("dropoutnet"))

    @cached_property
    def melu(self) -> Melu:
        """The trained network of melu_full and melu_semi."""
        return Melu(self.warm, self.inputs.melu, self.inputs.seed, self._loss_callback("melu"))

    @cached_property
    def autoencoder(self) -> FirstDayAutoencoder:
        """The trained first_day_autoencoder, a method and a part of blend."""
        on_epoch = self._loss_callback("first_day_autoencoder")
        return FirstDayAutoencoder(self.warm, self.inputs.in_house.autoencoder, self.inputs.seed, on_epoch)

    @cached_property
    def mixture(self) -> SegmentMixture:
        """The trained segment_mixture, a method and a part of segment_mixture_reranked."""
        config, on_epoch = self.inputs.in_house, self._loss_callback("segment_mixture")
        return SegmentMixture(self.warm, config.mixture, config.smoothing, self.inputs.seed, on_epoch)

    @cached_property
    def neighbours(self) -> Neighbours:
        """The fitted neighbours, a method and a part of blend."""
        return Neighbours.fit(self.warm, self.inputs.in_house.neighbours)

    @cached_property
    def blend(self) -> Blend:
        """The blend, a method and a part of segment_mixture_reranked."""
        return Blend(self.autoencoder, self.neighbours, self.inputs.in_house.autoencoder_weight)

    def with_country_age(self, method: Method) -> Method:
        """Return the method, with the lists of country_age, if any, for listeners without a known interaction."""
        country_age = self.inputs.country_age
        return method if country_age is None else WithCountryAge(method, country_age)

    @cached_property
    def candidate_stage(self) -> CandidateStage:
        """The first stage of the methods with a ranker, fitted on all warm listeners."""
        return self._candidate_stage(self.warm, self.autoencoder, self.neighbours)

    @cached_property
    def ranker(self) -> Ranker:
        """The trained ranker of ranked_candidates and segment_mixture_ranked."""
        return Ranker.train(self.ranker_queries(), self.inputs.in_house.ranker, self.inputs.seed)

    def ranker_queries(self) -> Queries:
        """Return the training rows of the ranker; fits a first stage for each scored fold."""
        return cross_fitted_queries(self.warm, self.fold_stage, self.inputs.in_house.ranker, self.inputs.seed)

    def fold_stage(self, listeners: WarmListeners, fold: int) -> CandidateStage:
        """Return the first stage of a fold of the ranker, fitted on the listeners that the fold does not hold out."""
        config = self.inputs.in_house
        on_epoch = self._loss_callback(f"ranker_fold_{fold}")
        autoencoder = FirstDayAutoencoder(listeners, config.autoencoder, self.inputs.seed, on_epoch)
        return self._candidate_stage(listeners, autoencoder, Neighbours.fit(listeners, config.neighbours))

    def _candidate_stage(
        self, listeners: WarmListeners, autoencoder: FirstDayAutoencoder, neighbours: Neighbours
    ) -> CandidateStage:
        config = self.inputs.in_house
        segments = SegmentRates.count(listeners, neighbours.vocabulary, config.ranker.segment_smoothing)
        blend = Blend(autoencoder, neighbours, config.autoencoder_weight)
        totals_N = listener_totals(listeners.heard_UN)
        return CandidateStage(blend, segments, totals_N, listeners.track_ND, config.ranker.candidates)

    def _loss_callback(self, network: str) -> Callable[[int, float], None] | None:
        """Return `inputs.on_loss` with the name of the network filled in."""
        return None if self.inputs.on_loss is None else partial(self.inputs.on_loss, network)


Builder = Callable[[MethodFactory], Method]
_BUILDERS: dict[str, Builder] = {}
_NAMES_WITHOUT_IDS: list[str] = []


def _method(name: str, needs_ids: bool = True) -> Callable[[Builder], Builder]:
    """Return a decorator that registers a function as the builder of a method.

    Args:
        name: name of the method, one of MethodName in jobs/settings/cold_start.py.
        needs_ids: whether training or recommending needs ids of tracks; the paper's public files have vectors only.
    """

    def register(builder: Builder) -> Builder:
        _BUILDERS[name] = builder
        if not needs_ids:
            _NAMES_WITHOUT_IDS.append(name)
        return builder

    return register


# The methods of the paper's Table 1, in its order.


@_method("popularity", needs_ids=False)
def _popularity(factory: MethodFactory) -> Method:
    return Popularity(len(factory.inputs.track_ND))


@_method("registration_day_streams", needs_ids=False)
def _registration_day_streams(factory: MethodFactory) -> Method:
    return RegistrationDayStreams(factory.inputs.track_ND, factory.inputs.similarity)


@_method("registration_day_streams_no_fallback", needs_ids=False)
def _registration_day_streams_no_fallback(factory: MethodFactory) -> Method:
    return RegistrationDayStreams(factory.inputs.track_ND, factory.inputs.similarity, fallback=False)


@_method("input_features_clustering", needs_ids=False)
def _input_features_clustering(factory: MethodFactory) -> Method:
    return InputFeaturesClustering(factory.warm, seed=factory.inputs.seed)


@_method("dropoutnet_full", needs_ids=False)
def _dropoutnet_full(factory: MethodFactory) -> Method:
    return DropoutNetFull(factory.dropoutnet)


@_method("dropoutnet_semi", needs_ids=False)
def _dropoutnet_semi(factory: MethodFactory) -> Method:
    return DropoutNetSemi(factory.dropoutnet, factory.warm, factory.inputs.seed)


@_method("melu_full", needs_ids=False)
def _melu_full(factory: MethodFactory) -> Method:
    return MeluFull(factory.melu)


@_method("melu_semi", needs_ids=False)
def _melu_semi(factory: MethodFactory) -> Method:
    return MeluSemi(factory.melu, factory.warm, factory.inputs.seed)


@_method("full_pers", needs_ids=False)
def _full_pers(factory: MethodFactory) -> Method:
    method = FullPers(factory.inputs.predict, factory.inputs.track_ND, factory.inputs.similarity)
    return factory.with_country_age(method)


@_method("semi_pers", needs_ids=False)
def _semi_pers(factory: MethodFactory) -> Method:
    inputs = factory.inputs
    return factory.with_country_age(SemiPers(inputs.predict, inputs.centroids_KD, inputs.rankings_KL))


# Our own methods.


@_method("country_age")
def _country_age(factory: MethodFactory) -> Method:
    if factory.inputs.country_age is None:
        raise ValueError("country_age: needs rankings by country and age class, and this data has none")
    return factory.inputs.country_age


@_method("near_segments", needs_ids=False)
def _near_segments(factory: MethodFactory) -> Method:
    config = factory.inputs.in_house
    method = NearSegments(factory.inputs.predict, factory.warm, config.smoothing, config.sharpness)
    return factory.with_country_age(method)


@_method("segment_mixture")
def _segment_mixture(factory: MethodFactory) -> Method:
    return factory.mixture


@_method("segment_mixture_reranked")
def _segment_mixture_reranked(factory: MethodFactory) -> Method:
    config = factory.inputs.in_house
    return RerankedMixture(factory.mixture, factory.blend, config.list_length, config.mixture_weight)


@_method("segment_mixture_ranked")
def _segment_mixture_ranked(factory: MethodFactory) -> Method:
    list_length = factory.inputs.in_house.list_length
    return RankedMixture(factory.candidate_stage, factory.ranker.relevance, factory.mixture, list_length)


@_method("neighbours")
def _neighbours(factory: MethodFactory) -> Method:
    return factory.neighbours


@_method("first_day_autoencoder")
def _first_day_autoencoder(factory: MethodFactory) -> Method:
    return factory.autoencoder


@_method("blend")
def _blend(factory: MethodFactory) -> Method:
    return factory.blend


@_method("ranked_candidates")
def _ranked_candidates(factory: MethodFactory) -> Method:
    return RankedCandidates(factory.candidate_stage, factory.ranker.relevance)


# Standard methods for comparison.


@_method("item_knn")
def _item_knn(factory: MethodFactory) -> Method:
    return item_knn(factory.warm)


@_method("ease")
def _ease(factory: MethodFactory) -> Method:
    return Ease(factory.warm)


@_method("ials_fold_in")
def _ials_fold_in(factory: MethodFactory) -> Method:
    als = factory.inputs.als
    return IalsFoldIn(factory.warm, als.alpha, als.regularisation, als.exponent)


METHOD_NAMES = tuple(_BUILDERS)
METHODS_WITHOUT_IDS = tuple(_NAMES_WITHOUT_IDS)
