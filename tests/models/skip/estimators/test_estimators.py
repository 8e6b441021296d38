"""Properties that every skip model must have."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from models.skip.data.plays import IDS, Plays
from models.skip.estimators import registry
from models.skip.estimators.base import ARRAYS, CARD, SkipModel, best_pass
from models.skip.estimators.search_spaces import SPACES, grid, is_grid, sample
from models.skip.evaluation.metrics import auc
from tests.helpers.skip_world import split_in_three, with_ids, world

QUICK = {
    "rbm": {"epochs": 2, "components": 20},
    "graphsage": {"epochs": 4, "width": 16, "near": 4, "far": 2},
    "session_gru": {"epochs": 3, "length": 6, "hidden": 8},
    "fm": {"rank": 6, "learning_rate": 0.1},
    "pmf": {"learning_rate": 0.05},
    "boosted_trees": {"rounds": 60, "learning_rate": 0.1, "min_leaf_plays": 20},
    "ncf": {"epochs": 5, "learning_rate": 0.01},
    "neumf": {"epochs": 5, "learning_rate": 0.01},
}
NAMES = registry.NAMES
TRAIN, VALID, TEST = split_in_three(world())
UNSEEN = 999_999


def make_model(name: str) -> SkipModel:
    return registry.make(name, QUICK.get(name))


@cache
def fitted(name: str) -> SkipModel:
    model = make_model(name)
    history = model.fit(TRAIN, VALID, seed=3)
    assert history
    assert all(np.isfinite([epoch.train, epoch.valid]).all() for epoch in history)
    model.observe(TEST)
    return model


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def test_auc_on_simulated_plays_exceeds_a_minimum(name):
    score = fitted(name).predict_proba(TEST)
    # Track properties explain half of the simulated signal. A content model can use only the observable part of them.
    min_auc = {"content_based": 0.6, "rbm": 0.55, "truncated_svd": 0.55, "collaborative": 0.62}.get(name, 0.68)
    assert auc(TEST.labels(), score) > min_auc


def test_predictions_are_one_probability_per_play(name):
    score = fitted(name).predict_proba(TEST)
    assert score.shape == (len(TEST),)
    assert score.dtype == np.float64
    assert ((score >= 0) & (score <= 1)).all()
    assert len(fitted(name).predict_proba(TEST.rows(slice(0, 0)))) == 0


def test_repeated_predictions_are_equal(name):
    first = fitted(name).predict_proba(TEST)
    expected = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(fitted(name).predict_proba(TEST), expected)


def test_batch_equals_single_rows_in_order(name):
    batch = fitted(name).predict_proba(TEST)
    for b in range(0, len(TEST), 37):
        single = fitted(name).predict_proba(TEST.rows(slice(b, b + 1)))
        np.testing.assert_allclose(single, batch[b : b + 1], atol=2e-6)
    every_third = np.arange(0, len(TEST), 3)
    np.testing.assert_allclose(fitted(name).predict_proba(TEST.rows(every_third)), batch[every_third], atol=2e-6)


def test_save_and_load_preserve_predictions(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path)
    again = type(model).load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(TEST), model.predict_proba(TEST))
    assert again.recipe == model.recipe
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {CARD, ARRAYS}


def test_repeated_fits_are_equal(name):
    again = make_model(name)
    again.fit(TRAIN, VALID, seed=3)
    again.observe(TEST)
    np.testing.assert_array_equal(again.predict_proba(TEST), fitted(name).predict_proba(TEST))


def test_refit_on_the_same_plays_stops_where_validation_did(name):
    """Without validation, the same number of passes over the same plays gives the same model."""
    model = make_model(name)
    n_passes = best_pass(model.fit(TRAIN, VALID, seed=3))
    again = make_model(name)
    again.refit(TRAIN, n_passes, seed=3)
    assert again.recipe == model.recipe
    again.observe(VALID)  # fit() adds the validation plays to a history
    np.testing.assert_array_equal(again.predict_proba(TEST), model.predict_proba(TEST))


def test_unknown_ids_have_equal_predictions(name):
    model = fitted(name)
    for id_ in IDS:
        one = model.predict_proba(with_ids(TEST, **{id_: UNSEEN}))
        other = model.predict_proba(with_ids(TEST, **{id_: UNSEEN + 1}))
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
        if id_ not in model.needs.ids:
            np.testing.assert_array_equal(one, model.predict_proba(TEST))


def test_unused_features_do_not_change_predictions(name):
    model = fitted(name)
    if model.needs.numbers != ("all",):
        noise = np.random.default_rng(0).random(TEST.numbers_NF.shape).astype(np.float32)
        wanted = np.isin(TEST.names, model.needs.numbers)
        other = replace(TEST, numbers_NF=np.where(wanted, TEST.numbers_NF, noise))
        np.testing.assert_array_equal(model.predict_proba(other), model.predict_proba(TEST))


def test_labels_of_the_input_do_not_change_predictions(name):
    blind = replace(TEST, listened_N=None)
    np.testing.assert_array_equal(fitted(name).predict_proba(blind), fitted(name).predict_proba(TEST))


@pytest.mark.parametrize("label", [0, 1])
def test_single_class_raises(name, label):
    same = replace(TRAIN, listened_N=np.full(len(TRAIN), label, np.int8))
    with pytest.raises(ValueError, match=f"{name}: needs both listened and skipped plays"):
        make_model(name).fit(same, VALID)


def test_missing_labels_validation_or_fit_raises(name):
    with pytest.raises(ValueError, match="these have no listened_N"):
        make_model(name).fit(replace(TRAIN, listened_N=None), VALID)
    with pytest.raises(ValueError, match="needs validation plays"):
        make_model(name).fit(TRAIN, VALID.rows(slice(0, 0)))
    with pytest.raises(ValueError, match="not fitted; call"):
        make_model(name).predict_proba(TEST)


def test_missing_feature_raises_with_its_name(name):
    model = fitted(name)
    wanted = next(iter(n for n in model.needs.numbers if n != "all"), "user_plays")
    columns = [f for f, n in enumerate(TEST.names) if n != wanted]
    less = replace(TEST, numbers_NF=TEST.numbers_NF[:, columns], names=tuple(TEST.names[f] for f in columns))
    if model.needs.numbers:
        with pytest.raises(ValueError, match=wanted):
            model.predict_proba(less)


def test_unknown_features_have_finite_predictions(name):
    no_counters = replace(TEST, numbers_NF=np.full_like(TEST.numbers_NF, np.nan))
    assert np.isfinite(fitted(name).predict_proba(no_counters)).all()


def test_inconsistent_or_missing_files_raise(tmp_path):
    model = fitted("pmf")
    model.save(tmp_path)
    (tmp_path / ARRAYS).write_bytes((tmp_path / ARRAYS).read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is of another save"):
        registry.load(tmp_path)
    (tmp_path / ARRAYS).unlink()
    with pytest.raises(ValueError, match="missing"):
        registry.load(tmp_path)
    with pytest.raises(ValueError, match="contains no saved skip model"):
        registry.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="contains the model 'pmf', not 'fm'"):
        registry.MODELS["fm"].load(tmp_path)


def test_registry_makes_models_by_name_and_raises_on_unknown_names():
    for name in registry.NAMES:
        assert registry.make(name).name == name
    with pytest.raises(ValueError, match="no 'oracle'; there are content_based, "):
        registry.make("oracle")
    with pytest.raises(ValueError, match="the recipe has no depth; its fields are factors, "):
        registry.make("pmf", {"depth": 3})
    with pytest.raises(ValueError, match="learning_rate"):
        registry.make("pmf", {"learning_rate": 0})


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_search_trial_is_a_valid_recipe(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    trials = list(grid(space)) if is_grid(space) else [sample(space, rng) for _ in range(20)]
    for trial in trials:
        registry.make(name, trial)
    assert len({json.dumps(trial) for trial in trials}) > 1
    if not is_grid(space):
        with pytest.raises(ValueError, match="has no grid"):
            list(grid(space))


def test_later_plays_do_not_change_earlier_predictions():
    """Histories and graphs contain only plays strictly earlier than the predicted play."""
    for name in ("session_gru", "graphsage"):
        model = make_model(name)
        model.fit(TRAIN, VALID, seed=3)
        before = model.predict_proba(TEST)
        late = replace(TEST, ts_N=TEST.ts_N + 10**6, listened_N=1 - TEST.labels())
        model.observe(late)
        np.testing.assert_array_equal(model.predict_proba(TEST), before)


def test_session_model_uses_strictly_earlier_outcomes():
    model = make_model("session_gru")
    model.fit(TRAIN, VALID, seed=3)
    before = model.predict_proba(TEST)
    model.observe(TEST)
    after = model.predict_proba(TEST)
    first = np.unique(TEST.user_N, return_index=True)[1]
    np.testing.assert_array_equal(after[first], before[first])  # the first play of a user has no earlier test plays
    assert (after != before).any()
    model.observe(TEST)  # observing the same plays twice has no further effect
    np.testing.assert_array_equal(model.predict_proba(TEST), after)


def test_fit_does_not_change_its_input_or_the_global_generator(name):
    import torch

    train = replace(TRAIN, numbers_NF=TRAIN.numbers_NF.copy())
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    make_model(name).fit(train.rows(slice(0, 600)), VALID, seed=1)
    assert torch.equal(torch.rand(3), wanted)
    np.testing.assert_array_equal(train.numbers_NF, TRAIN.numbers_NF)


def test_single_play_of_an_unknown_user_has_a_prediction(name):
    alone: Plays = with_ids(TEST.rows(slice(0, 1)), user=UNSEEN, track=UNSEEN, artist=UNSEEN, album=UNSEEN)
    assert 0 <= fitted(name).predict_proba(alone)[0] <= 1
