"""The skip routes on a real server: chances, lists in order, refusals, and a champion that comes, moves and fails."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from jobs.release import pointer
from models.skip.ranking.rerank import rerank
from serving.skip.release import SkipRelease
from serving.skip.schema import Reranked, Skips
from tests.helpers import skip_week

AT = "2016-11-28T08:30:00Z"
NOBODY = 10**15


@pytest.fixture(scope="module")
def home(skip_week_home, tmp_path_factory):
    """The champion of a small week in a home of this module's own."""
    found = tmp_path_factory.mktemp("skips") / "home"
    shutil.copytree(skip_week_home, found)
    return found


@pytest.fixture(scope="module")
def release(home):
    context = skip_week.at(home)
    now = pointer.read(context.release_home)
    return SkipRelease(pointer.releases(context.release_home) / now.release, now)


@pytest.fixture
def live(home, serve):
    return serve(home)


def asked(release, n=8, **more):
    """A known listener and the first tracks of the release."""
    user = int(release.state.totals["user"].keys[0])
    tracks = release.state.tracks["track_id"][:n].tolist()
    return {"user_id": user, "at": AT, "tracks": tracks, "gender": 1, "age": 25, "platform_name": 0, **more}


def test_every_known_track_gets_a_chance_and_a_reason(live, release):
    body = asked(release, explain=True)
    status, headers, said = live.call("/v1/skips", body)
    assert status == 200, said
    Skips.model_validate(said)
    assert headers["x-overture-release"] == said["release"] == release.name
    assert [track["track_id"] for track in said["tracks"]] == body["tracks"]
    assert all(0 < track["skip_probability"] < 1 for track in said["tracks"])
    assert len({track["skip_probability"] for track in said["tracks"]}) > 1
    assert all("likely to" in track["reason"] for track in said["tracks"])
    assert (said["known_user"], said["unknown"]) == (True, [])
    plain = live.call("/v1/skips", asked(release))[2]
    assert [track["skip_probability"] for track in plain["tracks"]] == [
        track["skip_probability"] for track in said["tracks"]
    ]
    assert {track["reason"] for track in plain["tracks"]} == {None}


def test_a_track_is_answered_alone_as_among_others(live, release):
    together = live.call("/v1/skips", asked(release))[2]["tracks"]
    for n, track in enumerate(asked(release)["tracks"]):
        alone = live.call("/v1/skips", asked(release, tracks=[track]))[2]["tracks"][0]
        assert alone["skip_probability"] == pytest.approx(together[n]["skip_probability"], abs=1e-6)


def test_unknown_ids_are_reported_and_a_stranger_is_answered(live, release):
    body = asked(release, n=3)
    status, _, said = live.call("/v1/skips", {**body, "tracks": [NOBODY, *body["tracks"]], "user_id": NOBODY})
    assert (status, said["unknown"], said["known_user"]) == (200, [NOBODY], False)
    assert [track["track_id"] for track in said["tracks"]] == body["tracks"]
    status, _, said = live.call("/v1/skips", {"user_id": NOBODY, "at": AT, "tracks": [NOBODY]})
    assert (status, said["tracks"]) == (200, [])
    status, _, said = live.call("/v1/skips", {"user_id": 1, "at": AT, "tracks": body["tracks"]})
    assert status == 200  # nothing needs to be told about the listener


def test_recent_plays_count_once_and_only_where_they_are_new(live, release):
    body = asked(release)
    skipped = [
        {"track_id": t, "at": f"2016-11-28T08:2{n}:00Z", "listened": False} for n, t in enumerate(body["tracks"])
    ]
    before = live.call("/v1/skips", body)[2]
    after = live.call("/v1/skips", {**body, "recent": skipped})[2]
    assert after["recent"] == {"used": 8, "already_known": 0, "unknown_tracks": 0}
    means = [np.mean([track["skip_probability"] for track in said["tracks"]]) for said in (before, after)]
    assert means[1] > means[0]  # who has just been skipping skips on
    old = [{"track_id": body["tracks"][0], "at": "2016-11-20T08:00:00Z", "listened": False}]
    same = live.call("/v1/skips", {**body, "recent": old})[2]
    assert same["recent"] == {"used": 0, "already_known": 1, "unknown_tracks": 0}
    assert same["tracks"] == before["tracks"]
    odd = [{"track_id": NOBODY, "at": "2016-11-28T08:00:00Z", "listened": True}]
    assert live.call("/v1/skips", {**body, "recent": odd})[2]["recent"]["unknown_tracks"] == 1


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"tracks": []}, "tracks"),
        ({"tracks": [1] * 501}, "tracks"),
        ({"tracks": ["1"]}, "tracks"),
        ({"user_id": -1}, "user_id"),
        ({"age": 200}, "age"),
        ({"at": "2016-11-28T08:30:00"}, "at"),
        ({"at": "yesterday"}, "at"),
        ({"surprise": 1}, "surprise"),
        ({"platform_name": 2**40}, "platform_name"),
        ({"recent": [{"track_id": 1, "at": AT}]}, "listened"),
    ],
)
def test_what_is_wrong_is_refused_by_name(live, release, change, where):
    status, _, said = live.call("/v1/skips", {**asked(release), **change})
    assert status == 422
    assert where in said["details"][0]["field"]


def test_moments_that_do_not_fit_are_refused(live, release):
    status, _, said = live.call("/v1/skips", asked(release, at="2016-11-20T00:00:00Z"))
    assert (status, "request a later time" in said["error"]) == (422, True)
    late = [{"track_id": 1, "at": AT, "listened": True}]
    status, _, said = live.call("/v1/skips", asked(release, recent=late))
    assert (status, "are not before the requested time" in said["error"]) == (422, True)


def candidates(tracks, relevance=None):
    return [
        {"track_id": t} if relevance is None else {"track_id": t, "relevance": relevance[n]}
        for n, t in enumerate(tracks)
    ]


def test_a_list_is_ordered_by_the_one_function(live, release):
    body = asked(release, n=20)
    skips = [track["skip_probability"] for track in live.call("/v1/skips", body)[2]["tracks"]]
    artists = release.state.tracks["artist_id"][:20]
    relevance = np.linspace(1, 0.2, 20).tolist()
    for diversity, wanted in ((0.0, None), (0.6, None), (0.3, relevance)):
        said = live.call("/v1/rerank", {**body, "tracks": candidates(body["tracks"], wanted), "diversity": diversity})[
            2
        ]
        ours = rerank(
            [body["tracks"]], [[1 - skip for skip in skips]], diversity, None if wanted is None else [wanted], [artists]
        )
        assert [track["track_id"] for track in said["tracks"]] == ours[0].tolist()
        Reranked.model_validate(said)
        assert (said["degraded"], said["release"]) == (None, release.name)


def test_an_unknown_track_keeps_a_place_in_the_list(live, release):
    tracks = [NOBODY, *asked(release, n=4)["tracks"]]
    said = live.call("/v1/rerank", asked(release, tracks=candidates(tracks), diversity=0.5))[2]
    assert sorted(track["track_id"] for track in said["tracks"]) == sorted(tracks)
    assert {track["track_id"]: track["skip_probability"] for track in said["tracks"]}[NOBODY] is None
    assert said["unknown"] == [NOBODY]
    mixed = [{"track_id": tracks[1], "relevance": 1.0}, {"track_id": tracks[2]}]
    assert live.call("/v1/rerank", asked(release, tracks=mixed))[0] == 422


def test_without_a_release_it_says_so_then_follows_the_pointer_to_the_first(home, release, serve, tmp_path):
    shutil.copytree(home / "skip", tmp_path / "skip")
    file = tmp_path / "skip" / "releases" / "champion.json"
    champion = file.read_bytes()
    file.unlink()
    live = serve(tmp_path)
    status, _, said = live.call("/v1/skips", asked(release))
    assert (status, "run `overture release promote --engine skip`" in said["error"]) == (503, True)
    body = asked(release, tracks=candidates([3, 2, NOBODY]))
    status, _, said = live.call("/v1/rerank", body)
    assert (status, [track["track_id"] for track in said["tracks"]]) == (200, [3, 2, NOBODY])
    assert (said["degraded"]["fallback"], said["release"]) == ("the given order", None)
    ready, page = live.call("/readyz"), live.call("/metrics")[2]
    assert (ready[0], ready[2]["ready"], ready[2]["engines"], ready[2]["skip"]["release"]) == (503, False, [], None)
    assert "run `overture release promote --engine skip`" in ready[2]["skip"]["problem"]
    assert 'overture_skip_degraded_answers_total{fallback="the given order"} 1.0' in page
    assert "overture_skip_release{" not in page
    file.write_bytes(champion)
    live.wait(release.name, lambda one: one.call("/v1/rerank", body)[2]["release"])
    assert live.call("/v1/skips", asked(release))[0] == 200
    status, headers, said = live.call("/readyz")
    assert (status, said["ready"], said["engines"], said["release"]) == (200, True, ["skip"], None)
    assert "x-overture-release" not in headers
    assert "overture release promote" in said["problem"]
    skip = said["skip"]
    assert (skip["ready"], skip["problem"], skip["release"], skip["week"]) == (True, None, release.name, release.week)
    assert skip["state_as_of"] == "2016-11-28T00:00:00+00:00"
    assert skip["age_s"] > 9 * 365 * 86_400
    page = live.call("/metrics")[2]
    assert f'overture_skip_release{{release="{release.name[:12]}",week="{release.week}"}} 1.0' in page
    (until,) = [
        line.split()[1] for line in page.splitlines() if line.startswith("overture_skip_release_as_of_seconds ")
    ]
    assert float(until) == release.state_until
    assert "overture_skip_release_revision 1.0" in page
    file.write_text('{"release": "%s", "previous": null, "revision": 9, "week": "2016-12-05"}' % ("0" * 64))
    assert live.call("/v1/skips", asked(release))[2]["release"] == release.name
