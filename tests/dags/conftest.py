"""Fixtures of the DAG tests: Airflow with an empty database, and an `overture` command that records its calls."""

from __future__ import annotations

import atexit
import base64
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DAGS = ROOT / "dags"

# Airflow reads its settings when it is imported, so they are set before any import of it.
HOME = Path(tempfile.mkdtemp(prefix="overture-airflow-"))
atexit.register(shutil.rmtree, HOME, ignore_errors=True)
for name in [name for name in os.environ if name.startswith("AIRFLOW")]:
    del os.environ[name]
os.environ |= {
    "AIRFLOW_HOME": str(HOME),
    "AIRFLOW_CONFIG": str(ROOT / "airflow.cfg"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
    "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(b"0" * 32).decode(),
    "AIRFLOW__API_AUTH__JWT_SECRET": "tests",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "ERROR",
}
sys.path.insert(0, str(DAGS))

# Appends its arguments to calls.txt. The exit code is read from the file named after its first words; default 0.
RECORDER = """#!/usr/bin/env bash
echo "$*" >> "{folder}/calls.txt"
echo "noise on stderr" >&2
name=$(echo "$1 $2" | sed -E 's/ --.*//; s/ /-/')
code=$(cat "{folder}/$name" 2>/dev/null || echo 0)
verdict=$(cat "{folder}/verdict" 2>/dev/null || echo pass)
echo "some output"
echo '{{"rows": 1, "mlflow_url": "http://127.0.0.1:5000/#/experiments/1/runs/a", "verdict": "'$verdict'"}}'
echo "noise after the report" >&2
exit "$code"
"""


def copy_dag(dag: Any) -> Any:
    """Return a copy of a DAG with its own parameters, because parameters store their last value."""
    copied = deepcopy(dag)
    for owner in (copied, *copied.tasks):
        owner.params = deepcopy(owner.params)
    return copied


class Overture:
    """The recording command: its calls, and the exit code and verdict that it returns."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        command = folder / "overture"
        command.write_text(RECORDER.format(folder=folder))
        command.chmod(command.stat().st_mode | stat.S_IEXEC)

    def exit_with(self, words: str, code: int) -> None:
        """Set the exit code of calls that start with these words."""
        (self.folder / words.replace(" ", "-")).write_text(str(code))

    def verdict(self, verdict: str) -> None:
        """Set the verdict that the command reports."""
        (self.folder / "verdict").write_text(verdict)

    @property
    def calls(self) -> list[str]:
        """All calls so far, in order."""
        file = self.folder / "calls.txt"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def overture(tmp_path, monkeypatch) -> Overture:
    """An `overture` command at the head of PATH, for this test only."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    return Overture(tmp_path)


@pytest.fixture(scope="session")
def bag():
    """All DAG files, parsed as by the dag-processor."""
    from airflow.dag_processing.dagbag import BundleDagBag

    return BundleDagBag(dag_folder=str(DAGS), bundle_path=DAGS, bundle_name="dags-folder")


@pytest.fixture(scope="session")
def database(bag):
    """Create Airflow's database and store the DAGs in it."""
    from airflow.dag_processing.bundles.manager import DagBundlesManager
    from airflow.dag_processing.dagbag import sync_bag_to_db
    from airflow.utils import db

    db.initdb()
    DagBundlesManager().sync_bundles_to_db()
    sync_bag_to_db(bag, "dags-folder", None)


@pytest.fixture(scope="session")
def render(bag) -> Callable[..., dict[str, str]]:
    """A function that returns task id -> command, as Airflow renders it for one run."""
    from airflow.sdk import timezone
    from airflow.sdk.definitions.param import process_params

    def rendered(
        dag_id: str,
        *,
        monday: datetime | None = None,
        conf: dict[str, Any] | None = None,
        approved: dict[str, Any] | None = None,
    ) -> dict[str, str]:
        dag = copy_dag(bag.dags[dag_id])

        class TaskInstance:
            """The part of a task instance that the templates use."""

            @staticmethod
            def xcom_pull(task_ids: str) -> dict[str, Any] | None:
                return {"release.approve": approved, "release.gate": {"verdict": "grey"}}[task_ids]

        commands = {}
        for task in dag.topological_sort():
            if task.task_type not in ("JobOperator", "BashSensor"):
                continue
            context: dict[str, Any] = {
                "dag": dag,
                "run_id": "the_run",
                "params": process_params(dag, task, conf, suppress_exception=False),
                "ti": TaskInstance,
            }
            if monday is not None:  # as in Airflow: a run without a logical date has no such key
                context["data_interval_start"] = timezone.coerce_datetime(monday)
            ready = task.prepare_for_execution()
            ready.render_template_fields(context)
            if task.task_type == "JobOperator":
                assert ready.env == {"OVERTURE_DAG_ID": dag_id, "OVERTURE_DAG_RUN_ID": "the_run"}
            commands[task.task_id] = ready.bash_command
        return commands

    return rendered
