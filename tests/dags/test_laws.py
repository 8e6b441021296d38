"""Rules that every DAG follows."""

from __future__ import annotations

import ast
import sys
import time
from datetime import timedelta

import pytest

from tests.dags.conftest import DAGS

FILES = sorted(DAGS.glob("*.py"))
PIPELINES = (
    "cold_start_weekly",
    "ingest_daily",
    "backtest",
    "rollback",
    "promote",
    "anchor",
    "cold_users_daily",
    "skip_weekly",
    "skip_daily",
    "monitor_weekly",
    "publish_missing",
)
WAITING = (
    "ingest_daily",
    "cold_start_weekly",
    "cold_users_daily",
    "skip_weekly",
    "skip_daily",
)  # pipelines that wait for their input
LIGHT = {"airflow", "jinja2", "tasks"}


@pytest.fixture(params=PIPELINES)
def dag(bag, request):
    return bag.dags[request.param]


def test_every_file_parses_and_every_pipeline_exists(bag):
    assert bag.import_errors == {}
    assert sorted(bag.dags) == sorted(PIPELINES)


def test_the_settings_are_the_ones_of_the_repository():
    from airflow.configuration import conf

    assert conf.get("core", "executor") == "LocalExecutor"
    assert not conf.getboolean("core", "load_examples")
    assert not conf.getboolean("scheduler", "catchup_by_default")
    assert conf.get("api", "host") == "127.0.0.1"
    assert "/" not in (DAGS.parent / "airflow.cfg").read_text().replace("airflow.api_fastapi", "")


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_imports_nothing_heavy_and_reads_no_clock_and_no_variable(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            assert module.partition(".")[0] in LIGHT | sys.stdlib_module_names, f"{file.name} imports {module}"
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"now", "utcnow", "today", "environ", "getenv"}, f"{file.name}: {node.attr}"
        if isinstance(node, ast.Name):
            assert node.id not in {"Variable", "Connection", "open"}, f"{file.name}: {node.id}"
        if file.name != "tasks.py":
            assert not isinstance(node, ast.If | ast.IfExp), f"{file.name}: an `if` belongs in a job"


def test_the_page_in_the_ui_has_the_required_rows(dag):
    assert dag.doc_md.strip() == ast.get_docstring(ast.parse((DAGS / f"{dag.dag_id}.py").read_text()))
    for word in ("Reads", "Writes", "When", "Re-run", "Owner"):
        assert f"| {word} |" in dag.doc_md
        assert dag.doc_md.count("\n|") == 7, "each row of the table is one line"
    assert dag.tags


def test_one_run_at_a_time_with_a_timeout(dag):
    assert dag.max_active_runs == 1
    assert dag.catchup is False
    assert dag.dagrun_timeout
    for task in dag.tasks:
        limit = task.execution_timeout or getattr(task, "response_timeout", None)
        assert timedelta(0) < limit < dag.dagrun_timeout, task.task_id


def test_every_task_has_an_owner_and_few_retries(dag):
    for task in dag.tasks:
        assert task.owner == "recommendations"
        assert task.retries <= 2


def test_a_pipeline_of_several_tasks_ends_in_complete(dag):
    jobs = [task.task_id for task in dag.tasks if task.task_type == "JobOperator"]
    first, last = ("begin", "complete") if len(jobs) > 1 else (dag.dag_id, dag.dag_id)
    first = "ready" if dag.dag_id in WAITING else first
    # the last task has no run of its own in MLflow, or one outside the parent run
    last = {"ingest_daily": "block_refresh", "cold_users_daily": "realised"}.get(dag.dag_id, last)
    assert [task.task_id for task in dag.leaves] == [last]
    assert [task.task_id for task in dag.roots] == [first]


def test_an_undefined_template_variable_raises(dag):
    from jinja2 import StrictUndefined

    assert dag.template_undefined is StrictUndefined


def test_every_job_is_one_overture_command(dag):
    jobs = [task for task in dag.tasks if task.task_type == "JobOperator"]
    others = {"BashSensor", "BranchPythonOperator", "ApprovalOperator"}
    assert {task.task_type for task in dag.tasks} <= {"JobOperator", *others}
    for task in jobs:
        assert task.bash_command.startswith("overture ")
        assert task.append_env
        assert [link.name for link in task.operator_extra_links] == ["MLflow run"]


@pytest.mark.parametrize("dag_id", WAITING)
def test_a_waiting_task_occupies_no_worker_and_outlives_every_deadline(bag, dag_id):
    dag = bag.dags[dag_id]
    ready = dag.get_task("ready")
    assert ready.bash_command.startswith("overture ready --")
    assert (ready.mode, ready.retry_exit_code, ready.poke_interval) == ("reschedule", 4, 600)
    longest = 96 * 3600  # the largest source.deadline_h; a day is awaited from its end at the earliest
    assert longest < ready.timeout < dag.dagrun_timeout.total_seconds()


def test_assets_connect_ingestion_with_the_first_readers_of_the_raw_tables(bag):
    def uris(assets):
        return sorted(asset.uri for asset in assets)

    raw = [f"overture://lake/{table}" for table in ("events", "playlists", "plays", "tracks", "users")]
    assert uris(bag.dags["ingest_daily"].get_task("ingest_daily").outlets) == raw
    assert uris(bag.dags["cold_start_weekly"].get_task("matrix.catalog").inlets) == [raw[0], raw[1], *raw[3:]]
    assert uris(bag.dags["skip_weekly"].get_task("features").inlets) == ["overture://lake/plays"]


def test_parsing_all_files_takes_less_than_a_second_of_cpu(bag):
    from airflow.dag_processing.dagbag import BundleDagBag

    before = time.process_time()
    parsed = BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")
    assert time.process_time() - before < 1
    assert set(parsed.dags) == set(bag.dags)
