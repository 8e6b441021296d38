"""Security headers, keys, and the settings about them."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from serving.settings import ServiceSettings
from tests.serving.http.test_problems import send


def directives(headers) -> dict[str, str]:
    """Content security policy of a response, by directive."""
    (policy,) = headers.get_all("content-security-policy")
    return dict(one.strip().split(" ", 1) for one in policy.split(";"))


def test_every_response_has_one_policy_and_the_other_headers(live):
    for path in ("/", "/docs", "/page/page.js", "/v1/release", "/healthz", "/none"):
        headers = send(live, "GET", path)[1]
        policy = directives(headers)
        assert (policy["default-src"], policy["frame-ancestors"]) == ("'none'", "'none'")
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["strict-transport-security"] is None
    page = directives(send(live, "GET", "/")[1])
    assert (page["base-uri"], page["form-action"], page["script-src"]) == ("'none'", "'none'", "'self'")


def test_transport_security_is_announced_only_behind_tls(serve, tmp_path):
    live = serve(tmp_path, behind_tls=True)
    assert send(live, "GET", "/healthz")[1]["strict-transport-security"] == "max-age=31536000"
    plain = serve(tmp_path)
    spoofed = send(plain, "GET", "/healthz", headers={"x-forwarded-proto": "https"})
    assert spoofed[1]["strict-transport-security"] is None


def test_two_keys_are_valid_while_they_are_rotated(serve, tmp_path):
    live = serve(tmp_path, api_key="new key, old")
    for headers in ({"x-api-key": "new key"}, {"x-api-key": "old"}, {"authorization": "Bearer old"}):
        assert send(live, "GET", "/v1/release", headers=headers)[0] == 503  # this home has no release
    for headers in ({}, {"x-api-key": "new key, old"}, {"x-api-key": "new"}, {"authorization": "old2"}):
        status, answered, _ = send(live, "GET", "/v1/release", headers=headers)
        assert (status, answered["www-authenticate"]) == (401, "Bearer")
    with pytest.raises(ValidationError, match="one key, or two"):
        ServiceSettings(api_key="a,b,c")


@pytest.mark.parametrize(
    ("settings", "accepted", "refused"),
    [
        ({}, [None], []),
        ({"api_key": "app"}, ["app"], [None, "other"]),
        ({"api_key": "app", "admin_key": "ops,ops2"}, ["ops", "ops2"], [None, "app"]),
        ({"admin_key": "ops"}, ["ops"], [None, "app"]),
    ],
)
def test_metrics_need_the_admin_key_or_else_the_api_key(serve, tmp_path, settings, accepted, refused):
    live = serve(tmp_path, **settings)
    for keys, status in ((accepted, 200), (refused, 401)):
        for key in keys:
            headers = {"authorization": f"Bearer {key}"} if key else {}
            assert send(live, "GET", "/metrics", headers=headers)[0] == status
            assert send(live, "HEAD", "/metrics", headers=headers)[0] == status


def test_admin_routes_are_closed_without_a_key(serve, tmp_path):
    assert send(serve(tmp_path), "GET", "/v1/admin/anything")[0] == 403
    live = serve(tmp_path, admin_key="ops")
    assert send(live, "GET", "/v1/admin/x")[0] == 401
    assert send(live, "GET", "/v1/admin/x", headers={"x-api-key": "ops"})[0] not in (401, 403)
