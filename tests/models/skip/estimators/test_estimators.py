"""Laws that every skip model passes."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from models.skip.data.plays import IDS, Plays
from models.skip.estimators import registry
from models.skip.estimators.base import ARRAYS, CARD, SkipModel
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


def made(name: str) -> SkipModel:
    return registry.make(name, QUICK.get(name))


@cache
def fitted(name: str) -> SkipModel:
    model = made(name)
    history = model.fit(TRAIN, VALID, seed=3)
    assert history
    assert all(np.isfinite([epoch.train, epoch.valid]).all() for epoch in history)
    model.observe(TEST)
    return model


@pytest.fixture(params=NAMES)
def name(request) -> str:
    return request.param


def test_learns_an_easy_truth(name):
    score = fitted(name).predict_proba(TEST)
    # What a track is like explains half of the truth, and what it can see of that is all a content model has.
    least = {"content_based": 0.6, "rbm": 0.55, "truncated_svd": 0.55, "collaborative": 0.62}.get(name, 0.68)
    assert auc(TEST.labels(), score) > least


def test_answers_are_probabilities_of_each_play(name):
    score = fitted(name).predict_proba(TEST)
    assert score.shape == (len(TEST),)
    assert score.dtype == np.float64
    assert ((score >= 0) & (score <= 1)).all()
    assert len(fitted(name).predict_proba(TEST.rows(slice(0, 0)))) == 0


def test_asking_again_gives_the_same(name):
    first = fitted(name).predict_proba(TEST)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(fitted(name).predict_proba(TEST), kept)


def test_a_batch_equals_singles_and_row_b_is_about_row_b(name):
    batch = fitted(name).predict_proba(TEST)
    for b in range(0, len(TEST), 37):
        single = fitted(name).predict_proba(TEST.rows(slice(b, b + 1)))
        np.testing.assert_allclose(single, batch[b : b + 1], atol=2e-6)
    every_third = np.arange(0, len(TEST), 3)
    np.testing.assert_allclose(fitted(name).predict_proba(TEST.rows(every_third)), batch[every_third], atol=2e-6)


def test_save_and_load_give_the_same(name, tmp_path):
    model = fitted(name)
    model.save(tmp_path)
    again = type(model).load(tmp_path)
    np.testing.assert_array_equal(again.predict_proba(TEST), model.predict_proba(TEST))
    assert again.recipe == model.recipe
    names = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert names == {CARD, ARRAYS}


def test_the_second_fit_equals_the_first(name):
    again = made(name)
    again.fit(TRAIN, VALID, seed=3)
    again.observe(TEST)
    np.testing.assert_array_equal(again.predict_proba(TEST), fitted(name).predict_proba(TEST))


def test_unknown_ids_are_answered_alike(name):
    model = fitted(name)
    for id_ in IDS:
        one = model.predict_proba(with_ids(TEST, **{id_: UNSEEN}))
        other = model.predict_proba(with_ids(TEST, **{id_: UNSEEN + 1}))
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(one, other)
        if id_ not in model.needs.ids:
            np.testing.assert_array_equal(one, model.predict_proba(TEST))


def test_what_a_model_does_not_need_changes_nothing(name):
    model = fitted(name)
    if model.needs.numbers != ("all",):
        noise = np.random.default_rng(0).random(TEST.numbers_NF.shape).astype(np.float32)
        wanted = np.isin(TEST.names, model.needs.numbers)
        other = replace(TEST, numbers_NF=np.where(wanted, TEST.numbers_NF, noise))
        np.testing.assert_array_equal(model.predict_proba(other), model.predict_proba(TEST))


def test_labels_of_the_plays_asked_about_do_not_matter(name):
    blind = replace(TEST, listened_N=None)
    np.testing.assert_array_equal(fitted(name).predict_proba(blind), fitted(name).predict_proba(TEST))


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(name, label):
    same = replace(TRAIN, listened_N=np.full(len(TRAIN), label, np.int8))
    with pytest.raises(ValueError, match=f"{name}: needs both listened and skipped plays"):
        made(name).fit(same, VALID)


def test_no_labels_no_validation_and_no_fit_are_refused(name):
    with pytest.raises(ValueError, match="these have no listened_N"):
        made(name).fit(replace(TRAIN, listened_N=None), VALID)
    with pytest.raises(ValueError, match="needs validation plays"):
        made(name).fit(TRAIN, VALID.rows(slice(0, 0)))
    with pytest.raises(ValueError, match="not fitted; call"):
        made(name).predict_proba(TEST)


def test_a_missing_number_is_named(name):
    model = fitted(name)
    wanted = next(iter(n for n in model.needs.numbers if n != "all"), "user_plays")
    kept = [f for f, n in enumerate(TEST.names) if n != wanted]
    less = replace(TEST, numbers_NF=TEST.numbers_NF[:, kept], names=tuple(TEST.names[f] for f in kept))
    if model.needs.numbers:
        with pytest.raises(ValueError, match=wanted):
            model.predict_proba(less)


def test_all_numbers_unknown_is_an_answer(name):
    nothing = replace(TEST, numbers_NF=np.full_like(TEST.numbers_NF, np.nan))
    assert np.isfinite(fitted(name).predict_proba(nothing)).all()


def test_a_torn_save_is_refused(tmp_path):
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


def test_the_registry_builds_by_name_and_refuses_what_it_does_not_know():
    for name in registry.NAMES:
        assert registry.make(name).name == name
    with pytest.raises(ValueError, match="no 'oracle'; there are content_based, "):
        registry.make("oracle")
    with pytest.raises(ValueError, match="the recipe has no depth; its fields are factors, "):
        registry.make("pmf", {"depth": 3})
    with pytest.raises(ValueError, match="learning_rate"):
        registry.make("pmf", {"learning_rate": 0})


@pytest.mark.parametrize("name", registry.NAMES)
def test_every_trial_of_a_search_is_a_recipe(name):
    space, rng = SPACES[name], np.random.default_rng(0)
    trials = list(grid(space)) if is_grid(space) else [sample(space, rng) for _ in range(20)]
    for trial in trials:
        registry.make(name, trial)
    assert len({json.dumps(trial) for trial in trials}) > 1
    if not is_grid(space):
        with pytest.raises(ValueError, match="has no grid"):
            list(grid(space))


def test_a_late_play_changes_nothing_before_it():
    """Histories and graphs show a play only what is strictly earlier than itself."""
    for name in ("session_gru", "graphsage"):
        model = made(name)
        model.fit(TRAIN, VALID, seed=3)
        before = model.predict_proba(TEST)
        late = replace(TEST, ts_N=TEST.ts_N + 10**6, listened_N=1 - TEST.labels())
        model.observe(late)
        np.testing.assert_array_equal(model.predict_proba(TEST), before)


def test_the_session_model_sees_strictly_earlier_outcomes():
    model = made("session_gru")
    model.fit(TRAIN, VALID, seed=3)
    before = model.predict_proba(TEST)
    model.observe(TEST)
    after = model.predict_proba(TEST)
    first = np.unique(TEST.user_N, return_index=True)[1]
    np.testing.assert_array_equal(after[first], before[first])  # nothing of the test was before a user's first play
    assert (after != before).any()
    model.observe(TEST)  # noted twice counts once
    np.testing.assert_array_equal(model.predict_proba(TEST), after)


def test_training_does_not_disturb_the_caller(name):
    import torch

    train = replace(TRAIN, numbers_NF=TRAIN.numbers_NF.copy())
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    made(name).fit(train.rows(slice(0, 600)), VALID, seed=1)
    assert torch.equal(torch.rand(3), wanted)
    np.testing.assert_array_equal(train.numbers_NF, TRAIN.numbers_NF)


def test_plays_of_one_user_alone_are_enough_to_answer(name):
    alone: Plays = with_ids(TEST.rows(slice(0, 1)), user=UNSEEN, track=UNSEEN, artist=UNSEEN, album=UNSEEN)
    assert 0 <= fitted(name).predict_proba(alone)[0] <= 1
