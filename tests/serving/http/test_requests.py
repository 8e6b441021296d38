"""What clients may send: HEAD on every route of GET, and null for an optional field."""

from __future__ import annotations

import http.client

import pytest

from serving.schema import BatchRequest, CarouselRequest, RecommendationRequest
from serving.skip.schema import RerankRequest, SkipRequest


def request(live, method: str, path: str, **headers: str):
    """Send a request without a body; return status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=30)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    # The connection continues: the response contained exactly what its headers announce.
    connection.request("GET", "/healthz")
    assert connection.getresponse().read() == b'{"alive":true}'
    connection.close()
    return response.status, response.headers, body


PATHS = ("/healthz", "/readyz", "/metrics", "/", "/docs", "/page/page.js", "/openapi.json", "/v1/release")


@pytest.mark.parametrize("path", [*PATHS, "/v1/search?q=a", "/v1/artists/none", "/none"])
def test_head_returns_the_headers_of_get_without_a_body(live, path):
    status, headers, body = request(live, "HEAD", path)
    expected_status, expected_headers, expected_body = request(live, "GET", path)
    assert (status, body, headers["content-type"]) == (expected_status, b"", expected_headers["content-type"])
    if path != "/metrics":  # whose numbers change between the two requests
        assert headers["content-length"] == str(len(expected_body))


def test_head_without_a_release_is_503_and_on_other_routes_405(release_home, serve):
    live = serve(release_home.home)
    assert request(live, "HEAD", "/readyz")[::2] == (503, b"")
    assert request(live, "HEAD", "/healthz")[::2] == (200, b"")
    assert request(live, "HEAD", "/v1/recommendations")[0] in (405, 422)


LISTENER = ("country", "age", "user_id", "onboarding", "streams", "skips", "bans", "favourites", "searches")


def test_null_in_a_request_means_left_out(live):
    plain = live.lists({"streams": {"tracks": ["1"]}})
    nulls: dict = dict.fromkeys(LISTENER) | {"streams": {"tracks": ["1"], "artists": None, "albums": None}}
    nulls |= {"onboarding": {"artists": None}, "favourites": dict.fromkeys(("tracks", "artists", "albums"))}
    options = dict.fromkeys(("method", "k", "exclude", "heard", "diversity", "filters", "shown", "cursor", "explain"))
    assert live.lists(nulls, **options) == plain
    row = live.call("/v1/carousels", {"listener": {}})[2]
    options = dict.fromkeys(("n", "diversity", "exposure", "exclude", "n_nearest_tracks"))
    assert live.call("/v1/carousels", {"listener": nulls | {"streams": None}, **options})[2] == row


@pytest.mark.parametrize("model", [RecommendationRequest, BatchRequest, CarouselRequest, SkipRequest, RerankRequest])
def test_every_optional_field_of_every_request_accepts_null(model):
    """Optional fields are those of the schema that are not required, in every part of the request."""
    schema = model.model_json_schema()
    n_optional = 0
    for part in [schema, *schema["$defs"].values()]:
        for name, field in part["properties"].items():
            if name not in part.get("required", ()):
                n_optional += 1
                assert {"type": "null"} in field.get("anyOf", ()), name
    assert n_optional > 5
