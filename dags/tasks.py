"""Building blocks of the pipelines: the week, the trigger form, and a task that runs one `overture` command.

A task's command is shown in the UI under "Rendered Templates" and can be pasted into a shell.
Exit codes: 0 done; 2 wrong arguments and 3 a failed check or gate (neither is retried); 4 the input is not complete yet
(the task `ready` waits and tries again); anything else is retried.
The last line of stdout is one JSON object; it becomes the task's result (XCom) and names the MLflow run.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.providers.standard.operators.python import BranchPythonOperator
from airflow.providers.standard.sensors.bash import BashSensor
from airflow.sdk import Asset, BaseOperator, BaseOperatorLink, Context, Param, TaskGroup
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from jinja2 import StrictUndefined

# The week of a run: the `week` parameter, else the Monday of the schedule, else `none`, which every command rejects
# (exit code 2).
WEEK = "{{ params.week or (data_interval_start | ds if data_interval_start is defined else 'none') }}"

# The day of a run: the `day` parameter, else the day before the scheduled time, else `none`.
DAY = "{{ params.day or (data_interval_start.subtract(days=1) | ds if data_interval_start is defined else 'none') }}"

# Each space and its factorisation.
SPACES = {"tt_svd": "svd", "ut_als": "als"}

# The skip engine's models; each is trained by a task of its own (a test compares them with skip.models).
SKIP_MODELS = (
    "content_based",
    "collaborative",
    "truncated_svd",
    "pmf",
    "rbm",
    "fm",
    "ncf",
    "neumf",
    "graphsage",
    "logistic_features",
    "boosted_trees",
    "session_gru",
)

# Values of the engine parameter.
ENGINES = ("cold_start", "skip")

# The raw tables, as Airflow's Assets page shows them: `ingest_daily` updates them, the weekly pipelines read them.
RAW_TABLES = {
    table: Asset(name=table, uri=f"overture://lake/{table}")
    for table in ("users", "tracks", "events", "playlists", "plays")
}

# The gate's report, and the flag that only a person's approval adds: a rejection skips the promotion.
GATE = "ti.xcom_pull(task_ids='release.gate')"
APPROVED = "{{ ' --approved' if ti.xcom_pull(task_ids='release.approve') else '' }}"

# Exit code of an input that is not complete yet.
NOT_READY = 4

# Exit codes that a retry cannot change.
FINAL = {2: "wrong arguments or settings", 3: "a contract, a data check or the gate failed"}

DEFAULTS: dict[str, Any] = {
    "owner": "recommendations",
    "retries": 2,
    "retry_delay": timedelta(seconds=30),
    "execution_timeout": timedelta(hours=6),
}

# Arguments that all DAGs share.
DAG_DEFAULTS: dict[str, Any] = {
    "default_args": DEFAULTS,
    "max_active_runs": 1,
    "catchup": False,
    "dagrun_timeout": timedelta(days=6),
    "template_undefined": StrictUndefined,
}

# A week reaches the shell only as ten digits and dashes. `format` rejects 2026-02-30.
WEEK_SCHEMA: dict[str, Any] = {
    "title": "Week",
    "format": "date",
    "pattern": r"^\d{4}-\d{2}-\d{2}$",
    "minLength": 10,
    "maxLength": 10,
}

DAY_SCHEMA: dict[str, Any] = {**WEEK_SCHEMA, "title": "Day"}

# A digest. With `$` alone a line break could reach the shell.
RELEASE_SCHEMA: dict[str, Any] = {
    "title": "Release",
    "pattern": r"^[0-9a-f]{12,64}$(?!\n)",
    "minLength": 12,
    "maxLength": 64,
}


class RunLink(BaseOperatorLink):
    """Adds a button to a task that opens its MLflow run."""

    @property
    def name(self) -> str:
        """Text of the button."""
        return "MLflow run"

    def get_link(self, operator: BaseOperator, *, ti_key: object) -> str:
        """Return the address that the command reported, or an empty text."""
        return str(getattr(operator, "report", {}).get("mlflow_url", ""))


class JobOperator(BashOperator):
    """Runs one `overture` command; the last line of stdout, one JSON object, is the result.

    Unlike BashOperator, it excludes stderr from the result, does not retry exit codes 2 and 3, and stores the result of
    a command that failed: a failed gate reports its rules and links to its MLflow run.
    """

    operator_extra_links: Sequence[BaseOperatorLink] = (RunLink(),)

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the command and return its report.

        Raises:
            AirflowFailException: The command ended with exit code 2 or 3. It is not retried.
            AirflowException: The command ended with another exit code but 0, or without a JSON object on stdout. It
                is retried.
        """
        with TemporaryDirectory(prefix="overture-") as folder:
            stdout = Path(folder, "stdout")
            # Both streams are logged line by line. Only stdout is stored.
            script = f"exec 3>&1; {{ {self.bash_command}\n}} 2>&3 | tee '{stdout}'"
            command = ["bash", "-o", "pipefail", "-c", script]
            code = self.subprocess_hook.run_command(command, env=self.get_env(context)).exit_code
            last_line = stdout.read_text(errors="replace").rstrip().rpartition("\n")[2] if stdout.exists() else ""
        self.report = parse_report(last_line)
        if code:
            context["ti"].xcom_push("return_value", self.report)
        if code in FINAL:
            raise AirflowFailException(f"`{self.bash_command}` ended with exit code {code}: {FINAL[code]}")
        if code:
            raise AirflowException(f"`{self.bash_command}` ended with exit code {code}")
        if not self.report:
            raise AirflowException(
                f"`{self.bash_command}` ended its output with {last_line!r} instead of a JSON object"
            )
        return self.report


def parse_report(line: str) -> dict[str, Any]:
    """Return the JSON object in a line, or an empty dict."""
    try:
        value = json.loads(line)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def job(task_id: str, command: str, **kwargs: Any) -> JobOperator:
    """Return a task that runs one `overture` command."""
    env = {"OVERTURE_DAG_ID": "{{ dag.dag_id }}", "OVERTURE_DAG_RUN_ID": "{{ run_id }}"}
    return JobOperator(task_id=task_id, bash_command=f"overture {command}", env=env, append_env=True, **kwargs)


def wait_for_input(options: str) -> BashSensor:
    """Return the task that waits until the days of a week, or one day, are complete.

    It occupies no worker between two tries. An exit code other than 0 and 4 fails at once: 3 after the deadline
    (`source.deadline_h`, at most 96 hours, which is less than the timeout).

    Args:
        options: Options of `overture ready`, such as "--week ...".
    """
    return BashSensor(
        task_id="ready",
        bash_command=f"overture ready {options}",
        retry_exit_code=NOT_READY,
        mode="reschedule",
        poke_interval=timedelta(minutes=10),
        timeout=timedelta(days=5),
    )


def optional_week() -> Param:
    """Return the `week` parameter of a pipeline with a schedule."""
    help_text = "A past Monday, YYYY-MM-DD, such as 2026-11-16. Empty: the Monday of the schedule."
    return Param(None, description=help_text, type=["null", "string"], **WEEK_SCHEMA)


def required_week() -> Param:
    """Return the `week` parameter of a pipeline that is started by hand."""
    return Param(description="A past Monday, YYYY-MM-DD, such as 2026-11-16.", type="string", **WEEK_SCHEMA)


def optional_day() -> Param:
    """Return the `day` parameter."""
    help_text = "A past day, YYYY-MM-DD, such as 2026-11-15. Empty: the day before the run."
    return Param(None, description=help_text, type=["null", "string"], **DAY_SCHEMA)


def engine_choice() -> Param:
    """Return the `engine` parameter."""
    help_text = "cold_start: recommendations for new listeners. skip: skip prediction."
    # The pattern allows only characters that are safe in a shell; `enum` makes a list to choose from.
    return Param(
        "cold_start", type="string", description=help_text, title="Engine", enum=list(ENGINES), pattern="^[a-z_]+$"
    )


def train_and_evaluate(flags: str = "") -> tuple[JobOperator, list[JobOperator]]:
    """Add the tasks from the check of the input to the evaluation of every space.

    Args:
        flags: Options that are added to every command, such as " --backtest".

    Returns:
        The first task and the evaluations.
    """
    options = f"--week {WEEK}{flags}"
    begin = job("begin", f"begin {options}")
    check = job("check", f"check users tracks events playlists {options}")
    with TaskGroup("matrix", tooltip="Warm users, catalogue, affinities, track pairs and first days"):
        inlets = [RAW_TABLES[table] for table in ("users", "tracks", "events", "playlists")]
        catalog = job("catalog", f"matrix catalog {options}", inlets=inlets)
        user_track = job("user_track", f"matrix user-track {options}")
        track_pairs = job("track_pairs", f"matrix track-pairs {options}")
        first_day = job("first_day", f"matrix first-day {options}")
    begin >> check >> catalog >> [user_track, track_pairs, first_day]
    inputs = {"svd": [user_track, track_pairs], "als": [user_track]}
    evaluations = []
    for space, algorithm in SPACES.items():
        with TaskGroup(space, tooltip=f"Trains and evaluates the space {space}"):
            factorize = job("factorize", f"factorize {algorithm} {options}")
            segments = job("segments", f"segments --space {space} {options}")
            features = job("features", f"features --space {space} {options}")
            train = job("train", f"train --space {space} {options}")
            evaluate = job("evaluate", f"evaluate --space {space} {options}")
        inputs[algorithm] >> factorize >> [segments, features] >> train >> evaluate
        [first_day, track_pairs] >> features
        evaluations.append(evaluate)
    return begin, evaluations


def release(flags: str = "") -> tuple[JobOperator, JobOperator]:
    """Add the tasks of a release: bundle, gate, approve, promote. Must be called within the task group `release`.

    Args:
        flags: Options that are added to every command, such as " --engine skip".

    Returns:
        The first task and the last.
    """
    options = f"--week {WEEK}{flags}"
    bundle = job("bundle", f"release bundle {options}")
    gate = job("gate", f"release gate {options}")
    verdict = BranchPythonOperator(task_id="verdict", python_callable=branch, op_args=["{{ " + GATE + "['verdict'] }}"])
    approve = ApprovalOperator(
        task_id="approve",
        subject="Promote the release of " + WEEK + "? The gate's verdict is grey.",
        body="```json\n{{ " + GATE + " | tojson(indent=2) }}\n```",
        defaults="Reject",
        response_timeout=timedelta(days=3),
        execution_timeout=None,
    )
    promote = job("promote", f"release promote {options}{APPROVED}", trigger_rule="none_failed_min_one_success")
    bundle >> gate >> verdict >> [approve, promote]
    approve >> promote
    return bundle, promote


def branch(verdict: str) -> str:
    """Return the task that follows the gate: `approve` in the grey zone, else `promote`."""
    return {"pass": "release.promote", "grey": "release.approve"}[verdict]
