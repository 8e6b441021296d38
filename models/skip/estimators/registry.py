"""Every skip model by its name; the blend of them is in models/skip/ensemble/fit.py.

Importing this brings PyTorch, scikit-learn and LightGBM in.
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

# The nine of the report in its order, then our own.
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
    """The model of this name, not fitted; `settings` replace fields of its recipe.

    Raises:
        ValueError: no such model, a field that its recipe has not, or a value that the recipe refuses.
    """
    if name not in MODELS:
        raise ValueError(f"skip models: no {name!r}; there are {', '.join(NAMES)}")
    recipe = MODELS[name].Recipe
    known, given = [f.name for f in fields(recipe)], dict(settings or {})
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{name}: its recipe has no {', '.join(unknown)}; it has {', '.join(known) or 'nothing'}")
    return MODELS[name](recipe(**given))


def load(folder: Path) -> SkipModel:
    """The model that was saved in a folder, whichever it is.

    Raises:
        ValueError: none there, of a name that is not known, or damaged.
    """
    name = read_card(folder)["model"]
    if name not in MODELS:
        raise ValueError(f"{folder}: holds a {name!r}; there are {', '.join(NAMES)}")
    return MODELS[name].load(folder)
