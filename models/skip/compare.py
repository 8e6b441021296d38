"""All models on the same plays: each fitted, its threshold chosen on validation, judged on the test; and their blend.

Shapes   N plays of the test
Time     test plays come after those of training and validation where the split is by time; a test play's own numbers
         and history hold strictly earlier plays, test plays among them, as they would when a service answers
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.skip import registry
from models.skip.blend import Blend, BlendRecipe, Make, fold_borders, fold_of, out_of_fold
from models.skip.interface import History, SkipModel
from models.skip.metrics import auc, auc_by_slice, auc_difference, best_threshold, report
from models.skip.mix import logit
from models.skip.plays import Plays

OnModel = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True, eq=False)
class Judged:
    """A fitted model and what became of it."""

    model: SkipModel
    history: History
    valid_N: NDArray[np.float64]
    test_N: NDArray[np.float64]
    report: dict[str, Any]


def judged(model: SkipModel, history: History, valid: Plays, test: Plays) -> Judged:
    """A fitted model's answers and report; AUC also on Flow plays and on the others."""
    valid_N = model.predict_proba(valid)
    model.observe(test)
    test_N = model.predict_proba(test)
    listened_N, user_N = test.labels(), test.user_N
    found = report(listened_N, test_N, best_threshold(valid.labels(), valid_N), user_N)
    slices = auc_by_slice(listened_N, test_N, {"flow": test.is_flow_N, "not_flow": ~test.is_flow_N}, user_N)
    found["slices"] = {name: None if part is None else asdict(part) for name, part in slices.items()}
    found["validation_auc"] = auc(valid.labels(), valid_N)
    return Judged(model, history, valid_N, test_N, found)


def compare(
    train: Plays,
    valid: Plays,
    test: Plays,
    names: Sequence[str] = registry.NAMES,
    blend: BlendRecipe | None = None,
    make: Make = registry.make,
    seed: int = 0,
    on_model: OnModel | None = None,
) -> dict[str, Judged]:
    """Every model by its name, in the order given, then "blend" where a recipe for one is given.

    A blend's report tells by how much its test AUC is above that of each member ("above"), with paired intervals.
    `on_model(name, report)` is called after each.

    Raises:
        ValueError: a blend of models that are not among the names; what the models refuse.
    """
    missing = sorted(set(blend.members) - set(names)) if blend is not None else []
    if missing:
        raise ValueError(f"compare: the blend's members {', '.join(missing)} are not among the models to compare")
    found: dict[str, Judged] = {}
    for name in names:
        model = make(name)
        found[name] = judged(model, model.fit(train, valid, seed), valid, test)
        _tell(on_model, name, found[name])
    if blend is not None:
        found["blend"] = _blended(found, blend, train, valid, test, make, seed)
        _tell(on_model, "blend", found["blend"])
    return found


def _blended(
    found: Mapping[str, Judged], recipe: BlendRecipe, train: Plays, valid: Plays, test: Plays, make: Make, seed: int
) -> Judged:
    """The blend of models that are fitted already: only their folds are still to be learned."""
    borders = fold_borders(len(train), recipe.folds, recipe.first_share)
    folds = {name: logit(out_of_fold(make, name, train, borders, seed)) for name in recipe.members}
    held = {name: logit(found[name].valid_N) for name in recipe.members}
    whole = Blend(recipe, make)
    fitted = {name: found[name].model for name in recipe.members}
    history = whole.compose(fitted, folds, held, train.labels()[borders[0] :], fold_of(borders), valid.labels())
    result = judged(whole, history, valid, test)
    result.report["weights"] = whole.weights()
    result.report["above"] = {
        name: asdict(auc_difference(test.labels(), result.test_N, found[name].test_N, test.user_N))
        for name in recipe.members
    }
    return result


def _tell(on_model: OnModel | None, name: str, result: Judged) -> None:
    if on_model is not None:
        on_model(name, result.report)
