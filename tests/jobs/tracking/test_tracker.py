"""Tests of jobs/tracking/tracker.py: parent and child runs, metrics, datasets, models, an unavailable store."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from contracts.errors import OvertureError
from jobs.platform import figures
from jobs.tracking.tracker import Tracker
from tests.helpers import fork_server, small_week


@pytest.fixture
def context(home):
    return small_week.ready(home, taste=None)


@pytest.fixture(autouse=True)
def manual_run(monkeypatch):
    for name in ("OVERTURE_DAG_ID", "OVERTURE_DAG_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def logged(run):
    """The run as MLflow has stored it."""
    return run.client.get_run(run.run_id)


def test_week_has_one_parent_run_and_each_task_one_child_run(context, monkeypatch):
    monkeypatch.setenv("OVERTURE_DAG_ID", "cold_start_weekly")
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "scheduled__2026-11-16T00:00:00+00:00")
    parent = Tracker.start_week(context).run_id
    assert Tracker.start_week(context).run_id == parent
    with Tracker.task(context, "train", "tt_svd") as child:
        assert logged(child).info.status == "RUNNING"
    stored = logged(child)
    assert stored.info.status == "FINISHED"
    assert (
        stored.data.tags.items()
        >= {
            "mlflow.parentRunId": parent,
            "week": "2026-11-16",
            "dag_id": "cold_start_weekly",
            "task": "train",
            "run_id": "scheduled__2026-11-16T00:00:00+00:00",
            "space": "tt_svd",
            "kind": "task",
            "commit": context.commit,
        }.items()
    )
    ended = Tracker.finish_week(context, {"tt_svd.ndcg": 0.5}, "pass")
    assert ended.run_id == parent
    assert logged(ended).info.status == "FINISHED"
    assert logged(ended).data.tags["verdict"] == "pass"
    assert logged(ended).data.metrics == {"tt_svd.ndcg": 0.5}
    assert logged(ended).data.params["svd.d"] == "10"


def test_each_airflow_run_has_its_own_parent_and_a_manual_command_joins_the_newest(context, monkeypatch):
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "first")
    first = Tracker.start_week(context).run_id
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "second")
    second = Tracker.start_week(context).run_id
    assert first != second
    monkeypatch.delenv("OVERTURE_DAG_RUN_ID")
    with Tracker.task(context, "gate") as child:
        assert logged(child).data.tags["mlflow.parentRunId"] == second
    next_week = small_week.ready(context.home, "2026-11-23", taste=None)
    assert Tracker.start_week(next_week).run_id not in (first, second)


def test_failing_task_ends_as_failed_with_the_error_as_a_tag(context):
    parent = Tracker.start_week(context).run_id
    with pytest.raises(ValueError, match="row 7"), Tracker.task(context, "train", "tt_svd") as child:
        raise ValueError("row 7 is bad")
    assert logged(child).info.status == "FAILED"
    assert logged(child).data.tags["error"] == "row 7 is bad"
    assert logged(child).data.tags["error_type"] == "ValueError"
    with pytest.raises(KeyboardInterrupt), Tracker.task(context, "train", "ut_als") as killed:
        raise KeyboardInterrupt
    assert logged(killed).info.status == "KILLED"
    with Tracker.task(context, "train", "tt_svd") as again:
        pass
    assert logged(child).data.tags["superseded_by"] == again.run_id
    assert "superseded_by" not in logged(killed).data.tags, "a run of another space is another task"
    ended = Tracker.finish_week(context, failed=True)
    assert (ended.run_id, logged(ended).info.status) == (parent, "FAILED")


def test_curves_tables_figures_datasets_and_models(context, capfd):
    small_week.fill(context)
    net, onnx, _ = small_week.trained()
    with Tracker.task(context, "train", "tt_svd") as run:
        run.log_params({"network": {"hidden": (16,), "epochs": 3}, "users": 10})
        run.log_params({"users": 11})
        run.log_batch(("train_loss", 1 / (epoch + 1), epoch) for epoch in range(1500))
        run.log_metrics({"interactions=none": 0.5})
        run.log_figure(figures.loss_curve([{"train_loss": 1.0}, {"train_loss": 0.5}]), "loss_curve.png")
        run.log_figure(figures.segment_sizes(np.array([3, 9])), "segment_sizes.png")
        run.log_figure(figures.popularity_ranks({"popularity": np.arange(20)[None]}, 150), "popularity_ranks.png")
        run.log_table([{"rule": "a", "measured": 1.0}], "gate.json")
        run.log_dataset("catalog", week=context.week.name)
        uri = run.log_onnx(onnx, "network")
    stored = logged(run)
    assert stored.data.params == {"network.hidden": "(16,)", "network.epochs": "3", "users": "10"}
    history = run.client.get_metric_history(run.run_id, "train_loss")
    assert [(m.step, m.value) for m in history[:2]] == [(0, 1.0), (1, 0.5)]
    assert len(history) == 1500
    assert stored.data.metrics["interactions_none"] == 0.5
    paths = {file.path for file in run.client.list_artifacts(run.run_id)}
    assert paths >= {"loss_curve.png", "segment_sizes.png", "popularity_ranks.png", "gate.json"}
    dataset = stored.inputs.dataset_inputs[0].dataset
    assert dataset.name == "catalog/week=2026-11-16"
    assert json.loads(dataset.profile) == {"num_rows": 150}
    assert "MLFLOW_TRACKING_URI" not in os.environ, "another OVERTURE_HOME in the same process has its own store"
    import mlflow

    mlflow.set_tracking_uri(run.uri)
    info = mlflow.models.get_model_info(uri)
    assert info.signature.inputs.inputs[0].shape == (-1, net.d_in)
    assert info.signature.outputs.inputs[0].shape == (-1, net.d_out)
    assert mlflow.onnx.load_model(uri).SerializeToString()
    assert capfd.readouterr().out == "", "stdout contains only the job's last line"


def test_metric_bars_need_no_method(context):
    import pandas as pd

    rows = pd.DataFrame([{"method": "a", "metric": "ndcg", "k": 50, "value": 0.2, "low": 0.1, "high": 0.3}])
    assert figures.metric_bars(rows, "tt_svd").axes[0].get_title() == "tt_svd: test cohort, @50"
    assert figures.metric_bars(rows[:0], "tt_svd").axes
    assert figures.loss_curve([]).axes


def test_concurrent_processes_share_one_experiment_and_one_parent(context, tmp_path):
    answers = [tmp_path / f"{n}.json" for n in range(3)]
    start = [("start", {"home": str(context.home), "week": "2026-11-16", "result_file": str(a)}) for a in answers]
    assert fork_server.shared().run(*start) == [0, 0, 0]
    reports = [json.loads(answer.read_text()) for answer in answers]
    assert len({report["experiment"] for report in reports}) == 1
    assert reports[0]["experiment"] != "0"
    assert len({report["parent"] for report in reports}) == 1


def test_store_failure_during_a_task_raises_the_same_error(context):
    database = context.home / "mlflow" / "mlflow.db"

    def log_to_a_removed_database() -> None:
        with Tracker.task(context, "train") as run:
            database.unlink()
            database.mkdir()
            run.client._tracking_client.store.engine.dispose()
            run.log_metrics({"a": 1.0})

    with pytest.raises(OvertureError, match="MLflow is unavailable at sqlite"):
        log_to_a_removed_database()
