"""Entity tags, gzip, and a service below a path."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from serving.http.representation import accepts_gzip
from tests.serving.http.test_problems import JSON, send

RESOURCES = (
    "/v1/release",
    "/v1/search?q=",
    "/v1/segments/0",
    "/v1/segments/0/neighbours",
    "/",
    "/docs",
    "/page/page.js",
)


@pytest.mark.parametrize("path", RESOURCES)
def test_a_resource_of_a_release_is_304_while_it_is_the_same(live, path):
    status, headers, body = send(live, "GET", path)
    assert (status, headers["vary"]) == (200, "accept-encoding")
    for given in (headers["etag"], headers["etag"].removeprefix("W/"), '"other", ' + headers["etag"], "*"):
        for method in ("GET", "HEAD"):
            same = send(live, method, path, headers={"if-none-match": given})
            assert (same[0], same[1]["etag"], same[2]) == (304, headers["etag"], b"")
    assert send(live, "GET", path, headers={"if-none-match": '"other"'})[::2] == (200, body)


def test_another_release_has_another_tag_and_health_has_none(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home)
    tag = send(live, "GET", "/v1/release")[1]["etag"]
    release_home.promote(release_home.second)
    live.wait(release_home.second)
    assert send(live, "GET", "/v1/release", headers={"if-none-match": tag})[0] == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert send(live, "GET", path, headers={"if-none-match": "*"})[0] == 200


def test_gzip_is_sent_where_it_is_accepted_and_worth_it(live):
    body = json.dumps({"listener": {"country": "FR"}}).encode()
    plain = send(live, "POST", "/v1/recommendations", body, JSON)
    small = send(live, "POST", "/v1/recommendations", body, JSON | {"accept-encoding": "br, gzip;q=0.5"})
    assert plain[1]["content-encoding"] is None
    assert (small[1]["content-encoding"], small[1]["vary"]) == ("gzip", "accept-encoding")
    assert (gzip.decompress(small[2]), small[1]["content-length"]) == (plain[2], str(len(small[2])))
    assert len(small[2]) < len(plain[2])
    refused = send(live, "POST", "/v1/recommendations", body, JSON | {"accept-encoding": "gzip;q=0, br"})
    assert (refused[1]["content-encoding"], refused[2]) == (None, plain[2])
    assert send(live, "GET", "/healthz", headers={"accept-encoding": "gzip"})[1]["content-encoding"] is None
    page = send(live, "GET", "/page/page.js", headers={"accept-encoding": "gzip"})
    assert gzip.decompress(page[2]) == send(live, "GET", "/page/page.js")[2]


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (b"gzip", True),
        (b"GZIP", True),
        (b"*", True),
        (b"br;q=1.0, gzip;q=0.8, *;q=0.1", True),
        (b"gzip; q=0.001", True),
        (b"gzip;q=0", False),
        (b"gzip;q=0.000", False),
        (b"x-gzip", False),
        (b"identity", False),
        (b"", False),
    ],
)
def test_accept_encoding(header, accepted):
    assert accepts_gzip(header) == accepted


def test_a_service_below_a_path_works_with_both_kinds_of_proxies(release_home, serve):
    release_home.promote(release_home.first)
    live = serve(release_home.home, root_path="/music/v2")
    redirect = send(live, "GET", "/music/v2")
    assert (redirect[0], redirect[1]["location"]) == (308, "/music/v2/")
    for prefix in ("/music/v2", ""):  # the proxy keeps the prefix, or removes it
        page = send(live, "GET", f"{prefix}/")[2].decode() + send(live, "GET", f"{prefix}/docs")[2].decode()
        links = re.findall(r'(?:href|src)="([^"#:]+)"', page)
        assert {"page/page.css", "page/page.js", "docs", "./", "openapi.json"} == set(links) - {"page/docs.js"}
        for link in links:
            assert send(live, "GET", f"{prefix}/{link.removeprefix('./')}")[0] == 200
        api = json.loads(send(live, "GET", f"{prefix}/openapi.json")[2])
        assert api["servers"] == [{"url": "/music/v2"}]
        assert send(live, "POST", f"{prefix}/v1/recommendations", b'{"listener": {}}', JSON)[0] == 200
    assert send(live, "GET", "/music/v2x/healthz")[0] == 404


def test_addresses_in_the_scripts_are_relative(live):
    for name in ("page.js", "docs.js"):
        assert not re.findall(r"[\"`]/(?:v1|page|docs|openapi)", send(live, "GET", f"/page/{name}")[2].decode())
