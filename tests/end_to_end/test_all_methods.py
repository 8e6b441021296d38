"""Test every method on the finished week: evaluated in one table, trained on rows joined by id, logged to MLflow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.cold_start import evaluate
from jobs.cold_start.training_data import warm_side
from jobs.platform.context import Context
from jobs.platform.list_columns import to_matrix
from jobs.settings.cold_start import (
    METHODS,
    DropoutNetSettings,
    FirstDayNetworkSettings,
    MeluSettings,
    MixtureSettings,
    RankerSettings,
)
from jobs.tracking.tracker import Tracker
from models.evaluation.metrics import score


@pytest.fixture
def copied(finished, tmp_path, monkeypatch) -> Context:
    """Copy of the finished week that evaluates every method, with small networks."""
    home = tmp_path / "home"
    shutil.copytree(finished.home, home)
    monkeypatch.setenv("OVERTURE_HOME", str(home))
    changed = {
        "evaluation": finished.settings.evaluation.model_copy(update={"methods": METHODS}),
        "dropoutnet": DropoutNetSettings(hidden=(64, 32), rank=16, epochs=5, batch_users=64, batch_tracks=256),
        "melu": MeluSettings(embedding_dim=16, hidden=16, epochs=4, batch_users=64),
        "autoencoder": FirstDayNetworkSettings(width=32, epochs=3, batch_users=64),
        "mixture": MixtureSettings(width=32, epochs=2, batch_users=64, list_length=60),
        "ranker": RankerSettings(trees=10, draws=1, scored_folds=1, max_listeners=200, candidates=60),
    }
    return Context(finished.settings.model_copy(update=changed), finished.week, home)


def test_all_methods_are_evaluated_in_one_table(copied, finished):
    evaluate.run(copied, "tt_svd")
    week = copied.week.name
    rows = copied.lake.read("evaluation", week=week, space="tt_svd").to_pandas()
    assert set(rows.method) == set(METHODS) - {"ials_fold_in"}
    before = finished.lake.read("evaluation", week=week, space="tt_svd").to_pandas()
    key = ["method", "split", "slice", "metric", "k"]
    both = before.merge(rows, on=key, suffixes=("_before", "_now"))
    assert len(both) == len(before)
    np.testing.assert_array_equal(both.value_before, both.value_now)
    ndcg = rows[(rows.split == "test") & (rows.slice == "all") & (rows.metric == "ndcg")].set_index("method").value
    cohort, rng = evaluate.read_cohort(copied, "tt_svd", "test"), np.random.default_rng(0)
    n_tracks, k = copied.lake.rows("catalog", week=week), max(copied.settings.evaluation.k)
    shuffled = np.stack([rng.permutation(n_tracks)[:k] for _ in range(len(cohort.truth))])
    by_chance = score(shuffled, cohort.truth, k)["ndcg"].mean()
    for name in ("dropoutnet_full", "dropoutnet_semi", "melu_full", "melu_semi"):
        assert ndcg[name] > 2 * by_chance, name

    tracker = Tracker.connect(copied)
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.task = 'evaluate' and tags.space = 'tt_svd'")
    newest = max(runs, key=lambda run: run.info.start_time)
    for name, epochs in (("dropoutnet", 5), ("melu", 4), ("first_day_autoencoder", 3), ("segment_mixture", 2)):
        curve = tracker.client.get_metric_history(newest.info.run_id, f"{name}.loss")
        assert [point.step for point in curve] == list(range(epochs))
        assert curve[-1].value < curve[0].value
    assert newest.data.params["melu.inner_rate"] == "0.05"
    assert newest.data.params["dropoutnet.rank"] == "16"
    assert newest.data.params["autoencoder.width"] == newest.data.params["mixture.width"] == "32"


def warm_inputs(context: Context):
    lake, week = context.lake, context.week.name
    tracks = lake.matrix("track_vectors", week=week, space="tt_svd")
    centroids = to_matrix(lake.read("segments", week=week, space="tt_svd").sort_by("segment_id"), "centroid")
    return warm_side(context, "tt_svd", tracks, centroids, np.zeros((len(centroids), 1), np.int32))


def test_warm_users_are_joined_by_id_not_by_position(copied):
    where = {"week": copied.week.name, "space": "tt_svd", "split": "train"}
    before = warm_inputs(copied)
    table = copied.lake.read("features", **where)
    warm = copied.lake.read("warm_users", week=copied.week.name).sort_by("user_idx")
    row = dict(zip(table["user_id"].to_pylist(), table["x"].to_pylist(), strict=True))
    for user_idx in (0, 7, len(warm) - 1):
        np.testing.assert_array_equal(before.x_UF[user_idx], np.float32(row[warm["user_id"][user_idx].as_py()]))
    shuffled = table.take(np.random.default_rng(0).permutation(len(table)))
    copied.lake.write("features", shuffled, **where)
    after = warm_inputs(copied)
    np.testing.assert_array_equal(before.x_UF, after.x_UF)
    assert (before.heard_UN != after.heard_UN).nnz == 0
    assert before.heard_UN.shape == (len(warm), len(before.track_ND))


def test_warm_user_without_features_raises(copied):
    where = {"week": copied.week.name, "space": "tt_svd", "split": "train"}
    table = copied.lake.read("features", **where)
    copied.lake.write("features", table.slice(1), **where)
    with pytest.raises(CheckFailed, match=f"{len(table) - 1} training rows in tt_svd for {len(table)} warm users"):
        warm_inputs(copied)
