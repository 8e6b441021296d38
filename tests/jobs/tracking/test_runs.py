"""MLflow as the jobs see it: parents, children, curves, data sets, networks; and what happens while it is away."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from contracts.errors import BadArgument, OvertureError
from jobs.platform import figures
from jobs.tracking import run_logger, runs
from tests.helpers import fork_server as zygote
from tests.helpers import small_week


@pytest.fixture
def context(home):
    return small_week.ready(home, taste=None)


@pytest.fixture(autouse=True)
def by_hand(monkeypatch):
    for name in ("OVERTURE_DAG_ID", "OVERTURE_DAG_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


def run_of(run):
    return run.tracker.client.get_run(run.run_id)


def test_one_parent_a_week_one_child_a_task(context, monkeypatch):
    monkeypatch.setenv("OVERTURE_DAG_ID", "cold_start_weekly")
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "scheduled__2026-11-16T00:00:00+00:00")
    parent = runs.start_week(context)
    assert runs.start_week(context) == parent
    with runs.task(context, "train", "tt_svd") as child:
        assert run_of(child).info.status == "RUNNING"
    found = run_of(child)
    assert found.info.status == "FINISHED"
    assert (
        found.data.tags.items()
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
    ended = runs.finish_week(context, {"tt_svd.ndcg": 0.5}, "pass")
    assert ended.run_id == parent
    assert run_of(ended).info.status == "FINISHED"
    assert run_of(ended).data.tags["verdict"] == "pass"
    assert run_of(ended).data.metrics == {"tt_svd.ndcg": 0.5}
    assert run_of(ended).data.params["svd.d"] == "10"


def test_another_airflow_run_of_the_week_has_a_parent_of_its_own_and_a_hand_joins_the_newest(context, monkeypatch):
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "first")
    first = runs.start_week(context)
    monkeypatch.setenv("OVERTURE_DAG_RUN_ID", "second")
    second = runs.start_week(context)
    assert first != second
    monkeypatch.delenv("OVERTURE_DAG_RUN_ID")
    with runs.task(context, "gate") as child:
        assert run_of(child).data.tags["mlflow.parentRunId"] == second
    other = small_week.ready(context.home, "2026-11-23", taste=None)
    assert runs.start_week(other) not in (first, second)


def test_a_task_that_raises_is_failed_with_the_error_as_a_tag(context):
    parent = runs.start_week(context)
    with pytest.raises(ValueError, match="row 7"), runs.task(context, "train", "tt_svd") as child:
        raise ValueError("row 7 is bad")
    assert run_of(child).info.status == "FAILED"
    assert run_of(child).data.tags["error"] == "row 7 is bad"
    assert run_of(child).data.tags["error_type"] == "ValueError"
    with pytest.raises(KeyboardInterrupt), runs.task(context, "train", "ut_als") as killed:
        raise KeyboardInterrupt
    assert run_of(killed).info.status == "KILLED"
    with runs.task(context, "train", "tt_svd") as again:
        pass
    assert run_of(child).data.tags["superseded_by"] == again.run_id
    assert "superseded_by" not in run_of(killed).data.tags, "the other space is another task"
    ended = runs.finish_week(context, failed=True)
    assert (ended.run_id, run_of(ended).info.status) == (parent, "FAILED")


def test_curves_tables_figures_data_sets_and_networks(context, capfd):
    small_week.fill(context)
    net, onnx, _ = small_week.trained()
    with runs.task(context, "train", "tt_svd") as run:
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
    found = run_of(run)
    assert found.data.params == {"network.hidden": "(16,)", "network.epochs": "3", "users": "10"}
    history = run.tracker.client.get_metric_history(run.run_id, "train_loss")
    assert [(m.step, m.value) for m in history[:2]] == [(0, 1.0), (1, 0.5)]
    assert len(history) == 1500
    assert found.data.metrics["interactions_none"] == 0.5
    paths = {file.path for file in run.tracker.client.list_artifacts(run.run_id)}
    assert paths >= {"loss_curve.png", "segment_sizes.png", "popularity_ranks.png", "gate.json"}
    dataset = found.inputs.dataset_inputs[0].dataset
    assert dataset.name == "catalog/week=2026-11-16"
    assert json.loads(dataset.profile) == {"num_rows": 150}
    assert "MLFLOW_TRACKING_URI" not in os.environ, "another home in the same process has a store of its own"
    import mlflow

    mlflow.set_tracking_uri(run.tracker.uri)
    info = mlflow.models.get_model_info(uri)
    assert info.signature.inputs.inputs[0].shape == (-1, net.d_in)
    assert info.signature.outputs.inputs[0].shape == (-1, net.d_out)
    assert mlflow.onnx.load_model(uri).SerializeToString()
    assert capfd.readouterr().out == "", "stdout belongs to the job's last line"


def test_metric_bars_need_no_method(context):
    import pandas as pd

    rows = pd.DataFrame([{"method": "a", "metric": "ndcg", "k": 50, "value": 0.2, "low": 0.1, "high": 0.3}])
    assert figures.metric_bars(rows, "tt_svd").axes[0].get_title() == "tt_svd: test cohort, @50"
    assert figures.metric_bars(rows[:0], "tt_svd").axes
    assert figures.loss_curve([]).axes


def test_processes_that_start_at_once_share_one_experiment_and_one_parent(context, tmp_path):
    answers = [tmp_path / f"{n}.json" for n in range(3)]
    start = [("start", {"home": str(context.home), "week": "2026-11-16", "answer": str(a)}) for a in answers]
    assert zygote.shared().run(*start) == [0, 0, 0]
    said = [json.loads(answer.read_text()) for answer in answers]
    assert len({one["experiment"] for one in said}) == 1
    assert said[0]["experiment"] != "0"
    assert len({one["parent"] for one in said}) == 1


def test_pickle_is_off_and_telemetry_too():
    assert os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def at(context, uri):
    return type(context)(
        context.settings.model_copy(
            update={"mlflow": context.settings.mlflow.model_copy(update={"tracking_uri": uri})}
        ),
        context.week,
        context.home,
    )


@pytest.mark.parametrize("kind", ["folder", "file for a folder", "garbage", "closed port", "closed database"])
def test_an_absent_store_is_one_sentence_with_its_address(context, tmp_path, kind):
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    uri = {
        "folder": f"sqlite:///{tmp_path}/folder.db",
        "file for a folder": f"sqlite:///{tmp_path}/file/mlflow.db",
        "garbage": f"sqlite:///{tmp_path}/garbage.db",
        "closed port": "http://127.0.0.1:9",
        "closed database": "postgresql://me:secret@127.0.0.1:9/mlflow",
    }[kind]
    with pytest.raises(OvertureError) as raised:
        runs.start_week(at(context, uri))
    assert raised.value.exit_code == 1
    assert uri.replace("secret", "***") in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_store_that_goes_away_in_the_middle_is_the_same_sentence(context):
    database = context.home / "mlflow" / "mlflow.db"

    def lose_it() -> None:
        with runs.task(context, "train") as run:
            database.unlink()
            database.mkdir()
            run.tracker.client._tracking_client.store.engine.dispose()
            run.log_metrics({"a": 1.0})

    with pytest.raises(OvertureError, match="MLflow does not answer at sqlite"):
        lose_it()


def test_an_address_of_no_known_kind_is_refused(context):
    with pytest.raises(BadArgument, match=r"mlflow\.tracking_uri"):
        runs.start_week(at(context, "mlruns"))


def test_settings_win_over_the_environment(context, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere")
    assert runs.tracking_uri(context) == "http://elsewhere"
    assert runs.tracking_uri(at(context, "http://chosen")) == "http://chosen"
    monkeypatch.setenv("OVERTURE_MLFLOW_UI", "http://ui/")
    assert run_logger.run_url("3", "abc") == "http://ui/#/experiments/3/runs/abc"
