"""Timeouts for slow and silent clients. Other clients are served meanwhile."""

from __future__ import annotations

import contextlib
import http.client
import json
import select
import socket

import pytest

from tests.helpers.live import Process

HEAD = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@pytest.fixture(scope="module")
def service(template_home, tmp_path_factory):
    """`overture serve` with short timeouts."""
    import shutil

    from tests.serving.conftest import ReleaseHome

    home = tmp_path_factory.mktemp("slow") / "home"
    shutil.copytree(template_home, home)
    release_home = ReleaseHome(home)
    release_home.promote(release_home.first)
    process = Process(home, OVERTURE__SERVICE__HEADER_TIMEOUT_S="0.3", OVERTURE__SERVICE__BODY_TIMEOUT_S="0.3")
    yield process
    assert process.stop() == 0


def read_response(line: socket.socket) -> tuple[bytes, dict]:
    """Status line and JSON body of the response, read until the service closes the connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while chunk := line.recv(65_536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], json.loads(body) if body else {}


def n_responses(service, route: str, status: int) -> float:
    """Number of responses with this route and status, from `/metrics`."""
    line = f'overture_requests_total{{route="{route}",status="{status}"}} '
    return next(
        (float(row.removeprefix(line)) for row in service.call("/metrics")[2].splitlines() if row.startswith(line)), 0
    )


def send_until_response(line: socket.socket, piece: bytes) -> None:
    """Send the same few bytes repeatedly until the service sends a response."""
    with contextlib.suppress(ConnectionError):
        poller = select.poll()  # not select(), which raises for descriptors from 1024 upwards
        poller.register(line, select.POLLIN)
        while not poller.poll(0):
            line.sendall(piece)


def test_silent_connection_is_closed_without_a_response(service):
    """Browsers open connections in advance and would read a 408 as the response to their next request."""
    before = n_responses(service, "other", 408)
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        assert line.recv(65_536) == b""
    assert n_responses(service, "other", 408) == before


@pytest.mark.parametrize("start", [b"P", HEAD, HEAD + b"x-half: "], ids=["a letter", "a line", "half"])
def test_incomplete_headers_close_the_connection_with_408(service, start):
    before = n_responses(service, "other", 408)
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(start)
        status, response = read_response(line)
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert response["detail"] == "the request's headers did not arrive in time"
    assert service.lists(k=1)["tracks"]
    assert n_responses(service, "other", 408) == before + 1


def test_slow_headers_do_not_extend_the_timeout(service):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(b"GET /healthz HTTP/1.1\r\n")
        send_until_response(line, b"a: b\r\n")
        assert read_response(line)[0].startswith(
            b"HTTP/1.1 4"
        )  # 408, or 400 if the parser's own limit is reached first


@pytest.mark.parametrize("length", [b"content-length: 1000000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("start", [b"", b"1\r\n \r\n"], ids=["nothing", "a little"])
def test_incomplete_body_returns_408(service, length, start):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(HEAD + length + b"\r\n\r\n" + start)
        status, response = read_response(line)
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert (response["code"], response["detail"]) == ("request_timeout", "the body did not arrive within 0.3 s")


def test_slow_body_does_not_extend_the_timeout(service):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(HEAD + b"content-length: 2000000\r\n\r\n")
        send_until_response(line, b" ")
        assert read_response(line)[0] == b"HTTP/1.1 408 Request Timeout"
    assert n_responses(service, "/v1/recommendations", 408)


@pytest.mark.parametrize("start", [HEAD[:20], b"\r\n"], ids=["half", "blank"])
def test_timeout_restarts_with_each_request_of_a_connection(service, start):
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(line):
        for _ in range(3):
            line.request("POST", "/v1/recommendations", b'{"listener": {}}', {"content-type": "application/json"})
            response = line.getresponse()
            assert (response.status, len(json.loads(response.read())["tracks"])) == (200, 50)
        line.sock.sendall(start)  # an incomplete request follows
        assert read_response(line.sock)[0] == b"HTTP/1.1 408 Request Timeout"
    assert service.process.poll() is None
