"""The sender of load tests: an honest count, whatever the server does with its connections."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import load

ASKED = [load.post("/", b'{"n": 1}'), load.post("/", b'{"n": 2}')]


@contextmanager
def server(status: int, says_close: bool, closes: bool) -> Iterator[int]:
    """The port of a server that answers so, and says or does not say that it lets go of the connection."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", "2")
            self.send_header("x-overture-release", "one")
            if says_close:
                self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(b"{}")
            self.close_connection = closes

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((load.HOST, 0), Handler) as found:
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found.server_address[1]
        found.shutdown()
        thread.join()


@pytest.mark.parametrize("closes", [False, True])
def test_requests_go_on_where_a_server_lets_go_of_connections(closes):
    with server(200, closes, closes) as port:
        busy = load.closed_loop(port, ASKED, 2, 0.5, 0.0)
        timed = load.fixed_rate(port, ASKED, 100, 0.2, 0.0)
    assert (busy.failed, timed.failed) == (0, 0)
    assert len(busy.taken_s) > 2
    assert len(timed.taken_s) == 20
    assert busy.releases == timed.releases == {b"one"}


def test_what_was_refused_or_not_answered_is_counted():
    with server(500, False, False) as port:
        assert load.closed_loop(port, ASKED, 1, 0.5, 0.0).failed > 0
        assert load.fixed_rate(port, ASKED, 50, 0.1, 0.0).failed == 5
    with server(200, False, True) as port:  # gone without a word: a request may be lost, none is waited for
        assert load.closed_loop(port, ASKED, 1, 0.5, 0.0).taken_s
