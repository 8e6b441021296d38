"""The skip routes on a real server: probabilities, reranked lists, rejected requests, and changes of the champion."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from contracts.entity_ids import stable_id
from jobs.release import bundle, pointer
from models.skip.ranking.rerank import rerank
from serving.skip.release import SkipRelease
from serving.skip.schema import Reranked, Skips
from serving.skip.state import TRACK_COLUMNS
from tests.helpers import release_keys, skip_week

AT = "2016-11-28T08:30:00Z"
UNKNOWN_ID = str(2**63 - 25)  # above 2^53: a number would be rounded


@pytest.fixture(scope="module")
def home(skip_week_home, tmp_path_factory):
    """Copy of the home with the champion of a small week, for this module."""
    home = tmp_path_factory.mktemp("skip_routes") / "home"
    shutil.copytree(skip_week_home, home)
    return home


@pytest.fixture(scope="module")
def release(home):
    context = skip_week.at(home)
    champion = pointer.read(context.release_home)
    return SkipRelease(pointer.releases(context.release_home) / champion.release, champion)


@pytest.fixture
def live(home, serve):
    return serve(home)


def candidates(tracks, relevance=None):
    return [
        {"track_id": t} if relevance is None else {"track_id": t, "relevance": relevance[i]}
        for i, t in enumerate(tracks)
    ]


def ids(body):
    return [track["track_id"] for track in body["tracks"]]


def request_body(release, n=8, **fields):
    """Request body of a known listener with the first tracks of the release."""
    user_id = str(release.state.totals["user"].keys[0])
    tracks = [str(track) for track in release.state.tracks["track_id"][:n]]
    return {
        "user_id": user_id,
        "at": AT,
        "tracks": candidates(tracks),
        "gender": 1,
        "age": 25,
        "platform_name": 0,
        **fields,
    }


def test_every_known_track_has_a_probability_and_a_reason(live, release):
    body = request_body(release, explain=True)
    status, headers, response = live.call("/v1/skips", body)
    assert status == 200, response
    Skips.model_validate(response)
    assert headers["x-overture-release"] == response["release"] == release.name
    assert [track["track_id"] for track in response["tracks"]] == ids(body)
    assert all(0 < track["skip_probability"] < 1 for track in response["tracks"])
    assert len({track["skip_probability"] for track in response["tracks"]}) > 1
    assert all("likely to" in track["reason"] for track in response["tracks"])
    assert (response["known_user"], response["unknown"]) == (True, [])
    plain = live.call("/v1/skips", request_body(release))[2]
    assert [track["skip_probability"] for track in plain["tracks"]] == [
        track["skip_probability"] for track in response["tracks"]
    ]
    assert {track["reason"] for track in plain["tracks"]} == {None}


def test_prediction_of_a_track_does_not_depend_on_the_other_tracks(live, release):
    batch = live.call("/v1/skips", request_body(release))[2]["tracks"]
    for n, track in enumerate(request_body(release)["tracks"]):
        alone = live.call("/v1/skips", request_body(release, tracks=[track]))[2]["tracks"][0]
        assert alone["skip_probability"] == pytest.approx(batch[n]["skip_probability"], abs=1e-6)


def test_unknown_ids_are_reported_and_unknown_users_get_predictions(live, release):
    body = request_body(release, n=3)
    status, _, response = live.call(
        "/v1/skips", {**body, "tracks": [{"track_id": UNKNOWN_ID}, *body["tracks"]], "user_id": UNKNOWN_ID}
    )
    assert (status, response["unknown"], response["known_user"]) == (200, [UNKNOWN_ID], False)
    assert [track["track_id"] for track in response["tracks"]] == ids(body)
    status, _, response = live.call("/v1/skips", {"user_id": UNKNOWN_ID, "at": AT, "tracks": candidates([UNKNOWN_ID])})
    assert (status, response["tracks"]) == (200, [])
    status, _, response = live.call("/v1/skips", {"user_id": 1, "at": AT, "tracks": body["tracks"]})
    assert status == 200  # the fields about the listener are optional


def test_only_new_recent_plays_are_used(live, release):
    body = request_body(release)
    skipped = [{"track_id": t, "at": f"2016-11-28T08:2{n}:00Z", "listened": False} for n, t in enumerate(ids(body))]
    before = live.call("/v1/skips", body)[2]
    after = live.call("/v1/skips", {**body, "recent": skipped})[2]
    assert after["recent"] == {"used": 8, "already_known": 0, "unknown_tracks": 0}
    means = [np.mean([track["skip_probability"] for track in response["tracks"]]) for response in (before, after)]
    assert means[1] > means[0]  # recent skips raise the probability of a skip
    old = [{"track_id": ids(body)[0], "at": "2016-11-20T08:00:00Z", "listened": False}]
    same = live.call("/v1/skips", {**body, "recent": old})[2]
    assert same["recent"] == {"used": 0, "already_known": 1, "unknown_tracks": 0}
    assert same["tracks"] == before["tracks"]
    unknown = [{"track_id": UNKNOWN_ID, "at": "2016-11-28T08:00:00Z", "listened": True}]
    assert live.call("/v1/skips", {**body, "recent": unknown})[2]["recent"]["unknown_tracks"] == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tracks": []}, "tracks"),
        ({"tracks": [{"track_id": 1}] * 501}, "tracks"),
        ({"tracks": [{"track_id": ""}]}, "tracks.0.track_id"),
        ({"tracks": [{"track_id": 2**53}]}, "tracks.0.track_id"),
        ({"tracks": [{"track_id": 1, "relevance": 1}]}, "tracks.0.relevance"),
        ({"user_id": -1}, "user_id"),
        ({"age": 200}, "age"),
        ({"at": "2016-11-28T08:30:00"}, "at"),
        ({"at": "yesterday"}, "at"),
        ({"surprise": 1}, "surprise"),
        ({"platform_name": 2**40}, "platform_name"),
        ({"recent": [{"track_id": 1, "at": AT}]}, "listened"),
    ],
)
def test_invalid_field_is_named_in_the_error(live, release, change, where):
    status, _, response = live.call("/v1/skips", {**request_body(release), **change})
    assert status == 422
    assert where in response["details"][0]["field"]


def test_inconsistent_times_are_rejected(live, release):
    status, _, response = live.call("/v1/skips", request_body(release, at="2016-11-20T00:00:00Z"))
    assert (status, "request a later time" in response["detail"]) == (422, True)
    future = [{"track_id": 1, "at": at, "listened": True} for at in (AT, "2016-11-28T08:35:01Z")]
    status, _, response = live.call("/v1/skips", request_body(release, recent=future))
    assert (status, [one["field"] for one in response["details"]]) == (422, ["body.recent.1.at"])
    assert "more than 300 s after" in response["details"][0]["message"]


def test_plays_of_the_same_second_and_of_a_fast_clock_count(live, release):
    """A play up to five minutes later than the prediction has the effect of a prediction after the play."""
    body = request_body(release)
    for play_at, later in ((AT, "2016-11-28T08:30:01Z"), ("2016-11-28T08:35:00Z", "2016-11-28T08:35:01Z")):
        recent = [{"track_id": ids(body)[0], "at": play_at, "listened": False}]
        status, _, response = live.call("/v1/skips", {**body, "recent": recent})
        assert (status, response["recent"]["used"]) == (200, 1)
        assert response["tracks"] == live.call("/v1/skips", {**body, "recent": recent, "at": later})[2]["tracks"]


def test_null_means_left_out(live, release):
    body = request_body(release)
    nulls = dict.fromkeys(("recent", "is_flow", "explain", "context_type", "platform_family"))
    assert live.call("/v1/skips", {**body, **nulls})[2] == live.call("/v1/skips", body)[2]
    recent = {"track_id": ids(body)[0], "at": "2016-11-28T08:00:00Z", "listened": True}
    plain = live.call("/v1/skips", {**body, "recent": [recent]})[2]
    assert live.call("/v1/skips", {**body, "recent": [{**recent, "is_flow": None, "context_type": None}]})[2] == plain


@pytest.mark.parametrize("path", ["/v1/skips", "/v1/rerank"])
def test_a_bare_track_id_is_refused_with_the_form_of_a_track(live, release, path):
    status, _, response = live.call(path, request_body(release, tracks=[{"track_id": "1"}, "2", 3]))
    assert status == 422
    assert [one["field"] for one in response["details"]] == ["body.tracks.1", "body.tracks.2"]
    assert {one["message"] for one in response["details"]} == {'a track is an object such as {"track_id": "1003"}'}


def test_rerank_route_equals_the_rerank_function(live, release):
    body = request_body(release, n=20)
    skips = [track["skip_probability"] for track in live.call("/v1/skips", body)[2]["tracks"]]
    artists = release.state.tracks["artist_id"][:20]
    relevance = np.linspace(1, 0.2, 20).tolist()
    for diversity, scores in ((0.0, None), (0.6, None), (0.3, relevance)):
        response = live.call("/v1/rerank", {**body, "tracks": candidates(ids(body), scores), "diversity": diversity})[2]
        expected = rerank(
            [ids(body)], [[1 - skip for skip in skips]], diversity, None if scores is None else [scores], [artists]
        )
        assert [track["track_id"] for track in response["tracks"]] == [str(track) for track in expected[0]]
        Reranked.model_validate(response)
        assert (response["degraded"], response["release"]) == (None, release.name)


def test_unknown_track_stays_in_the_reranked_list(live, release):
    tracks = [UNKNOWN_ID, *ids(request_body(release, n=4))]
    response = live.call("/v1/rerank", request_body(release, tracks=candidates(tracks), diversity=0.5))[2]
    assert sorted(track["track_id"] for track in response["tracks"]) == sorted(tracks)
    assert {track["track_id"]: track["skip_probability"] for track in response["tracks"]}[UNKNOWN_ID] is None
    assert response["unknown"] == [UNKNOWN_ID]
    mixed = [{"track_id": tracks[1], "relevance": 1.0}, {"track_id": tracks[2]}]
    assert live.call("/v1/rerank", request_body(release, tracks=mixed))[0] == 422


@pytest.fixture
def live_with_texts(home, release, serve, tmp_path):
    """A service whose release has ids of form text, track `urn:<n>` for track n."""
    releases = pointer.releases(tmp_path / "skip")
    folder = shutil.copytree(release.folder, releases / "copy")
    ids = release.state.tracks["track_id"]
    hashed = np.array([stable_id(f"urn:{track}") for track in ids], np.int64)
    order = np.argsort(hashed)
    for column in TRACK_COLUMNS:
        values = hashed if column == "track_id" else release.state.tracks[column]
        np.save(folder / "tracks" / f"{column}.npy", np.asarray(values)[order])
    provenance = {**release.provenance, "ids": {"user": "text", "track": "text"}}
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "manifest.json").unlink()
    name = bundle.write_manifest(folder)
    folder.rename(releases / name)
    (releases / pointer.NAME).unlink(missing_ok=True)
    release_keys.promote(tmp_path, name, release.week, "skip")
    return serve(tmp_path)


def test_text_ids_are_accepted_and_returned(live_with_texts, release):
    tracks = [f"urn:{track}" for track in release.state.tracks["track_id"][:4]]
    body = {"user_id": "urn:user/7", "at": AT, "tracks": candidates([*tracks, "urn:none"])}
    body["recent"] = [{"track_id": tracks[0], "at": "2016-11-28T08:00:00Z", "listened": True}]
    status, _, response = live_with_texts.call("/v1/skips", body)
    assert (status, response["user_id"], response["unknown"]) == (200, "urn:user/7", ["urn:none"])
    assert [track["track_id"] for track in response["tracks"]] == tracks
    assert response["recent"] == {"used": 1, "already_known": 0, "unknown_tracks": 0}
    ordered = live_with_texts.call("/v1/rerank", body)[2]
    assert {track["track_id"] for track in ordered["tracks"]} == {*tracks, "urn:none"}
    assert (ordered["unknown"], ordered["degraded"]) == (["urn:none"], None)
    for path, change, field in (
        ("/v1/skips", {"user_id": 7}, "body.user_id"),
        ("/v1/skips", {"tracks": candidates(["urn:1", 7])}, "body.tracks.1.track_id"),
        ("/v1/skips", {"recent": [{**body["recent"][0], "track_id": 7}]}, "body.recent.0.track_id"),
        ("/v1/rerank", {"tracks": candidates([7])}, "body.tracks.0.track_id"),
    ):
        status, _, response = live_with_texts.call(path, {**body, **change})
        assert (status, response["details"][0]["field"]) == (422, field)


def test_a_text_that_is_no_integer_is_an_unknown_id(live, release):
    body = request_body(release, n=2)
    response = live.call("/v1/skips", {**body, "user_id": "me", "tracks": candidates([*ids(body), "-1", "x"])})[2]
    assert (response["known_user"], response["user_id"], response["unknown"]) == (False, "me", ["-1", "x"])


def test_without_a_release_skips_is_503_and_rerank_keeps_the_order(home, release, serve, tmp_path):
    shutil.copytree(home / "skip", tmp_path / "skip")
    shutil.copytree(home / "keys", tmp_path / "keys")
    champion_file = tmp_path / "skip" / "releases" / "champion.json"
    champion = champion_file.read_bytes()
    champion_file.unlink()
    live = serve(tmp_path)
    status, _, response = live.call("/v1/skips", request_body(release))
    assert (status, "run `overture release promote --engine skip`" in response["detail"]) == (503, True)
    body = request_body(release, tracks=candidates([3, "2", UNKNOWN_ID]))
    status, _, response = live.call("/v1/rerank", body)
    assert (status, [track["track_id"] for track in response["tracks"]]) == (200, ["3", "2", UNKNOWN_ID])
    assert (response["degraded"]["fallback"], response["release"]) == ("the given order", None)
    ready, metrics = live.call("/readyz"), live.call("/metrics")[2]
    assert (ready[0], ready[2]["ready"], ready[2]["engines"], ready[2]["skip"]["release"]) == (503, False, [], None)
    assert "run `overture release promote --engine skip`" in ready[2]["skip"]["problem"]
    assert 'overture_skip_degraded_answers_total{fallback="the given order"} 1.0' in metrics
    assert "overture_skip_release{" not in metrics
    champion_file.write_bytes(champion)
    live.wait(release.name, lambda caller: caller.call("/v1/rerank", body)[2]["release"])
    assert live.call("/v1/skips", request_body(release))[0] == 200
    status, headers, response = live.call("/readyz")
    assert (status, response["ready"], response["engines"], response["release"]) == (200, True, ["skip"], None)
    assert "x-overture-release" not in headers
    assert "overture release promote" in response["problem"]
    skip = response["skip"]
    assert (skip["ready"], skip["problem"], skip["release"], skip["week"]) == (True, None, release.name, release.week)
    assert skip["state_as_of"] == "2016-11-28T00:00:00+00:00"
    assert skip["age_s"] > 9 * 365 * 86_400
    metrics = live.call("/metrics")[2]
    assert f'overture_skip_release{{release="{release.name[:12]}",week="{release.week}"}} 1.0' in metrics
    (as_of,) = [
        line.split()[1] for line in metrics.splitlines() if line.startswith("overture_skip_release_as_of_seconds ")
    ]
    assert float(as_of) == release.state_until
    assert "overture_skip_release_revision 1.0" in metrics
    champion_file.write_text('{"release": "%s", "previous": null, "revision": 9, "week": "2016-12-05"}' % ("0" * 64))
    assert live.call("/v1/skips", request_body(release))[2]["release"] == release.name


@pytest.mark.parametrize("kind", ["track", "artist", "album"])
def test_blocked_tracks_are_removed_from_a_reranked_list_and_reported(home, release, serve, kind):
    ids = release.state.tracks[f"{kind}_id"][:20]
    blocked_id = int(ids[3])
    tracks = [track["track_id"] for track in request_body(release, n=20)["tracks"]]
    blocked = [track for track, one in zip(tracks, ids, strict=True) if one == blocked_id]
    file = home / "block_list.jsonl"
    file.write_text(json.dumps({"kind": kind, "id": blocked_id}) + "\n")
    live = serve(home)
    try:
        body = request_body(release, tracks=candidates(tracks, [1.0] * 20), diversity=0.5)
        status, _, response = live.call("/v1/rerank", body)
        assert (status, response["blocked"], response["degraded"]) == (200, blocked, None)
        assert sorted(one["track_id"] for one in response["tracks"]) == sorted(set(tracks) - set(blocked))
        only = request_body(release, tracks=candidates(blocked))
        response = live.call("/v1/rerank", only)[2]
        assert (response["tracks"], response["blocked"], response["degraded"]) == ([], blocked, None)
        Reranked.model_validate(response)
    finally:
        file.unlink()
