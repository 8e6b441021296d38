"""A temporary PostgreSQL server on loopback, from the programs of Debian's package postgresql."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from jobs.local.processes import free_port

PASSWORD = "sesame, open"
START_S = 60


class PostgresServer:
    """A server with one superuser, `overture`, who logs in with PASSWORD."""

    def __init__(self) -> None:
        """Start the server; skip the test if PostgreSQL is not installed."""
        self._programs = programs()
        # Not below pytest's folder: only its owner can read that, and the server does not run as root.
        self._folder = Path(tempfile.mkdtemp(prefix="overture-postgres-"))
        self._user: dict[str, Any] = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        if self._user:
            shutil.chown(self._folder, "postgres", "postgres")
        password = self._folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        data, log = self._folder / "data", self._folder / "log.txt"
        options = [
            "--username=overture",
            "--auth=scram-sha-256",
            f"--pwfile={password}",
            "--no-sync",
            "--encoding=UTF8",
        ]
        self._run([self._programs / "initdb", "-D", data, *options])
        self.port = free_port()
        options = ["-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder), "-c", "fsync=off"]
        with log.open("wb") as output:
            command = [self._programs / "postgres", "-D", data, *options]
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=output, stderr=output, **self._user)
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        end = time.monotonic() + START_S
        while subprocess.run(ready).returncode:
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def url(self, password: str = PASSWORD) -> str:
        """Return the JDBC URL with user and password."""
        from urllib.parse import quote

        return f"jdbc:postgresql://127.0.0.1:{self.port}/postgres?user=overture&password={quote(password)}"

    def sql(self, text: str) -> None:
        """Run statements."""
        target = ["-h", "127.0.0.1", "-p", str(self.port), "-U", "overture", "-d", "postgres"]
        environment = {**os.environ, "PGPASSWORD": PASSWORD}
        command = [self._programs / "psql", *target, "-v", "ON_ERROR_STOP=1", "-q", "-c", text]
        subprocess.run(command, check=True, env=environment)

    def stop(self) -> None:
        """Stop the server and remove its files."""
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._folder)

    def _run(self, command: list[object]) -> None:
        done = subprocess.run(list(map(str, command)), cwd=self._folder, capture_output=True, text=True, **self._user)
        assert done.returncode == 0, done.stderr


def programs() -> Path:
    """Return the folder of PostgreSQL's programs, or skip the test: Debian does not put it on the path."""
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    found = next((folder for folder in folders if (folder / "initdb").is_file()), None)
    if found is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt install postgresql)")
    return found
