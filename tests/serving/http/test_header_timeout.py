"""A client that says its request drop by drop, or not at all, is let go; others are served meanwhile."""

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
def service(shelf, tmp_path_factory):
    """`overture serve` with little patience."""
    import shutil

    from tests.serving.conftest import Shop

    home = tmp_path_factory.mktemp("slow") / "home"
    shutil.copytree(shelf, home)
    shop = Shop(home)
    shop.promote(shop.first)
    found = Process(home, OVERTURE__SERVICE__HEADER_TIMEOUT_S="0.3", OVERTURE__SERVICE__BODY_TIMEOUT_S="0.3")
    yield found
    assert found.stop() == 0


def answer_of(line: socket.socket) -> tuple[bytes, dict]:
    """Status line and JSON of what comes until the service ends the connection."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while piece := line.recv(65_536):
            found += piece
    head, _, body = found.partition(b"\r\n\r\n")
    return head.split(b"\r\n")[0], json.loads(body) if body else {}


def counted(service, route: str, status: int) -> float:
    """How many such answers the service says it has given."""
    line = f'overture_requests_total{{route="{route}",status="{status}"}} '
    return next(
        (float(one.removeprefix(line)) for one in service.call("/metrics")[2].splitlines() if one.startswith(line)), 0
    )


def drop_by_drop(line: socket.socket, drop: bytes) -> None:
    """Send the same few bytes over and over until the service has something to say."""
    with contextlib.suppress(ConnectionError):
        says = select.poll()  # not select(): it refuses descriptors from 1024 on
        says.register(line, select.POLLIN)
        while not says.poll(0):
            line.sendall(drop)


def test_a_silent_connection_ends_without_a_word(service):
    """Browsers connect ahead; what they read on such a line they take for the answer to their next request."""
    before = counted(service, "other", 408)
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        assert line.recv(65_536) == b""
    assert counted(service, "other", 408) == before


@pytest.mark.parametrize("start", [b"P", HEAD, HEAD + b"x-half: "], ids=["a letter", "a line", "half"])
def test_headers_that_do_not_come_end_the_connection(service, start):
    before = counted(service, "other", 408)
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(start)
        status, said = answer_of(line)
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert said["error"] == "the request's headers did not arrive in time"
    assert service.lists(k=1)["tracks"]
    assert counted(service, "other", 408) == before + 1


def test_headers_drop_by_drop_win_no_time(service):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(b"GET /healthz HTTP/1.1\r\n")
        drop_by_drop(line, b"a: b\r\n")
        assert answer_of(line)[0].startswith(b"HTTP/1.1 4")  # 408, or 400 where the parser's own limit comes first


@pytest.mark.parametrize("length", [b"content-length: 1000000", b"transfer-encoding: chunked"])
@pytest.mark.parametrize("start", [b"", b"1\r\n \r\n"], ids=["nothing", "a little"])
def test_a_body_that_does_not_come_is_a_408(service, length, start):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(HEAD + length + b"\r\n\r\n" + start)
        status, said = answer_of(line)
    assert status == b"HTTP/1.1 408 Request Timeout"
    assert said == {"error": "the body did not arrive within 0.3 s", "details": []}


def test_a_body_drop_by_drop_wins_no_time(service):
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sendall(HEAD + b"content-length: 2000000\r\n\r\n")
        drop_by_drop(line, b" ")
        assert answer_of(line)[0] == b"HTTP/1.1 408 Request Timeout"
    assert counted(service, "/v1/recommendations", 408)


@pytest.mark.parametrize("more", [HEAD[:20], b"\r\n"], ids=["half", "blank"])
def test_requests_one_after_the_other_on_one_connection_each_have_their_time(service, more):
    line = http.client.HTTPConnection("127.0.0.1", service.port, timeout=30)
    with contextlib.closing(line):
        for _ in range(3):
            line.request("POST", "/v1/recommendations", b'{"listener": {}}', {"content-type": "application/json"})
            answer = line.getresponse()
            assert (answer.status, len(json.loads(answer.read())["tracks"])) == (200, 50)
        line.sock.sendall(more)  # and then no more
        assert answer_of(line.sock)[0] == b"HTTP/1.1 408 Request Timeout"
    assert service.process.poll() is None
