"""A service on a loopback port: in a thread of this process, or as the command in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import uvicorn

from serving.app import make_app
from serving.settings import ServiceSettings, StoreSettings
from tests.helpers import small_week

WORDS = {"streams": "streamed", "skips": "skipped", "bans": "banned", "favourites": "favorite", "searches": "search"}
ROOT = Path(__file__).parent.parent.parent


def texts(ids) -> list[str]:
    """Return integer ids as a response contains them."""
    return [str(i) for i in ids]


def cohort_request(row: dict) -> dict:
    """Convert a row of first_day into the body of a request, with every level as a separate field."""
    request = {"country": row["country"], "age": row["age"]}
    request["onboarding"] = {"artists": texts(row["onboarding_like_artists"])}
    for word, prefix in WORDS.items():
        levels = ("tracks", "artists", "albums", *(("playlists",) if word in ("favourites", "searches") else ()))
        if word == "bans":  # the artists and albums of banned tracks are not banned
            levels = ("tracks",)
        request[word] = {level: texts(row[f"{prefix}_{'songs' if level == 'tracks' else level}"]) for level in levels}
    return request


def cohort_requests() -> list[dict]:
    return [cohort_request(row) for row in small_week.cohort()[0].to_pylist()]


class Caller:
    """Client of a service."""

    port: int

    def call(self, path: str, body: object = None, headers: dict | None = None, raw: bytes | None = None):
        """Send a request; return status, headers and body, which is parsed if it is JSON."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json", **(headers or {})}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                status, response_headers, text = response.status, response.headers, response.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, response_headers, text = error.code, error.headers, error.read().decode()
        return (
            status,
            response_headers,
            json.loads(text) if (response_headers["content-type"] or "").endswith("json") else text,
        )

    def lists(self, listener: dict | None = None, **options):
        """Return a recommendation; the request must succeed."""
        status, headers, body = self.call("/v1/recommendations", {"listener": listener or {}, **options})
        assert status == 200, body
        assert headers["x-overture-release"] == body["release"]
        return body

    def raw(self, *pieces: bytes) -> bytes:
        """Send bytes over a plain connection; return the response, also if the service closes the connection early."""
        with socket.create_connection(("127.0.0.1", self.port), 30) as line:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    line.sendall(piece)
            response = b""
            with contextlib.suppress(ConnectionError):
                while piece := line.recv(65_536):
                    response += piece
        return response

    def wait(self, wanted, of=lambda self: self.call("/readyz")[2]["release"]):
        """Poll until `of` returns `wanted`; fail after 30 seconds."""
        end = time.monotonic() + 30
        while (value := of(self)) != wanted:
            assert time.monotonic() < end, f"still {value}, not {wanted}"
            time.sleep(0.02)


class Live(Caller):
    """A service in a thread."""

    def __init__(self, home: Path, store: StoreSettings | None = None, **settings) -> None:
        chosen = ServiceSettings(**{"poll_interval_s": 0.02, **settings})
        self.app = make_app(chosen, home, store or StoreSettings())
        config = uvicorn.Config(
            self.app,
            host="127.0.0.1",
            port=0,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            http="serving.http.header_timeout:HeaderTimeoutProtocol",
            timeout_keep_alive=chosen.keep_alive_timeout_s,
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        end = time.monotonic() + 30
        while not self.server.started:
            assert self.thread.is_alive()
            assert time.monotonic() < end
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join()


class Process(Caller):
    """`overture serve` as a process."""

    def __init__(self, home: Path, *arguments: str, **environment: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = home / f"service-{self.port}.log"
        known = {
            **os.environ,
            "OVERTURE_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "OVERTURE__SERVICE__POLL_INTERVAL_S": "0.02",
        }
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jobs.cli", "serve", "--port", str(self.port), *arguments],
                cwd=ROOT,
                env={**known, **environment},
                stdout=sink,
                stderr=sink,
            )
        end = time.monotonic() + 60
        while True:
            try:
                self.call("/healthz")
                return
            except (urllib.error.URLError, ConnectionError):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)

    def accepts_connections(self) -> bool:
        """Return whether the service accepts connections."""
        try:
            socket.create_connection(("127.0.0.1", self.port), 30).close()
        except OSError:
            return False
        return True

    def stop(self) -> int:
        """Stop the service with SIGTERM; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)
