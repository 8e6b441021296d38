"""Errors, request ids and CORS: the same form on every refusal."""

from __future__ import annotations

import http.client
import json

import pytest

from serving import schema
from serving.http.problems import CODES, TITLES

JSON = {"content-type": "application/json"}
ORIGIN = {"origin": "https://music.example"}


def send(live, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
    """Send a request; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request(method, path, body, headers or {})
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


@pytest.fixture(scope="module")
def guarded(template_home, tmp_path_factory):
    """A service without a release, with a key, another origin, a short time for bodies, and a route that fails."""
    from tests.helpers.live import Live

    service = Live(
        tmp_path_factory.mktemp("guarded"),
        api_key="sesame",
        cors_origins=("https://music.example",),
        body_timeout_s=0.2,
        max_body_bytes=1024,
    )

    async def fail():
        raise ZeroDivisionError("a secret")

    service.app.app.add_api_route("/fail", fail)
    yield service
    service.stop()


KEY = {"x-api-key": "sesame"}
REFUSALS = [
    ("POST", "/v1/recommendations", b"{", KEY | JSON, 400, "invalid_json"),
    ("GET", "/v1/release", None, {}, 401, "unauthorized"),
    ("GET", "/v1/release", None, {"x-api-key": "other"}, 401, "unauthorized"),
    ("GET", "/none", None, {}, 404, "not_found"),
    ("DELETE", "/healthz", None, {}, 405, "method_not_allowed"),
    ("POST", "/v1/skips", None, KEY | JSON | {"content-length": "9"}, 408, "request_timeout"),
    ("POST", "/v1/skips", b" " * 1025, KEY | JSON, 413, "body_too_large"),
    ("POST", "/v1/skips", b"{}", KEY | {"content-type": "text/plain"}, 415, "unsupported_media_type"),
    ("POST", "/v1/skips", b"{}", KEY | JSON, 422, "invalid_request"),
    ("GET", "/v1/search?limit=x", None, KEY, 422, "invalid_request"),
    ("GET", "/fail", None, {}, 500, "internal_error"),
    ("GET", "/v1/release", None, KEY, 503, "no_release"),
    ("POST", "/v1/recommendations", b'{"listener": {}}', KEY | JSON, 503, "no_release"),
]


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "code"), REFUSALS)
def test_every_refusal_is_a_problem_with_a_code_a_request_id_and_cors(
    guarded, method, path, body, headers, status, code
):
    answer = send(guarded, method, path, body, headers | ORIGIN | {"x-request-id": "call:7/a"})
    assert (answer[0], answer[1]["content-type"]) == (status, "application/problem+json")
    problem = schema.Problem.model_validate_json(answer[2])
    assert (problem.status, problem.code, problem.type) == (status, code, f"urn:overture:problem:{code}")
    assert (problem.title, CODES[status] in TITLES) == (TITLES[code], True)
    assert "secret" not in answer[2].decode()
    assert answer[1]["x-request-id"] == "call:7/a"
    assert answer[1]["access-control-allow-origin"] == ORIGIN["origin"]
    assert "x-request-id" in answer[1]["access-control-expose-headers"]
    assert answer[1]["x-content-type-options"] == "nosniff"


def test_bytes_that_are_not_http_get_a_problem(live):
    head, _, body = live.raw(b"nonsense\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["code"] == "invalid_http"


def test_request_ids_are_kept_if_sane_else_made_and_logged(live, caplog):
    caplog.set_level("INFO")
    given = {"a-b.c_d:1": True, "x" * 128: True, "x" * 129: False, "two words": False, "": False, "caf\xe9": False}
    for text, is_kept in given.items():
        headers = live.call("/v1/release", headers={"x-request-id": text})[1]
        assert (headers["x-request-id"] == text) == is_kept
        assert 1 <= len(headers["x-request-id"]) <= 128
    logged = [record.facts["request_id"] for record in caplog.records if record.name == "overture.service"]
    assert set(logged) >= {text for text, is_kept in given.items() if is_kept}
    made = [live.call("/healthz")[1]["x-request-id"] for _ in range(3)]
    assert len(set(made)) == 3


def test_a_body_with_a_thousand_wrong_fields_lists_none_of_them(live):
    for n, listed in ((1000, 20), (1001, 1)):
        body = {"listener": {}, **{f"x{i}": 1 for i in range(n)}}
        status, _, response = live.call("/v1/recommendations", body)
        assert (status, len(response["details"])) == (422, listed)
    assert response["details"] == [
        {"field": "body", "message": "more than 1000 fields are invalid; they are not listed"}
    ]
