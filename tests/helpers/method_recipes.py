"""Recipes of methods: the defaults of the settings, with changes."""

from __future__ import annotations

from typing import Any

from jobs.cold_start.methods import in_house_config
from jobs.settings.cold_start import (
    DropoutNetSettings,
    FirstDayNetworkSettings,
    MeluSettings,
    NeighbourSettings,
    NetworkSettings,
    RankerSettings,
)
from jobs.settings.settings import Settings
from models.cold_start.methods.dropoutnet import DropoutNetRecipe
from models.cold_start.methods.first_day_network import FirstDayNetworkRecipe
from models.cold_start.methods.melu import MeluRecipe
from models.cold_start.methods.neighbours import NeighbourRecipe
from models.cold_start.methods.ranker import RankerRecipe
from models.cold_start.methods.registry import InHouseConfig
from models.cold_start.network import NetworkRecipe


def network_recipe(**changes: Any) -> NetworkRecipe:
    return NetworkRecipe(**(NetworkSettings().model_dump(exclude={"holdout_share"}) | changes))


def dropoutnet_recipe(**changes: Any) -> DropoutNetRecipe:
    return DropoutNetRecipe(**(DropoutNetSettings().model_dump() | changes))


def melu_recipe(**changes: Any) -> MeluRecipe:
    return MeluRecipe(**(MeluSettings().model_dump() | changes))


def first_day_network_recipe(**changes: Any) -> FirstDayNetworkRecipe:
    return FirstDayNetworkRecipe(**(FirstDayNetworkSettings().model_dump() | changes))


def neighbour_recipe(**changes: Any) -> NeighbourRecipe:
    return NeighbourRecipe(**(NeighbourSettings().model_dump() | changes))


def ranker_recipe(**changes: Any) -> RankerRecipe:
    return RankerRecipe(**(RankerSettings().model_dump(exclude={"keep_weeks"}) | changes))


def in_house(**changes: Any) -> InHouseConfig:
    """Return the configuration of the in-house methods; `changes` are fields of InHouseConfig."""
    default = in_house_config(Settings(name="test", week="2026-11-16"))
    return InHouseConfig(**(vars(default) | changes))
