"""Trees as ONNX, and rankers that are kept for some weeks."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import lightgbm as lgb
import numpy as np
import pytest
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from jobs.cold_start import ranker_artifacts
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.candidates import FEATURES, CandidateStage
from models.cold_start.methods.neighbours import Neighbours
from models.cold_start.methods.ranked_candidates import RankedCandidates
from models.cold_start.methods.ranker import Queries, Ranker, boost, parameters
from models.cold_start.methods.segment_rates import SegmentRates
from models.cold_start.methods.vocabulary import Catalogue, Vocabulary
from models.cold_start.ragged import Ragged
from serving.release import ranker as served
from tests.helpers.method_recipes import ranker_recipe

WEEK = Week.parse("2026-11-16")
N = 30
VECTORS = np.random.default_rng(4).normal(size=(N, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def ranker() -> Ranker:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3000, len(FEATURES))).astype(np.float32)
    features[:, ::3] = np.round(features[:, ::3])  # counts: many equal values
    signal = features[:, 0] + features[:, 1] * features[:, 2]
    relevant = (signal.reshape(-1, 10).argsort(axis=1).argsort(axis=1) >= 7).ravel()
    queries = Queries(features, relevant, np.full(300, 10))
    return Ranker.train(queries, ranker_recipe(trees=60, min_leaf_rows=5), seed=3)


class Likelihood:
    n_tracks = N

    def scores(self, tokens_BV: csr_array) -> np.ndarray:
        return np.tile(np.linspace(0.1, 1, N, dtype=np.float32), (tokens_BV.shape[0], 1))


def stage() -> CandidateStage:
    rng = np.random.default_rng(1)
    place = np.arange(N)
    vocabulary = Vocabulary(Catalogue(100 + place, place // 3, place // 2), ("BR", "FR"))
    scores = rng.random((vocabulary.size, N)) * (rng.random((vocabulary.size, N)) < 0.3)
    neighbours = Neighbours(vocabulary, csr_array(scores.astype(np.float32)))
    counts = csr_array(rng.integers(0, 5, (4, vocabulary.size)))
    segments = SegmentRates(counts, np.array([5, 6, 7, 8]), 2.5, N)
    return CandidateStage(Blend(Likelihood(), neighbours, 0.5), segments, rng.integers(1, 20, N), VECTORS, 12)


def days(n: int) -> FirstDays:
    rng = np.random.default_rng(2)
    streams = [100 + rng.permutation(N)[: rng.integers(0, 5)] for _ in range(n)]
    return FirstDays(np.array(["FR"] * n, object), np.full(n, -1), {"streamed_songs": Ragged.from_lists(streams)})


def context(home: Path, week: Week = WEEK, **ranker_settings) -> Context:
    settings = Settings(name="test", week=str(WEEK), ranker=ranker_settings)
    return Context(settings, week, home)


def store(where: Context, ranker: Ranker, trained_in: str) -> RankedCandidates:
    method = RankedCandidates(stage(), ranker.relevance)
    facts = {"recipe": ranker_artifacts.recipe(where.settings), "trained_in": trained_in}
    ranker_artifacts.write_ranker(where, "tt_svd", method, ranker, days(20), facts)
    return method


def test_onnx_equals_lightgbm_also_at_the_thresholds(ranker: Ranker) -> None:
    trees = ranker_artifacts.to_onnx(ranker)
    assert trees == ranker_artifacts.to_onnx(ranker)
    rows = np.random.default_rng(5).normal(size=(400, len(FEATURES))).astype(np.float32)
    text = ranker.booster.model_to_string()
    thresholds = np.concatenate(
        [np.array(line[10:].split(), float) for line in text.split("\n") if line.startswith("threshold=")]
    )
    assert (thresholds == thresholds.astype(np.float32)).all()
    # Not at +-1e-35, the sides of LightGBM's zero: its text and its JSON round them differently.
    near = thresholds[np.abs(thresholds) > 1e-30][:400].astype(np.float32)
    sides = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
    for f in range(0, len(FEATURES), 5):
        for values in (near, *sides):
            tried = rows[: len(values)].copy()
            tried[:, f] = values
            np.testing.assert_allclose(
                served.OnnxTrees(trees).relevance(tried), ranker.relevance(tried), rtol=1e-4, atol=1e-5
            )
    rows[::7, 3] = 0
    np.testing.assert_allclose(served.OnnxTrees(trees).relevance(rows), ranker.relevance(rows), rtol=1e-4, atol=1e-5)


def test_served_lists_equal_those_of_training(ranker: Ranker, tmp_path: Path) -> None:
    where = context(tmp_path)
    method = store(where, ranker, WEEK.name)
    folder = ranker_artifacts.ranker_folder(where, "tt_svd")
    opened = served.read(folder, method.stage.blend, VECTORS)
    cohort, x = days(40), np.zeros((40, 3), np.float32)
    one, two = (m.stage.score(cohort) for m in (method, opened))
    tracks = method.stage.candidates(one)
    np.testing.assert_array_equal(opened.stage.candidates(two), tracks)
    np.testing.assert_array_equal(opened.stage.features(two, tracks), method.stage.features(one, tracks))
    np.testing.assert_array_equal(opened.recommend(x, 20, cohort), method.recommend(x, 20, cohort))
    assert ranker_artifacts.parity(folder, folder / served.TREES) < 1e-4


def test_trees_of_an_earlier_version_read_the_features_that_they_were_trained_on(
    ranker: Ranker, tmp_path: Path
) -> None:
    where = context(tmp_path)
    blend = store(where, ranker, WEEK.name).stage.blend
    folder = where.work / "tt_svd" / "ranker"
    rng, columns = np.random.default_rng(5), [7, 2, 0]
    rows = rng.normal(size=(300, len(FEATURES))).astype(np.float32)
    queries = Queries(np.ascontiguousarray(rows[:, columns]), rows[:, 2] > 0, np.full(30, 10))
    names, recipe = [FEATURES[f] for f in columns], ranker_recipe(trees=5, min_leaf_rows=5)
    earlier = SimpleNamespace(booster=boost(queries, parameters(recipe, seed=3), recipe.trees, names))
    files.write(folder / served.TREES, ranker_artifacts.to_onnx(earlier))
    card = json.loads((folder / served.LAYOUT).read_text())
    files.write(folder / served.LAYOUT, files.canonical({**card, "features": names}))
    expected = earlier.booster.predict(queries.features_RF)
    assert len(np.unique(expected)) > 5
    np.testing.assert_allclose(served.read(folder, blend, VECTORS).rank(rows), expected, rtol=1e-4, atol=1e-5)


def test_damaged_and_foreign_files_raise(ranker: Ranker, tmp_path: Path) -> None:
    where = context(tmp_path)
    blend = store(where, ranker, WEEK.name).stage.blend
    folder = where.work / "tt_svd" / "ranker"
    layout = (folder / served.LAYOUT).read_bytes()
    (folder / served.LAYOUT).write_bytes(layout.replace(b"blend_rank", b"other_rank"))
    with pytest.raises(CheckFailed, match=r"layout\.json is damaged"):
        ranker_artifacts.ranker_folder(where, "tt_svd")
    with pytest.raises(CheckFailed, match="features of another program"):
        served.read(folder, blend, VECTORS)
    (folder / served.LAYOUT).write_bytes(layout)
    files.write_array(folder / served.LISTENERS, np.ones(N + 1, np.int64))
    with pytest.raises(CheckFailed, match=f"has {N + 1} tracks, the release {N}"):
        served.read(folder, blend, VECTORS)


def test_a_ranker_is_kept_for_keep_weeks(ranker: Ranker, tmp_path: Path) -> None:
    def weeks_later(n: int, **settings) -> Context:
        return context(tmp_path, Week(WEEK.monday + timedelta(weeks=n)), **settings)

    assert ranker_artifacts.kept_ranker(weeks_later(1, keep_weeks=2), "tt_svd") is None
    store(context(tmp_path), ranker, WEEK.name)
    kept = ranker_artifacts.kept_ranker(weeks_later(1, keep_weeks=2), "tt_svd")
    assert kept is not None
    assert kept[1] == WEEK.name
    rows = np.random.default_rng(0).normal(size=(50, len(FEATURES))).astype(np.float32)
    np.testing.assert_array_equal(kept[0].relevance(rows), ranker.relevance(rows))
    assert ranker_artifacts.kept_ranker(weeks_later(2, keep_weeks=2), "tt_svd") is not None
    assert ranker_artifacts.kept_ranker(weeks_later(3, keep_weeks=2), "tt_svd") is None
    assert ranker_artifacts.kept_ranker(weeks_later(1, keep_weeks=0), "tt_svd") is None
    assert ranker_artifacts.kept_ranker(weeks_later(1, keep_weeks=2), "ut_als") is None
    changed = weeks_later(1, keep_weeks=2, candidates=150)
    assert ranker_artifacts.kept_ranker(changed, "tt_svd") is None
    # A week that keeps a ranker passes it on with the week of its training.
    store(weeks_later(2), ranker, WEEK.name)
    assert ranker_artifacts.kept_ranker(weeks_later(3, keep_weeks=2), "tt_svd") is None
    backtest = context(tmp_path, Week(WEEK.monday + timedelta(weeks=1), backtest=True), keep_weeks=2)
    assert ranker_artifacts.kept_ranker(backtest, "tt_svd") is None
    other = lgb.train({"verbosity": -1}, lgb.Dataset(rows, rows[:, 0]), 1)
    with pytest.raises(ValueError, match="trained on other features"):
        Ranker(other)
