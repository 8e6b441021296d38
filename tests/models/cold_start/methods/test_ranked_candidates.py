"""Candidates, their features, cross-fitting, and the learned ranker."""

from __future__ import annotations

from dataclasses import replace

import lightgbm as lgb
import numpy as np
import pytest
from scipy.sparse import csr_array

from models.cold_start.input_vector import FirstDays
from models.cold_start.methods import WarmListeners
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.candidates import FEATURES, CandidateStage, listener_totals
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.methods.ranked_candidates import RankedCandidates
from models.cold_start.methods.ranker import (
    Queries,
    Ranker,
    cross_fitted_queries,
    float32_thresholds,
    synthetic_first_days,
    without_listeners,
)
from models.cold_start.methods.segment_rates import SegmentRates
from models.cold_start.methods.vocabulary import Catalogue, Vocabulary
from models.cold_start.ragged import Ragged
from tests.helpers.method_recipes import neighbour_recipe, ranker_recipe

CATALOGUE = Catalogue(np.array([40, 10, 30, 20]), np.array([7, 7, 8, 9]), np.array([1, 2, 2, 3]))
HEARD = csr_array(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1]], np.float32))


class Likelihood:
    """In place of a trained autoencoder: track t has weight t + 1 for everybody."""

    n_tracks = 4

    def scores(self, tokens_BV: csr_array) -> np.ndarray:
        return np.tile(np.arange(1, 5, dtype=np.float32) / 4, (tokens_BV.shape[0], 1))


def days(streamed, **blocks) -> FirstDays:
    lists = {name: Ragged.from_lists(ids) for name, ids in {"streamed_songs": streamed, **blocks}.items()}
    return FirstDays(np.array([None] * len(streamed), object), np.full(len(streamed), -1), lists)


def warm(**changes) -> WarmListeners:
    eye = np.eye(4, dtype=np.float32)
    listeners = WarmListeners(
        x_UF=np.zeros((4, 3), np.float32),
        user_UD=eye,
        track_ND=eye,
        heard_UN=HEARD,
        labels_U=np.array([0, 0, 1, 1], np.int32),
        centroids_KD=eye[:2],
        rankings_KL=np.array([[0, 1], [2, 3]], np.int32),
        catalogue=CATALOGUE,
        first_days=days([[40], [10], [30], [20]]),
    )
    return replace(listeners, **changes)


def stage(listeners: WarmListeners, n_candidates: int = 3) -> CandidateStage:
    neighbours = Neighbours.fit(listeners, neighbour_recipe())
    segments = SegmentRates.count(listeners, neighbours.vocabulary, 1.0)
    totals_N = listener_totals(listeners.heard_UN)
    return CandidateStage(Blend(Likelihood(), neighbours, 0.5), segments, totals_N, listeners.track_ND, n_candidates)


def feature(fitted: CandidateStage, first_days: FirstDays, tracks: list[list[int]]) -> dict[str, np.ndarray]:
    values_BCF = fitted.features(fitted.score(first_days), np.array(tracks, np.int32))
    return {name: values_BCF[:, :, f] for f, name in enumerate(FEATURES)}


def test_scores_are_those_of_the_blend():
    fitted, first_days = stage(warm()), days([[40], [20, 10], []])
    np.testing.assert_array_equal(fitted.score(first_days).blend_BN, fitted.blend.scores(first_days))


def test_segment_rates_equal_a_manual_calculation():
    vocabulary = Vocabulary.build(CATALOGUE, warm().first_days)
    rates = SegmentRates.count(warm(), vocabulary, smoothing=2.0)
    rate_N = (np.array([2, 3, 3, 2]) + 0.5) / 5  # of four listeners
    tokens_BV = vocabulary.first_day_tokens(days([[20], []]))  # track 3, artist 9 and album 3: two of segment 1 each
    evidence = np.array([2 * rate_N[3] / 4, (2 + 2 * rate_N[3]) / 4]) / rate_N[3]
    weights = evidence ** (3 / np.sqrt(3))
    np.testing.assert_allclose(rates.weights(tokens_BV), [weights / weights.sum(), [0.5, 0.5]])
    by_segment_KN = (np.array([[2, 2, 1, 0], [0, 1, 2, 2]]) + 2 * rate_N) / 4
    expected_BN = rates.weights(tokens_BV) @ by_segment_KN
    np.testing.assert_allclose(rates.rates(tokens_BV), expected_BN, rtol=1e-6)
    with pytest.raises(ValueError, match=r"ranker.segment_smoothing: must be above 0, got 0"):
        SegmentRates.count(warm(), vocabulary, smoothing=0)


def test_candidates_are_the_best_of_any_list():
    first_days = days([[40]])  # track 0, whose strongest neighbour is track 1; track 3 is the most likely
    two, four = stage(warm(), 2), stage(warm(), 9)
    assert set(two.candidates(two.score(first_days))[0].tolist()) == {1, 3}
    assert sorted(four.candidates(four.score(first_days))[0].tolist()) == [0, 1, 2, 3]


def test_features_of_one_listener():
    fitted = stage(warm())
    values = feature(fitted, days([[40, 999]], onboarding_like_artists=[[8]]), [[1, 3, 2]])
    np.testing.assert_allclose(values["autoencoder_log_probability"], np.log([[0.2, 0.4, 0.3]]), rtol=1e-5)
    np.testing.assert_allclose(values["autoencoder_log_ratio"], np.log([[0.5, 1.0, 0.75]]), rtol=1e-5)
    np.testing.assert_allclose(values["best_log_probability"], np.log([[0.4] * 3]), rtol=1e-5)
    np.testing.assert_allclose(values["artist_log_probability"], np.log([[0.3, 0.4, 0.3]]), rtol=1e-5)
    np.testing.assert_allclose(values["album_log_probability"], np.log([[0.5, 0.4, 0.5]]), rtol=1e-5)
    assert values["autoencoder_rank"].tolist() == [[2, 0, 1]]
    assert values["same_artist"].tolist() == [[1, 0, 1]]  # of track 0 streamed, and liked
    assert values["same_album"].tolist() == [[0, 0, 0]]
    assert values["day_tracks"].tolist() == [[1, 1, 1]]
    assert values["day_artists"].tolist() == [[2, 2, 2]]
    np.testing.assert_allclose(values["log_listeners"], np.log([[4, 3, 4]]), rtol=1e-6)
    np.testing.assert_allclose(values["log_listeners_above_day"], np.log([[4 / 3, 1, 4 / 3]]), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(values["log_artist_listeners"], np.log([[6, 3, 4]]), rtol=1e-6)
    assert values["artist_tracks"].tolist() == [[2, 1, 1]]


def test_neighbour_features_are_sums_over_the_tokens_of_a_kind():
    fitted = stage(warm())
    score_VN = fitted.blend.neighbours.score_VN.toarray()
    values = feature(fitted, days([[40, 30]]), [[1, 3]])  # tracks 0 and 2, artists 7 and 8, albums 1 and 2
    np.testing.assert_allclose(values["track_neighbour_sum"], score_VN[[0, 2]][:, [1, 3]].sum(axis=0)[None], rtol=1e-6)
    np.testing.assert_allclose(values["track_neighbour_max"], score_VN[[0, 2]][:, [1, 3]].max(axis=0)[None], rtol=1e-6)
    assert values["track_neighbour_share"].tolist() == [[1.0, 0.5]]  # nobody streams tracks 0 and 3
    np.testing.assert_allclose(values["artist_neighbour_sum"], score_VN[[4, 5]][:, [1, 3]].sum(axis=0)[None], rtol=1e-6)
    np.testing.assert_allclose(values["album_neighbour_sum"], score_VN[[7, 8]][:, [1, 3]].sum(axis=0)[None], rtol=1e-6)
    total = values["track_neighbour_sum"] + values["artist_neighbour_sum"] + values["album_neighbour_sum"]
    np.testing.assert_allclose(values["neighbour_score"], total, rtol=1e-6)


def test_vector_features_are_cosines_with_the_first_day_and_the_best_tracks():
    vectors_ND = np.array([[1, 0], [3, 4], [0, 2], [0, 0]], np.float32)
    fitted = stage(warm(track_ND=vectors_ND))
    values = feature(fitted, days([[40, 30], []]), [[1, 3], [1, 0]])  # tracks 0 and 2, then none
    np.testing.assert_allclose(values["vector_max"], [[0.8, 0], [0, 0]], rtol=1e-6)
    np.testing.assert_allclose(values["vector_mean"], [[0.7, 0], [0, 0]], rtol=1e-6)
    unit_ND = np.array([[1, 0], [0.6, 0.8], [0, 1], [0, 0]])
    means_BD = unit_ND[fitted.score(days([[40, 30], []])).lists[3]].mean(axis=1)  # of three tracks
    np.testing.assert_allclose(values["vector_feedback"][0], unit_ND[[1, 3]] @ means_BD[0], rtol=1e-6)
    np.testing.assert_allclose(values["vector_feedback"][1], unit_ND[[1, 0]] @ means_BD[1], rtol=1e-6)


def test_features_of_a_batch_equal_those_of_single_listeners():
    fitted, first_days = stage(warm()), days([[40], [], [20, 10], [999]])
    scores = fitted.score(first_days)
    tracks = fitted.candidates(scores)
    batch = fitted.features(scores, tracks)
    assert np.isfinite(batch).all()
    for b in range(4):
        one = fitted.score(first_days.rows(b, b + 1))
        np.testing.assert_array_equal(fitted.candidates(one)[0], tracks[b])
        np.testing.assert_array_equal(fitted.features(one, tracks[b : b + 1])[0], batch[b])


def test_synthetic_first_days_do_not_contain_their_targets():
    rng = np.random.default_rng(0)
    users = np.array([3, 1])
    for _ in range(20):
        first_days, target_BN = synthetic_first_days(warm(), users, np.array([1, 2, 9]), rng)
        streamed_BN = CATALOGUE.streamed_tracks(first_days)
        assert (target_BN.sum(axis=1) >= 1).all()
        np.testing.assert_array_equal((streamed_BN + target_BN).toarray(), HEARD[users].toarray())


def test_a_fold_knows_nothing_of_other_listeners():
    others = HEARD.toarray()
    others[2:] = 1 - others[2:]
    kept = np.array([0, 1])
    changed = warm(heard_UN=csr_array(others), user_UD=np.ones((4, 4), np.float32), labels_U=np.ones(4, np.int32))
    one, two = (without_listeners(listeners, kept, seed=3) for listeners in (warm(), changed))
    assert one.heard_UN.toarray().tolist() == HEARD.toarray()[:2].tolist()
    for name in ("track_ND", "user_UD", "labels_U", "centroids_KD"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.first_days.blocks["streamed_songs"].ids, [40, 10])


def test_stages_that_score_a_listener_were_not_fitted_on_that_listener():
    rng = np.random.default_rng(1)
    heard = csr_array((rng.random((40, 12)) < 0.5).astype(np.float32))
    heard = csr_array((heard.toarray() + np.eye(40, 12) > 0).astype(np.float32))
    place = np.arange(12)
    listeners = warm(
        heard_UN=heard,
        track_ND=np.eye(12, dtype=np.float32),
        catalogue=Catalogue(100 + place, place // 2, place // 3),
        first_days=days([[100 + int(b) % 12] for b in range(40)]),
    )
    fitted: list[np.ndarray] = []
    asked: list[csr_array] = []

    class Recording(Likelihood):
        n_tracks = 12

        def scores(self, tokens_BV: csr_array) -> np.ndarray:
            asked.append((len(fitted) - 1, csr_array(tokens_BV[:, :12])))
            return np.tile(np.linspace(0.1, 1, 12, dtype=np.float32), (tokens_BV.shape[0], 1))

    def fit_stage(kept: WarmListeners, fold: int) -> CandidateStage:
        assert fold == len(fitted)
        fitted.append(kept.heard_UN.toarray())
        neighbours = Neighbours.fit(kept, neighbour_recipe())
        segments = SegmentRates.count(kept, neighbours.vocabulary, 1.0)
        totals_N = listener_totals(kept.heard_UN)
        return CandidateStage(Blend(Recording(), neighbours, 0.5), segments, totals_N, kept.track_ND, 6)

    recipe = ranker_recipe(folds=4, scored_folds=3, draws=2, min_tracks=2, candidates=6, max_listeners=40)
    queries = cross_fitted_queries(listeners, fit_stage, recipe, seed=5)
    assert [len(rows) for rows in fitted] == [30] * 3
    all_rows = heard.toarray().tolist()
    for fold, streamed_BN in asked:
        rest = list(all_rows)
        for row in fitted[fold].tolist():
            rest.remove(row)  # the ten listeners that the stage does not know
        for shown in streamed_BN.toarray():
            assert any((shown <= np.array(row)).all() for row in rest)
    assert len(queries.sizes_Q) <= 60
    assert queries.sizes_Q.sum() == len(queries.features_RF) == len(queries.relevant_R)
    assert queries.sizes_Q.max() <= 6
    starts = np.concatenate([[0], np.cumsum(queries.sizes_Q)[:-1]])
    assert np.add.reduceat(queries.relevant_R.astype(int), starts).min() >= 1
    again = cross_fitted_queries(listeners, lambda kept, fold: fit_stage(kept, len(fitted)), recipe, seed=5)
    np.testing.assert_array_equal(again.features_RF, queries.features_RF)
    with pytest.raises(ValueError, match="none of 40 warm users with 99 tracks"):
        cross_fitted_queries(listeners, fit_stage, replace(recipe, min_tracks=99), seed=5)


def made_up_queries(n: int = 300) -> Queries:
    """Return queries of ten candidates whose relevant ones have the highest log_listeners."""
    rng = np.random.default_rng(0)
    features = rng.random((n * 10, len(FEATURES))).astype(np.float32)
    signal = features[:, FEATURES.index("log_listeners")].reshape(n, 10)
    return Queries(features, (signal.argsort(axis=1).argsort(axis=1) >= 7).ravel(), np.full(n, 10))


def test_ranker_learns_the_order_and_is_repeatable():
    recipe = ranker_recipe(trees=30, min_leaf_rows=5)
    ranker = Ranker.train(made_up_queries(), recipe, seed=1)
    unseen = np.random.default_rng(9).random((200, len(FEATURES))).astype(np.float32)
    relevance = ranker.relevance(unseen)
    signal = unseen[:, FEATURES.index("log_listeners")]
    assert relevance[signal > 0.8].min() > relevance[signal < 0.5].max()
    assert max(ranker.gains(), key=ranker.gains().get) == "log_listeners"
    np.testing.assert_array_equal(Ranker.train(made_up_queries(), recipe, seed=1).relevance(unseen), relevance)


def test_rounded_thresholds_keep_the_trees():
    queries, recipe = made_up_queries(), ranker_recipe(trees=30, min_leaf_rows=5)
    data = lgb.Dataset(queries.features_RF, queries.relevant_R.astype(np.float32), group=queries.sizes_Q)
    exact = lgb.train({"objective": "rank_xendcg", "min_data_in_leaf": 5, "verbosity": -1}, data, recipe.trees)
    text = exact.model_to_string()
    rounded = lgb.Booster(model_str=float32_thresholds(text))
    np.testing.assert_array_equal(rounded.predict(queries.features_RF), exact.predict(queries.features_RF))
    assert rounded.model_to_string() != text


def test_ranked_candidates_come_first_and_the_blend_orders_the_rest():
    fitted, first_days = stage(warm(), 2), days([[40]])
    by_place = RankedCandidates(fitted, lambda rows: -rows[:, FEATURES.index("autoencoder_rank")])
    candidates = set(fitted.candidates(fitted.score(first_days))[0].tolist())
    lists = by_place.recommend(np.zeros((1, 3)), 4, first_days)[0].tolist()
    assert set(lists[:2]) == candidates
    assert lists[:2] == sorted(lists[:2], reverse=True)  # a later track is more likely
    rest = [
        track for track in np.argsort(-fitted.blend.scores(first_days)[0], kind="stable") if track not in candidates
    ]
    assert lists[2:] == rest
    with pytest.raises(ValueError, match=r"ranker.candidates: must be at least 1, got 0"):
        stage(warm(), 0)


def test_invalid_recipes_raise():
    for wrong, message in (
        ({"folds": 1}, "ranker.folds: must be at least 2"),
        ({"scored_folds": 6}, "ranker.scored_folds: must be at most folds"),
        ({"column_share": 0.0}, "column_share in"),
    ):
        with pytest.raises(ValueError, match=message):
            ranker_recipe(**wrong)
