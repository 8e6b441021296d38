"""A fork server for processes that are killed: it imports all modules once and forks a child for each call.

A request is a line of JSON {"calls": [[function, arguments], ...]}: one child per call, started together. The response
is a line with their exit codes. Forking after the imports takes one second per process instead of ten.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


def promote(home: str, week: str, die_at: int, result_file: str) -> None:
    """Promote; exit with code 9 right before write number `die_at` (-1: never), and write the result to `answer`."""
    from contracts.errors import OvertureError
    from jobs.release import promote as job
    from jobs.release import registry
    from jobs.tracking.tracker import Tracker
    from tests.helpers.small_week import context_at

    writes, context = count_writes(die_at), context_at(Path(home), week)
    try:
        report = job.run(context)
    except OvertureError as error:
        report = {"error": str(error), "exit_code": error.exit_code}
    aliases = registry.read_aliases(context, Tracker.connect(context))
    Path(result_file).write_text(json.dumps({**report, "writes": writes, "aliases": aliases}))


def start(home: str, week: str, result_file: str) -> None:
    """Begin the week, run one task, and write its MLflow ids to `answer`."""
    from jobs.tracking.tracker import Tracker
    from tests.helpers.small_week import context_at

    context = context_at(Path(home), week)
    with Tracker.task(context, "race") as run:
        parent = run.client.get_run(run.run_id).data.tags["mlflow.parentRunId"]
    Path(result_file).write_text(json.dumps({"experiment": run.experiment_id, "parent": parent}))


def count_writes(die_at: int) -> list[str]:
    """Return a list that collects every durable write of this process; exit before write number `die_at`."""
    from mlflow import MlflowClient

    names: list[str] = []

    def watched(name, function):
        def call(*args, **kwargs):
            if len(names) == die_at:
                os._exit(9)
            names.append(name)
            return function(*args, **kwargs)

        return call

    for name in ("replace", "rename", "fsync"):
        setattr(os, name, watched(name, getattr(os, name)))
    for name in (
        "create_run",
        "log_batch",
        "set_tag",
        "set_terminated",
        "set_registered_model_alias",
        "delete_registered_model_alias",
    ):
        setattr(MlflowClient, name, watched(name, getattr(MlflowClient, name)))
    return names


class ForkServer:
    """Client of the fork server."""

    def __init__(self) -> None:
        root = HERE.parent.parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(HERE)])}
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=root,
            env=environment,
        )

    def run(self, *calls: tuple[str, dict[str, object]]) -> list[int]:
        """Fork one child per call, all at once; return their exit codes."""
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps({"calls": calls}), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        """Stop the server."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


@cache
def shared() -> ForkServer:
    """Return the server of the test session, which stops at exit."""
    server = ForkServer()
    atexit.register(server.close)
    return server


def main() -> None:
    from sqlalchemy.orm import configure_mappers

    import jobs.release.promote  # noqa: F401
    from jobs.tracking.store import import_mlflow
    from tests.helpers import small_week  # noqa: F401

    import_mlflow()
    from mlflow import MlflowClient  # noqa: F401

    configure_mappers()
    for line in sys.stdin:
        children = []
        for name, arguments in json.loads(line)["calls"]:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    os.dup2(2, 1)
                    globals()[name](**arguments)
                    code = 0
                finally:
                    os._exit(code)
            children.append(child)
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        sys.stdout.write(json.dumps(codes) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
