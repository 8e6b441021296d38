"""Test the load generator: requests are counted correctly if the server closes connections or fails."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import load

REQUESTS = [load.post("/", b'{"n": 1}'), load.post("/", b'{"n": 2}')]


@contextmanager
def server(status: int, sends_close: bool, closes: bool) -> Iterator[int]:
    """Run a server and yield its port. It can send `Connection: close`, close connections, or both."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", "2")
            self.send_header("x-overture-release", "one")
            if sends_close:
                self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = closes

        def log_message(self, *_: object) -> None:
            """Suppress the log."""

    with ThreadingHTTPServer((load.HOST, 0), Handler) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, args=(0.01,))
        thread.start()
        yield http_server.server_address[1]
        http_server.shutdown()
        thread.join()


@pytest.mark.parametrize("closes", [False, True])
def test_requests_continue_after_the_server_closes_connections(closes):
    with server(200, closes, closes) as port:
        busy = load.closed_loop(port, REQUESTS, 2, 0.5, 0.0)
        timed = load.fixed_rate(port, REQUESTS, 100, 0.2, 0.0)
    assert (busy.failed, timed.failed) == (0, 0)
    assert len(busy.taken_s) > 2
    assert len(timed.taken_s) == 20
    assert busy.releases == timed.releases == {b"one"}


def test_failed_and_unanswered_requests_are_counted():
    with server(500, False, False) as port:
        assert load.closed_loop(port, REQUESTS, 1, 0.5, 0.0).failed > 0
        assert load.fixed_rate(port, REQUESTS, 50, 0.1, 0.0).failed == 5
    with server(200, False, True) as port:  # closed without the header: a request may fail, none waits
        assert load.closed_loop(port, REQUESTS, 1, 0.5, 0.0).taken_s
