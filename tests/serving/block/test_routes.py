"""Blocked tracks, artists and albums are in no list of any route, and come back when they are unblocked."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from jobs.release import unavailable_tracks
from serving.settings import StoreSettings
from tests.helpers import small_week
from tests.helpers.live import Live
from tests.serving.recommend.test_known_users import IDS, publish_users

LISTENER = {"country": "FR", "age": 30, "streams": {"tracks": ["1003", "1044"]}}
ARTIST = 2  # of a third of the tracks, and their album


@pytest.fixture
def live(release_home, serve) -> Live:
    """Service with known listeners, whose block list is empty."""
    publish_users(release_home, StoreSettings())
    release_home.promote(release_home.first)
    service = serve(release_home.home, block_poll_s=0.02)
    service.release_home = release_home
    return service


def block(live, *entries: dict) -> None:
    """Write the file and wait until the service applies it."""
    lines = [json.dumps(entry) for entry in entries]
    (live.release_home.home / "block_list.jsonl").write_text("".join(f"{line}\n" for line in lines))
    live.wait(
        len(entries),
        lambda self: int(
            float(
                next(
                    line.split()[-1]
                    for line in self.call("/metrics")[2].splitlines()
                    if line.startswith('overture_block_entries{source="block_list.jsonl"}')
                )
            )
        ),
    )


def catalogue(live) -> list[dict]:
    """All tracks of the release, as schema.Track, most popular first."""
    return live.lists({}, method="popularity", k=small_week.N_TRACKS)["tracks"]


def displayed_tracks(live, listener=LISTENER) -> dict[str, list[str]]:
    """The tracks of every list that the service can make, by route."""

    def get(path):
        status, _, body = live.call(path)
        assert status == 200, body
        return body

    def ids(tracks):
        return [track["track_id"] for track in tracks]

    lists = {}
    for method in ("configured", "semi_pers", "full_pers", "blend", "popularity", "country_age_mean"):
        for k in (1, 20, 100):
            status, _, body = live.call("/v1/recommendations", {"listener": listener, "method": method, "k": k})
            if status == 200:
                lists[f"{method} {k}"] = ids(body["tracks"])
    lists["no signals"] = ids(live.lists({}, k=100)["tracks"])
    lists["explained"] = ids(live.lists(listener, k=20, explain=True)["tracks"])
    batch = live.call("/v1/recommendations/batch", {"listeners": [listener, {}], "k": 100})[2]["answers"]
    lists |= {f"batch {i}": ids(one["tracks"]) for i, one in enumerate(batch)}
    row = live.call("/v1/carousels", {"listener": listener, "n_nearest_tracks": 5})[2]["playlists"]
    lists["carousel"] = [track for playlist in row for track in ids(playlist["nearest_tracks"])]
    for k in (1, 50, 100):
        lists[f"known listener {k}"] = ids(get(f"/v1/users/{IDS[7]}/recommendations?k={k}")["tracks"])
    for segment in range(small_week.N_GROUPS):
        lists[f"segment {segment}"] = ids(get(f"/v1/segments/{segment}")["tracks"])
        near = get(f"/v1/segments/{segment}/neighbours?of=tracks&k=100")["neighbours"]
        lists[f"neighbours {segment}"] = [one["id"] for one in near]
    for q in ("", "1"):
        lists[f"search {q}"] = [one["id"] for one in get(f"/v1/search?kind=tracks&limit=200&q={q}")["results"]]
    ranked = live.call("/v1/rerank", {"user_id": "1", "tracks": [{"track_id": i} for i in live.all_ids]})[2]
    lists["rerank"] = ids(ranked["tracks"])
    assert sorted(lists["rerank"] + ranked["blocked"]) == sorted(live.all_ids)
    return lists


def displayed_entities(live, kind: str) -> set[str]:
    """Ids of artists or albums among neighbours and search results."""
    shown = set()
    for segment in range(small_week.N_GROUPS):
        near = live.call(f"/v1/segments/{segment}/neighbours?of={kind}&k=100")[2]["neighbours"]
        shown |= {one["id"] for one in near}
    if kind == "artists":
        shown |= {one["id"] for one in live.call("/v1/search?kind=artists&limit=200")[2]["results"]}
    return shown


@pytest.mark.parametrize("kind", ["track", "artist", "album"])
def test_what_is_blocked_is_in_no_list_until_it_is_unblocked(live, kind):
    tracks = catalogue(live)
    live.all_ids = [track["track_id"] for track in tracks]
    if kind == "track":
        blocked = {track["track_id"] for track in tracks[:3]} | {tracks[70]["track_id"]}
        entries = [{"kind": "track", "id": track} for track in blocked]
    else:
        blocked = {track["track_id"] for track in tracks if track[f"{kind}_id"] == str(ARTIST)}
        entries = [{"kind": kind, "id": ARTIST}]
    before = displayed_tracks(live)
    assert all(blocked.intersection(shown) for route, shown in before.items() if " 1" not in route and len(shown) > 60)
    block(live, *entries, {"kind": "track", "id": "unknown to the release"})
    after = displayed_tracks(live)
    assert {route: blocked.intersection(shown) for route, shown in after.items() if blocked.intersection(shown)} == {}
    left = len(tracks) - len(blocked)
    for route, shown in after.items():
        if route not in ("rerank", "search ", "search 1"):
            assert len(shown) == min(len(before[route]), left), route
    if kind != "track":
        for kinds in ("artists", "albums"):  # the artist and the album have the same tracks
            assert str(ARTIST) not in displayed_entities(live, kinds)
    block(live)
    assert displayed_tracks(live) == before


def test_neighbours_of_all_kinds_are_filled_up(live):
    tracks = [track["track_id"] for track in catalogue(live)]
    path = f"/v1/tracks/{tracks[0]}/neighbours?k=10"
    before = [one["id"] for one in live.call(path)[2]["neighbours"]]
    block(live, *({"kind": "track", "id": track} for track in before[:9]))
    after = [one["id"] for one in live.call(path)[2]["neighbours"]]
    assert (len(after), after[0]) == (10, before[9])
    assert not set(before[:9]) & set(after)


def test_an_entry_with_countries_applies_to_their_listeners(live):
    first, second = catalogue(live)[:2]
    block(live, {"kind": "track", "id": first["track_id"], "countries": ["DE", "AT"]})
    for country, top in (("DE", second), ("AT", second), ("FR", first), (None, first)):
        for method in ("popularity",):
            assert live.lists({"country": country}, method=method, k=1)["tracks"] == [top], country
    listeners = [{"country": country} for country in ("FR", "DE")]
    answers = live.call("/v1/recommendations/batch", {"listeners": listeners, "method": "popularity", "k": 1})[2]
    assert [answer["tracks"] for answer in answers["answers"]] == [[first], [second]]


def test_fallbacks_contain_no_blocked_track(live, monkeypatch):
    top = catalogue(live)[0]["track_id"]
    block(live, {"kind": "track", "id": top})
    loaded = live.app.app.state.champion.current
    monkeypatch.setattr(loaded.space, "problems", {"network": "gone"})
    for listener in (LISTENER, {}):
        for method in ("configured", "full_pers"):
            body = live.lists(listener, method=method, k=100)
            assert body["degraded"]["fallback"] in ("country_age_mean", "popularity")
            assert top not in [track["track_id"] for track in body["tracks"]]


def test_known_listeners_get_no_blocked_track_while_the_store_is_away(release_home, serve):
    release_home.promote(release_home.first)
    service = serve(release_home.home, block_poll_s=0.02)
    service.release_home = release_home
    top = catalogue(service)[0]["track_id"]
    block(service, {"kind": "track", "id": top})
    body = service.call("/v1/users/1/recommendations?k=100")[2]
    assert body["degraded"]["fallback"] == "popularity"
    assert top not in [track["track_id"] for track in body["tracks"]]


def test_when_everything_is_blocked_every_list_is_empty(live):
    live.all_ids = [track["track_id"] for track in catalogue(live)]
    block(live, *({"kind": "track", "id": track} for track in live.all_ids))
    assert {route: shown for route, shown in displayed_tracks(live).items() if shown} == {}


def test_the_list_stays_in_force_with_another_release(live):
    track = catalogue(live)[0]["track_id"]
    block(live, {"kind": "track", "id": track})
    live.release_home.promote(live.release_home.second)
    live.wait(live.release_home.second)
    assert track not in [one["track_id"] for one in live.lists({}, k=149)["tracks"]]


def test_bad_lines_are_named_in_readyz_and_metrics(live):
    (live.release_home.home / "block_list.jsonl").write_text('{"kind": "track", "id": "1"}\n{"kind": "x"}\n')
    live.wait(True, lambda self: bool(self.call("/readyz")[2]["notes"]))
    status, _, ready = live.call("/readyz")
    assert status == 200
    assert ready["notes"]["block list, block_list.jsonl"].startswith("block_list.jsonl:2: kind: 'x'")
    assert 'overture_block_problems{source="block_list.jsonl"} 1.0' in live.call("/metrics")[2]


def test_a_track_that_the_new_catalogue_does_not_offer_leaves_every_list(live):
    live.all_ids = [track["track_id"] for track in catalogue(live)]
    gone = live.all_ids[0]
    context = small_week.context_at(live.release_home.home)
    tracks = context.lake.read("tracks").drop_columns(["available"])
    available = pa.array([str(track) != gone for track in tracks["track_id"].to_pylist()])
    context.lake.write("tracks", tracks.append_column("available", available))
    assert unavailable_tracks.run(context)["added"] == 1
    live.wait(live.all_ids[1], lambda self: self.lists({}, method="popularity", k=1)["tracks"][0]["track_id"])
    assert [route for route, shown in displayed_tracks(live).items() if gone in shown] == []
