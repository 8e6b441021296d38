"""Registry of the skip models by name; their blend is in models/skip/ensemble/fit.py.

Importing this module imports PyTorch, scikit-learn and LightGBM.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from models.skip.estimators.base import SkipModel, read_card
from models.skip.estimators.boosted_trees import BoostedTrees
from models.skip.estimators.factorization_machine import FactorisationMachine
from models.skip.estimators.graphsage import GraphSage
from models.skip.estimators.logistic_regression import FeatureRegression
from models.skip.estimators.matrix_factorization import Pmf, TruncatedSvd
from models.skip.estimators.ncf import Ncf, NeuMf
from models.skip.estimators.onehot_regression import Collaborative, ContentBased
from models.skip.estimators.rbm import Rbm
from models.skip.estimators.session_gru import SessionGru

# The nine models of the report in its order, then the engine's own.
_MODELS: tuple[type[SkipModel], ...] = (
    ContentBased,
    Collaborative,
    TruncatedSvd,
    Pmf,
    Rbm,
    FactorisationMachine,
    Ncf,
    NeuMf,
    GraphSage,
    FeatureRegression,
    BoostedTrees,
    SessionGru,
)
MODELS: dict[str, type[SkipModel]] = {model.name: model for model in _MODELS}
NAMES = tuple(MODELS)


def make(name: str, settings: Mapping[str, Any] | None = None) -> SkipModel:
    """Create a model that is not fitted.

    Args:
        name: One of NAMES.
        settings: Values of fields of the model's recipe; other fields have their defaults.

    Raises:
        ValueError: There is no such model, the recipe has no such field, or a value is invalid.
    """
    if name not in MODELS:
        raise ValueError(f"skip models: no {name!r}; there are {', '.join(NAMES)}")
    recipe = MODELS[name].Recipe
    field_names, given = [f.name for f in fields(recipe)], dict(settings or {})
    unknown = sorted(set(given) - set(field_names))
    if unknown:
        raise ValueError(
            f"{name}: the recipe has no {', '.join(unknown)}; its fields are {', '.join(field_names) or 'none'}"
        )
    return MODELS[name](recipe(**given))


def load(folder: Path) -> SkipModel:
    """Load a saved model of any class.

    Raises:
        ValueError: The folder has no model, its name is not one of NAMES, or its files are damaged.
    """
    name = read_card(folder)["model"]
    if name not in MODELS:
        raise ValueError(f"{folder}: contains a model {name!r}; there are {', '.join(NAMES)}")
    return MODELS[name].load(folder)
