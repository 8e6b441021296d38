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
from tests.helpers.one_week import whole_week

ROOT = Path(__file__).parents[2]
# Of experiments and of the skip engine: no cold-start week makes them.
OF_NO_WEEK = {"exposures", "exposure_contexts", "outcomes", "plays"}
OF_NO_WEEK |= {name for name in contracts.names() if name.startswith("skip_")}
METHODS = {"popularity", "registration_day_streams", "full_pers", "semi_pers"}


def overture(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a subprocess, as a user would."""
    env = os.environ | {"OVERTURE_HOME": str(home), "OVERTURE_CONFIG": str(ROOT / "configs" / "tiny.yaml")}
    return subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def partitions(context: Context, table: str) -> list[dict[str, str]]:
    return [p for p in context.lake.partitions(table) if p.get("week", context.week.name) == context.week.name]


def test_every_table_of_the_week_is_there(finished):
    made = {table for table in contracts.names() if partitions(finished, table)}
    assert made == set(contracts.names()) - OF_NO_WEEK


def test_known_listeners_are_those_of_the_week_and_newcomers_get_what_the_service_would_say(finished):
    """A warm listener's vector is that of the lake; a new listener's list equals that for the same request."""
    from serving.recommend import known_users, recommender
    from serving.release.watcher import ChampionWatcher
    from serving.schema import ListOptions
    from serving.stores.circuit import CircuitBreaker
    from tests.helpers.as_request import listener
    from tests.helpers.one_week import NEWCOMERS

    champion, circuit = ChampionWatcher(finished.home), CircuitBreaker(finished.settings.store, finished.home)
    champion.refresh()
    ready, week, lake = champion.current, finished.week.name, finished.lake
    warm = lake.read("warm_users", week=week).sort_by("user_idx")["user_id"].to_pylist()
    vectors = lake.matrix("user_vectors", week=week, space=ready.space_name)
    for idx in range(0, len(warm), 50):
        row = circuit.find_user(ready.name, ready.space_name, warm[idx])
        assert (row.kind, row.since) == ("warm", week)
        np.testing.assert_array_equal(row.vector_D, vectors[idx])
    people = lake.read("cold_first_day", day=str(NEWCOMERS)).to_pylist()
    assert len(people) > 3
    said = recommender.recommend(ready, [listener(person) for person in people], ListOptions(k=50))
    for person, wanted in zip(people, said, strict=True):
        row = circuit.find_user(ready.name, ready.space_name, person["user_id"])
        known_users.check_row(ready, row)
        assert row.segment_id == wanted["segment"]["segment_id"]
        assert known_users.recommend(ready, row, 50, set())["tracks"] == wanted["tracks"]


def test_the_cohort_is_in_no_training_set(finished):
    lake, week = finished.lake, finished.week.name
    cohort = set(lake.read("cohort", week=week)["user_id"].to_pylist())
    assert len(cohort) > 30
    for table, partition in (
        ("warm_users", {"week": week}),
        ("first_day", {"week": week, "split": "train"}),
        ("features", {"week": week, "space": "tt_svd", "split": "train"}),
    ):
        assert not cohort & set(lake.read(table, **partition)["user_id"].to_pylist())
    methods_to_evaluate = [
        lake.read("first_day", week=week, split=s)["user_id"].to_pylist() for s in ("validation", "test")
    ]
    assert not set(methods_to_evaluate[0]) & set(methods_to_evaluate[1])
    assert set(methods_to_evaluate[0]) | set(methods_to_evaluate[1]) == cohort


@pytest.mark.parametrize("space", SPACES)
def test_inputs_have_the_papers_width(finished, space):
    d = finished.settings.d(space)
    for split in ("train", "validation", "test"):
        rows = finished.lake.read("features", week=finished.week.name, space=space, split=split)
        assert {len(x) for x in rows["x"].to_pylist()} == {20 * d + 19}


def test_status_tells_what_the_week_was_worth(finished):
    done = overture(finished.home, "status", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["champion"] == finished.__dict__["promoted"]["release"]
    assert found["week"] == "2026-11-16"
    assert found["verdict"] == "pass"
    rows = {(r["space"], r["method"], r["split"], r["slice"], r["metric"]): r for r in found["evaluation"]}
    for space in SPACES:
        assert {key[1] for key in rows if key[0] == space} == METHODS
    row = rows["tt_svd", "semi_pers", "test", "all", "ndcg"]
    assert set(row) >= {"space", "method", "split", "slice", "metric", "k", "value", "low", "high"}
    assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1


def test_status_is_a_table_for_people(finished):
    done = overture(finished.home, "status")
    assert done.returncode == 0, done.stderr
    for word in ("semi_pers", "popularity", "tt_svd", "ut_als", "pass"):
        assert word in done.stdout.replace(" ", "_").lower() or word in done.stdout.lower()


def test_mlflow_holds_one_parent_and_a_child_a_task(finished):
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
def test_a_second_run_gives_the_same_rows_and_the_same_release(finished, spark, tmp_path, monkeypatch):
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
def test_the_same_jobs_run_on_a_standalone_cluster(finished, tmp_path):
    """Master and two workers from the wheel; the Spark stage gives the tables that local[2] gave.

    Then an executor is killed in the middle of an ALS, and of an SVD: the factors are the same bits as without.
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
    said = json.loads(done.stdout.splitlines()[-1])
    death = {"killed": 1, "gone": True, "same": True}
    assert said == {"executors": 2, "als": death, "svd": death}
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
