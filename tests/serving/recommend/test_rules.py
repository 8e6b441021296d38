"""Test the rules of lists in the service: on every route that returns a list, and as the gate applies them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from models.cold_start.input_vector import FirstDays
from models.cold_start.list_rules import ListRules
from models.cold_start.methods.ruled import ruled_lists
from models.cold_start.top_k import normalise
from serving.block.entries import EMPTY, BlockList
from serving.recommend.ruled_list import NO_FILTERS, audience, build_list
from serving.release.loaded import LoadedRelease
from tests.helpers import small_week
from tests.helpers.live import cohort_requests

METHODS = ("semi_pers", "full_pers", "popularity", "country_age_mean")
N_ARTISTS = 40


@pytest.fixture
def loaded(live, monkeypatch) -> LoadedRelease:
    """The release in service, with tracks by forty artists, for the test."""
    release = live.app.app.state.champion.current
    rng = np.random.default_rng(8)
    artist = np.minimum(rng.zipf(1.4, len(release.tracks)), N_ARTISTS).astype(np.int64)
    facts = replace(release.facts, artist_N=artist, album_N=artist * 100 + rng.integers(0, 2, len(artist)))
    monkeypatch.setattr(release, "facts", facts)
    monkeypatch.setattr(release, "rules", ListRules())
    monkeypatch.setattr(release, "list_cache", None)
    return release


def idx(loaded, response) -> list[int]:
    place = {text: i for i, text in enumerate(loaded.track_texts)}
    return [place[track["track_id"]] for track in response["tracks"]]


def assert_limited(groups, limit=3):
    for n in range(1, len(groups) + 1):
        assert max(Counter(groups[:n]).values()) <= max(1, math.ceil(limit * n / 50)), f"prefix of {n}"


@pytest.mark.parametrize("method", METHODS)
def test_a_list_has_few_tracks_of_one_artist_in_every_prefix(live, loaded, method):
    for request in cohort_requests()[:10]:
        response = live.lists(request, method=method, k=20)
        tracks = idx(loaded, response)
        assert_limited([loaded.facts.artists[i] for i in tracks])
        assert_limited([loaded.facts.albums[i] for i in tracks])
        assert (len(tracks), response["relaxed"], response["short"]) == (20, 0, None)


def test_null_switches_a_limit_off_and_a_request_may_set_another(live, loaded):
    request = cohort_requests()[1]
    artists = Counter(
        loaded.facts.artists[i] for i in idx(loaded, live.lists(request, k=30, per_artist=None, per_album=None))
    )
    assert artists.most_common(1)[0][1] > 2
    loose = live.lists(request, k=30, per_artist=10, per_album=None)
    assert_limited([loaded.facts.artists[i] for i in idx(loaded, loose)], 10)
    relaxed = live.lists(request, k=100)
    assert len(relaxed["tracks"]) == 100
    assert relaxed["relaxed"] > 0


def test_lists_are_those_of_the_gate_under_the_same_rules(live, loaded):
    release = loaded.release
    days = FirstDays.from_arrow(small_week.cohort()[0])
    space = release.spaces["tt_svd"]
    for method in ("semi_pers", "full_pers", "popularity"):
        _, ruled = ruled_lists(
            space.method(method),
            release.inputs("tt_svd", days),
            20,
            days,
            release.track_ids,
            loaded.facts,
            loaded.rules,
            normalise(space.array("track_vectors")),
        )
        for request, expected in zip(cohort_requests()[:30], ruled, strict=False):
            assert idx(loaded, live.lists(request, method=method, k=20)) == expected.tolist()


@pytest.mark.parametrize("level", ["tracks", "artists", "albums"])
@pytest.mark.parametrize("method", METHODS)
def test_bans_at_three_levels_hold_at_any_k(live, loaded, method, level):
    request = cohort_requests()[2]
    values = {"tracks": list(range(len(loaded.tracks))), "artists": loaded.facts.artists, "albums": loaded.facts.albums}
    first = idx(loaded, live.lists(request, method=method, k=5))
    banned = {values[level][i] for i in first}
    ids = [loaded.track_texts[i] for i in first] if level == "tracks" else [str(i) for i in banned]
    bans = {"tracks": [], level: ids}
    for k in (5, 50, 100):
        response = live.lists({**request, "bans": bans}, method=method, k=k)
        assert not banned & {values[level][i] for i in idx(loaded, response)}
    batch = live.call(
        "/v1/recommendations/batch", {"listeners": [{**request, "bans": bans}], "k": 50, "method": method}
    )
    assert not banned & {values[level][i] for i in idx(loaded, batch[2]["answers"][0])}


def test_a_listener_who_banned_the_whole_catalogue_gets_a_reason(live, loaded):
    tracks = list(loaded.track_texts)
    response = live.lists({"bans": {"tracks": tracks[:-2]}}, k=10)
    assert {track["track_id"] for track in response["tracks"]} == set(tracks[-2:])
    assert "only 2 tracks are left" in response["short"]
    empty = live.lists({"bans": {"tracks": tracks}}, k=10)
    assert empty["tracks"] == []
    assert "only 0 tracks are left" in empty["short"]
    assert empty["cursor"] is None


def test_heard_tracks_and_artists(live, loaded):
    first = idx(loaded, live.lists({"country": "FR"}, k=3))
    listener = {"country": "FR", "streams": {"tracks": [loaded.track_texts[i] for i in first]}}
    keep = idx(loaded, live.lists(listener, k=100, per_artist=None, per_album=None))
    assert set(first) <= set(keep)
    left_out = idx(loaded, live.lists(listener, k=100, heard="leave_out"))
    assert not set(first) & set(left_out)
    artists = {loaded.facts.artists[i] for i in first}
    only_new = idx(loaded, live.lists(listener, k=100, heard="only_new_artists", per_artist=None, per_album=None))
    assert not artists & {loaded.facts.artists[i] for i in only_new}


def test_only_what_can_be_played_in_the_listeners_country(live, loaded, monkeypatch):
    n = len(loaded.tracks)
    everywhere, in_france = np.arange(n) % 2 == 0, np.arange(n) % 4 != 3
    available, explicit = np.arange(n) % 10 != 0, np.arange(n) % 3 == 0
    facts = replace(
        loaded.facts, everywhere_N=everywhere, countries={"FR": in_france}, available_N=available, explicit_N=explicit
    )
    monkeypatch.setattr(loaded, "facts", facts)

    def shown(listener, **options):
        return idx(loaded, live.lists(listener, k=20, **options))

    assert all(available[i] and in_france[i] for i in shown({"country": "FR"}))
    assert all(available[i] and everywhere[i] for i in shown({"country": "DE"}))
    assert all(available[i] for i in shown({}))
    assert any(explicit[i] for i in shown({"age": 18}))
    assert not any(explicit[i] for i in shown({"age": 17}))
    assert any(explicit[i] for i in shown({"age": 17}, filters={"explicit": True}))
    assert not any(explicit[i] for i in shown({"age": 40}, filters={"explicit": False}))


def test_filters(live, loaded, monkeypatch):
    n = len(loaded.tracks)
    released = np.where(np.arange(n) % 5 == 0, np.iinfo(np.int32).min, 10_000 + np.arange(n)).astype(np.int32)
    monkeypatch.setattr(loaded, "facts", replace(loaded.facts, released_N=released))
    tracks = [replace(track, genre=("Rock", "jazz", None)[i % 3]) for i, track in enumerate(loaded.tracks)]
    monkeypatch.setattr(loaded, "tracks", tracks)
    request = cohort_requests()[3]
    only_rock = live.lists(request, k=10, filters={"genres": ["ROCK"]})
    assert all(i % 3 == 0 for i in idx(loaded, only_rock))
    dates = {"released_from": "1997-06-01", "released_to": "1997-08-01"}
    days = {str(np.datetime64(int(released[i]), "D")) for i in idx(loaded, live.lists(request, k=10, filters=dates))}
    assert min(days) >= "1997-06-01"
    assert max(days) <= "1997-08-01"
    first = idx(loaded, live.lists(request, k=3))
    without = live.lists(request, k=30, filters={"exclude_artists": [str(loaded.facts.artists[first[0]])]})
    assert loaded.facts.artists[first[0]] not in {loaded.facts.artists[i] for i in idx(loaded, without)}
    none = live.lists(request, k=10, filters={"genres": ["polka"]})
    assert none["tracks"] == []
    assert "only 0 tracks" in none["short"]
    status, _, body = live.call("/v1/recommendations", {"listener": {}, "filters": {"genre": ["x"]}})
    assert status == 422
    assert "genre" in str(body)


def test_pages_continue_the_list_and_belong_to_a_release(live, loaded):
    request = cohort_requests()[4]
    whole = live.lists(request, k=60)
    pages, cursor = [], None
    while len(pages) < 60:
        page = live.lists(request, k=20, cursor=cursor)
        pages += page["tracks"]
        cursor = page["cursor"]
    assert pages == whole["tracks"]
    for wrong, why in (("x", "not one that this service returned"), ("0" * 16 + "-20", "another release")):
        status, _, body = live.call("/v1/recommendations", {"listener": {}, "cursor": wrong})
        assert status == 422
        assert why in str(body)


def test_tracks_shown_often_and_never_played_sink(live, loaded):
    request = cohort_requests()[5]
    first = live.lists(request, k=10)["tracks"]
    often, seldom = first[0]["track_id"], first[1]["track_id"]
    shown = [often] * loaded.rules.max_shown + [seldom] * (loaded.rules.max_shown - 1)
    tracks = [track["track_id"] for track in live.lists(request, k=50, shown=shown)["tracks"]]
    assert often not in tracks
    assert seldom in tracks[:2]
    played = {**request, "streams": {"tracks": [often]}}
    assert often in [t["track_id"] for t in live.lists(played, k=100, shown=shown, method="popularity")["tracks"]]


def test_diversity_changes_the_order_and_keeps_the_first_track(live, loaded):
    request = cohort_requests()[6]
    plain, diverse = (
        idx(loaded, live.lists(request, k=20, diversity=weight, method="full_pers")) for weight in (0, 0.9)
    )
    unit = normalise(loaded.space.tracks_ND)

    def similarity(tracks):
        return float((unit[tracks] @ unit[tracks].T).mean())

    assert diverse[0] == plain[0]
    assert similarity(diverse) < similarity(plain)


def test_one_recording_is_once_in_a_list(live, loaded, monkeypatch):
    request = cohort_requests()[7]
    first = idx(loaded, live.lists(request, k=2, per_artist=None, per_album=None))
    recording = loaded.facts.recording_N.copy()
    recording[first[1]] = recording[first[0]]
    monkeypatch.setattr(loaded, "facts", replace(loaded.facts, recording_N=recording))
    tracks = idx(loaded, live.lists(request, k=60, per_artist=None, per_album=None))
    assert first[0] in tracks
    assert first[1] not in tracks


def test_the_former_option_is_refused_with_the_new_one(live):
    status, _, body = live.call("/v1/recommendations", {"listener": {}, "leave_out_first_day": True})
    assert status == 422
    assert "leave_out_first_day was renamed to heard" in str(body)


def test_a_kept_list_is_the_list_that_is_built_for_the_listener(loaded):
    rng, n = np.random.default_rng(3), len(loaded.tracks)
    rankings = [rng.permutation(n).tolist() for _ in range(3)]
    for _ in range(200):
        which, k = int(rng.integers(3)), int(rng.choice([5, 20, 100]))
        excluded, shown = (frozenset(rng.choice(n, rng.integers(4), replace=False).tolist()) for _ in range(2))
        country, age = rng.choice(["FR", "DE"]), int(rng.choice([15, 30]))
        same = audience(loaded, loaded.rules, country, age, NO_FILTERS, EMPTY)
        kept, built = (
            build_list(loaded, k, lambda m: rankings[which][:m], loaded.rules, excluded, same, shown, ranking)  # noqa: B023
            for ranking in (which, None)
        )
        assert kept == built
        assert not excluded.intersection(kept.tracks)
    assert len(loaded.list_cache.audiences) == 4
    assert 0 < len(loaded.list_cache.lists) <= 36


def test_another_block_list_applies_to_kept_lists(loaded):
    ranking = list(range(len(loaded.tracks)))

    def tracks(block_list):
        same = audience(loaded, loaded.rules, "FR", 30, NO_FILTERS, block_list)
        return build_list(loaded, 10, lambda m: ranking[:m], loaded.rules, frozenset(), same, ranking=1).tracks

    before = tracks(EMPTY)
    blocked = BlockList("1", {"": {"track": frozenset({loaded.track_texts[before[0]]})}}, 1)
    assert before[0] not in tracks(blocked)
    assert tracks(EMPTY) == before
