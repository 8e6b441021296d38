"""A standalone Spark cluster on this machine's loopback: a master and workers of one core, each in its own process."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyspark

HOST = "127.0.0.1"
SHORT_LIVED = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # for JVMs that run for a minute


def free_port() -> int:
    """Return a free TCP port."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 60) -> None:
    """Wait until a server accepts connections on the port.

    Raises:
        SystemExit: no server accepts within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"no server accepts connections on port {port}")


@contextmanager
def standalone(logs: Path, n_workers: int, memory: str = "1g") -> Iterator[tuple[str, list[psutil.Process]]]:
    """Run a cluster during the `with` block.

    Args:
        logs: folder for the logs and the work folders.
        n_workers: number of workers, one core each.
        memory: memory of each worker.

    Yields:
        The master's URL and the processes of the workers, whose children are the executors.
    """
    logs.mkdir(parents=True, exist_ok=True)
    home = Path(pyspark.__file__).parent
    port = free_port()
    url = f"spark://{HOST}:{port}"
    env = os.environ | {
        "SPARK_DAEMON_JAVA_OPTS": SHORT_LIVED,
        "SPARK_LOCAL_IP": HOST,
        "SPARK_HOME": str(home),
        "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]).strip(os.pathsep),
    }
    spark_class = [str(home / "bin" / "spark-class")]
    commands = {
        "master": ["org.apache.spark.deploy.master.Master", "--host", HOST, "--port", str(port), "--webui-port", "0"],
        **{
            f"worker{n}": [
                "org.apache.spark.deploy.worker.Worker",
                "--host",
                HOST,
                "--webui-port",
                "0",
                "--cores",
                "1",
                "--memory",
                memory,
                "--work-dir",
                str(logs / f"work{n}"),
                url,
            ]
            for n in range(1, n_workers + 1)
        },
    }
    processes: list[subprocess.Popen[bytes]] = []
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("w") as log:
                processes.append(subprocess.Popen([*spark_class, *command], env=env, stdout=log, stderr=log))
            if name == "master":
                wait_for(port)
        yield url, [psutil.Process(process.pid) for process in processes[1:]]
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(timeout=30)


def executors(worker: psutil.Process) -> list[psutil.Process]:
    """Return the running executors of a worker; an executor that has ended or is ending is excluded."""
    return [child for child in worker.children(recursive=True) if _is_executor(child)]


def _is_executor(process: psutil.Process) -> bool:
    try:
        return any("CoarseGrainedExecutorBackend" in part for part in process.cmdline())
    except psutil.NoSuchProcess:  # also raised for a zombie, whose parent has not waited for it yet
        return False
