"""Compare every task's command of scheduled and manual runs with golden files.

After an intended change: UPDATE_GOLDEN=1 .venv/airflow/bin/python -m pytest tests/dags/test_commands.py
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import pytest

from tests.dags.conftest import ROOT

GOLDEN = ROOT / "tests" / "golden"
MONDAY = datetime(2026, 11, 16, tzinfo=UTC)
RELEASE = "0123456789abcdef"
RUNS = {
    "cold_start_weekly.scheduled": {"monday": MONDAY},
    "cold_start_weekly.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"week": "2026-09-07"}},
    "cold_start_weekly.approved": {"monday": MONDAY, "approved": {"chosen_options": ["Approve"]}},
    "backtest.by_hand": {"conf": {"week": "2026-09-07"}},
    "ingest_daily.scheduled": {"monday": datetime(2026, 11, 16, 0, 30, tzinfo=UTC)},
    "ingest_daily.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"day": "2026-09-09"}},
    "cold_users_daily.scheduled": {"monday": datetime(2026, 11, 16, 2, tzinfo=UTC)},
    "cold_users_daily.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"day": "2026-09-09"}},
    "skip_weekly.scheduled": {"monday": MONDAY},
    "skip_weekly.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"week": "2016-12-05"}},
    "skip_weekly.approved": {"monday": MONDAY, "approved": {"chosen_options": ["Approve"]}},
    "skip_daily.scheduled": {"monday": datetime(2026, 11, 16, 2, 30, tzinfo=UTC)},
    "skip_daily.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"day": "2016-12-05"}},
    "monitor_weekly.scheduled": {"monday": datetime(2026, 11, 16, 4, tzinfo=UTC)},
    "monitor_weekly.by_hand": {"monday": datetime(2026, 11, 21, 9, tzinfo=UTC), "conf": {"week": "2026-09-07"}},
    "publish_missing.scheduled": {"monday": datetime(2026, 11, 16, 0, 10, tzinfo=UTC)},
    "rollback.by_hand": {},
    "rollback.skip": {"conf": {"engine": "skip", "to": RELEASE}},
    "rollback.to": {"conf": {"to": RELEASE}},
    "anchor.by_hand": {},
    "anchor.to": {"conf": {"engine": "skip", "to": RELEASE}},
    "promote.by_hand": {"conf": {"release": RELEASE}},
    "promote.skip": {"conf": {"engine": "skip", "release": RELEASE}},
}


@pytest.mark.parametrize("name", RUNS)
def test_commands_equal_the_golden_files(bag, render, name):
    dag_id = name.partition(".")[0]
    dag = bag.dags[dag_id]
    lines = []
    for task_id, command in render(dag_id, **RUNS[name]).items():
        task = dag.get_task(task_id)
        after = ", ".join(sorted(task.upstream_task_ids)) or "nothing"
        lines += [f"# {task_id}, after {after} ({task.trigger_rule.value})", command, ""]
    text = "\n".join(lines)
    file = GOLDEN / f"{name}.txt"
    if os.environ.get("UPDATE_GOLDEN") == "1":
        file.write_text(text)
    assert text == file.read_text()


def test_every_golden_file_has_a_run():
    names = {
        file.stem for dag_id in {name.partition(".")[0] for name in RUNS} for file in GOLDEN.glob(f"{dag_id}.*.txt")
    }
    assert names == set(RUNS)


def test_a_run_without_a_week_renders_a_week_that_every_command_rejects(render):
    assert render("cold_start_weekly")["begin"] == "overture begin --week none"


def test_a_run_without_a_day_renders_a_day_that_the_command_rejects(render):
    assert render("cold_users_daily")["cold_users_daily"] == "overture cold-users --day none"


@pytest.mark.parametrize(("start", "day"), [("2026-03-01", "2026-02-28"), ("2026-01-01", "2025-12-31")])
def test_a_daily_run_processes_the_day_before(render, start, day):
    commands = render("cold_users_daily", monday=datetime.fromisoformat(f"{start}T02:00:00+00:00"))
    names = {"ready": "ready", "cold_users_daily": "cold-users", "realised": "realised"}
    assert commands == {task: f"overture {name} --day {day}" for task, name in names.items()}


@pytest.mark.parametrize("hour", [0, 9])
def test_a_manual_run_passes_its_own_day_to_the_command(render, hour):
    wednesday = datetime(2026, 11, 18, hour, tzinfo=UTC)
    assert render("cold_start_weekly", monday=wednesday)["begin"] == "overture begin --week 2026-11-18"


def test_the_schedule_fires_on_the_monday_of_the_week(bag, render):
    import pendulum
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import DataInterval, TimeRestriction

    timetable = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["cold_start_weekly"])).timetable
    last = pendulum.datetime(2026, 2, 23)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=DataInterval(last, last),
        restriction=TimeRestriction(earliest=None, latest=None, catchup=True),
    )
    assert str(info.run_after) == "2026-03-02 00:00:00+00:00"
    assert render("cold_start_weekly", monday=info.data_interval.start)["begin"] == "overture begin --week 2026-03-02"


def test_the_daily_schedule_fires_two_hours_after_the_end_of_its_day(bag, render):
    import pendulum
    from airflow.serialization.serialized_objects import DagSerialization
    from airflow.timetables.base import DataInterval, TimeRestriction

    timetable = DagSerialization.from_dict(DagSerialization.to_dict(bag.dags["cold_users_daily"])).timetable
    last = pendulum.datetime(2026, 2, 28, 2)
    info = timetable.next_dagrun_info(
        last_automated_data_interval=DataInterval(last, last),
        restriction=TimeRestriction(earliest=None, latest=None, catchup=True),
    )
    assert str(info.run_after) == "2026-03-01 02:00:00+00:00"
    commands = render("cold_users_daily", monday=info.data_interval.start)
    assert commands["cold_users_daily"] == "overture cold-users --day 2026-02-28"


@pytest.mark.usefixtures("database")
def test_a_backfill_of_three_weeks_creates_three_runs_for_three_mondays(render):
    from airflow.models.backfill import _create_backfill
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session
    from sqlalchemy import select

    _create_backfill(
        dag_id="cold_start_weekly",
        from_date=datetime(2026, 9, 7, tzinfo=UTC),
        to_date=datetime(2026, 9, 21, tzinfo=UTC),
        max_active_runs=1,
        reverse=False,
        dag_run_conf=None,
        triggering_user_name="tests",
    )
    with create_session() as session:
        runs = session.scalars(select(DagRun).where(DagRun.run_type == "backfill").order_by(DagRun.logical_date)).all()
        begins = [render("cold_start_weekly", monday=run.data_interval_start, conf=run.conf)["begin"] for run in runs]
    assert begins == [f"overture begin --week 2026-09-{day}" for day in ("07", "14", "21")]
