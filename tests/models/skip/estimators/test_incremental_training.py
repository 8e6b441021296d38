"""Incremental training of skip models: adaptation, save and load, unsupported models."""

from dataclasses import replace

import numpy as np
import pytest

from models.skip.data.arrays import log_loss
from models.skip.estimators import registry
from tests.helpers.skip_world import split_in_three, world

RECIPES = {
    "logistic_features": {},
    "boosted_trees": {"rounds": 200, "learning_rate": 0.1, "min_leaf_plays": 20},
    "ncf": {"epochs": 5, "learning_rate": 0.02},
    "neumf": {"epochs": 5, "learning_rate": 0.02},
    "session_gru": {"epochs": 3, "length": 6, "hidden": 8, "learning_rate": 0.02},
    "fm": {"rank": 6, "learning_rate": 0.1},
}
TRAIN, VALID, TEST = split_in_three(world())


def with_changed_behaviour(plays):
    """Change the behaviour of all users: they listen to Flow plays and skip the others, unlike in the earlier plays."""
    flow_N = np.arange(len(plays)) % 2 == 0
    return replace(plays, is_flow_N=flow_N, listened_N=flow_N.astype(np.int8))


NEW, NEW_VALID, LATER = split_in_three(
    replace(with_changed_behaviour(world(seed=5)), ts_N=world(seed=5).ts_N + 31 * 86_400)
)


@pytest.fixture(params=RECIPES)
def name(request):
    return request.param


def fitted(name):
    model = registry.make(name, RECIPES[name])
    model.fit(TRAIN, VALID, seed=3)
    for part in (TEST, NEW, NEW_VALID, LATER):
        model.observe(part)
    return model


def loss(model):
    return log_loss(LATER.labels(), model.predict_proba(LATER))


def test_partial_fit_adapts_to_changed_behaviour(name):
    model = fitted(name)
    before = loss(model)
    history = model.partial_fit(NEW, NEW_VALID, seed=4)
    assert history
    assert loss(model) < before - 0.01


def test_partial_fit_is_equal_after_save_and_load(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path / "before")
    other = registry.load(tmp_path / "before")
    for one in (model, other):
        one.partial_fit(NEW, NEW_VALID, seed=4)
        one.partial_fit(NEW_VALID, LATER, seed=5)  # the state after the first step affects the second
    np.testing.assert_array_equal(model.predict_proba(LATER), other.predict_proba(LATER))
    model.save(tmp_path / "after")
    np.testing.assert_array_equal(registry.load(tmp_path / "after").predict_proba(LATER), model.predict_proba(LATER))


@pytest.mark.parametrize("label", [0, 1])
def test_partial_fit_on_a_single_class_raises(name, label):
    with pytest.raises(ValueError, match=f"{name}: needs both listened and skipped plays"):
        fitted(name).partial_fit(replace(NEW, listened_N=np.full(len(NEW), label, np.int8)), NEW_VALID)


@pytest.mark.parametrize("other", sorted(set(registry.NAMES) - set(RECIPES) - {"graphsage", "rbm"}))
def test_partial_fit_raises_where_unsupported(other):
    model = registry.make(other)
    with pytest.raises(ValueError, match="not fitted; call"):
        model.partial_fit(NEW, NEW_VALID)
    model.fit(TRAIN, VALID, seed=3)
    with pytest.raises(ValueError, match=f"{other}: does not support incremental training"):
        model.partial_fit(NEW, NEW_VALID)


def test_regression_updated_on_the_second_half_is_close_to_a_full_fit():
    half = len(TRAIN) // 2
    models = [registry.make("logistic_features") for _ in range(3)]
    first, second = TRAIN.rows(slice(0, half)), TRAIN.rows(slice(half, None))
    models[0].fit(TRAIN, VALID)
    models[1].fit(first, VALID)
    models[2].fit(first, VALID)
    models[2].partial_fit(second, VALID)
    whole, part, both = (log_loss(TEST.labels(), model.predict_proba(TEST)) for model in models)
    assert abs(both - whole) < abs(part - whole)
    assert models[2].precision_G.sum() == pytest.approx(models[0].precision_G.sum(), rel=0.1)


def test_state_of_another_version_raises(tmp_path):
    model = fitted("fm")
    state = model._state
    model._state = lambda: (state()[0], {k: v for k, v in state()[1].items() if k != "factors_sq"})
    model.save(tmp_path)
    with pytest.raises(ValueError, match="'factors_sq' is missing; another version"):
        registry.load(tmp_path)
