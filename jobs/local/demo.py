"""`make demo`: run one week from raw events to a promoted release, through Airflow, on this machine.

The demo ingests a source, starts Airflow (or uses the one that `make up` started), runs the weekly pipeline of the
source's engine, shows its progress, stops what it started, and prints `overture status`. If data, settings and code
have not changed since the last demo, it prints the status only.

`python -m jobs.local.demo --source mpd --data DIR [--config FILE] [--week MONDAY]`
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from contracts.errors import BadArgument, OvertureError
from jobs.local import services
from jobs.local.processes import free_port
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import signing
from jobs.release.destination import read_champion
from jobs.settings import settings
from jobs.settings.base import Engine

SOURCES = ("simulate", "tables", "mpd", "lastfm_1k", "listenbrainz", "yambda", "dsg17")
N_SYNTHETIC_PLAYS = 60_000
POLL_S = 1.0
ENDED_STATES = {"success", "failed", "skipped", "upstream_failed", "removed"}
STYLES = {"success": "green", "running": "cyan", "failed": "red", "up_for_retry": "yellow", "awaiting_input": "magenta"}


@dataclass
class Airflow:
    """Client of Airflow's REST API for one DAG.

    Attributes:
        base: Address of the API server.
        dag: DAG id.
        token: Access token; empty before the login.
    """

    base: str
    dag: str
    token: str = ""

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send one request with a JSON body and return the JSON response.

        Raises:
            urllib.error.URLError: The server is unavailable or returned an error status.
        """
        request = urllib.request.Request(self.base + path, method=method)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=30) as response:
            return json.loads(response.read() or b"null")

    def login(self) -> None:
        """Get an access token with the fixed local login."""
        self.token = self.call("POST", "/auth/token", {"username": services.LOGIN, "password": services.LOGIN})[
            "access_token"
        ]

    def is_ready(self) -> bool:
        """Return whether the API responds and the DAG has been parsed.

        Raises:
            OvertureError: Airflow could not import a DAG file.
        """
        try:
            if not self.token:
                self.login()
            for problem in self.call("GET", "/api/v2/importErrors")["import_errors"]:
                last = problem["stack_trace"].strip().splitlines()[-1]
                raise OvertureError(f"Airflow cannot read {problem['filename']}: {last}")
            return bool(self.call("GET", f"/api/v2/dags/{self.dag}")["dag_id"])
        except OSError:  # not started yet, or 404: not parsed yet
            return False

    def pause(self, paused: bool) -> bool:
        """Pause or unpause the DAG. Returns whether it was paused before."""
        was_paused = bool(self.call("GET", f"/api/v2/dags/{self.dag}")["is_paused"])
        self.call("PATCH", f"/api/v2/dags/{self.dag}", {"is_paused": paused})
        return was_paused

    def trigger(self, week: Week) -> str:
        """Start a run of the week and return its id."""
        body = {"logical_date": None, "conf": {"week": str(week)}, "note": "make demo"}
        return str(self.call("POST", f"/api/v2/dags/{self.dag}/dagRuns", body)["dag_run_id"])

    def unfinished_runs(self) -> list[str]:
        """Return the ids of the DAG's running and queued runs."""
        runs = self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns?state=running&state=queued&limit=100")
        return [run["dag_run_id"] for run in runs["dag_runs"]]

    def fail(self, run: str) -> None:
        """Mark a run as failed, so that no more of its tasks are started."""
        self.call("PATCH", f"/api/v2/dags/{self.dag}/dagRuns/{run}", {"state": "failed"})

    def run(self, run: str) -> str:
        """Return the state of a run."""
        return str(self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns/{run}")["state"])

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, in the order in which they started."""
        tasks = self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances?limit=100")["task_instances"]
        return sorted(tasks, key=lambda task: (task["start_date"] or "9", task["task_id"]))

    def log(self, run: str, task: dict[str, Any], lines: int) -> list[str]:
        """Return the last lines of the log of a task's last try."""
        events = []
        tries = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances/{task['task_id']}/logs"
        for line in self.call("GET", f"{tries}/{max(task['try_number'], 1)}")["content"]:
            events.append(str(line.get("event")))
            events += [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or ()]
        return [line for line in events if not line.startswith("::")][-lines:]


@dataclass
class PeakMemory:
    """Peak resident memory of each task: the sum over its processes, sampled at every poll (Linux only)."""

    peak: dict[str, int] = field(default_factory=dict)

    def sample(self, run: str) -> None:
        """Add up the memory of all processes by task, in bytes. Airflow sets the task id in their environment."""
        used_now: dict[str, int] = {}
        page = os.sysconf("SC_PAGE_SIZE")
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                env = dict(pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair)
                if env.get("AIRFLOW_CTX_DAG_RUN_ID") == run:
                    used = int((folder / "statm").read_text().split()[1]) * page
                    used_now[env["AIRFLOW_CTX_TASK_ID"]] = used_now.get(env["AIRFLOW_CTX_TASK_ID"], 0) + used
        for task, used in used_now.items():
            self.peak[task] = max(used, self.peak.get(task, 0))


def engine_of(source: str) -> Engine:
    """Return the engine whose weekly pipeline uses a source."""
    return "skip" if source == "dsg17" else "cold_start"


def fingerprint(source: str, data: str, week: Week) -> str:
    """Return a hash of everything that the result depends on.

    It covers settings, week, code, and the names, sizes and modification times of the source's files.
    """
    digest = hashlib.sha256(f"{source} {week} ".encode() + services.config_path().read_bytes())
    for room in ("jobs", "models", "contracts", "dags", "requirements"):
        for path in sorted((services.REPOSITORY / room).rglob("*")):
            if path.suffix in (".py", ".yaml", ".txt"):
                digest.update(f"{path.relative_to(services.REPOSITORY)}\0".encode() + path.read_bytes())
    for path in sorted(Path(data).rglob("*")) if data else ():
        digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def run_overture(*arguments: str, stdout: int | None = None) -> None:
    """Run one `overture` command with this console.

    Raises:
        SystemExit: The command failed; the exit code is the same.
    """
    code = subprocess.run(["overture", *arguments], env=services.environment(), stdout=stdout).returncode
    if code:
        print_error(f"overture {' '.join(arguments)} ended with exit code {code}")
        raise SystemExit(code)


def print_error(text: str) -> None:
    """Print an error on stderr."""
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def champion_of(context: Context) -> dict[str, str]:
    """Return the engine's champion and its week, or an empty dict if there is none."""
    current = read_champion(context)
    return {"champion": current.release, "week": current.week} if current else {}


@contextmanager
def running_airflow(dag: str, console: Console) -> Iterator[tuple[Airflow, dict[str, subprocess.Popen[bytes]]]]:
    """Yield a client of Airflow and the processes that were started.

    Airflow of `make up` is used if it has the same settings. Otherwise Airflow is started, and stopped after the block.
    """
    running = services.running()
    if running and running.config != str(services.config_path()):
        raise OvertureError(f"Airflow is running with {running.config}; run `make down` first, then the demo again")
    if running:
        console.print(f"Using the running Airflow at port {running.port}.")
        yield Airflow(f"http://127.0.0.1:{running.port}", dag), {}
        return
    mlflow_port = int(os.environ.get("OVERTURE_MLFLOW_PORT", services.MLFLOW_PORT))
    state = services.Running(str(services.config_path()), free_port(), mlflow_port)
    # A demo runs no scheduled runs, only the one that it starts.
    os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
    try:
        yield Airflow(f"http://127.0.0.1:{state.port}", dag), services.start_airflow(state)
    finally:
        services.stop(state)


def follow(api: Airflow, run: str, memory: PeakMemory, console: Console) -> str:
    """Show the progress of a run until it ends, and return its state.

    A terminal shows one line that is updated. A log file gets one line for each change of a task's state.
    """
    known_states: dict[str, str] = {}
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(api.dag, total=None, now="")
        while True:
            state, tasks = api.run(run), api.tasks(run)
            for task in tasks:
                name, now = task["task_id"], task["state"] or ""
                if now != known_states.get(name, "") and now not in (
                    "",
                    "scheduled",
                    "queued",
                    "removed",
                    "upstream_failed",
                ):
                    if not console.is_terminal or now in ("failed", "up_for_retry", "awaiting_input"):
                        took = f" {task['duration']:.1f} s" if now == "success" and task["duration"] else ""
                        clock = time.strftime("%H:%M:%S")
                        console.print(f"{clock} {name} {now}{took}", style=STYLES.get(now), highlight=False)
                    if now == "awaiting_input":
                        console.print(
                            f"The gate's verdict is grey. Approve or reject at {api.base}/required_actions",
                            soft_wrap=True,
                        )
                known_states[name] = now
            busy = ", ".join(task["task_id"] for task in tasks if task["state"] == "running")
            bar.update(line, total=len(tasks), completed=sum(t["state"] in ENDED_STATES for t in tasks), now=busy)
            if state in ("success", "failed"):
                return state
            memory.sample(run)
            time.sleep(POLL_S)


def print_timings(tasks: list[dict[str, Any]], memory: PeakMemory, wall_s: float, console: Console) -> None:
    """Print minutes and peak memory of each task."""
    table = Table("task", "state", "minutes", "peak memory", title="Tasks")
    for name in ("minutes", "peak memory"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for task in tasks:
        used = memory.peak.get(task["task_id"])
        minutes = f"{task['duration'] / 60:.2f}" if task["duration"] else ""
        peak = f"{used / 2**20:,.0f} MiB" if used else ""
        table.add_row(task["task_id"], task["state"], minutes, peak, style=STYLES.get(task["state"], "dim"))
    table.add_section()
    table.add_row("total, with the start of Airflow", "", f"{wall_s / 60:.2f}", "")
    console.print(table)


def print_failures(api: Airflow, run: str, console: Console) -> None:
    """Print the end of the log of each failed task."""
    for task in api.tasks(run):
        if task["state"] == "failed":
            console.print(f"\n{task['task_id']} failed. The end of its log:", style="red")
            for line in api.log(run, task, 25):
                console.print("  " + line, markup=False, highlight=False, soft_wrap=True)


def ingest(source: str, data: str) -> None:
    """Read the source into the lake. Without a folder, synthetic plays are used for dsg17."""
    if source == "dsg17" and not data:
        data = str(settings.home() / "raw" / "dsg17")
        run_overture("make-dsg17", "--out", data, "--rows", str(N_SYNTHETIC_PLAYS), stdout=subprocess.DEVNULL)
    run_overture("ingest", source, *(["--data", data] if data else []), stdout=subprocess.DEVNULL)


def pipeline(source: str, data: str, week: Week, console: Console) -> str:
    """Ingest the source while Airflow starts, run the DAG, print its progress, and return the run's state."""
    started_at = time.monotonic()
    memory = PeakMemory()
    with running_airflow(f"{engine_of(source)}_weekly", console) as (api, started):
        ingest(source, data)
        console.print(f"Ingested {source} in {time.monotonic() - started_at:.0f} s (with the start of Airflow).")
        services.wait(api.is_ready, started, "Airflow")
        if started:
            for old_run in api.unfinished_runs():
                console.print(f"{old_run} was interrupted before; it is marked as failed")
                api.fail(old_run)
        run = api.trigger(week)
        paused = api.pause(False)
        state = "interrupted"
        try:
            state = follow(api, run, memory, console)
            print_timings(api.tasks(run), memory, time.monotonic() - started_at, console)
            if state == "failed":
                print_failures(api, run, console)
        finally:
            with suppress(OSError):
                if state == "interrupted":
                    api.fail(run)
                api.pause(paused)
    return state


def demo(source: str, data: str, week_text: str, console: Console) -> int:
    """Run the demo and return its exit code."""
    loaded = settings.load(services.config_path())
    week = Week.parse(week_text or loaded.week)
    context = Context.for_engine(loaded, week, engine_of(source))
    record = context.home / "run" / f"demo_{context.engine}.json"
    current = fingerprint(source, data, week)
    with suppress(OSError, ValueError):
        last_demo = json.loads(record.read_text())
        if (
            last_demo["fingerprint"] == current
            and last_demo["champion"]
            and last_demo["champion"] == champion_of(context)
        ):
            console.print(f"Data, settings and code have not changed since the last demo of week {week}.\n")
            run_overture("status")
            return 0
    signing.create_keys(signing.signing_key(context))
    state = pipeline(source, data, week, console)
    run_overture("status")
    if state != "success":
        return 1
    record.write_text(json.dumps({"fingerprint": current, "champion": champion_of(context)}) + "\n")
    return 0


def raise_interrupt(*_: object) -> NoReturn:
    """Handle SIGTERM as Ctrl-C, so that started processes are stopped."""
    raise KeyboardInterrupt


def main() -> int:
    """Parse the command line, run the demo, and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="make demo", description="Run one week, from raw events to a promoted release."
    )
    parser.add_argument("--source", choices=SOURCES, default="simulate")
    parser.add_argument("--data", default="", help="folder with the source's files")
    parser.add_argument(
        "--config",
        default="",
        help="settings file; default: configs/demo.yaml, configs/SOURCE.yaml, or DATA/overture.yaml for tables",
    )
    parser.add_argument("--week", default="", help="a Monday, YYYY-MM-DD; default: the week of the settings")
    options = parser.parse_args()
    config_name = {"simulate": "demo", "dsg17": "skip"}.get(options.source, options.source)
    preset = services.REPOSITORY / "configs" / f"{config_name}.yaml"
    if options.source == "tables":  # the mapping is beside the files, as `overture init` and `make-tables` write it
        preset = Path(options.data) / "overture.yaml"
    os.environ["OVERTURE_CONFIG"] = str(Path(options.config or os.environ.get("OVERTURE_CONFIG") or preset).absolute())
    signal.signal(signal.SIGTERM, raise_interrupt)
    try:
        if options.data and not Path(options.data).exists():
            raise BadArgument(f"DATA: no such folder {options.data}")
        data = str(Path(options.data).absolute()) if options.data else ""
        return demo(options.source, data, options.week, Console())
    except OvertureError as error:
        print_error(str(error))
        return error.exit_code
    except urllib.error.URLError as error:
        print_error(f"Airflow's API: {error}; see the logs in {settings.home() / 'run'}")
        return 1
    except KeyboardInterrupt:
        print_error("Interrupted. Airflow and its tasks were stopped.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
