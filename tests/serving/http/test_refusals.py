"""Bad input, keys, pages of other addresses: refused by name, never a crash, never with what was sent."""

from __future__ import annotations

import asyncio
import json

import pytest
from fastapi import FastAPI

from serving import schema

SECRET = 4242424242


@pytest.mark.parametrize(
    ("listener", "where"),
    [
        ({"age": -1}, "body.listener.age"),
        ({"age": 131}, "body.listener.age"),
        ({"age": "23"}, "body.listener.age"),
        ({"age": 23.5}, "body.listener.age"),
        ({"age": float("nan")}, "body.listener.age"),
        ({"age": True}, "body.listener.age"),
        ({"country": "fr"}, "body.listener.country"),
        ({"country": "FRA"}, "body.listener.country"),
        ({"country": 33}, "body.listener.country"),
        ({"onboarding": {"artists": list(range(10_000))}}, "body.listener.onboarding.artists"),
        ({"streams": {"tracks": ["1003"]}}, "body.listener.streams.tracks.0"),
        ({"streams": {"tracks": [1003.0]}}, "body.listener.streams.tracks.0"),
        ({"streams": {"tracks": [float("nan")]}}, "body.listener.streams.tracks.0"),
        ({"streams": {"tracks": [-1]}}, "body.listener.streams.tracks.0"),
        ({"streams": {"tracks": [2**63]}}, "body.listener.streams.tracks.0"),
        ({"streams": {"tracks": None}}, "body.listener.streams.tracks"),
        ({"streams": {"playlists": [1]}}, "body.listener.streams.playlists"),
        ({"streams": [1003]}, "body.listener.streams"),
        ({"name": "Eve"}, "body.listener.name"),
        (
            {
                "streams": {"tracks": [1] * 1000},
                "skips": {"tracks": [1] * 1000},
                "bans": {"tracks": [1] * 1000},
                "searches": {"tracks": [1]},
            },
            "body.listener",
        ),
    ],
)
def test_a_field_that_is_wrong_is_named(live, listener, where):
    status, _, said = live.call("/v1/recommendations", {"listener": listener})
    assert status == 422
    assert where in {one["field"] for one in said["details"]}
    status, _, many = live.call("/v1/recommendations/batch", {"listeners": [{}, listener]})
    assert status == 422
    assert where.replace("listener", "listeners.1", 1) in {one["field"] for one in many["details"]}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/recommendations", {"listener": {}, "k": 0}),
        ("/v1/recommendations", {"listener": {}, "k": 201}),
        ("/v1/recommendations", {"listener": {}, "k": 151}),
        ("/v1/recommendations", {"listener": {}, "k": "5"}),
        ("/v1/recommendations", {"listener": {}, "method": "blend"}),
        ("/v1/recommendations", {"listener": {}, "method": "best"}),
        ("/v1/recommendations", {"listener": {}, "exclude": [1] * 2001}),
        ("/v1/recommendations", {"listener": {}, "kk": 5}),
        ("/v1/recommendations", {}),
        ("/v1/recommendations", []),
        ("/v1/recommendations", None),
        ("/v1/recommendations/batch", {"listeners": []}),
        ("/v1/recommendations/batch", {"listeners": [{}] * 257}),
        ("/v1/carousels", {"listener": {}, "diversity": float("nan")}),
        ("/v1/carousels", {"listener": {}, "diversity": 1.01}),
        ("/v1/carousels", {"listener": {}, "diversity": float("inf")}),
        ("/v1/carousels", {"listener": {}, "n": 51}),
    ],
)
def test_an_argument_out_of_bounds_is_refused(live, path, body):
    status, _, said = live.call(path, raw=json.dumps(body).encode())
    assert status == 422
    schema.ErrorResponse.model_validate(said)


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        ("/v1/recommendations", "leave_out", "exclude"),
        ("/v1/carousels", "leave_out", "exclude"),
        ("/v1/carousels", "near", "n_nearest_tracks"),
    ],
)
def test_a_renamed_field_is_refused_with_its_new_name(live, path, old, new):
    status, _, answer = live.call(path, {"listener": {}, old: []})
    assert status == 422
    assert answer["details"] == [{"field": f"body.{old}", "message": f"{old} was renamed to {new}"}]


@pytest.mark.parametrize(
    "body", [b"{", b"listener=1", b"\xff\xfe", b"[" * 200_000, b'{"listener": {"age": ' + b"9" * 5000 + b"}}"]
)
def test_what_is_not_json_is_refused_and_the_service_lives(live, body):
    status, _, said = live.call("/v1/recommendations", raw=body)
    assert status in (400, 422)
    schema.ErrorResponse.model_validate(said)
    assert live.lists(k=1)["tracks"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/tracks/x",
        "/v1/tracks/-1",
        f"/v1/tracks/{2**63}",
        "/v1/listeners/1",
        "/v1/tracks/1/neighbours?k=101",
        "/v1/tracks/1/neighbours?of=listeners",
        "/v1/search?kind=albums",
        "/v1/search?limit=0",
        f"/v1/search?q={'x' * 101}",
    ],
)
def test_a_path_that_is_wrong_is_refused(live, path):
    assert live.call(path)[0] == 422


def test_other_paths_and_methods_are_named(live):
    for path in ("/v2/recommendations", "/page/../app.py", "/page/page.py", "/page/%2e%2e/app.py"):
        status, _, said = live.call(path)
        assert (status, type(said)) == (404, dict)
    assert live.call("/v1/recommendations")[0] in (405, 422)


def test_a_body_that_is_too_large_is_refused_before_it_is_read(live):
    head = b"POST /v1/recommendations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    announced = live.raw(head + b"content-length: 50000000\r\n\r\n", b"x" * 1000)
    assert announced.startswith(b"HTTP/1.1 413")
    piece = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    in_pieces = live.raw(head + b"transfer-encoding: chunked\r\n\r\n", *[piece] * 800)
    assert in_pieces.startswith(b"HTTP/1.1 413")
    assert live.lists(k=1)["tracks"]


def test_an_answer_never_repeats_what_was_sent_and_neither_does_the_log(live, caplog):
    caplog.set_level("INFO")
    bodies = [
        {"listener": {"country": "ZZTOP", "streams": {"tracks": [SECRET, "x"]}}},
        {"listener": {"age": SECRET}},
        {"listener": {"streams": {"tracks": [SECRET]}}, "k": 2},
    ]
    for body in bodies[:2]:
        _, _, said = live.call("/v1/recommendations", body)
        assert "ZZTOP" not in json.dumps(said)
        assert str(SECRET) not in json.dumps(said)
    live.call("/v1/recommendations", bodies[2])
    live.call(f"/v1/tracks/{SECRET}")
    live.call(f"/v1/search?q=find{SECRET}")
    lines = [record for record in caplog.records if record.name == "overture.service"]
    assert {record.facts["route"] for record in lines} >= {"/v1/recommendations", "/v1/{kind}/{entity_id}"}
    assert str(SECRET) not in json.dumps([record.facts for record in lines])
    assert "127.0.0.1" not in json.dumps([record.facts for record in lines])


def test_with_a_key_nothing_under_v1_answers_without_it(shop, serve):
    shop.promote(shop.first)
    live = serve(shop.home, api_key="open sesame")
    for headers in ({}, {"x-api-key": "open"}, {"x-api-key": ""}):
        status, _, said = live.call("/v1/recommendations", {"listener": {}}, headers)
        assert (status, "x-api-key" in said["error"]) == (401, True)
    assert live.call("/v1/recommendations", {"listener": {}}, {"x-api-key": "open sesame"})[0] == 200
    for path in ("/healthz", "/readyz", "/metrics", "/"):
        assert live.call(path)[0] == 200


def test_pages_of_other_addresses_may_call_only_where_the_settings_say_so(live, shop, serve):
    ask = {"origin": "https://music.example", "access-control-request-method": "POST"}
    assert live.call("/v1/release", headers=ask)[1]["access-control-allow-origin"] is None
    shop.promote(shop.first)
    opened = serve(shop.home, cors_origins=("https://music.example",))
    assert opened.call("/v1/release", headers=ask)[1]["access-control-allow-origin"] == "https://music.example"
    asked = opened.call("/v1/recommendations", {"listener": {}}, headers=ask)
    assert (asked[0], asked[1]["access-control-allow-origin"]) == (200, "https://music.example")
    before = opened.raw(
        b"OPTIONS /v1/recommendations HTTP/1.1\r\nhost: x\r\norigin: https://music.example\r\nconnection: close\r\n"
        b"access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n\r\n"
    )
    assert before.startswith(b"HTTP/1.1 200")
    other = opened.call("/v1/release", headers={"origin": "https://other.example"})
    assert other[1]["access-control-allow-origin"] is None


@pytest.mark.parametrize(
    ("status", "content_type", "body"),
    [
        (200, b"application/json; charset=utf-8", b'{"listener": {"country": "FR"}, "k": 3}'),
        (200, b"application/json", b'{"listener": {"country": "FR"}, "k": 3, "explain": true}'),
        (422, b"application/json", b'{"listener": {"age": -1}}'),
        (422, b"application/json", b'{"listener": {}, "k": 151}'),
        (400, b"application/json", b"{"),
        (415, b"text/plain", b"{}"),
    ],
)
def test_the_short_way_to_a_route_says_what_the_long_way_says(live, status, content_type, body):
    """The look-up at the front against FastAPI's own routing, body in two pieces."""
    front = live.app.app

    def said(app) -> tuple[int, dict, object]:
        pieces = [
            {"type": "http.request", "body": part, "more_body": part == body[:1]} for part in (body[:1], body[1:])
        ]
        sent = []

        async def receive():
            return pieces.pop(0)

        async def send(message):
            sent.append(message)

        headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body))]
        scope = {
            "type": "http",
            "method": "POST",
            "path": "/v1/recommendations",
            "raw_path": b"/v1/recommendations",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
            "http_version": "1.1",
            "headers": headers,
            "client": None,
            "server": ("127.0.0.1", 80),
            "asgi": {"version": "3.0"},
        }
        asyncio.run(app(scope, receive, send))
        start, end = sent
        return start["status"], dict(start["headers"]), json.loads(end["body"])

    short = said(front)
    assert short == said(lambda *asgi: FastAPI.__call__(front, *asgi))
    assert short[0] == status


def test_every_example_of_the_description_is_answered(live):
    _, _, api = live.call("/openapi.json")
    paths = {
        "/v1/recommendations",
        "/v1/recommendations/batch",
        "/v1/carousels",
        "/v1/{kind}/{entity_id}",
        "/v1/{kind}/{entity_id}/neighbours",
        "/v1/search",
        "/v1/release",
        "/v1/users/{user_id}",
        "/v1/users/{user_id}/recommendations",
        "/v1/skips",
        "/v1/rerank",
        "/healthz",
        "/readyz",
        "/metrics",
    }
    assert set(api["paths"]) == paths
    tried = 0
    for path, methods in api["paths"].items():
        body = methods.get("post", {}).get("requestBody")
        if body:
            name = body["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[-1]
            status, _, said = live.call(path, api["components"]["schemas"][name]["example"])
            assert status == (503 if path == "/v1/skips" else 200), said  # no release of the skip engine stands here
            tried += 1
    assert tried == 5
