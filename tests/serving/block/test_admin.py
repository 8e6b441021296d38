"""/v1/admin/block: keys, edits that apply at once, invalid requests."""

from __future__ import annotations

import json
import os

import pytest

KEY = {"x-api-key": "sesame"}


@pytest.fixture
def live(release_home, serve):
    release_home.promote(release_home.first)
    service = serve(release_home.home, admin_key="sesame", api_key="public")
    service.home = release_home.home
    return service


def delete(live, query: str):
    """Send a DELETE; return status and body."""
    request = f"DELETE /v1/admin/block?{query} HTTP/1.1\r\nhost: x\r\nx-api-key: sesame\r\nconnection: close\r\n\r\n"
    head, _, body = live.raw(request.encode()).partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def test_without_a_key_in_the_settings_every_request_is_refused(release_home, serve):
    live = serve(release_home.home)
    for headers in ({}, KEY, {"x-api-key": ""}):
        status, _, body = live.call("/v1/admin/block", headers=headers)
        assert (status, "set service.admin_key" in body["detail"]) == (403, True)
    entry = {"kind": "track", "id": "1"}
    assert live.call("/v1/admin/block", {"entries": [entry]}, KEY)[0] == 403
    assert not (release_home.home / "block_list.jsonl").exists()


@pytest.mark.parametrize("headers", [{}, {"x-api-key": ""}, {"x-api-key": "Sesame"}, {"x-api-key": "public"}])
def test_a_missing_or_wrong_key_is_refused(live, headers):
    assert live.call("/v1/admin/block", headers=headers)[0] == 401
    assert live.call("/v1/admin/block", {"entries": [{"kind": "track", "id": "1"}]}, headers)[0] == 401


def test_an_edit_applies_to_the_next_request(live):
    def top():
        request = {"listener": {}, "method": "popularity", "k": 1}
        return live.call("/v1/recommendations", request, {"x-api-key": "public"})[2]["tracks"][0]["track_id"]

    track = top()
    entries = [
        {"kind": "track", "id": track, "reason": "takedown 12"},
        {"kind": "album", "id": 99, "countries": ["DE"]},
    ]
    status, _, body = live.call("/v1/admin/block", {"entries": entries}, KEY)
    assert (status, body) == (200, {"source": "block_list.jsonl", "changed": 2, "unchanged": 0})
    assert top() != track
    assert live.call("/v1/admin/block", {"entries": entries}, KEY)[2]["unchanged"] == 2
    listed = live.call("/v1/admin/block?limit=1", headers=KEY)[2]
    assert (listed["total"], len(listed["entries"])) == (2, 1)
    assert listed["entries"][0] | {"at": ""} == {
        "kind": "track",
        "id": track,
        "countries": [],
        "reason": "takedown 12",
        "at": "",
    }
    assert delete(live, f"kind=track&id={track}&country=DE")[0] == 422
    assert delete(live, "kind=album&id=99&country=DE") == (
        200,
        {"source": "block_list.jsonl", "changed": 1, "unchanged": 0},
    )
    assert delete(live, f"kind=track&id={track}")[1]["changed"] == 1
    assert delete(live, f"kind=track&id={track}")[1]["unchanged"] == 1
    assert top() == track


@pytest.mark.parametrize(
    ("entry", "field"),
    [
        ({"kind": "playlist", "id": "1"}, "kind"),
        ({"kind": "track", "id": ""}, "id"),
        ({"kind": "track", "id": "1", "countries": ["QQ"]}, "countries.0"),
        ({"kind": "track", "id": "1", "country": "DE"}, "country"),
    ],
)
def test_an_invalid_entry_is_named_and_nothing_is_written(live, entry, field):
    status, _, body = live.call("/v1/admin/block", {"entries": [{"kind": "track", "id": "1"}, entry]}, KEY)
    assert status == 422
    assert body["details"][0]["field"].startswith(f"body.entries.1.{field}")
    assert not (live.home / "block_list.jsonl").exists()


def test_a_list_that_cannot_be_written_is_a_503(live):
    (live.home / "block_list.jsonl").mkdir()
    status, _, body = live.call("/v1/admin/block", {"entries": [{"kind": "track", "id": "1"}]}, KEY)
    assert (status, body["detail"]) == (503, "the block list cannot be written: Is a directory")
    assert os.fspath(live.home) not in json.dumps(live.call("/v1/admin/block", headers=KEY)[2])
