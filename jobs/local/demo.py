"""`make demo`: from raw events to a promoted release, through Airflow, on this machine.

Ingests a source, starts Airflow (or uses the one that `make up` started), runs the weekly pipeline of the source's
engine for one week, shows how it goes, ends what it started, and prints `overture status`. When nothing changed since
the last demo it says so.

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
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import pointer
from jobs.settings import settings
from jobs.settings.base import Engine

SOURCES = ("simulate", "mpd", "lastfm_1k", "dsg17")
MADE_UP_PLAYS = 60_000
POLL_S = 1.0
DONE = {"success", "failed", "skipped", "upstream_failed", "removed"}
STYLES = {"success": "green", "running": "cyan", "failed": "red", "up_for_retry": "yellow", "awaiting_input": "magenta"}


@dataclass
class Airflow:
    """The few calls of Airflow's REST API that a demo of one DAG needs."""

    base: str
    dag: str
    token: str = ""

    def call(self, method: str, path: str, body: object = None) -> Any:
        """One call; JSON in, JSON out. HTTP errors come through as urllib's."""
        request = urllib.request.Request(self.base + path, method=method)
        request.add_header("Content-Type", "application/json")
        if self.token:
            request.add_header("Authorization", f"Bearer {self.token}")
        if body is not None:
            request.data = json.dumps(body).encode()
        with urllib.request.urlopen(request, timeout=30) as got:
            return json.loads(got.read() or b"null")

    def login(self) -> None:
        """Get a token with the fixed local login."""
        self.token = self.call("POST", "/auth/token", {"username": services.LOGIN, "password": services.LOGIN})[
            "access_token"
        ]

    def knows(self) -> bool:
        """Whether the API answers and the DAG has been parsed."""
        try:
            if not self.token:
                self.login()
            for broken in self.call("GET", "/api/v2/importErrors")["import_errors"]:
                last = broken["stack_trace"].strip().splitlines()[-1]
                raise OvertureError(f"Airflow cannot read {broken['filename']}: {last}")
            return bool(self.call("GET", f"/api/v2/dags/{self.dag}")["dag_id"])
        except OSError:  # not up yet, or 404: not parsed yet
            return False

    def pause(self, paused: bool) -> bool:
        """Pause or start the DAG; returns how it was."""
        was = bool(self.call("GET", f"/api/v2/dags/{self.dag}")["is_paused"])
        self.call("PATCH", f"/api/v2/dags/{self.dag}", {"is_paused": paused})
        return was

    def trigger(self, week: Week) -> str:
        """Ask for a run of the week; returns its id."""
        body = {"logical_date": None, "conf": {"week": str(week)}, "note": "make demo"}
        return str(self.call("POST", f"/api/v2/dags/{self.dag}/dagRuns", body)["dag_run_id"])

    def unfinished(self) -> list[str]:
        """Ids of the DAG's runs that have not ended."""
        found = self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns?state=running&state=queued&limit=100")
        return [run["dag_run_id"] for run in found["dag_runs"]]

    def fail(self, run: str) -> None:
        """Mark a run as failed: nothing more of it is started."""
        self.call("PATCH", f"/api/v2/dags/{self.dag}/dagRuns/{run}", {"state": "failed"})

    def run(self, run: str) -> str:
        """State of a run."""
        return str(self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns/{run}")["state"])

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """The run's tasks, in the order in which they started."""
        found = self.call("GET", f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances?limit=100")["task_instances"]
        return sorted(found, key=lambda task: (task["start_date"] or "9", task["task_id"]))

    def log(self, run: str, task: dict[str, Any], lines: int) -> list[str]:
        """The last lines of a task's last try."""
        found = []
        tries = f"/api/v2/dags/{self.dag}/dagRuns/{run}/taskInstances/{task['task_id']}/logs"
        for line in self.call("GET", f"{tries}/{max(task['try_number'], 1)}")["content"]:
            found.append(str(line.get("event")))
            found += [f"{error['exc_type']}: {error['exc_value']}" for error in line.get("error_detail") or ()]
        return [line for line in found if not line.startswith("::")][-lines:]


@dataclass
class Memory:
    """Peak resident memory of each task: all its processes together, looked at once a poll (Linux only)."""

    peak: dict[str, int] = field(default_factory=dict)

    def look(self, run: str) -> None:
        """Add up the memory of every process by the task that Airflow wrote into its environment, in bytes."""
        now: dict[str, int] = {}
        page = os.sysconf("SC_PAGE_SIZE")
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError):
                env = dict(pair.split("=", 1) for pair in (folder / "environ").read_text().split("\0") if "=" in pair)
                if env.get("AIRFLOW_CTX_DAG_RUN_ID") == run:
                    used = int((folder / "statm").read_text().split()[1]) * page
                    now[env["AIRFLOW_CTX_TASK_ID"]] = now.get(env["AIRFLOW_CTX_TASK_ID"], 0) + used
        for task, used in now.items():
            self.peak[task] = max(used, self.peak.get(task, 0))


def engine(source: str) -> Engine:
    """Whose weekly pipeline a source is for."""
    return "skip" if source == "dsg17" else "cold_start"


def fingerprint(source: str, data: str, week: Week) -> str:
    """What the result depends on: settings, week, code, and the names, sizes and times of the source's files."""
    digest = hashlib.sha256(f"{source} {week} ".encode() + services.config_path().read_bytes())
    for room in ("jobs", "models", "contracts", "dags", "requirements"):
        for path in sorted((services.REPOSITORY / room).rglob("*")):
            if path.suffix in (".py", ".yaml", ".txt"):
                digest.update(f"{path.relative_to(services.REPOSITORY)}\0".encode() + path.read_bytes())
    for path in sorted(Path(data).rglob("*")) if data else ():
        digest.update(f"{path} {path.stat().st_size} {path.stat().st_mtime_ns}".encode())
    return digest.hexdigest()


def overture(*arguments: str, stdout: int | None = None) -> None:
    """Run one command on the console; its exit code becomes ours when it fails."""
    code = subprocess.run(["overture", *arguments], env=services.environment(), stdout=stdout).returncode
    if code:
        complain(f"overture {' '.join(arguments)} ended with exit code {code}")
        raise SystemExit(code)


def complain(text: str) -> None:
    """One clear line on stderr."""
    Console(stderr=True).print(text, style="red", markup=False, highlight=False, soft_wrap=True)


def stands(context: Context) -> dict[str, str]:
    """Champion of the engine and its week; empty when there is none."""
    now = pointer.read(context.release_home)
    return {"champion": now.release, "week": now.week} if now else {}


@contextmanager
def airflow(dag: str, console: Console) -> Iterator[tuple[Airflow, dict[str, subprocess.Popen[bytes]]]]:
    """Airflow, starting: the one of `make up` when it runs on the same settings, else one that ends with us."""
    found = services.running()
    if found and found.config != str(services.config_path()):
        raise OvertureError(f"Airflow is up with {found.config}; run `make down` first, then the demo again")
    if found:
        console.print(f"Using the Airflow that is up at port {found.port}.")
        yield Airflow(f"http://127.0.0.1:{found.port}", dag), {}
        return
    mlflow_port = int(os.environ.get("OVERTURE_MLFLOW_PORT", services.MLFLOW_PORT))
    state = services.Running(str(services.config_path()), services.free_port(), mlflow_port)
    # The schedule is not for a demo: only the run that we ask for.
    os.environ["AIRFLOW__SCHEDULER__USE_JOB_SCHEDULE"] = "False"
    try:
        yield Airflow(f"http://127.0.0.1:{state.port}", dag), services.start_airflow(state)
    finally:
        services.stop(state)


def follow(api: Airflow, run: str, memory: Memory, console: Console) -> str:
    """Show the run until it ends, one live line on a terminal, one line a change in a log; returns its state."""
    seen: dict[str, str] = {}
    columns = (TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console, disable=not console.is_terminal) as bar:
        line = bar.add_task(api.dag, total=None, now="")
        while True:
            state, tasks = api.run(run), api.tasks(run)
            for task in tasks:
                name, now = task["task_id"], task["state"] or ""
                if now != seen.get(name, "") and now not in ("", "scheduled", "queued", "removed", "upstream_failed"):
                    if not console.is_terminal or now in ("failed", "up_for_retry", "awaiting_input"):
                        took = f" {task['duration']:.1f} s" if now == "success" and task["duration"] else ""
                        clock = time.strftime("%H:%M:%S")
                        console.print(f"{clock} {name} {now}{took}", style=STYLES.get(now), highlight=False)
                    if now == "awaiting_input":
                        console.print(f"The gate is not sure. Answer at {api.base}/required_actions", soft_wrap=True)
                seen[name] = now
            busy = ", ".join(task["task_id"] for task in tasks if task["state"] == "running")
            bar.update(line, total=len(tasks), completed=sum(t["state"] in DONE for t in tasks), now=busy)
            if state in ("success", "failed"):
                return state
            memory.look(run)
            time.sleep(POLL_S)


def timings(tasks: list[dict[str, Any]], memory: Memory, wall_s: float, console: Console) -> None:
    """Minutes and peak memory of each task."""
    table = Table("task", "state", "minutes", "peak memory", title="Tasks")
    for name in ("minutes", "peak memory"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for task in tasks:
        used = memory.peak.get(task["task_id"])
        minutes = f"{task['duration'] / 60:.2f}" if task["duration"] else ""
        peak = f"{used / 2**20:,.0f} MiB" if used else ""
        table.add_row(task["task_id"], task["state"], minutes, peak, style=STYLES.get(task["state"], "dim"))
    table.add_section()
    table.add_row("all, start of Airflow included", "", f"{wall_s / 60:.2f}", "")
    console.print(table)


def explain(api: Airflow, run: str, console: Console) -> None:
    """The end of the log of every task that failed."""
    for task in api.tasks(run):
        if task["state"] == "failed":
            console.print(f"\n{task['task_id']} failed; the end of its log:", style="red")
            for line in api.log(run, task, 25):
                console.print("  " + line, markup=False, highlight=False, soft_wrap=True)


def ingest(source: str, data: str) -> None:
    """Read the source into the lake; plays are made up where no folder of real ones was named."""
    if source == "dsg17" and not data:
        data = str(settings.home() / "raw" / "dsg17")
        overture("make-dsg17", "--out", data, "--rows", str(MADE_UP_PLAYS), stdout=subprocess.DEVNULL)
    overture("ingest", source, *(["--data", data] if data else []), stdout=subprocess.DEVNULL)


def pipeline(source: str, data: str, week: Week, console: Console) -> str:
    """Ingest while Airflow starts, run the DAG, tell how it went; returns the run's state."""
    began = time.monotonic()
    memory = Memory()
    with airflow(f"{engine(source)}_weekly", console) as (api, started):
        ingest(source, data)
        console.print(f"Ingested {source} in {time.monotonic() - began:.0f} s (start of Airflow included).")
        services.wait(api.knows, started, "Airflow")
        if started:
            for old in api.unfinished():
                console.print(f"{old} was interrupted: marked as failed")
                api.fail(old)
        run = api.trigger(week)
        paused = api.pause(False)
        state = "interrupted"
        try:
            state = follow(api, run, memory, console)
            timings(api.tasks(run), memory, time.monotonic() - began, console)
            if state == "failed":
                explain(api, run, console)
        finally:
            with suppress(OSError):
                if state == "interrupted":
                    api.fail(run)
                api.pause(paused)
    return state


def demo(source: str, data: str, week_text: str, console: Console) -> int:
    """All of it; returns the exit code."""
    chosen = settings.load(services.config_path())
    week = Week.parse(week_text or chosen.week)
    context = Context.for_engine(chosen, week, engine(source))
    mark = context.home / "run" / f"demo_{context.engine}.json"
    now = fingerprint(source, data, week)
    with suppress(OSError, ValueError):
        before = json.loads(mark.read_text())
        if before["fingerprint"] == now and before["stands"] and before["stands"] == stands(context):
            console.print(f"Nothing changed since the last demo: same data, settings and code, week {week}.\n")
            overture("status")
            return 0
    state = pipeline(source, data, week, console)
    overture("status")
    if state != "success":
        return 1
    mark.write_text(json.dumps({"fingerprint": now, "stands": stands(context)}) + "\n")
    return 0


def interrupted(*_: object) -> NoReturn:
    """A polite end on SIGTERM, as on Ctrl-C: what we started is ended."""
    raise KeyboardInterrupt


def main() -> int:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="make demo", description="One week, from raw events to a promoted release.")
    parser.add_argument("--source", choices=SOURCES, default="simulate")
    parser.add_argument("--data", default="", help="folder of the source's files")
    parser.add_argument("--config", default="", help="settings; default configs/demo.yaml, or configs/SOURCE.yaml")
    parser.add_argument("--week", default="", help="a Monday; default: the settings' week")
    given = parser.parse_args()
    named = {"simulate": "demo", "dsg17": "skip"}.get(given.source, given.source)
    preset = services.REPOSITORY / "configs" / f"{named}.yaml"
    os.environ["OVERTURE_CONFIG"] = str(Path(given.config or os.environ.get("OVERTURE_CONFIG") or preset).absolute())
    signal.signal(signal.SIGTERM, interrupted)
    try:
        if given.data and not Path(given.data).exists():
            raise BadArgument(f"DATA: no such folder {given.data}")
        data = str(Path(given.data).absolute()) if given.data else ""
        return demo(given.source, data, given.week, Console())
    except OvertureError as error:
        complain(str(error))
        return error.exit_code
    except urllib.error.URLError as error:
        complain(f"Airflow's API: {error}; logs in {settings.home() / 'run'}")
        return 1
    except KeyboardInterrupt:
        complain("Interrupted: Airflow and its tasks were ended.")
        return 130


if __name__ == "__main__":
    sys.exit(main())
