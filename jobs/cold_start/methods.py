"""The week's methods: which are evaluated in a space, and how they are built from the week's tables and settings.

Input   track_vectors, segments, demographic_rankings, catalog, work/<week>/<space>/; to train baselines also features,
        first_day, warm_users, user_vectors, user_track
"""

from __future__ import annotations

from functools import cache
from typing import TypedDict

import numpy as np

from jobs.cold_start import blend_artifacts, onnx_export, ranker_artifacts
from jobs.cold_start.training_data import catalogue, warm_side
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.settings.base import Space
from jobs.settings.cold_start import METHODS, PEERS
from jobs.settings.settings import Settings
from jobs.tracking.tracker import Tracker
from models.arrays import IntVector
from models.cold_start.methods import Method
from models.cold_start.methods.country_age import CountryAge, Group
from models.cold_start.methods.dropoutnet import DropoutNetRecipe
from models.cold_start.methods.first_day_network import FirstDayNetworkRecipe
from models.cold_start.methods.melu import MeluRecipe
from models.cold_start.methods.neighbours import NeighbourRecipe
from models.cold_start.methods.ranker import RankerRecipe
from models.cold_start.methods.registry import AlsRecipe, InHouseConfig, MethodFactory, MethodInputs, OnLoss

SECTIONS = {"first_day_autoencoder": "autoencoder", "segment_mixture": "mixture"}  # settings section of each network


def methods_to_evaluate(context: Context, space: Space) -> tuple[str, ...]:
    """Return the names of the methods to evaluate: those of the settings, in a backtest all but the peers.

    The method of the release is always among them. A fold-in needs the factors of ALS, so it is evaluated in ut_als
    only.
    """
    gate = context.settings.gate
    ours = tuple(name for name in METHODS if name not in PEERS)
    requested = ours if context.week.backtest else context.settings.evaluation.methods
    served = (gate.method,) if space == gate.space else ()
    names = tuple(name for name in METHODS if name in (*requested, *served))
    return tuple(name for name in names if name != "ials_fold_in" or space == "ut_als")


def build_methods(context: Context, space: Space, run: Tracker) -> list[Method]:
    """Return the methods to evaluate in one space; the training of methods is logged to `run`.

    Networks of the release are evaluated as they are served: through onnxruntime.
    """
    losses: list[tuple[str, float, int]] = []
    factory = method_factory(context, space, lambda name, epoch, loss: losses.append((f"{name}.loss", loss, epoch)))
    methods: list[Method] = []
    gate = context.settings.gate
    for name in methods_to_evaluate(context, space):
        if name == "blend" and gate.blended(space):
            methods.append(blend_artifacts.read(blend_artifacts.blend_folder(context, space), catalogue(context)))
        elif name == "ranked_candidates" and gate.ranked(space):
            blend = blend_artifacts.read(blend_artifacts.blend_folder(context, space), catalogue(context))
            folder, track_ND = ranker_artifacts.ranker_folder(context, space), factory.inputs.track_ND
            methods.append(ranker_artifacts.read(folder, blend, track_ND))
        else:
            methods.append(factory.build(name))
    log_learning(run, losses, factory.inputs.seed)
    return methods


def log_learning(run: Tracker, losses: list[tuple[str, float, int]], seed: int) -> None:
    """Log the losses by epoch and the settings of the trained networks."""
    if not losses:
        return
    run.log_batch(losses)
    learned = {name.partition(".")[0] for name, _, _ in losses}
    sections = {"ranker" if name.startswith("ranker_fold") else SECTIONS.get(name, name) for name in learned}
    run.log_params({"seed": seed, **run.context.settings.model_dump(include=sections)})


def method_factory(context: Context, space: Space, on_loss: OnLoss) -> MethodFactory:
    """Return the factory of methods over one space of the week."""
    settings, week = context.settings, context.week
    tracks_ND = context.lake.matrix("track_vectors", week=week.name, space=space)
    segments = context.lake.read("segments", week=week.name, space=space).sort_by("segment_id")
    centroids_KD = to_matrix(segments, "centroid")
    ranked = segments.column("ranking").combine_chunks()
    ranking_KR = ranked.flatten().to_numpy().reshape(len(ranked), -1)
    network = cache(lambda: onnx_export.session(onnx_export.read_network(context, space).network))
    return MethodFactory(
        MethodInputs(
            tracks_ND,
            centroids_KD,
            ranking_KR,
            predict=lambda x_BF: onnx_export.run(network(), x_BF),
            warm=lambda: warm_side(context, space, tracks_ND, centroids_KD, ranking_KR),
            similarity=settings.evaluation.similarity,
            seed=context.seed(f"methods/{space}"),
            on_loss=on_loss,
            country_age=CountryAge(len(tracks_ND), read_group_rankings(context, space)),
            **method_recipes(settings),
        )
    )


def read_group_rankings(context: Context, space: Space) -> dict[Group, IntVector]:
    """Return the rankings of the week's groups by country and age class."""
    table = context.lake.read("demographic_rankings", week=context.week.name, space=space)
    groups = zip(table["kind"].to_pylist(), table["name"].to_pylist(), strict=True)
    return {
        group: np.array(ranking, np.int32) for group, ranking in zip(groups, table["ranking"].to_pylist(), strict=True)
    }


class MethodRecipes(TypedDict):
    """Arguments of MethodInputs that come from the settings alone."""

    dropoutnet: DropoutNetRecipe
    melu: MeluRecipe
    in_house: InHouseConfig
    als: AlsRecipe


def method_recipes(settings: Settings) -> MethodRecipes:
    """Return the recipes of all methods that are trained when they are built."""
    return MethodRecipes(
        dropoutnet=DropoutNetRecipe(**settings.dropoutnet.model_dump()),
        melu=MeluRecipe(**settings.melu.model_dump()),
        in_house=in_house_config(settings),
        als=AlsRecipe(settings.als.alpha, settings.als.regularisation, settings.als.frequency_exponent),
    )


def in_house_config(settings: Settings) -> InHouseConfig:
    """Return the settings of this project's own methods."""
    mixture = settings.mixture
    return InHouseConfig(
        autoencoder=FirstDayNetworkRecipe(**settings.autoencoder.model_dump()),
        mixture=FirstDayNetworkRecipe(**mixture.model_dump(include=set(type(settings.autoencoder).model_fields))),
        neighbours=NeighbourRecipe(**settings.neighbours.model_dump()),
        smoothing=mixture.smoothing,
        sharpness=mixture.sharpness,
        autoencoder_weight=settings.autoencoder_weight,
        list_length=mixture.list_length,
        mixture_weight=mixture.mixture_weight,
        ranker=RankerRecipe(**settings.ranker.model_dump(exclude={"keep_weeks"})),
    )
