"""The methods of the paper's Table 1 over the public files: one builder per name, fitted on the warm users.

A builder takes a `Task` and returns a `Method`. METHODS maps the names of all methods of
models/cold_start/methods/registry.py that need no ids to their builders, and those of the paper's ablation of the
network, linear regression (models/cold_start/linear_regression.py). What methods share, such as a network, is built
with the first of them.

Ties     The authors' code scores a segment's tracks by the share of their listeners, and scikit-learn's NDCG averages
         over tracks of one score. `tied_lists` returns these scores for every method whose list is a ranking by
         listeners; the others score tracks by products of vectors, which do not tie
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array

from blockfactor.kmeans import KMeans, kmeans
from jobs.cold_start.methods import MethodRecipes
from jobs.ingest.deezer.adapter import PublicData
from jobs.platform.progress import log_line
from jobs.settings.paper import PaperSettings
from models.arrays import FloatMatrix, IntMatrix, IntVector
from models.cold_start.linear_regression import fit_linear_regression
from models.cold_start.methods import Method, Predict, WarmListeners
from models.cold_start.methods.baselines import RegistrationDayStreams
from models.cold_start.methods.registry import METHODS_WITHOUT_IDS, MethodFactory, MethodInputs
from models.cold_start.methods.semi_personalised import FullPers, SemiPers
from models.cold_start.network import CODE_RECIPE, PAPER_RECIPE, NetworkRecipe, fit, predict
from models.cold_start.segments import listener_counts, rankings
from models.evaluation.ties import length_with_ties, tie_levels

RANKING = 200  # minimum number of tracks in a segment's ranking
UT_ALS_EPOCHS = 130  # the paper's value for UT-ALS; TT-SVD uses 100
LOG_EVERY_S = 30.0
# Methods that do not depend on the seed: they are fitted once, whatever paper.models is.
WITHOUT_SEED = (
    "popularity",
    "registration_day_streams",
    "registration_day_streams_no_fallback",
    "linear_regression_full",
)


@dataclass
class Clock:
    """Wall-clock seconds by stage; the time of a nested stage does not count for the outer one.

    Attributes:
        seconds: seconds by stage.
        prefix: start of each progress line.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    prefix: str = ""
    _inner: list[float] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the time of the `with` block and log it when the block ends."""
        start = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            total_s = time.perf_counter() - start
            own_s = total_s - self._inner.pop()
            if self._inner:
                self._inner[-1] += total_s
            self.seconds[name] = self.seconds.get(name, 0.0) + own_s
        self.log(f"{name}: {own_s:.1f} s")

    def log(self, text: str) -> None:
        """Write a progress line to stderr."""
        log_line(f"paper: {self.prefix}{text}")


@dataclass(eq=False)
class Task:
    """Inputs of the builders, and what methods share: segments, rankings, network."""

    data: PublicData
    settings: PaperSettings
    seed: int
    recipes: MethodRecipes
    clock: Clock = field(default_factory=Clock)
    losses: list[float] = field(default_factory=list)

    def with_seed(self, seed: int, clock: Clock) -> Task:
        """Return a task with another seed, for a further fit; what does not depend on the seed is shared."""
        other = Task(self.data, self.settings, seed, self.recipes, clock)
        shared = ("heard_UN", "linear_regression")
        other.__dict__.update({name: self.__dict__[name] for name in shared if name in self.__dict__})
        return other

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths of the evaluated lists, ascending: paper.k and paper.other_k."""
        return tuple(sorted({self.settings.k, *self.settings.other_k}))

    @cached_property
    def heard_UN(self) -> csr_array:
        """Matrix (U, N) with a one for each track that a warm user streamed on days 1 to 30."""
        truth = self.data.parts["train"].truth
        ones = np.ones(truth.ids.size, np.float32)
        shape = (len(truth), len(self.data.track_ND))
        return csr_array((ones, truth.ids.astype(np.int32), truth.offsets), shape=shape)

    @cached_property
    def clusters(self) -> KMeans:
        """Segments of the warm users: k-means over their vectors."""
        settings = self.settings
        return kmeans(self.data.user_UD, settings.segments, self.seed, settings.max_iter, settings.n_init)

    @cached_property
    def counts_KN(self) -> csr_array:
        """Number of members of each segment who streamed each track: (K, N)."""
        return listener_counts(self.clusters.labels, self.heard_UN, self.settings.segments)

    @cached_property
    def warm(self) -> WarmListeners:
        """Training data for `fit` of a method; rankings are long enough that no tie at the last place is cut."""
        clusters, n = self.clusters, len(self.data.track_ND)
        length = min(n, max(RANKING, length_with_ties(self.counts_KN, self.lengths[-1])))
        return WarmListeners(
            x_UF=self.data.parts["train"].x_BF,
            user_UD=self.data.user_UD,
            track_ND=self.data.track_ND,
            heard_UN=self.heard_UN,
            labels_U=clusters.labels,
            centroids_KD=clusters.centroids,
            rankings_KL=rankings(clusters.labels, self.heard_UN, self.settings.segments, length),
        )

    @property
    def recipe(self) -> NetworkRecipe:
        """Recipe of the network: that of the settings, with the paper's number of epochs for the space."""
        network_recipe = {"paper": PAPER_RECIPE, "code": CODE_RECIPE}[self.settings.recipe]
        if self.data.space == "ut_als":
            network_recipe = replace(network_recipe, epochs=UT_ALS_EPOCHS)
        return replace(
            network_recipe, device=self.settings.device, epochs=self.settings.epochs or network_recipe.epochs
        )

    @cached_property
    def network(self) -> Predict:
        """Prediction function of the trained network."""
        recipe, logged_at = self.recipe, time.monotonic()

        def on_epoch(epoch: int, loss: float, _: float | None) -> None:
            nonlocal logged_at
            self.losses.append(loss)
            if time.monotonic() - logged_at >= LOG_EVERY_S:
                logged_at = time.monotonic()
                self.clock.log(f"network: epoch {epoch + 1} of {recipe.epochs}, mean squared error {loss:.6f}")

        with self.clock.stage("train the network"):
            net = fit(self.warm.x_UF, self.warm.user_UD, recipe, self.seed, on_epoch)
        return lambda x_BF: predict(net, x_BF)

    @cached_property
    def linear_regression(self) -> Predict:
        """Prediction function of the ablation of the network."""
        with self.clock.stage("fit the linear regression"):
            return fit_linear_regression(self.data.parts["train"].x_BF, self.data.user_UD)

    @cached_property
    def method_factory(self) -> MethodFactory:
        """Factory that builds the methods."""

        def on_loss(network: str, epoch: int, loss: float) -> None:
            self.clock.log(f"{network}: epoch {epoch + 1}, loss {loss:.6f}")

        warm = self.warm
        return MethodFactory(
            MethodInputs(
                warm.track_ND,
                warm.centroids_KD,
                warm.rankings_KL,
                lambda x_BF: self.network(x_BF),
                lambda: warm,
                self.settings.similarity,
                self.seed,
                on_loss=on_loss,
                **self.recipes,
            )
        )


Builder = Callable[[Task], Method]


def _builder(name: str) -> Builder:
    def build(task: Task) -> Method:
        if name in ("full_pers", "semi_pers", "near_segments"):
            _ = task.network  # train the network while the method is built, not at its first prediction
        return task.method_factory.build(name)

    return build


def _linear_regression_full(task: Task) -> Method:
    return FullPers(task.linear_regression, task.data.track_ND, task.settings.similarity)


def _linear_regression_semi(task: Task) -> Method:
    return SemiPers(task.linear_regression, task.warm.centroids_KD, task.warm.rankings_KL)


METHODS: Mapping[str, Builder] = {
    **{name: _builder(name) for name in METHODS_WITHOUT_IDS},
    "linear_regression_full": _linear_regression_full,
    "linear_regression_semi": _linear_regression_semi,
}


@dataclass(frozen=True, eq=False)
class TiedLists:
    """Rankings by number of listeners, and which of them each listener gets.

    Attributes:
        rankings_KL: tracks of each ranking, long enough that no tie at the last evaluated place is cut.
        levels_KL: number of listeners of each ranked track; tracks of equal number are tied.
        row_B: ranking of each listener; -1: the list of this listener has no ties.
    """

    rankings_KL: IntMatrix
    levels_KL: IntMatrix
    row_B: IntVector


def tied_lists(task: Task, method: Method, x_BF: FloatMatrix) -> TiedLists | None:
    """Return the rankings that the lists of a method are taken from; None if it does not rank by listeners.

    Args:
        task: inputs of the method.
        method: a fitted method.
        x_BF: input vectors of the listeners.
    """
    if isinstance(method, SemiPers):
        labels_U, k, row_B = task.clusters.labels, task.settings.segments, method.segments(x_BF)
    elif hasattr(method, "labels"):  # clusters of its own
        labels_U, k, row_B = method.labels, len(method.centroids), method.segments(x_BF)  # type: ignore[attr-defined]
    elif method.name in ("popularity", RegistrationDayStreams.name):
        labels_U, k, row_B = np.zeros(task.heard_UN.shape[0], np.int64), 1, np.zeros(len(x_BF), np.int64)
        if isinstance(method, RegistrationDayStreams):  # the popular tracks are the fallback
            row_B -= x_BF[:, task.data.layout.block("streamed_songs")].any(axis=1)
    else:
        return None
    counts_KN = listener_counts(labels_U, task.heard_UN, k)
    rankings_KL = rankings(labels_U, task.heard_UN, k, length_with_ties(counts_KN, task.lengths[-1]))
    return TiedLists(rankings_KL, tie_levels(counts_KN, rankings_KL), row_B)
