"""Events over HTTP: results, recommendations from the day at once, undo, forget, merge, restarts and crashes."""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from jobs.release import pointer
from models.cold_start.top_k import top_k
from serving.profile import schema
from serving.profile.fold_in import streams_since
from serving.recommend.known_users import KnownRecommendation
from serving.release.loaded import LoadedRelease
from serving.settings import StoreSettings
from serving.stores.interface import UserRow
from tests.helpers import small_week
from tests.helpers.live import Live, Process
from tests.serving.recommend.test_known_users import USER, publish_users

TRACKS, GROUP, _ = small_week.tracks()
LIKED = [int(track) for track in TRACKS[GROUP == 1][:4]]
NEW = "700001"
COUNTRY_FACTS = {"country": "DE", "age": 30}


def at(seconds_ago: float = 30.0) -> str:
    return (datetime.now(UTC) - timedelta(seconds=seconds_ago)).isoformat()


def event(event_id, entity_id=LIKED[0], user=NEW, kind="stream", ts=None, **more):
    return {"event_id": event_id, "user_id": user, "ts": ts or at(), "kind": kind, "id": entity_id, **more}


def send(service, *events):
    status, _, body = service.call("/v1/events", {"events": list(events)})
    assert status == 200, body
    schema.EventResults.model_validate(body)
    return [result["code"] or result["status"] for result in body["events"]]


def day(service, user=NEW):
    status, _, body = service.call(f"/v1/users/{user}/events")
    assert status == 200, body
    schema.Day.model_validate(body)
    return [one["event_id"] for one in body["events"]]


def recommendations(service, user=NEW, query="?k=20"):
    status, _, body = service.call(f"/v1/users/{user}/recommendations{query}")
    assert status == 200, body
    KnownRecommendation.model_validate(body)
    return body


def method(service, method_name, path, body=None):
    import urllib.error
    import urllib.request

    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{service.port}{path}", data=data, method=method_name)
    request.add_header("content-type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def service(release_home, serve):
    release_home.promote(release_home.first)
    publish_users(release_home, StoreSettings(), n=20)
    live = serve(release_home.home)
    live.release_home = release_home
    return live


def test_a_new_listener_gets_the_list_of_the_same_first_day_at_once(service):
    status, _, body = service.call(f"/v1/users/{NEW}/recommendations")
    assert (status, "POST /v1/events" in body["detail"]) == (404, True)
    streams = [event(f"s{n}", track, ts=at(40 - n)) for n, track in enumerate(LIKED)]
    favourite = event("f", 2, kind="favourite", entity="artist", listener=COUNTRY_FACTS)
    skip = event("k", int(TRACKS[0]), kind="skip", seconds=3)
    assert send(service, *streams, favourite, skip) == ["accepted"] * 6
    body = recommendations(service)
    same = service.lists(
        {
            **COUNTRY_FACTS,
            "streams": {"tracks": LIKED},
            "skips": {"tracks": [int(TRACKS[0])]},
            "favourites": {"artists": [2]},
        },
        k=20,
    )
    for field in ("tracks", "method", "vector_source", "degraded", "segment", "release"):
        assert body[field] == same[field], field
    assert (body["kind"], body["vector_source"], body["n_events"], body["unknown"]) == ("new", "network", 6, {})
    assert body["since"] == f"{datetime.now(UTC):%Y-%m-%d}"


def test_each_event_is_accepted_or_refused_by_itself(service):
    now = datetime.now(UTC)
    events = [
        event("good"),
        {key: value for key, value in event("x").items() if key != "event_id"},
        event("1970", ts="1970-01-01T00:00:00Z"),
        event("old", ts=(now - timedelta(days=2, hours=1)).isoformat()),
        event("tomorrow", ts=(now + timedelta(days=1)).isoformat()),
        event("fast-clock", ts=(now + timedelta(minutes=4)).isoformat()),
        event("no-zone", ts="2026-11-23T10:00:00"),
        event("number", ts=now.timestamp()),
        event("unknown", 999_999_999),
        event("text", "not-a-number"),
        event("stream-of-artist", 1, entity="artist"),
        event("ban-of-playlist", 1, kind="ban", entity="playlist"),
        event("seconds", kind="search", seconds=3),
        event("extra", mood="good"),
        event("guest", user="guest-1"),
        event("spaces", user=" 1"),
        "no event",
        None,
        event("good"),
    ]
    status, _, body = service.call("/v1/events", {"events": events})
    assert status == 200
    schema.EventResults.model_validate(body)
    results = {result["event_id"]: result for result in body["events"][:-1]}
    codes = {name: result["code"] or result["status"] for name, result in results.items()}
    assert codes.pop("good") == codes.pop("fast-clock") == codes.pop("unknown") == "accepted"
    assert (codes.pop("1970"), codes.pop("old"), codes.pop("tomorrow")) == ("too_old", "too_old", "future")
    assert set(codes.values()) == {"invalid"}
    assert body["events"][-1]["status"] == "repeated"
    assert (body["accepted"], body["repeated"], body["refused"]) == (3, 1, 15)
    assert results["unknown"]["unknown"]
    assert not results["good"]["unknown"]
    for name, words in {
        "no-zone": "ts: ",
        "number": "time zone",
        "text": "id: the track ids of this release are integers",
        "stream-of-artist": "a stream is of a track",
        "ban-of-playlist": "a playlist cannot be banned",
        "extra": "mood",
        "guest": "user_id: the user ids",
    }.items():
        assert words in results[name]["message"], name
    assert "event_id" in body["events"][1]["message"]
    assert sorted(day(service)) == ["fast-clock", "good", "unknown"]
    remembered = service.call(f"/v1/users/{NEW}/events")[2]["events"]
    assert all(one["ts"] <= datetime.now(UTC).isoformat() for one in remembered)
    assert recommendations(service)["unknown"] == {"streams.tracks": ["999999999"]}


def test_whole_requests_are_refused_by_field(service):
    many = {"events": [event(f"e{n}") for n in range(5_000)]}
    for body in (many, {"events": []}, {}, {"events": {}}, event("single"), []):
        status, _, answer = service.call("/v1/events", body)
        assert status == 422
        assert answer["details"][0]["field"].startswith("body")
    assert "500" in service.call("/v1/events", many)[2]["details"][0]["message"]
    assert service.call("/v1/events", raw=b"{")[0] == 400
    assert day(service) == []


def test_bans_of_today_are_in_no_list(service):
    for user in (NEW, str(USER)):
        send(service, event(f"{user}-s", user=user))
        before = recommendations(service, user)["tracks"]
        banned = before[0]
        assert (
            send(
                service,
                event(f"{user}-t", int(banned["track_id"]), user, "ban"),
                event(f"{user}-a", int(before[5]["artist_id"]), user, "ban", entity="artist"),
                event(f"{user}-b", 3, user, "ban", entity="album"),
            )
            == ["accepted"] * 3
        )
        after = recommendations(service, user, "?k=50")["tracks"]
        assert len(after) == 50
        assert banned["track_id"] not in [track["track_id"] for track in after]
        assert before[5]["artist_id"] not in {track["artist_id"] for track in after}
        assert "3" not in {track["album_id"] for track in after}
    method(service, "DELETE", f"/v1/users/{USER}/events/{USER}-s")
    known = recommendations(service, str(USER), "?k=50")
    assert (known["kind"], known["method"], known["n_events"]) == ("warm", "stored", 3)
    assert not {banned["track_id"]} & {track["track_id"] for track in known["tracks"]}
    assert "3" not in {track["album_id"] for track in known["tracks"]}


def test_streams_of_today_move_the_list_of_a_known_listener(service):
    before = recommendations(service, str(USER), "?k=50")
    first = int(before["tracks"][0]["track_id"])
    other = [int(track) for track in TRACKS[~np.isin(GROUP, GROUP[first == TRACKS])]]
    send(service, event("k", other[9], str(USER), "skip"))
    assert recommendations(service, str(USER), "?k=50") == before
    send(service, *[event(f"s{n}", track, str(USER)) for n, track in enumerate(other[:3])])
    after = recommendations(service, str(USER), f"?k=50&exclude={before['tracks'][0]['track_id']}")
    assert (after["method"], after["vector_source"], after["n_events"]) == ("fold_in", "store and events", 3)
    assert (after["kind"], after["segment"], len(after["tracks"])) == ("warm", before["segment"], 50)
    listed = [int(track["track_id"]) for track in after["tracks"]]
    assert not {*other[:3], int(before["tracks"][0]["track_id"])} & set(listed)
    release = service.release_home.open(service.release_home.first)
    space = release.spaces["tt_svd"]
    stored_D = np.float32(service.call(f"/v1/users/{USER}")[2]["vector"])
    tracks_ND = np.asarray(space.array("track_vectors"))
    mean_D = tracks_ND[[int(np.flatnonzero(release.track_ids == track)[0]) for track in other[:3]]].mean(axis=0)
    length = np.linalg.norm(stored_D)
    moved_D = 0.9 * stored_D / length + 0.1 * mean_D / np.linalg.norm(mean_D)
    order = top_k(np.float32(moved_D * length)[None], tracks_ND, small_week.N_TRACKS, space.layout["similarity"])[0]
    expected = [int(release.track_ids[i]) for i in order]
    assert listed == [i for i in expected if i not in (*other[:3], int(before["tracks"][0]["track_id"]))][:50]


def test_a_vector_of_a_later_week_contains_the_events(release_home):
    """Events before the day of a warm vector, or up to the day of a cold one, are in it."""
    release_home.promote(release_home.first)
    loaded = LoadedRelease(release_home.open(release_home.first), pointer.read(release_home.home))
    names = {"2026-11-15": 0, "2026-11-16": 1, "2026-11-17": 2}
    events = [
        {"ts": f"{day}T00:00:00.000000Z", "kind": "stream", "entity_id": str(loaded.tracks[i].track_id)}
        for day, i in names.items()
    ]
    row = UserRow(1, "warm", "2026-11-16", np.zeros(small_week.D, np.float32), 0, np.empty(0, np.int64))
    assert streams_since(loaded, row, events) == [1, 2]
    assert streams_since(loaded, replace(row, kind="cold"), events) == [2]


def test_undo_forget_and_merge(service):
    send(service, event("a"), event("b", LIKED[1]), event("c", kind="favourite"))
    assert method(service, "DELETE", f"/v1/users/{NEW}/events/a") == (200, {"user_id": NEW, "removed": 1})
    assert method(service, "DELETE", f"/v1/users/{NEW}/events/a") == (200, {"user_id": NEW, "removed": 0})
    assert method(service, "DELETE", f"/v1/users/{NEW}/events/never")[0] == 404
    assert method(service, "DELETE", f"/v1/users/{NEW}/events/no%20id")[0] == 422
    assert send(service, event("a")) == ["repeated"]
    assert day(service) == ["b", "c"]
    merged = {"user_id": NEW, "into": "700002", "moved": 2}
    assert method(service, "POST", f"/v1/users/{NEW}/merge", {"into": 700002}) == (200, merged)
    assert method(service, "POST", f"/v1/users/{NEW}/merge", {"into": "700002"}) == (200, {**merged, "moved": 0})
    assert method(service, "POST", f"/v1/users/{NEW}/merge", {"into": NEW})[0] == 422
    assert method(service, "POST", f"/v1/users/{NEW}/merge", {})[0] == 422
    assert (day(service), day(service, "700002")) == ([], ["b", "c"])
    assert service.call(f"/v1/users/{NEW}/recommendations")[0] == 404
    assert recommendations(service, "700002")["n_events"] == 2
    assert method(service, "DELETE", "/v1/users/700002/events") == (200, {"user_id": "700002", "removed": 2})
    assert day(service, "700002") == []
    assert service.call("/v1/users/700002/recommendations")[0] == 404


def test_events_are_accepted_without_a_release_and_survive_a_restart(release_home, serve):
    first = serve(release_home.home)
    assert send(first, event("a")) == ["accepted"]
    assert first.call(f"/v1/users/{NEW}/recommendations")[0] == 503
    first.stop()
    release_home.promote(release_home.first)
    publish_users(release_home, StoreSettings(), n=20)
    second = serve(release_home.home)
    assert send(second, event("a")) == ["repeated"]
    assert recommendations(second)["kind"] == "new"


def test_store_that_is_away_is_a_503_and_the_list_is_made_without_events(release_home):
    release_home.promote(release_home.first)
    settings = StoreSettings(kind="redis", redis_url="redis://127.0.0.1:1/0", timeout_s=0.2)
    service = Live(release_home.home, settings)
    try:
        status, _, body = service.call("/v1/events", {"events": [event("a")]})
        assert (status, "redis" in body["detail"]) == (503, True)
        assert recommendations(service)["degraded"]["fallback"] == "popularity"
        assert service.call(f"/v1/users/{NEW}/events")[0] == 503
        assert method(service, "DELETE", f"/v1/users/{NEW}/events")[0] == 503
    finally:
        service.stop()
    assert not (release_home.home / "events").exists()


def test_list_from_the_day_names_the_store_that_is_unpublished(release_home, serve):
    release_home.promote(release_home.first)
    service = serve(release_home.home)
    send(service, event("a"))
    body = recommendations(service)
    assert (body["kind"], body["vector_source"]) == ("new", "network")
    assert "overture release publish" in body["degraded"]["reason"]


def test_two_workers_share_days(release_home):
    release_home.promote(release_home.first)
    publish_users(release_home, StoreSettings(), n=20)
    service = Process(release_home.home, "--workers", "2")
    try:
        n, writers = 0, set[str]()
        while n < 40 or (len(writers) < 2 and n < 1_000):  # either worker accepts a connection, once it has started
            assert send(service, event(f"e{n}")) == ["accepted"]
            assert send(service, event(f"e{n}")) == ["repeated"]
            n += 1
            assert len(day(service)) == n
            folder = release_home.home / "events"
            writers = {path.name.split(".")[1].split("-")[0] for path in folder.glob("events-*")}
        assert len(writers) == 2
    finally:
        assert service.stop() == 0


def test_nothing_acknowledged_is_lost_when_the_service_is_killed(release_home):
    """Four clients send events until the service is killed; a new service knows each acknowledged one."""
    release_home.promote(release_home.first)
    service = Process(release_home.home)
    acknowledged: list[str] = []
    enough = threading.Event()

    def client(name):
        for n in range(100_000):
            try:
                status, _, _ = service.call("/v1/events", {"events": [event(f"{name}-{n}")]})
            except (OSError, http.client.HTTPException, ValueError):
                return
            if status == 200:
                acknowledged.append(f"{name}-{n}")
            if len(acknowledged) >= 200:
                enough.set()

    threads = [threading.Thread(target=client, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    assert enough.wait(60)
    os.kill(service.process.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(60)
    service.process.wait(60)
    again = Process(release_home.home)
    try:
        assert set(acknowledged) <= set(day(again))
        assert len(acknowledged) >= 200
    finally:
        again.stop()


def test_events_in_redis_over_http(release_home, redis):
    import redis as client

    server = client.Redis.from_url(redis.url)
    server.flushall()
    release_home.promote(release_home.first)
    service = Live(release_home.home, StoreSettings(kind="redis", redis_url=redis.url, timeout_s=5))
    try:
        assert send(service, event("a"), event("b", kind="ban")) == ["accepted"] * 2
        assert 172_000 < server.ttl(f"overture:day:{NEW}") <= 172_800
        assert recommendations(service)["kind"] == "new"
        server.flushall()
        assert service.call(f"/v1/users/{NEW}/events")[2]["events"] == []
        assert recommendations(service)["degraded"]["fallback"] == "popularity"
    finally:
        service.stop()


def test_input_vector_is_that_of_the_request(service):
    """The order of events with equal time does not depend on the order in which they arrive."""
    same_time = at()
    send(service, *[event(f"s{n}", track, ts=same_time) for n, track in enumerate(reversed(LIKED))])
    by_id = service.lists({"streams": {"tracks": sorted(LIKED)}}, k=20)
    body = recommendations(service)
    assert body["segment"] == by_id["segment"]
    assert [t["track_id"] for t in body["tracks"]] == [t["track_id"] for t in by_id["tracks"]]
    assert np.unique([t["track_id"] for t in body["tracks"]]).size == 20
