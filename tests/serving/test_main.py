"""`overture serve` as a process: shutdown, workers and options."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client.mmap_dict import MmapedDict

from tests.helpers.live import Process
from tests.helpers.store_servers import redis_server


def test_shutdown_completes_the_running_request_and_logs_no_listener_data(start_process):
    service = start_process()
    service.lists({"country": "FR", "streams": {"tracks": [4242424242]}})
    body = b'{"listener": {"country": "BR", "skips": {"tracks": [4242424242]}}, "k": 3}'
    head = (
        f"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", service.port), 30) as line:
        line.sendall(head.encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 100"), "the service has started to read this request"
        service.process.send_signal(signal.SIGTERM)
        service.wait(False, Process.accepts_connections)
        line.sendall(body)
        response = b""
        while chunk := line.recv(65_536):
            response += chunk
    assert response.startswith(b"HTTP/1.1 200"), response
    assert service.stop() == 0
    text = service.log.read_text()
    assert "4242424242" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    requests = [line for line in lines if line["event"] == "request" and line["route"] == "/v1/recommendations"]
    assert [line["status"] for line in requests] == [200, 200]
    assert all(len(line["release"]) == 12 for line in requests)


def test_two_workers_share_a_port_and_their_metrics(start_process):
    service = start_process("--workers", "2", OVERTURE__SERVICE__API_KEY="sesame")
    key = {"x-api-key": "sesame"}
    assert [service.call(path)[0] for path in ("/v1/release", "/metrics")] == [401, 401]
    for _ in range(40):
        assert service.call("/v1/recommendations", {"listener": {}}, key)[0] == 200
    for _ in range(4):  # each scrape reaches one of the workers
        assert (
            'overture_answers_total{method="popularity",vector_source="network"} 40.0'
            in service.call("/metrics", headers=key)[2]
        )
    assert service.stop() == 0
    assert "sesame" not in service.log.read_text()


def test_gauges_of_a_killed_worker_do_not_count_and_its_counters_do(start_process, tmp_path):
    """Both workers fail to read the store, one is killed, the store is available again."""
    server = redis_server(tmp_path)
    server.stop()
    store = {"KIND": "redis", "REDIS_URL": server.url, "BREAKER_RESET_S": "0", "TIMEOUT_S": "5"}
    service = start_process("--workers", "2", **{f"OVERTURE__STORE__{name}": value for name, value in store.items()})
    try:
        service.wait([0.0, 0.0], lambda service: [store_answers(worker) for worker in workers_after_reads(service)])
        metrics = service.call("/metrics")[2]
        assert "overture_store_answers 0.0" in metrics
        failed = re.search(r'overture_store_reads_total{result="unavailable"} .*', metrics)[0]
        os.kill(worker_ids(service)[0], signal.SIGKILL)
        server.start()
        service.wait(True, lambda service: bool(workers_after_reads(service)) and answers(service))
        assert failed in service.call("/metrics")[2]
    finally:
        server.stop()


def answers(service: Process) -> bool:
    return "overture_store_answers 1.0" in service.call("/metrics")[2]


def workers_after_reads(service: Process) -> list[int]:
    """Send requests that read the store, several at once, so that each worker gets some; return the workers."""
    with ThreadPoolExecutor(8) as pool:
        assert {status for status, _, _ in pool.map(service.call, ["/v1/users/1/recommendations?k=1"] * 16)} == {200}
    return worker_ids(service)


def store_answers(worker: int) -> float | None:
    """Return the gauge that a worker has written."""
    environment = dict(pair.split("=", 1) for pair in Path(f"/proc/{worker}/environ").read_text().split("\0") if pair)
    file = Path(environment["PROMETHEUS_MULTIPROC_DIR"]) / f"gauge_livemin_{worker}.db"
    try:
        values = MmapedDict.read_all_values_from_file(file)
    except FileNotFoundError:  # the worker has not written its gauges yet
        return None
    return next((value for key, value, *_ in values if "overture_store_answers" in key), None)


def worker_ids(service: Process) -> list[int]:
    """Return the ids of the processes that serve requests."""
    parent = service.process.pid
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_text() for child in children}
    return [child for child, command in commands.items() if "spawn_main" in command]


@pytest.mark.parametrize(("option", "value"), [("--port", "70000"), ("--port", "-2"), ("--workers", "65")])
def test_invalid_option_is_named_in_the_error(command, option, value):
    code, _, err = command("serve", option, value)
    assert (code, option in err) == (2, True)
