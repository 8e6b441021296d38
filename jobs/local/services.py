"""Airflow, MLflow and the online service on this machine: their environment, how they start, how they end.

`python -m jobs.local.services up|down|state|env|clean`. Everything listens on 127.0.0.1; logs and pids: OVERTURE_HOME/run.
Airflow runs as three processes (scheduler, dag-processor, api-server): `airflow standalone` would add a triggerer that
nothing here needs, and a log server on every interface. The service starts without a champion too: it answers 503 with
the reason, and takes the first release that is promoted.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from contracts.errors import BadArgument, OvertureError
from jobs.local.processes import NOBODY, birth, family, processes
from jobs.platform import files
from jobs.settings.settings import home

REPOSITORY = Path(__file__).resolve().parents[2]
AIRFLOW = REPOSITORY / ".venv" / "airflow" / "bin" / "airflow"
JOBS_BIN = REPOSITORY / ".venv" / "jobs" / "bin"
LOGIN = "admin"  # for both name and password: nothing listens beyond this machine
AIRFLOW_PORT = 8080
MLFLOW_PORT = 5000
SERVICE_PORT = 8600
START_S = 120
STOP_S = 12


def config_path() -> Path:
    """The settings file of this run, absolute."""
    return Path(os.environ.get("OVERTURE_CONFIG") or REPOSITORY / "configs" / "demo.yaml").absolute()


def environment(port: int = AIRFLOW_PORT, mlflow_port: int = MLFLOW_PORT) -> dict[str, str]:
    """The one place that knows where things are: what every process of Airflow and every task inherits."""
    airflow_home = home() / "airflow"
    keys = _keys(airflow_home)
    # Airflow runs tasks side by side: threads that wait for each other's cores are far slower than one thread each.
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
    """This home's keys, made once; and the fixed login, written before Airflow would invent one."""
    airflow_home.mkdir(parents=True, exist_ok=True)
    login = airflow_home / "simple_auth_manager_passwords.json.generated"
    if not login.exists():
        login.write_text(json.dumps({LOGIN: LOGIN}) + "\n")
    file = airflow_home / "keys.json"
    if not file.exists():
        made = {"fernet": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()}
        made |= {name: secrets.token_hex(32) for name in ("api", "jwt")}
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.touch(mode=0o600)
        fresh.write_text(json.dumps(made))
        fresh.replace(file)
    keys: dict[str, str] = json.loads(file.read_text())
    return keys


def free_port(wanted: int = 0) -> int:
    """The wanted port of 127.0.0.1, or any free one when that is taken (or 0)."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OvertureError("no free port on 127.0.0.1")


@dataclass
class Running:
    """What was started: written down so that `make down` ends exactly that, whoever started it."""

    config: str
    port: int
    mlflow_port: int
    service_port: int = 0  # 0: not started
    pids: dict[str, int] = field(default_factory=dict)
    born: dict[str, str] = field(default_factory=dict)

    def write(self) -> None:
        """Keep it under OVERTURE_HOME/run."""
        state_file().parent.mkdir(parents=True, exist_ok=True)
        files.replace(state_file(), json.dumps(asdict(self), indent=2).encode() + b"\n")

    def alive(self) -> dict[str, int]:
        """The processes that still run; a pid that another process got since does not count."""
        return {name: pid for name, pid in self.pids.items() if birth(pid) == self.born[name] != ""}


def state_file() -> Path:
    """Where the running services are written down."""
    return home() / "run" / "services.json"


def running() -> Running | None:
    """The services that run now, if any do."""
    try:
        found = Running(**json.loads(state_file().read_text()))
    except FileNotFoundError:
        return None
    return found if found.alive() else None


def start(name: str, command: list[str], env: dict[str, str], state: Running) -> subprocess.Popen[bytes]:
    """Start one service in a session of its own, so that Ctrl-C reaches only who started it."""
    log = home() / "run" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, env=env, cwd=home(), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    state.pids[name] = process.pid
    state.born[name] = birth(process.pid)
    state.write()
    return process


def start_airflow(state: Running) -> dict[str, subprocess.Popen[bytes]]:
    """The database as this version wants it, then the three processes; does not wait until they answer."""
    env = environment(state.port, state.mlflow_port)
    version = (REPOSITORY / "requirements" / "airflow.txt").read_bytes()
    stamp = home() / "airflow" / "migrated.txt"
    if not stamp.exists() or stamp.read_bytes() != version or not (home() / "airflow" / "airflow.db").exists():
        migrated = subprocess.run([AIRFLOW, "db", "migrate"], env=env, cwd=home(), capture_output=True, text=True)
        if migrated.returncode:
            raise OvertureError("airflow db migrate failed:\n" + (migrated.stdout + migrated.stderr)[-3000:])
        stamp.write_bytes(version)
    commands = {
        "api-server": ["api-server"],
        "dag-processor": ["dag-processor"],
        "scheduler": ["scheduler", "--skip-serve-logs"],
    }
    return {name: start(name, [str(AIRFLOW), *rest], env, state) for name, rest in commands.items()}


def start_mlflow(state: Running) -> subprocess.Popen[bytes]:
    """MLflow's pages over the same database that the tasks write."""
    folder = home() / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    env = environment(state.port, state.mlflow_port) | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    address = ["--host", "127.0.0.1", "--port", str(state.mlflow_port), "--workers", "1"]
    store = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    artifacts = ["--artifacts-destination", str(folder / "artifacts")]
    return start("mlflow", [str(JOBS_BIN / "mlflow"), "server", *address, *store, *artifacts], env, state)


def start_service(state: Running) -> subprocess.Popen[bytes]:
    """The online service over the champion, on loopback whatever the settings say: `make up` opens nothing."""
    env = environment(state.port, state.mlflow_port)
    address = ["--host", "127.0.0.1", "--port", str(state.service_port)]
    return start("service", [str(JOBS_BIN / "overture"), "serve", *address], env, state)


def answers(url: str) -> bool:
    """Whether something answers there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def wait(ready: Callable[[], bool], started: dict[str, subprocess.Popen[bytes]], what: str) -> None:
    """Until it is ready; a process that ended or two minutes without an answer raise, with the end of the log."""
    deadline = time.monotonic() + START_S
    while not ready():
        gone = next((name for name, process in started.items() if process.poll() is not None), None)
        if gone or time.monotonic() > deadline:
            log = home() / "run" / f"{gone or next(iter(started))}.log"
            why = f"{gone} ended" if gone else f"{what} did not answer within {START_S} s"
            raise OvertureError(f"{why}; the end of {log}:\n" + "\n".join(log.read_text().splitlines()[-20:]))
        time.sleep(0.3)


def stop(state: Running) -> int:
    """End the services and all that they started, tasks too: asked first, made to after a while. Returns how many."""
    roots = set(state.alive().values())
    # Looked up now, while parents still lead to children: afterwards an orphan belongs to nobody.
    members = family(roots)

    def left() -> list[int]:
        everyone = processes()
        return [pid for pid, process in members.items() if everyone.get(pid, NOBODY).born == process.born]

    # The services end their own helpers; a task's command is in a group of its own and is asked by us.
    asked = [pid for pid, process in members.items() if pid in roots or process.group not in roots]
    for sign, pids, seconds in ((signal.SIGTERM, asked, STOP_S), (signal.SIGKILL, left, 5)):
        for pid in pids() if callable(pids) else pids:
            with suppress(ProcessLookupError):
                os.kill(pid, sign)
        deadline = time.monotonic() + seconds
        while left() and time.monotonic() < deadline:
            time.sleep(0.1)
            members |= family(left())
    state_file().unlink(missing_ok=True)
    return len(members)


def up(console: Console) -> None:
    """Both UIs and the service, until `down`."""
    if found := running():
        console.print("Already up.")
        return show(found, console)
    port = free_port(int(os.environ.get("OVERTURE_AIRFLOW_PORT", AIRFLOW_PORT)))
    mlflow_port = free_port(int(os.environ.get("OVERTURE_MLFLOW_PORT", MLFLOW_PORT)))
    service_port = free_port(int(os.environ.get("OVERTURE_SERVICE_PORT", SERVICE_PORT)))
    state = Running(str(config_path()), port, mlflow_port, service_port)
    try:
        with console.status("Starting Airflow, MLflow and the service"):
            started = start_airflow(state) | {"mlflow": start_mlflow(state), "service": start_service(state)}
            wait(lambda: answers(f"http://127.0.0.1:{port}/api/v2/version"), started, "Airflow")
            wait(lambda: answers(f"http://127.0.0.1:{mlflow_port}/health"), started, "MLflow")
            wait(lambda: answers(f"http://127.0.0.1:{service_port}/healthz"), started, "the service")
    except BaseException:
        stop(state)
        raise
    show(state, console)


def show(state: Running, console: Console) -> None:
    """Where to look, and how to get in."""
    alive = state.alive()
    table = Table("", "address", "login", "ended")
    others = {"mlflow": ("MLflow", state.mlflow_port), "service": ("Service", state.service_port)}
    airflow = [name for name in state.pids if name not in others]
    for title, port, login, names in (
        ("Airflow", state.port, f"{LOGIN} / {LOGIN}", airflow),
        *((title, port, "none", [name]) for name, (title, port) in others.items() if name in state.pids),
    ):
        if names:
            gone = ", ".join(name for name in names if name not in alive)
            table.add_row(title, f"http://127.0.0.1:{port}", login, gone or "-")
    console.print(table)
    if "service" in alive:
        console.print(serving_what(state.service_port), soft_wrap=True)
    console.print(f"settings {state.config}\nlogs     {home() / 'run'}\nend it with: make down", soft_wrap=True)


def serving_what(port: int) -> str:
    """What the service answers from, or why it does not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5) as answer:
            said = json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            said = json.load(error)
    except OSError as error:
        return f"the service does not answer: {error}"
    if not said["ready"]:
        return f"the service answers 503: {said['problem']}; skip engine: {said['skip']['problem']}"
    skip = said["skip"]
    skips = f"skips from release {skip['release'][:12]} of {skip['week']}" if skip["ready"] else ""
    if "cold_start" not in said["engines"]:
        return f"the service answers {skips}; nothing else: {said['problem']}"
    store = said["store"]["problem"] or ", ".join(f"{part} {users}" for part, users in said["store"]["parts"].items())
    return f"the service answers from release {said['release'][:12]} of {said['week']}; known listeners: {store}" + (
        f"; {skips}" if skips else ""
    )


def down(console: Console) -> None:
    """End what was started, and only that."""
    if not (found := running()):
        state_file().unlink(missing_ok=True)
        console.print("Nothing is running.")
        return
    console.print(f"Ended {', '.join(found.alive())}: {stop(found)} processes in all.")


def state(console: Console) -> None:
    """Whether the services run."""
    if found := running():
        return show(found, console)
    console.print("Airflow, MLflow and the service are not up (make up).")


def print_environment(console: Console) -> None:
    """Lines for a shell: `eval "$(make -s env)"`, then `airflow` and `overture` act as the services do."""
    found = running()
    made = environment(found.port, found.mlflow_port) if found else environment()
    made["PATH"] = f"{JOBS_BIN}{os.pathsep}{AIRFLOW.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    for name, value in made.items():
        if os.environ.get(name) != value:
            sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


def clean(console: Console) -> None:
    """Say what would be deleted; delete it when YES=1."""
    if found := running():
        raise OvertureError(f"still running: {', '.join(found.alive())}; make down first")
    caches = [REPOSITORY / name for name in (".pytest_cache", ".ruff_cache", ".mypy_cache", "spark-warehouse", "build")]
    targets = [path for path in (home(), *caches) if path.exists()]
    sure = os.environ.get("YES") == "1"
    for path in targets:
        console.print(f"{'delete' if sure else 'would delete'} {path}", soft_wrap=True)
        if sure:
            shutil.rmtree(path)
    if targets and not sure:
        console.print("Lake, releases, MLflow and Airflow databases lie there. To delete them: make clean YES=1")
    if not targets:
        console.print("Nothing to delete.")


def main(arguments: list[str]) -> int:
    """Run one of the commands; 0 done, 1 failed, 2 no such command."""
    console = Console()
    commands: dict[str, Any] = {"up": up, "down": down, "state": state, "env": print_environment, "clean": clean}
    try:
        if len(arguments) != 1 or arguments[0] not in commands:
            raise BadArgument(f"write one of: {' '.join(commands)}")
        commands[arguments[0]](console)
    except OvertureError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
