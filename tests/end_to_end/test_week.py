"""Test a week from raw events to a promoted release on the smallest service, and that a second run changes nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import contracts
from jobs.platform.context import Context
from jobs.settings.base import SPACES
from tests.helpers import release_keys
from tests.helpers.one_week import whole_week

ROOT = Path(__file__).parents[2]
# Tables of experiments and of the skip engine: a cold-start week does not write them.
OTHER_TABLES = {"exposures", "exposure_contexts", "ingested_days", "outcomes", "plays", "quarantine"}
OTHER_TABLES |= {"cold_lists", "realised_quality"}  # of every day
OTHER_TABLES |= {name for name in contracts.names() if name.startswith("skip_")}
METHODS = {"popularity", "registration_day_streams", "full_pers", "semi_pers"}


def overture(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a subprocess, as a user would."""
    env = os.environ | {"OVERTURE_HOME": str(home), "OVERTURE_CONFIG": str(ROOT / "configs" / "tiny.yaml")}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def partitions(context: Context, table: str) -> list[dict[str, str]]:
    return [p for p in context.lake.partitions(table) if p.get("week", context.week.name) == context.week.name]


def test_week_writes_every_table(finished):
    written = {table for table in contracts.names() if partitions(finished, table)}
    assert written == set(contracts.names()) - OTHER_TABLES


def test_store_has_known_listeners_and_new_listeners_like_the_service(finished):
    """A warm listener has the vector in the lake; a new listener has the list that the service returns."""
    from serving.block.entries import EMPTY
    from serving.recommend import known_users, recommender
    from serving.recommend.list_query import ListQuery
    from serving.recommend.signals import ListParameters
    from serving.release.watcher import ChampionWatcher
    from serving.stores.circuit import CircuitBreaker
    from tests.helpers.as_request import listener
    from tests.helpers.one_week import NEW_USERS_DAY

    champion, circuit = (
        ChampionWatcher(release_keys.folders(finished.home), poll_s=1.0),
        CircuitBreaker(finished.settings.store, finished.home),
    )
    champion.refresh()
    ready, week, lake = champion.current, finished.week.name, finished.lake
    warm = lake.read("warm_users", week=week).sort_by("user_idx")["user_id"].to_pylist()
    vectors = lake.matrix("user_vectors", week=week, space=ready.space_name)
    for idx in range(0, len(warm), 50):
        row = circuit.find_user(ready.name, ready.space_name, warm[idx])
        assert (row.kind, row.since) == ("warm", week)
        np.testing.assert_array_equal(row.vector_D, vectors[idx])
    new_listeners = lake.read("cold_first_day", day=str(NEW_USERS_DAY)).to_pylist()
    assert len(new_listeners) > 3
    responses = recommender.recommend(
        ready, [listener(ready, person) for person in new_listeners], ListParameters(k=50)
    )
    for person, wanted in zip(new_listeners, responses, strict=True):
        row = circuit.find_user(ready.name, ready.space_name, person["user_id"])
        known_users.check_row(ready, row)
        assert row.segment_id == wanted["segment"]["segment_id"]
        body = known_users.recommend(ready, row, str(person["user_id"]), ListQuery(), EMPTY)
        assert body["tracks"] == wanted["tracks"]


def test_cohort_is_in_no_training_set(finished):
    lake, week = finished.lake, finished.week.name
    cohort = set(lake.read("cohort", week=week)["user_id"].to_pylist())
    assert len(cohort) > 30
    for table, partition in (
        ("warm_users", {"week": week}),
        ("first_day", {"week": week, "split": "train"}),
        ("features", {"week": week, "space": "tt_svd", "split": "train"}),
    ):
        assert not cohort & set(lake.read(table, **partition)["user_id"].to_pylist())
    evaluated = [lake.read("first_day", week=week, split=s)["user_id"].to_pylist() for s in ("validation", "test")]
    assert not set(evaluated[0]) & set(evaluated[1])
    assert set(evaluated[0]) | set(evaluated[1]) == cohort


@pytest.mark.parametrize("space", SPACES)
def test_inputs_have_the_papers_width(finished, space):
    d = finished.settings.d(space)
    for split in ("train", "validation", "test"):
        rows = finished.lake.read("features", week=finished.week.name, space=space, split=split)
        assert {len(x) for x in rows["x"].to_pylist()} == {20 * d + 19}


def test_status_reports_verdict_and_metrics(finished):
    done = overture(finished.home, "status", "--json")
    assert done.returncode == 0, done.stderr
    status = json.loads(done.stdout.splitlines()[-1])
    assert status["champion"] == finished.__dict__["promoted"]["release"]
    assert status["week"] == "2026-11-16"
    assert status["verdict"] == "pass"
    rows = {(r["space"], r["method"], r["split"], r["slice"], r["metric"]): r for r in status["evaluation"]}
    for space in SPACES:
        assert {key[1] for key in rows if key[0] == space} == METHODS
    row = rows["tt_svd", "semi_pers", "test", "all", "ndcg"]
    assert set(row) >= {"space", "method", "split", "slice", "metric", "k", "value", "with_rules", "low", "high"}
    stored = finished.lake.read("evaluation", week=finished.week.name, space="tt_svd").to_pylist()
    names = ("method", "split", "slice", "metric", "k")
    (same,) = (one for one in stored if all(one[name] == row[name] for name in names))
    assert {name: same[name] for name in (*names, "value", "with_rules", "low", "high")} == {
        name: row[name] for name in (*names, "value", "with_rules", "low", "high")
    }
    assert 0 < row["low"] <= row["value"] <= row["high"] < 1


def test_status_prints_a_table(finished):
    done = overture(finished.home, "status")
    assert done.returncode == 0, done.stderr
    for word in ("semi_pers", "popularity", "tt_svd", "ut_als", "pass"):
        assert word in done.stdout.replace(" ", "_").lower() or word in done.stdout.lower()


def test_mlflow_has_one_parent_run_and_a_child_run_per_task(finished):
    from jobs.tracking.tracker import Tracker

    tracker = Tracker.connect(finished)
    runs = tracker.client.search_runs([tracker.experiment_id], max_results=1000)
    parents = [r for r in runs if r.data.tags.get("kind") == "parent"]
    assert len(parents) == 1
    assert parents[0].info.status == "FINISHED"
    assert parents[0].data.tags["verdict"] == "pass"
    children = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    tasks = {(r.data.tags["task"], r.data.tags.get("space")) for r in children}
    for space in SPACES:
        assert {(t, space) for t in ("segments", "features", "train", "evaluate")} <= tasks
    assert {("als", "ut_als"), ("svd", "tt_svd"), ("catalog", None), ("check", None), ("gate", None)} <= tasks
    assert {r.info.status for r in children} == {"FINISHED"}
    curve = next(r for r in children if r.data.tags["task"] == "train")
    history = tracker.client.get_metric_history(curve.info.run_id, "train_loss")
    assert len(history) == finished.settings.network.epochs
    assert history[-1].value < history[0].value
    figures = {a.path for r in children for a in tracker.client.list_artifacts(r.info.run_id)}
    assert {"loss_curve.png", "metric_bars.png", "segment_sizes.png", "popularity_ranks.png"} <= figures


def sorted_rows(table: pa.Table) -> pa.Table:
    keys = [f.name for f in table.schema if not pa.types.is_list(f.type)]
    return table.sort_by([(key, "ascending") for key in keys])


@pytest.mark.slow
def test_second_run_gives_equal_rows_and_the_same_release(finished, spark, tmp_path, monkeypatch):
    again = Context(finished.settings, finished.week, tmp_path / "again")
    shutil.copytree(finished.home, again.home)
    monkeypatch.setenv("OVERTURE_HOME", str(again.home))
    again.__dict__["spark"] = spark
    before = {
        (table, tuple(p.items())): sorted_rows(again.lake.read(table, **p))
        for table in contracts.names()
        for p in partitions(again, table)
    }
    promoted = whole_week(again)
    for (table, partition), rows in before.items():
        assert sorted_rows(again.lake.read(table, **dict(partition))).equals(rows), f"{table} {partition}"
    assert promoted["release"] == finished.__dict__["promoted"]["release"]


@pytest.mark.slow
def test_jobs_on_a_standalone_cluster_give_equal_tables(finished, tmp_path):
    """Run on a master and two workers from the wheel; the Spark stage writes the same tables as on local[2].

    Then an executor is killed during ALS and during the SVD: the factors stay bit-identical.
    """
    home = tmp_path / "home"
    shutil.copytree(finished.home / "lake", home / "lake")
    env = os.environ | {"OVERTURE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.on_a_cluster", str(tmp_path / "logs")],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    executor_loss = {"killed": 1, "gone": True, "same": True}
    assert report == {"executors": 2, "als": executor_loss, "svd": executor_loss}
    other = Context(finished.settings, finished.week, home)
    week = finished.week.name
    for table in ("catalog", "warm_users", "user_track", "track_pairs", "cohort"):
        one, two = (sorted_rows(c.lake.read(table, week=week)) for c in (finished, other))
        assert one.equals(two), table
        assert other.lake.version(table, week=week) != finished.lake.version(table, week=week)
    for space in SPACES:
        for table in ("track_vectors", "user_vectors"):
            one, two = (c.lake.matrix(table, week=week, space=space) for c in (finished, other))
            np.testing.assert_allclose(one, two, atol=2e-3)
