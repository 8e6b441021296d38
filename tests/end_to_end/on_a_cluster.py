"""Start a Spark master and two workers on loopback, run the Spark stage of the tiny week on them, end them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyspark
from one_week import TINY, spark_stage

from jobs.context import Context
from jobs.settings import load
from jobs.weeks import Week

HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, seconds: float = 60) -> None:
    """Until something answers on the port."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            socket.create_connection((HOST, port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"nothing answers on port {port}")


def main(logs: Path) -> None:
    """Run it; the last line of stdout says how many executors did the work."""
    logs.mkdir(parents=True)
    home = Path(pyspark.__file__).parent
    port = free_port()
    master = f"spark://{HOST}:{port}"
    short = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"  # these Javas live for a minute
    env = os.environ | {
        "SPARK_DAEMON_JAVA_OPTS": short,
        "SPARK_LOCAL_IP": HOST,
        "SPARK_HOME": str(home),
        "PYTHONPATH": os.getcwd(),
    }
    base = [str(home / "bin" / "spark-class")]
    commands = {
        "master": ["org.apache.spark.deploy.master.Master", "--host", HOST, "--port", str(port), "--webui-port", "0"],
        **{
            f"worker{n}": ["org.apache.spark.deploy.worker.Worker", "--host", HOST, "--webui-port", "0",
                           "--cores", "1", "--memory", "1g", "--work-dir", str(logs / f"work{n}"), master]
            for n in (1, 2)
        },
    }  # fmt: skip
    started = []
    try:
        for name, command in commands.items():
            with (logs / f"{name}.log").open("w") as log:
                started.append(subprocess.Popen([*base, *command], env=env, stdout=log, stderr=log))
            if name == "master":
                wait_for(port)
        os.environ["OVERTURE__SPARK__MASTER"] = master
        os.environ["SPARK_LOCAL_IP"] = HOST
        os.environ["PYSPARK_PYTHON"] = sys.executable
        settings = load(TINY)
        settings.spark.extra["spark.executor.extraJavaOptions"] = short
        context = Context(settings, Week.parse(settings.week))
        spark = context.spark
        until = time.monotonic() + 60
        status = spark.sparkContext._jsc.sc().getExecutorMemoryStatus  # one entry is the driver's
        while status().size() < 3 and time.monotonic() < until:
            time.sleep(0.2)
        executors = status().size() - 1
        spark_stage(context)
        spark.stop()
        print(json.dumps({"executors": executors}))
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(timeout=30)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
