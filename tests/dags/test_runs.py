"""Complete DAG runs with Airflow's task runner and the recording `overture` command."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tests.dags.conftest import copy_dag

pytestmark = pytest.mark.usefixtures("database")
MONDAY = datetime(2026, 11, 16, tzinfo=UTC)


def states(run):
    """Return task id -> state."""
    return {ti.task_id: str(ti.state) for ti in run.get_task_instances()}


TRAINING = r"^(ready|begin|check|matrix\.|tt_svd\.|ut_als\.).*"  # marked as successful in tests of the release


@pytest.fixture
def one_task(bag):
    """A function that creates a DAG of one task and stores it in the database."""
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.sdk import DAG
    from tasks import job

    def make(**kwargs):
        with DAG("one_task", schedule=None, default_args={"retries": 2, "retry_delay": timedelta(0)}) as dag:
            job("only", "check users", **kwargs)
        dag.fileloc = dag.relative_fileloc = __file__
        bag.bag_dag(dag)
        sync_bag_to_db(bag, "dags-folder", None)
        return dag

    yield make
    bag.dags.pop("one_task", None)


@pytest.fixture
def weekly(bag):
    return copy_dag(bag.dags["cold_start_weekly"])


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (1, 3), (2, 1), (3, 1), (127, 3)])
def test_exit_codes_2_and_3_are_not_retried_and_others_are(overture, one_task, code, tries):
    overture.exit_with("check users", code)
    run = one_task().test(logical_date=MONDAY + timedelta(days=code))
    assert overture.calls == ["check users"] * tries
    assert states(run) == {"only": "failed" if code else "success"}


def test_a_failed_command_stores_its_report_and_its_link(overture, one_task):
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    overture.exit_with("check users", 3)
    overture.verdict("fail")
    run = one_task().test(logical_date=MONDAY - timedelta(days=1))
    with create_session() as session:
        rows = session.scalars(select(XComModel).where(XComModel.run_id == run.run_id)).all()
        values = {row.key: XComModel.deserialize_value(row) for row in rows}
    assert values["return_value"]["verdict"] == "fail"
    assert values["_link_RunLink"] == "http://127.0.0.1:5000/#/experiments/1/runs/a"


def test_a_command_without_a_report_fails(overture, one_task):
    (overture.folder / "overture").write_text("#!/bin/sh\necho done\n")
    run = one_task(retries=0).test(logical_date=MONDAY - timedelta(days=2))
    assert states(run) == {"only": "failed"}


def test_the_verdict_pass_promotes_without_approval(weekly, overture):
    run = weekly.test(logical_date=MONDAY, mark_success_pattern=TRAINING)
    assert str(run.state) == "success"
    assert states(run)["release.approve"] == "skipped"
    assert overture.calls == [
        "release bundle --week 2026-11-16",
        "release gate --week 2026-11-16",
        "release promote --week 2026-11-16",
        "release publish --week 2026-11-16",
        "complete --week 2026-11-16",
    ]


def test_a_failed_gate_fails_the_run_and_does_not_promote(weekly, overture):
    overture.exit_with("release gate", 3)
    week = MONDAY + timedelta(days=7)
    run = weekly.test(logical_date=week, run_conf={"week": "2026-09-07"}, mark_success_pattern=TRAINING)
    assert str(run.state) == "failed"
    assert overture.calls == ["release bundle --week 2026-09-07", "release gate --week 2026-09-07"]


def test_invalid_data_stops_the_run_before_later_tasks(bag, overture):
    overture.exit_with("check users", 3)
    run = copy_dag(bag.dags["backtest"]).test(logical_date=None, run_conf={"week": "2026-09-07"})
    assert str(run.state) == "failed"
    assert overture.calls == [
        "begin --week 2026-09-07 --backtest",
        "check users tracks events playlists --week 2026-09-07 --backtest",
    ]


def test_the_grey_zone_requires_an_approval(bag):
    from airflow.providers.standard.operators.hitl import ApprovalOperator
    from tasks import branch

    dag = bag.dags["cold_start_weekly"]
    approve = dag.get_task("release.approve")
    assert isinstance(approve, ApprovalOperator)
    assert approve.defaults == ["Reject"]  # without a decision the release is rejected
    assert branch("grey") == "release.approve"
    assert branch("pass") == "release.promote"
    with pytest.raises(KeyError):
        branch("fail")
    assert dag.get_task("release.promote").upstream_task_ids == {"release.verdict", "release.approve"}
    assert dag.get_task("complete").trigger_rule == "none_failed"  # a rejected week is closed too


@pytest.mark.parametrize(("code", "state"), [(0, "success"), (3, "failed")])
def test_the_daily_pipeline_runs_its_commands_for_the_day_before(bag, overture, code, state):
    overture.exit_with("cold-users", code)
    run = copy_dag(bag.dags["cold_users_daily"]).test(logical_date=MONDAY + timedelta(days=code, hours=2))
    assert str(run.state) == state
    commands = ["ready", "cold-users", "realised"][: 3 if code == 0 else 2]
    assert overture.calls == [f"{command} --day 2026-11-{15 + code}" for command in commands]


def test_incomplete_input_after_the_deadline_fails_the_run_without_a_retry(bag, overture):
    overture.exit_with("ready", 3)
    run = copy_dag(bag.dags["skip_daily"]).test(logical_date=MONDAY + timedelta(hours=2))
    assert states(run) == {"ready": "failed", "skip_daily": "upstream_failed"}
    assert overture.calls == ["ready --day 2026-11-15 --engine skip"]


@pytest.mark.parametrize(("code", "is_ready"), [(0, True), (4, False)])
def test_incomplete_input_before_the_deadline_is_awaited(overture, code, is_ready):
    from tasks import wait_for_input

    overture.exit_with("ready", code)
    assert wait_for_input("--day 2026-11-15").poke({}) is is_ready


def test_an_ingested_day_updates_the_assets_of_the_raw_tables(bag, overture):
    from airflow.models.asset import AssetEvent
    from airflow.utils.session import create_session
    from sqlalchemy import select

    run = copy_dag(bag.dags["ingest_daily"]).test(logical_date=MONDAY)
    commands = ["ready --day 2026-11-15 --files", "ingest tables --day 2026-11-15", "block refresh"]
    assert overture.calls == commands
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_run_id == run.run_id)).all()
        uris = sorted(event.uri for event in events)
    assert uris == [f"overture://lake/{table}" for table in ("events", "playlists", "plays", "tracks", "users")]
