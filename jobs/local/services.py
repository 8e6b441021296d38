"""Airflow, MLflow and the online service on this machine: environment, start, stop.

`python -m jobs.local.services up [redis|cassandra]|down|state|env|clean`. All listen on 127.0.0.1. Logs and pids are in
OVERTURE_HOME/run.
Airflow runs as three processes (scheduler, dag-processor, api-server). `airflow standalone` would add a triggerer,
which is not needed, and a log server on every interface. The service also starts without a champion: it responds with
503 and the reason, and loads the first release that is promoted.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contracts.errors import BadArgument, OvertureError
from jobs.local import store_servers
from jobs.local.processes import NO_PROCESS, descendants, free_port, processes, start_time
from jobs.local.service_state import describe_service, responds
from jobs.platform import files
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.release import signing
from jobs.settings.settings import home, load

REPOSITORY = Path(__file__).resolve().parents[2]
AIRFLOW = REPOSITORY / ".venv" / "airflow" / "bin" / "airflow"
JOBS_BIN = REPOSITORY / ".venv" / "jobs" / "bin"
LOGIN = "admin"  # name and password; all servers listen on this machine only
AIRFLOW_PORT = 8080
MLFLOW_PORT = 5000
SERVICE_PORT = 8600
START_S = 120
STOP_S = 12


def config_path() -> Path:
    """Return the absolute path of the settings file."""
    return Path(os.environ.get("OVERTURE_CONFIG") or REPOSITORY / "configs" / "demo.yaml").absolute()


def environment(port: int = AIRFLOW_PORT, mlflow_port: int = MLFLOW_PORT) -> dict[str, str]:
    """Return the environment of all processes and tasks: every path, port and key is set here.

    Args:
        port: Port of Airflow's API server.
        mlflow_port: Port of MLflow's server.
    """
    airflow_home = home() / "airflow"
    keys = _keys(airflow_home)
    # Airflow runs tasks in parallel: threads that wait for each other's cores are far slower than one thread per task.
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return (
        threads
        | os.environ
        | {
            "PATH": f"{JOBS_BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "PYTHONUNBUFFERED": "1",
            "OVERTURE_HOME": str(home()),
            "OVERTURE_CONFIG": str(config_path()),
            "OVERTURE_MLFLOW_UI": f"http://127.0.0.1:{mlflow_port}",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "AIRFLOW_HOME": str(airflow_home),
            "AIRFLOW_CONFIG": str(REPOSITORY / "airflow.cfg"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(REPOSITORY / "dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__FERNET_KEY": keys["fernet"],
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": f"http://127.0.0.1:{port}",
            "AIRFLOW__API__SECRET_KEY": keys["api"],
            "AIRFLOW__API_AUTH__JWT_SECRET": keys["jwt"],
        }
    )


def _keys(airflow_home: Path) -> dict[str, str]:
    """Return Airflow's secret keys, which are created once, and write the fixed login before Airflow generates one."""
    airflow_home.mkdir(parents=True, exist_ok=True)
    login = airflow_home / "simple_auth_manager_passwords.json.generated"
    if not login.exists():
        login.write_text(json.dumps({LOGIN: LOGIN}) + "\n")
    file = airflow_home / "keys.json"
    if not file.exists():
        new_keys = {"fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}
        new_keys |= {name: secrets.token_hex(32) for name in ("api", "jwt")}
        files.replace(file, json.dumps(new_keys).encode(), mode=0o600)
    keys: dict[str, str] = json.loads(file.read_text())
    return keys


@dataclass
class Running:
    """The services that were started, stored in a file, so that `make down` stops exactly these.

    Attributes:
        config: Settings file.
        port: Port of Airflow.
        mlflow_port: Port of MLflow.
        service_port: Port of the online service; 0 if it was not started.
        store: Kind of the server of known listeners; empty if none was started.
        store_port: Port of that server.
        pids: Name -> pid.
        born: Name -> start time of the process.
    """

    config: str
    port: int
    mlflow_port: int
    service_port: int = 0
    store: str = ""
    store_port: int = 0
    pids: dict[str, int] = field(default_factory=dict)
    born: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Write the state to OVERTURE_HOME/run."""
        state_file().parent.mkdir(parents=True, exist_ok=True)
        files.replace(state_file(), json.dumps(asdict(self), indent=2).encode() + b"\n")

    def environment(self) -> dict[str, str]:
        """Return the environment of all processes and tasks, with the store that was started."""
        kind = store_servers.parse_kind(self.store)
        store = store_servers.environment(kind, self.store_port) if kind else {}
        return environment(self.port, self.mlflow_port) | store

    def alive(self) -> dict[str, int]:
        """Return name -> pid of the processes that still run. A later process with the same pid does not count."""
        return {name: pid for name, pid in self.pids.items() if start_time(pid) == self.born[name] != ""}


def state_file() -> Path:
    """Return the file that lists the running services."""
    return home() / "run" / "services.json"


def running() -> Running | None:
    """Return the running services, or None."""
    try:
        services = Running(**json.loads(state_file().read_text()))
    except FileNotFoundError:
        return None
    return services if services.alive() else None


def start(name: str, command: list[str], env: dict[str, str], state: Running) -> subprocess.Popen[bytes]:
    """Start one service in its own session, so that Ctrl-C does not reach it."""
    log = home() / "run" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=home(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    state.pids[name] = process.pid
    state.born[name] = start_time(process.pid)
    state.write()
    return process


def start_airflow(state: Running) -> dict[str, subprocess.Popen[bytes]]:
    """Migrate the database if needed and start Airflow's three processes, without waiting until they respond."""
    env = state.environment()
    version = (REPOSITORY / "requirements" / "airflow.txt").read_bytes()
    stamp = home() / "airflow" / "migrated.txt"
    if not stamp.exists() or stamp.read_bytes() != version or not (home() / "airflow" / "airflow.db").exists():
        migration = subprocess.run([AIRFLOW, "db", "migrate"], env=env, cwd=home(), capture_output=True, text=True)
        if migration.returncode:
            raise OvertureError("airflow db migrate failed:\n" + (migration.stdout + migration.stderr)[-3000:])
        stamp.write_bytes(version)
    commands = {
        "api-server": ["api-server"],
        "dag-processor": ["dag-processor"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
    }
    return {name: start(name, [str(AIRFLOW), *rest], env, state) for name, rest in commands.items()}


def start_mlflow(state: Running) -> subprocess.Popen[bytes]:
    """Start the MLflow server on the database that the tasks write."""
    folder = home() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    env = state.environment() | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = ["--host", "127.0.0.1", "--port", str(state.mlflow_port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    artifacts = ["--artifacts-destination", str(folder / "artifacts")]
    return start("mlflow", [str(JOBS_BIN / "mlflow"), "server", *address, *store, *artifacts], env, state)


def start_service(state: Running) -> subprocess.Popen[bytes]:
    """Start the online service on 127.0.0.1, whatever address the settings name."""
    address = ["--host", "127.0.0.1", "--port", str(state.service_port)]
    return start("service", [str(JOBS_BIN / "overture"), "serve", *address], state.environment(), state)


def start_store(state: Running) -> None:
    """Start the store of `state.store` and wait until it accepts connections. Its data are in OVERTURE_HOME/servers."""
    if kind := store_servers.parse_kind(state.store):
        command = store_servers.command(kind, home() / "servers" / kind, state.store_port)
        started = {state.store: start(kind, command, state.environment(), state)}
        wait(lambda: store_servers.is_ready(kind, state.store_port), started, kind)


def wait(ready: Callable[[], bool], started: dict[str, subprocess.Popen[bytes]], what: str) -> None:
    """Wait until `ready` returns True.

    Args:
        ready: Check that is repeated.
        started: Processes that are waited for.
        what: Name of the server, for the error.

    Raises:
        OvertureError: A process ended, or START_S seconds passed. The message contains the end of the log.
    """
    deadline = time.monotonic() + START_S
    while not ready():
        ended = next((name for name, process in started.items() if process.poll() is not None), None)
        if ended or time.monotonic() > deadline:
            log = home() / "run" / f"{ended or next(iter(started))}.log"
            reason = f"{ended} ended" if ended else f"{what} did not respond within {START_S} s"
            raise OvertureError(f"{reason}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-20:]))
        time.sleep(0.3)


def stop(state: Running) -> int:
    """Stop the services and all their descendants, tasks included. Returns how many processes were stopped.

    SIGTERM comes first, SIGKILL after STOP_S seconds.
    """
    roots = set(state.alive().values())
    # Descendants are looked up first: an orphaned process cannot be assigned to its service.
    members = descendants(roots)

    def remaining() -> list[int]:
        all_processes = processes()
        return [pid for pid, process in members.items() if all_processes.get(pid, NO_PROCESS).born == process.born]

    # Services stop their own helpers. The command of a task is in its own process group and is signalled here.
    signalled = [pid for pid, process in members.items() if pid in roots or process.group not in roots]
    for sign, pids, seconds in ((signal.SIGTERM, signalled, STOP_S), (signal.SIGKILL, remaining, 5)):
        for pid in pids() if callable(pids) else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while remaining() and time.monotonic() < deadline:
            time.sleep(0.1)
            members |= descendants(remaining())
    state_file().unlink(missing_ok=True)
    return len(members)


def up(console: Console, store: str = "") -> None:
    """Start Airflow, MLflow and the service. They run until `down`.

    Args:
        console: Where to print.
        store: redis or cassandra: also start this server, as the store of known listeners.
    """
    kind = store_servers.parse_kind(store)
    if services := running():
        if kind and kind != services.store:
            raise OvertureError(f"already running without {kind}; run `make down` first")
        console.print("Already running.")
        return show(services, console)
    port = free_port(int(os.environ.get("OVERTURE_AIRFLOW_PORT", AIRFLOW_PORT)))
    mlflow_port = free_port(int(os.environ.get("OVERTURE_MLFLOW_PORT", MLFLOW_PORT)))
    service_port = free_port(int(os.environ.get("OVERTURE_SERVICE_PORT", SERVICE_PORT)))
    state = Running(str(config_path()), port, mlflow_port, service_port)
    if kind:
        state.store, state.store_port = kind, free_port(store_servers.PORTS[kind])
    settings = load(config_path())
    signing.create_keys(signing.signing_key(Context(settings, Week.parse(settings.week))))
    try:
        with console.status("Starting Airflow, MLflow and the service"):
            start_store(state)
            started = start_airflow(state) | {"mlflow": start_mlflow(state), "service": start_service(state)}
            wait(lambda: responds(f"http://127.0.0.1:{port}/api/v2/version"), started, "Airflow")
            wait(lambda: responds(f"http://127.0.0.1:{mlflow_port}/health"), started, "MLflow")
            wait(lambda: responds(f"http://127.0.0.1:{service_port}/healthz"), started, "the service")
    except BaseException:
        stop(state)
        raise
    show(state, console)


def show(state: Running, console: Console) -> None:
    """Print addresses, logins and the state of the service."""
    alive = state.alive()
    table = Table("", "address", "login", "stopped")
    single_processes = {"mlflow": ("MLflow", state.mlflow_port), "service": ("Service", state.service_port)}
    if state.store:
        single_processes[state.store] = (state.store.capitalize(), state.store_port)
    airflow = [name for name in state.pids if name not in single_processes]
    for title, port, login, names in (
        ("Airflow", state.port, f"{LOGIN} / {LOGIN}", airflow),
        *((title, port, "none", [name]) for name, (title, port) in single_processes.items() if name in state.pids),
    ):
        if names:
            stopped = ", ".join(name for name in names if name not in alive)
            address = f"127.0.0.1:{port}" if names == [state.store] else f"http://127.0.0.1:{port}"
            table.add_row(title, address, login, stopped or "-")
    console.print(table)
    if "service" in alive:
        console.print(describe_service(state.service_port), soft_wrap=True)
    console.print(f"settings {state.config}\nlogs     {home() / 'run'}\nstop with: make down", soft_wrap=True)


def down(console: Console) -> None:
    """Stop the services that were started."""
    if not (services := running()):
        state_file().unlink(missing_ok=True)
        console.print("No service is running.")
        return
    console.print(f"Stopped {', '.join(services.alive())}: {stop(services)} processes.")


def state(console: Console) -> None:
    """Print whether the services run."""
    if services := running():
        return show(services, console)
    console.print("Airflow, MLflow and the service are not running. Start them with: make up")


def print_environment(console: Console) -> None:
    """Print shell commands that set the environment of the services: `eval "$(make -s env)"`.

    `airflow` and `overture` then use the same paths, ports and keys.
    """
    services = running()
    variables = services.environment() if services else environment()
    variables["PATH"] = f"{JOBS_BIN}{os.pathsep}{AIRFLOW.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for name, value in variables.items():
        if os.environ.get(name) != value:
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def clean(console: Console) -> None:
    """Print what would be deleted; delete it if YES=1."""
    if services := running():
        raise OvertureError(f"still running: {', '.join(services.alive())}; run `make down` first")
    caches = [REPOSITORY / name for name in (".pytest_cache", ".ruff_cache", ".mypy_cache", "spark-warehouse", "build")]
    targets = [path for path in (home(), *caches) if path.exists()]
    confirmed = os.environ.get("YES") == "1"
    for path in targets:
        console.print(f"{'delete' if confirmed else 'would delete'} {path}", soft_wrap=True)
        if confirmed:
            shutil.rmtree(path)
    if targets and not confirmed:
        console.print(
            "This deletes lake, releases, and the databases of MLflow and Airflow. To confirm: make clean YES=1"
        )
    if not targets:
        console.print("Nothing to delete.")


def main(arguments: list[str]) -> int:
    """Run one of the commands and return the exit code: 0 success, 1 failure, 2 unknown command."""
    console = Console()
    commands: dict[str, Any] = {"up": up, "down": down, "state": state, "env": print_environment, "clean": clean}
    try:
        if not arguments or arguments[0] not in commands or len(arguments) > (2 if arguments[0] == "up" else 1):
            raise BadArgument(f"choose one of: {' '.join(commands)}; after up, possibly redis or cassandra")
        commands[arguments[0]](console, *arguments[1:])
    except OvertureError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
