"""What the service says is what the gate judged: same inputs to the bit, same lists, honest reasons."""

from __future__ import annotations

import numpy as np
import pytest

from models.cold_start.input_vector import INTERACTIONS, FirstDays, input_vectors
from models.cold_start.top_k import normalise
from serving import schema
from serving.recommend import carousel
from serving.recommend.signals import days_of
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher
from tests.helpers import small_week
from tests.helpers.live import WORDS, cohort_requests


@pytest.fixture(scope="module")
def ready(live) -> LoadedRelease:
    champion = ChampionWatcher(live.shop.home)
    champion.refresh()
    assert champion.current is not None
    return champion.current


def everything() -> list[dict]:
    """Listeners who did something of every kind, repeats and unknown ids among them."""
    rng, tracks = np.random.default_rng(4), small_week.tracks()[0]
    found = []
    for _ in range(40):
        row = {"country": str(rng.choice([*small_week.COUNTRIES, "XX"])), "age": int(rng.integers(0, 90))}
        for word in ("streams", "skips", "bans", "favourites", "searches"):
            row[word] = {"tracks": rng.choice([*tracks, 5, 6], rng.integers(0, 6)).tolist()}
            for level in ("artists", "albums", *(("playlists",) if word in ("favourites", "searches") else ())):
                row[word][level] = rng.integers(0, 5, rng.integers(0, 4)).tolist()
        found.append(row | {"onboarding": {"artists": rng.integers(1, 5, rng.integers(0, 3)).tolist()}})
    return found


def as_table(requests: list[dict]) -> FirstDays:
    """The same people as training reads them."""
    import pyarrow as pa

    import contracts
    from contracts.arrow import arrow_schema

    rows = []
    for user, one in enumerate(requests):
        row = {"user_id": user, "country": one["country"], "age": one["age"], **{name: [] for name in INTERACTIONS}}
        row["onboarding_like_artists"] = one["onboarding"]["artists"]
        for word, prefix in WORDS.items():
            for level, ids in one[word].items():
                row[f"{prefix}_{'songs' if level == 'tracks' else level}"] = ids
        rows.append(row)
    return FirstDays.from_arrow(pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("first_day"))))


@pytest.mark.parametrize("people", [cohort_requests, everything])
def test_training_and_service_make_the_same_inputs_to_the_bit(ready, people):
    requests = people()
    entities, demographics, _ = small_week.space_parts()
    trained = input_vectors(as_table(requests), entities, demographics)
    assert np.abs(trained).sum() > 0
    listeners = [schema.Listener.model_validate(one) for one in requests]
    np.testing.assert_array_equal(ready.inputs(days_of(ready, listeners)), trained)
    for listener, row in zip(listeners, trained, strict=True):
        np.testing.assert_array_equal(ready.inputs(days_of(ready, [listener]))[0], row)


@pytest.mark.parametrize("method", ["semi_pers", "full_pers", "popularity"])
def test_lists_are_those_that_the_gate_judged(live, method):
    release, days = live.shop.opened(live.shop.first), FirstDays.from_arrow(small_week.cohort()[0])
    wanted = release.track_ids[release.spaces["tt_svd"].method(method).recommend(release.inputs("tt_svd", days), 20)]
    for request, ids in zip(cohort_requests()[:30], wanted, strict=False):
        said = live.lists(request, method=method, k=20)
        schema.Recommendation.model_validate(said)
        assert [track["track_id"] for track in said["tracks"]] == ids.tolist()
        assert (said["method"], said["degraded"], said["n_filled"], said["unknown"]) == (method, None, 0, {})
    assert live.lists(cohort_requests()[0], k=20)["method"] == "semi_pers", "as the release was promoted to answer"


def test_a_batch_gives_what_each_would_get_alone(live):
    people = cohort_requests()[:40]
    status, _, said = live.call("/v1/recommendations/batch", {"listeners": people, "k": 10})
    assert status == 200
    schema.Batch.model_validate(said)
    for one, answer in zip(people, said["answers"], strict=True):
        alone = live.lists(one, k=10)
        assert answer["tracks"] == alone["tracks"]
        assert answer["segment"]["segment_id"] == alone["segment"]["segment_id"]


def test_artists_and_albums_of_streamed_tracks_are_filled_in_as_training_sees_them(live, ready):
    track = ready.tracks[7]
    given = {"tracks": [track.track_id, track.track_id, 5]}
    short = schema.Listener.model_validate({"streams": given})
    full = {**given, "artists": [track.artist_id] * 2, "albums": [track.album_id] * 2}
    full = schema.Listener.model_validate({"streams": full})
    np.testing.assert_array_equal(ready.inputs(days_of(ready, [short])), ready.inputs(days_of(ready, [full])))
    none = schema.Listener.model_validate({"streams": {**given, "artists": [], "albums": []}})
    assert (ready.inputs(days_of(ready, [none])) != ready.inputs(days_of(ready, [full]))).any()


def test_what_is_left_out_banned_or_streamed_is_in_no_list(live):
    person = {"country": "FR", "age": 20}
    ids = [track["track_id"] for track in live.lists(person, k=10)["tracks"]]
    spared = live.lists({**person}, k=10, exclude=[*ids[:3], 5])
    assert [track["track_id"] for track in spared["tracks"]][:7] == ids[3:]
    assert len(spared["tracks"]) == 10
    banned = live.lists({**person, "bans": {"tracks": ids[:2]}}, k=50)["tracks"]
    assert not {track["track_id"] for track in banned} & set(ids[:2])
    streamed = {**person, "streams": {"tracks": ids[:2]}}
    for leave_out, inside in ((None, True), (False, True), (True, False)):
        said = live.lists(streamed, k=60, leave_out_first_day=leave_out)["tracks"]
        assert (ids[0] in {track["track_id"] for track in said}) is inside


def test_a_short_ranking_goes_on_with_the_popular_and_says_how_far(live):
    said = live.lists({"country": "FR"}, k=100)
    ids = [track["track_id"] for track in said["tracks"]]
    assert (len(ids), len(set(ids)), said["n_filled"]) == (100, 100, 40), "a ranking of the small week has 60 tracks"
    popular = [track["track_id"] for track in live.lists(method="popularity", k=100)["tracks"]]
    assert ids[60:] == [i for i in popular if i not in ids[:60]][:40]
    everything = live.lists({"country": "FR"}, k=100, exclude=popular[:80])
    assert len(everything["tracks"]) == 70, "no more tracks than there are"
    assert not {track["track_id"] for track in everything["tracks"]} & set(popular[:80])


def test_the_pull_of_a_signal_is_what_leaving_it_out_changes(live, ready):
    tracks = [track.track_id for track in ready.tracks[:6]]
    person = {"country": "FR", "age": 20, "streams": {"tracks": tracks}, "favourites": {"artists": [2]}}
    said = live.lists(person, explain=True)
    schema.Recommendation.model_validate(said)
    centroid = ready.space.centroids_KD[said["segment"]["segment_id"]]

    def distance(one: dict) -> float:
        x = ready.inputs(days_of(ready, [schema.Listener.model_validate(one)]))
        return float(np.linalg.norm(normalise(ready.space.vectors(x))[0] - centroid))

    whole = distance(person)
    assert said["segment"]["distance"] == pytest.approx(whole, abs=1e-5)
    pulls = {("country", "FR"): distance({**person, "country": None}) - whole}
    pulls["age", 20] = distance({**person, "age": None}) - whole
    pulls["favourites.artists", 2] = distance({**person, "favourites": {}}) - whole
    for i in tracks:
        pulls["streams.tracks", i] = distance({**person, "streams": {"tracks": [j for j in tracks if j != i]}}) - whole
    assert said["reasons"]["n_signals"] == len(pulls) == 9
    found = {(one["signal"], one["id"]): one["contribution"] for one in said["reasons"]["top_signals"]}
    wanted = dict(sorted(((key, pull) for key, pull in pulls.items() if pull > 0), key=lambda pair: -pair[1])[:5])
    assert found == pytest.approx(wanted, abs=1e-5)
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert live.lists(person)["reasons"]["top_signals"] is None


def test_reasons_tell_the_card_of_the_segment(live):
    said = live.lists({"country": "DE"})
    card = said["segment"]["card"]
    assert said["reasons"]["text"].startswith(card["sentence"])
    assert "size" not in said["segment"], "the card alone says how large a segment is, where it may"
    assert "most listeners play" in live.lists(method="popularity")["reasons"]["text"]


def test_unknown_ids_are_reported_once_and_are_not_fatal(live):
    unknown = {"tracks": [5, 5, 6], "artists": [77]}
    said = live.lists({"country": "ZZ", "favourites": unknown, "onboarding": {"artists": [1, 2**63 - 1]}}, k=3)
    assert said["unknown"] == {
        "country": ["ZZ"],
        "favourites.tracks": [5, 6],
        "favourites.artists": [77],
        "onboarding.artists": [2**63 - 1],
    }
    assert len(said["tracks"]) == 3


def test_names_are_told_where_they_are_known(live):
    for track in live.lists({"country": "FR"}, k=60)["tracks"]:
        assert track["title"] == (f"Song {track['track_id']}" if track["track_id"] % 10 else None)
        assert track["artist"] == ("Ada", "Bo & the <b>Bs</b>", None)[track["artist_id"] - 1]


def test_vectors_and_neighbours(live):
    release = live.shop.opened(live.shop.first)
    for space in small_week.SPACES:
        entities = release.spaces[space].entities
        for kind, inner in (("tracks", "song"), ("artists", "artist"), ("albums", "album"), ("playlists", "playlist")):
            some = int(entities.ids[inner][1])
            status, _, said = live.call(f"/v1/{kind}/{some}?space={space}")
            assert status == 200
            schema.Entity.model_validate(said)
            np.testing.assert_array_equal(np.float32(said["vector"]), entities.vectors[inner][1])
    _, _, segment = live.call("/v1/segments/2")
    np.testing.assert_array_equal(np.float32(segment["vector"]), release.spaces["tt_svd"].array("centroids")[2])
    assert segment["card"] == {"sentence": "segment 2"}
    assert len(segment["tracks"]) == 10
    ids, _, vectors = small_week.tracks()
    order = np.argsort(-(vectors @ vectors[4]), kind="stable")
    _, _, near = live.call(f"/v1/tracks/{ids[4]}/neighbours?k=5")
    schema.Neighbourhood.model_validate(near)
    assert [one["id"] for one in near["neighbours"]] == ids[order[1:6]].tolist(), "nearest first, itself left out"
    _, _, across = live.call("/v1/segments/1/neighbours?of=tracks&k=3")
    assert all(small_week.tracks()[1][ids.tolist().index(one["id"])] == 1 for one in across["neighbours"])
    for path in ("/v1/tracks/5", "/v1/segments/3", "/v1/artists/0/neighbours"):
        status, _, said = live.call(path)
        assert (status, "has no" in said["error"]) == (404, True)
    assert live.call("/v1/tracks/5?space=elsewhere")[0] == 422


def test_search_finds_by_name_most_popular_first(live):
    _, _, said = live.call("/v1/search?kind=artists")
    schema.Search.model_validate(said)
    assert [one["id"] for one in said["results"]] == [1, 2, 3]
    assert [one["id"] for one in live.call("/v1/search?kind=artists&q=aDA")[2]["results"]] == [1]
    _, _, tracks = live.call("/v1/search?kind=tracks&q=song%201&limit=200")
    wanted = [int(i) for i in small_week.tracks()[0] if i % 10]
    assert [one["id"] for one in tracks["results"]] == wanted


def test_a_carousel_is_nearest_first_and_exposure_falls(live):
    status, _, said = live.call("/v1/carousels", {"listener": {"country": "BR"}, "diversity": 0, "n_nearest_tracks": 2})
    assert status == 200
    schema.Carousel.model_validate(said)
    relevance = [one["relevance"] for one in said["playlists"]]
    assert relevance == sorted(relevance, reverse=True)
    assert said["playlists"][0]["playlist_id"] == 1, "the taste of BR is the first group's"
    assert [one["exposure"] for one in said["playlists"]] == pytest.approx([1, 1 / np.log2(3), 0.5], abs=1e-6)
    weighted = np.average(relevance, weights=[one["exposure"] for one in said["playlists"]])
    assert said["expected_relevance"] == pytest.approx(weighted, abs=1e-5)
    assert all(len(one["nearest_tracks"]) == 2 for one in said["playlists"])
    _, _, less = live.call("/v1/carousels", {"listener": {"country": "BR"}, "exclude": [1], "n": 1})
    assert [one["playlist_id"] for one in less["playlists"]] != [1]
    _, _, none = live.call("/v1/carousels", {"listener": {}, "exclude": [1, 2, 3]})
    assert none["playlists"] == []


def test_a_cascade_shows_the_first_places_and_loses_a_share_at_each_later_one():
    assert carousel.exposures("cascade", 5).tolist() == pytest.approx([1, 1, 1, 0.85, 0.85**2])
    assert carousel.exposures("log", 3).tolist() == pytest.approx([1, 0.63093, 0.5], abs=1e-5)


def test_diversity_makes_a_row_less_alike_and_keeps_the_nearest_first():
    rng = np.random.default_rng(0)
    unit = normalise(rng.standard_normal((60, 6)) + np.repeat(3 * np.eye(6)[:3], 20, axis=0))
    relevance = unit @ normalise(np.ones((1, 6)))[0]
    likeness = []
    for diversity in (0, 0.3, 0.7, 1):
        row = carousel.select_diverse(relevance, unit, 12, diversity)
        assert len(set(row)) == 12
        assert row[0] == int(relevance.argmax())
        alike = unit[row] @ unit[row].T
        likeness.append((alike.sum() - 12) / 132)
    assert carousel.select_diverse(relevance, unit, 12, 0) == np.argsort(-relevance, kind="stable")[:12].tolist()
    assert likeness[0] >= likeness[1]
    assert likeness[0] > max(likeness[2:])
    assert len(carousel.select_diverse(relevance[:4], unit[:4], 12, 0.5)) == 4
