"""The methods of the paper's Table 1 over the public files: one builder per name, fitted on the warm users.

A builder takes a `Task` and returns a `Method`. METHODS maps the names of all methods of
models/cold_start/methods/registry.py that need no ids to their builders. What methods share, such as a network, is
built with the first of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from blockfactor.kmeans import KMeans, kmeans
from jobs.cold_start.methods import MethodRecipes
from jobs.ingest.deezer.adapter import PublicData
from jobs.platform.progress import log_line
from jobs.settings.paper import PaperSettings
from models.cold_start.methods import Method, Predict, WarmListeners
from models.cold_start.methods.registry import METHODS_WITHOUT_IDS, MethodFactory, MethodInputs
from models.cold_start.network import CODE_RECIPE, PAPER_RECIPE, NetworkRecipe, fit, predict
from models.cold_start.segments import listener_counts, rankings
from models.evaluation.ties import length_with_ties, tie_levels

RANKING = 200  # minimum number of tracks in a segment's ranking
UT_ALS_EPOCHS = 130  # the paper's value for UT-ALS; TT-SVD uses 100
LOG_EVERY_S = 30.0


@dataclass
class Clock:
    """Wall-clock seconds by stage; the time of a nested stage does not count for the outer one."""

    seconds: dict[str, float] = field(default_factory=dict)
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
        log_line(f"paper: {text}")


@dataclass(eq=False)
class Task:
    """Inputs of the builders, and what methods share: segments, rankings, network."""

    data: PublicData
    settings: PaperSettings
    seed: int
    recipes: MethodRecipes
    clock: Clock = field(default_factory=Clock)
    losses: list[float] = field(default_factory=list)

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
        """Training data for `fit` of a method; rankings are long enough that no tie at place k is cut."""
        clusters, n = self.clusters, len(self.data.track_ND)
        length = min(n, max(RANKING, self.settings.k, length_with_ties(self.counts_KN, self.settings.k)))
        return WarmListeners(
            x_UF=self.data.parts["train"].x_BF,
            user_UD=self.data.user_UD,
            track_ND=self.data.track_ND,
            heard_UN=self.heard_UN,
            labels_U=clusters.labels,
            centroids_KD=clusters.centroids,
            rankings_KL=rankings(clusters.labels, self.heard_UN, self.settings.segments, length),
        )

    @cached_property
    def levels_KL(self) -> NDArray[np.int32]:
        """Number of members who streamed each ranked track (K, L); tracks of equal number are tied."""
        return tie_levels(self.counts_KN, self.warm.rankings_KL)

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


METHODS: Mapping[str, Builder] = {name: _builder(name) for name in METHODS_WITHOUT_IDS}


def segment_levels(task: Task, method: Method) -> NDArray[np.int32] | None:
    """Return tie levels (K, L) if the method recommends the rankings of `task.warm`, else None."""
    lists = getattr(method, "rankings", None)
    shared = isinstance(lists, np.ndarray) and np.shares_memory(lists, task.warm.rankings_KL)
    return task.levels_KL if shared else None
