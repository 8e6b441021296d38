"""Components of skip models: plays, one-hot encoding, smoothed rates, histories, graphs, folds, re-ranking."""

from dataclasses import replace

import numpy as np
import pytest

from models.skip.data.arrays import sigmoid
from models.skip.data.play_history import Log
from models.skip.data.plays import concatenate
from models.skip.encoding.numeric import Dense, Numbers
from models.skip.encoding.one_hot import OneHot, Vocabulary
from models.skip.ensemble.ensemble import logit
from models.skip.ensemble.fit import fit_logistic, fold_borders, out_of_fold, select_members, weighted_mean
from models.skip.estimators import registry
from models.skip.estimators.early_stopping import stop_early
from models.skip.estimators.graphsage import NO_NODE, Graph
from models.skip.ranking.rerank import rerank
from tests.helpers.skip_world import split_in_three, world

PLAYS = world(600)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_N": np.zeros(3, np.int64)}, "plays.user_N: must have one entry for each of 600"),
        ({"categories": {"x": np.zeros(2, np.int32)}}, "plays.categories.x"),
        ({"names": ("a",)}, "plays.numbers_NF: must be"),
        ({"names": ("user_plays",) * len(PLAYS.names)}, "must be unique"),
        ({"ts_N": PLAYS.ts_N[::-1].copy()}, "must be in time order, play 1 is earlier"),
        ({"listened_N": np.full(600, 2, np.int8)}, "must be 0 or 1, play 0 has 2"),
    ],
)
def test_invalid_plays_raise(change, message):
    with pytest.raises(ValueError, match=message):
        replace(PLAYS, **change)


def test_concatenated_parts_equal_the_whole():
    parts = [PLAYS.rows(slice(0, 100)), PLAYS.rows(np.arange(100, 400)), PLAYS.rows(np.arange(600) >= 400)]
    whole = concatenate(parts)
    np.testing.assert_array_equal(whole.numbers_NF, PLAYS.numbers_NF)
    np.testing.assert_array_equal(whole.categories["context_type"], PLAYS.categories["context_type"])
    with pytest.raises(ValueError, match="labels"):
        concatenate([parts[0], replace(parts[1], listened_N=None)])
    with pytest.raises(ValueError, match="play 100 is earlier"):
        concatenate([parts[0], parts[0]])
    with pytest.raises(ValueError, match="needs the features mood"):
        PLAYS.numbers(("mood",), "a model")
    with pytest.raises(ValueError, match="needs the category mood"):
        PLAYS.category("mood", "a model")


def test_rare_values_share_the_unknown_code():
    vocabulary = Vocabulary.learn(np.asarray([5, 5, 9, 7, 7, 7, -1, -1]), min_count=2)
    assert vocabulary.codes(np.asarray([5, 7, 9, -1, 100])).tolist() == [1, 2, 0, 0, 0]
    assert Vocabulary.learn(np.asarray([5, 5, 9, 7, 7, 7]), max_values=1).values_V.tolist() == [7]


def test_one_hot_has_one_entry_per_field_and_a_separate_one_for_nan():
    onehot = OneHot.learn(PLAYS, ("user", "context_type"), ("song_age_days",), 4, 2, "a test")
    dense = onehot.matrix(PLAYS).toarray()
    assert (dense.sum(axis=1) == 3).all()
    unknown = np.isnan(PLAYS.numbers(("song_age_days",))[:, 0])
    assert unknown.any()
    np.testing.assert_array_equal(dense[:, onehot.start_M[2]] == 1, unknown)
    again = OneHot.restore(*onehot.state(), "a test")
    np.testing.assert_array_equal(again.positions(PLAYS), onehot.positions(PLAYS))


def test_smoothing_strength_is_estimated_from_the_data():
    rng = np.random.default_rng(0)
    n, truth = 60_000, 6.0  # Beta(0.7 * 6, 0.3 * 6): the prior is worth six plays
    rate, plays = rng.beta(0.7 * truth, 0.3 * truth, n), rng.integers(0, 20, n)
    y = (rng.random(n) < rate).astype(np.int8)
    counts = np.stack([plays, rng.binomial(plays, rate)], axis=1).astype(np.float32)
    base = world(n=60)
    smoothed_plays = replace(
        base.rows(np.zeros(n, int)), numbers_NF=counts, names=("user_plays", "user_listened"), listened_N=y
    )
    numbers = Numbers.learn(smoothed_plays, "a test")
    assert numbers.strengths[0] in (4.0, 8.0)
    raw = numbers.raw(smoothed_plays)
    assert raw[plays == 0, 0] == pytest.approx(y.mean(), abs=1e-6)
    assert numbers.columns[:2] == ("user_smoothed", "user_plays")


def test_scaled_features_are_bounded_and_flag_unknown_values():
    dense = Dense.learn(PLAYS, "a test")
    wild = PLAYS.numbers_NF.copy()
    wild[:, PLAYS.names.index("duration_s")] = 65_535
    columns = dense.columns(replace(PLAYS, numbers_NF=wild))
    at = dense.column_names().index("duration_s")
    assert ((columns[:, at] > 0.9) & (columns[:, at] <= 1)).all()
    flags = [g for g, name in enumerate(dense.column_names()) if name == "song_age_days"][1]
    np.testing.assert_array_equal(columns[:, flags] == 1, np.isnan(PLAYS.numbers(("song_age_days",))[:, 0]))
    assert np.isfinite(columns).all()


def test_history_contains_strictly_earlier_plays_of_the_same_user():
    log = Log.from_plays(PLAYS)
    places = log.recent(PLAYS.user_N, PLAYS.ts_N, 5)
    for n in range(0, 600, 29):
        mine = [
            (int(t), int(track))
            for t, track, user in zip(PLAYS.ts_N, PLAYS.track_N, PLAYS.user_N, strict=True)
            if user == PLAYS.user_N[n] and t < PLAYS.ts_N[n]
        ]
        recent = [(int(log.columns["ts"][p]), int(log.columns["track"][p])) for p in places[n] if p >= 0]
        assert recent == sorted(mine)[-5:]
    assert (log.recent(np.asarray([424_242]), PLAYS.ts_N[-1:], 3) == -1).all()
    assert len(log.union(log)) == len(log)


def test_neighbours_come_from_earlier_edges():
    graph = Graph(np.asarray([[1, 5], [1, 6], [2, 5], [1, 7]]), np.asarray([10, 20, 30, 40]), 8)
    lookup = lambda node, before, k: graph.neighbours(np.asarray([node]), np.asarray([before]), k)[0].tolist()  # noqa: E731
    assert lookup(1, 20, 3) == [5, NO_NODE, NO_NODE]  # the edge at that second is excluded
    assert lookup(1, 41, 3) == [5, 6, 7]
    assert lookup(5, 99, 2) == [1, 2]
    assert lookup(NO_NODE, 99, 2) == [NO_NODE, NO_NODE]
    assert lookup(0, 99, 2) == [NO_NODE, NO_NODE]
    drawn = graph.neighbours(np.full(200, 1), np.full(200, 41), 2, np.random.default_rng(0))
    assert set(drawn.ravel().tolist()) == {5, 6, 7}
    none = Graph(np.empty((0, 2), np.int64), np.empty(0, np.int64), 3)
    assert (none.neighbours(np.asarray([1]), np.asarray([5]), 2) == NO_NODE).all()


@pytest.mark.parametrize(
    ("losses", "epochs", "patience", "epochs_run", "best_epoch"),
    [
        ([3, 2, 1], 3, 1, 3, 2),
        ([3, 1, 2, 0], 4, 1, 3, 1),  # training stops after the third epoch, so the fourth does not run
        ([3, 1, 2, 0], 4, 2, 4, 3),
        ([1, 1, 1, 1], 9, 2, 3, 0),  # an equal loss is not an improvement
        ([2, 1, np.nan], 9, 5, 3, 1),
    ],
)
def test_early_stopping_restores_the_weights_of_the_best_epoch(losses, epochs, patience, epochs_run, best_epoch):
    weights, ran = np.asarray([-1.0]), []

    def epoch():
        weights[0] = len(ran)
        ran.append(len(ran))
        return losses[len(ran) - 1]

    history = stop_early(epoch, lambda: losses[len(ran) - 1], [weights], epochs, patience)
    assert len(history) == len(ran) == epochs_run
    assert weights.tolist() == [best_epoch]


def test_out_of_fold_predictions_use_earlier_folds_only():
    train, _, _ = split_in_three(world())
    borders = fold_borders(len(train), 2, 0.5)
    assert borders == [len(train) // 2, round(0.75 * len(train)), len(train)]
    predicted = out_of_fold(registry.make, "logistic_features", train, borders, 0)
    flipped = train.labels().copy()
    flipped[borders[1] :] = 1 - flipped[borders[1] :]  # the last fold is not part of the training data
    other = out_of_fold(registry.make, "logistic_features", replace(train, listened_N=flipped), borders, 0)
    np.testing.assert_array_equal(predicted, other)


def test_select_returns_only_members_with_a_gain():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000).astype(np.int8)
    signs = {name: 2.0 * y - 1 + rng.normal(0, 2, 4000) for name in ("one", "two")}
    members = signs | {"noise": rng.normal(0, 3, 4000), "turned": -signs["one"]}
    halves = [{n: v[part] for n, v in members.items()} for part in (slice(0, 2000), slice(2000, 4000))]
    chosen, mix = select_members(halves[0], y[:2000], np.arange(2000) // 1000, halves[1], y[2000:], min_gain=0.001)
    assert sorted(chosen) == ["one", "two"]
    assert (mix.weights_M > 0).all()
    stacked = np.stack([members["one"], members["turned"]], axis=1)
    assert (fit_logistic(stacked, y).weights_M >= 0).all()
    assert weighted_mean(stacked, y).weights_M.sum() == pytest.approx(1)
    assert np.isfinite(logit(np.asarray([0.0, 1.0]))).all()


def test_reranking_combines_listening_probability_relevance_and_diversity():
    tracks, listen = np.asarray([[10, 11, 12, 13]]), np.asarray([[0.2, 0.9, 0.8, 0.5]])
    even = np.ones((1, 4))
    assert rerank(tracks, listen, 0, even).tolist() == [[11, 12, 13, 10]]
    assert rerank(tracks, np.full((1, 4), 0.5), 0).tolist() == [[10, 11, 12, 13]]  # the original order
    artists = np.asarray([[1, 2, 2, 3]])
    assert rerank(tracks, listen, 0.5, even, artists_BL=artists).tolist()[0][:2] == [11, 13]
    vectors = np.asarray([[[1, 0], [0, 2], [0, 3], [1, 1]]], np.float32)
    assert rerank(tracks, listen, 0.9, even, vectors_BLD=vectors).tolist()[0][:2] == [11, 10]
    both = rerank(np.repeat(tracks, 2, axis=0), np.repeat(listen, 2, axis=0), 0.5, None, np.repeat(artists, 2, axis=0))
    assert both[0].tolist() == both[1].tolist()
    assert sorted(both[0].tolist()) == [10, 11, 12, 13]
    assert rerank(np.empty((0, 3)), np.empty((0, 3)), 0.3, artists_BL=np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("listen", "diversity", "more", "message"),
    [
        ([[0.1, 0.2, 0.3]], 0, {}, "the same shape .B, L."),
        ([[0.1, 1.2]], 0, {}, "from 0 to 1"),
        ([[0.1, 0.2]], 2, {}, "rerank.diversity"),
        ([[0.1, 0.2]], 0.5, {}, "either artists or vectors"),
        ([[0.1, 0.2]], 0.5, {"relevance_BL": [[-1, 1]], "artists_BL": [[1, 2]]}, "be at least 0"),
        ([[0.1, 0.2]], 0.5, {"vectors_BLD": [[[1.0, np.nan], [0, 1]]]}, "finite"),
    ],
)
def test_invalid_rerank_input_raises(listen, diversity, more, message):
    with pytest.raises(ValueError, match=message):
        rerank([[1, 2]], listen, diversity, **more)


def test_sigmoid_of_extreme_values():
    assert sigmoid(np.asarray([-800.0, 0, 800])).tolist() == [0, 0.5, 1]
