"""Overload, clients that do not read, readiness and shutdown."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving.health import StoreReader
from serving.http.compute_pool import ComputePool
from serving.http.problems import Refusal
from serving.settings import ServiceSettings
from tests.serving.http.test_problems import JSON, send


def wait_until(condition) -> None:
    """Wait until a condition is true; fail after 30 seconds."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def blocked(release_home, serve):
    """A service with `/block`, whose requests occupy a thread until the event `open` is set."""
    release_home.promote(release_home.first)
    live = serve(release_home.home, max_concurrent_requests=50)
    live.open = threading.Event()

    def block() -> dict:
        live.open.wait(30)
        return {}

    live.app.app.add_api_route("/block", block)
    yield live
    live.open.set()


def test_requests_beyond_the_limit_are_refused_and_health_is_not(blocked):
    body = b'{"listener": {}}'
    with socket.create_connection(("127.0.0.1", blocked.port), 30) as slow, ThreadPoolExecutor(50) as clients:
        head = f"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {len(body)}\r\n"
        slow.sendall(head.encode() + b"content-type: application/json\r\n\r\n")
        waiting = [clients.submit(send, blocked, "GET", "/block") for _ in range(50)]
        wait_until(lambda: blocked.app.running == 50)  # the incomplete body takes no place
        for method, path, sent in (("GET", "/v1/release", None), ("POST", "/v1/recommendations", body)):
            status, headers, answer = send(blocked, method, path, sent, JSON)
            assert (status, headers["retry-after"], json.loads(answer)["code"]) == (503, "1", "overloaded")
        # All threads of the shared pool are occupied.
        assert [send(blocked, "GET", path)[0] for path in ("/healthz", "/readyz")] == [200, 200]
        slow.sendall(body)
        assert slow.recv(65_536).startswith(b"HTTP/1.1 503")
        blocked.open.set()
        assert [one.result()[0] for one in waiting] == [200] * 50
    wait_until(lambda: blocked.app.running == 0)
    assert blocked.lists(k=1)["tracks"]
    assert 'overture_requests_total{route="other",status="503"} 2.0' in blocked.call("/metrics")[2]


def test_a_refused_connection_stays_open_and_is_answered_later(blocked):
    body = b'{"listener": {}, "k": 1}'
    head = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\nx-request-id: mine\r\ncontent-type: application/json\r\n"
    head += b"content-length: %d\r\n\r\n" % len(body)
    with socket.create_connection(("127.0.0.1", blocked.port), 30) as line, ThreadPoolExecutor(50) as clients:
        reader = line.makefile("rb")

        def respond() -> tuple[int, dict[str, str], bytes]:
            status = int(reader.readline().split()[1])
            headers = dict(text.decode().strip().split(": ", 1) for text in iter(reader.readline, b"\r\n"))
            return status, headers, reader.read(int(headers["content-length"]))

        waiting = [clients.submit(send, blocked, "GET", "/block") for _ in range(50)]
        wait_until(lambda: blocked.app.running == 50)
        for parts in ((head + body,), (head, body[:5], body[5:]), (head + body,)):
            for part in parts:
                line.sendall(part)
                time.sleep(0.01)
            status, headers, answer = respond()
            assert (status, headers["retry-after"], headers["x-request-id"]) == (503, "1", "mine")
            assert json.loads(answer)["code"] == "overloaded"
        blocked.open.set()
        assert [one.result()[0] for one in waiting] == [200] * 50
        wait_until(lambda: blocked.app.running == 0)
        line.sendall(head + body)
        status, headers, answer = respond()
        assert (status, headers["x-request-id"], len(json.loads(answer)["tracks"])) == (200, "mine", 1)
    assert blocked.app.n_arriving == 0


def test_the_body_of_a_refused_request_has_a_time_limit(release_home, serve):
    live = serve(release_home.home, max_concurrent_requests=1, header_timeout_s=0.3)
    live.app.running = 1
    head = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", live.port), 30) as line:
        line.sendall(head + b"content-length: 100\r\n\r\n{")
        assert line.makefile("rb").read().startswith(b"HTTP/1.1 408")
    live.app.running = 0


def test_pages_of_other_origins_can_read_a_refusal(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home, max_concurrent_requests=1, cors_origins=["https://shop.example"])
    live.app.running = 1
    status, headers, answer = send(live, "GET", "/v1/release", None, {"origin": "https://shop.example"})
    live.app.running = 0
    assert (status, json.loads(answer)["code"]) == (503, "overloaded")
    assert headers["access-control-allow-origin"] == "https://shop.example"


def test_bytes_of_bodies_that_are_being_received_are_limited(serve, tmp_path):
    live = serve(tmp_path, max_body_bytes=1024)
    head = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += b"content-length: 1024\r\n\r\n"
    lines = [socket.create_connection(("127.0.0.1", live.port), 30) for _ in range(33)]
    for line in lines[:-1]:
        line.sendall(head + b" " * 1023)
    wait_until(lambda: live.app.received == 32 * 1023)
    lines[-1].sendall(head + b" " * 1000)
    assert lines[-1].recv(65_536).startswith(b"HTTP/1.1 503")
    for line in lines:
        line.close()
    wait_until(lambda: live.app.received == 0)


def test_the_queue_of_the_compute_pool_is_bounded():
    async def fill() -> None:
        pool, event = ComputePool(threads=1, max_waiting=1), threading.Event()
        running = [asyncio.ensure_future(pool.run(event.wait, 30)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:
            await pool.run(int)
        assert (refused.value.status_code, refused.value.code) == (503, "overloaded")
        event.set()
        assert await asyncio.gather(*running) == [True, True]
        assert await pool.run(int, "7") == 7

    asyncio.run(fill())


@pytest.mark.parametrize(("n", "k", "status"), [(256, 50, 200), (256, 51, 422), (64, 200, 200), (65, 200, 422)])
def test_the_cost_of_a_batch_is_limited(live, n, k, status):
    answered, _, response = live.call("/v1/recommendations/batch", {"listeners": [{}] * n, "k": min(k, 200)})
    if status == 200 and k > 150:  # this release has 150 tracks
        assert (answered, response["detail"].startswith("k:")) == (422, True)
        return
    assert answered == status
    if status == 422:
        assert "a batch has at most 12800" in response["details"][0]["message"]


def test_large_bodies_without_meaning_are_refused(live):
    """Each took the event loop for a second or more when every wrong field was described."""
    unknown = b'{"listener": {}, %s}' % b",".join(b'"x%07d":1' % i for i in range(150_000))
    wrong = b'{"listener": {"streams": {"tracks": [%s]}}}' % b",".join([b"{}"] * 600_000)
    nested = b'{"listener": ' + b'{"streams":' * 100_000 + b"1" + b"}" * 100_001
    for body in (unknown, wrong, nested):
        status, _, response = live.call("/v1/recommendations", raw=body)
        assert (status, len(response["details"]) <= 20) in ((422, True), (400, True))
    assert live.lists(k=1)["tracks"]


def test_connections_of_clients_that_do_not_read_are_ended(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home, write_timeout_s=0.5)
    body = json.dumps({"listeners": [{}] * 80, "k": 150}).encode()
    request = b"POST /v1/recommendations/batch HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    request += b"content-length: %d\r\n\r\n%s" % (len(body), body)
    lines = []
    for _ in range(4):
        line = socket.socket()
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", live.port))
        for _ in range(8):  # more than the socket's buffers take
            line.sendall(request)
        lines.append(line)
    connections = live.server.server_state.connections
    wait_until(lambda: any(one.transport.get_write_buffer_size() for one in list(connections)))
    wait_until(lambda: not connections)
    wait_until(lambda: live.app.running == 0)
    for line in lines:
        line.close()
    assert live.lists(k=1)["tracks"]


def test_readiness_is_per_engine_and_depends_only_on_required_ones(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    for query, status in (("", 200), ("?engine=cold_start", 200), ("?engine=skip", 503), ("?engine=other", 422)):
        answered, _, response = live.call(f"/readyz{query}")
        assert (answered, response.get("ready", False)) == (status, status == 200)
    requires_both = serve(release_home.home, required_engines=("cold_start", "skip"))
    assert requires_both.call("/readyz")[0] == 503
    assert requires_both.call("/readyz?engine=cold_start")[0] == 200
    assert serve(release_home.home, required_engines=("cold_start",)).call("/readyz")[0] == 200


def test_a_store_that_does_not_respond_delays_no_health_check():
    class Hanging:
        """A circuit whose store responds when `open` is set."""

        def __init__(self) -> None:
            self.store, self.open = self, threading.Event()
            self.name = "redis"

        def state(self, release, space):
            self.open.wait(30)
            return {"kind": "redis", "answers": True, "problem": None, "parts": {}}

    async def read() -> None:
        circuit = Hanging()
        reader = StoreReader(circuit)
        assert [(await reader.state("r", "s"))["answers"] for _ in range(3)] == [False] * 3
        circuit.open.set()
        while not (await reader.state("r", "s"))["answers"]:
            await asyncio.sleep(0)

    asyncio.run(read())


def test_a_terminated_service_is_first_not_ready_and_continues_to_respond(start_process):
    service = start_process(OVERTURE__SERVICE__DRAIN_S="600", OVERTURE__SERVICE__KEEP_ALIVE_TIMEOUT_S="1")
    assert service.call("/readyz")[0] == 200
    with socket.create_connection(("127.0.0.1", service.port), 30) as idle:  # keep-alive is a setting of the command
        idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        received = b""
        while chunk := idle.recv(65_536):  # until the service closes the connection
            received += chunk
        assert received.startswith(b"HTTP/1.1 200")
    service.process.send_signal(signal.SIGTERM)
    service.wait(True, lambda caller: caller.call("/readyz")[2]["draining"])
    status, _, body = service.call("/readyz")
    assert (status, body["ready"], body["engines"]) == (503, False, ["cold_start"])
    assert service.call("/healthz")[0] == 200
    assert service.lists(k=1)["tracks"]
    service.process.send_signal(signal.SIGTERM)  # ends the wait
    assert service.process.wait(60) == 0


def test_a_drained_service_ends_by_itself(start_process):
    service = start_process("--workers", "2", OVERTURE__SERVICE__DRAIN_S="0.2")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(60) == 0


def test_idle_connections_outlive_those_of_common_load_balancers(live):
    assert ServiceSettings().keep_alive_timeout_s > 60
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    for _ in range(2):
        connection.request("GET", "/healthz")
        assert connection.getresponse().read()
    connection.close()
