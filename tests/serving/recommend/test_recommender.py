"""The service recommends what the gate evaluated: bit-identical inputs, equal lists and correct reasons."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from models.cold_start.input_vector import INTERACTIONS, FirstDays, input_vectors
from models.cold_start.top_k import normalise
from serving import schema
from serving.block.entries import EMPTY
from serving.recommend import carousel, entity_lookup
from serving.recommend.signals import days_of, read_listener
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher
from tests.helpers import release_keys, small_week
from tests.helpers.live import WORDS, cohort_requests, texts


@pytest.fixture(scope="module")
def ready(live) -> LoadedRelease:
    champion = ChampionWatcher(release_keys.folders(live.release_home.home), poll_s=1.0)
    champion.refresh()
    assert champion.current is not None
    return champion.current


def signals(ready: LoadedRelease, request: dict):
    """Signals of a request with the ids inside."""
    return read_listener(ready, schema.Listener.model_validate(request))


def requests_with_every_signal() -> list[dict]:
    """Requests with signals of every kind, including repeated and unknown ids."""
    rng, tracks = np.random.default_rng(4), small_week.tracks()[0]
    requests = []
    for _ in range(40):
        row = {"country": str(rng.choice([*small_week.COUNTRIES, "XK"])), "age": int(rng.integers(5, 90))}
        for word in ("streams", "skips", "bans", "favourites", "searches"):
            row[word] = {"tracks": rng.choice([*tracks, 5, 6], rng.integers(0, 6)).tolist()}
            for level in ("artists", "albums", *(("playlists",) if word in ("favourites", "searches") else ())):
                row[word][level] = rng.integers(0, 5, rng.integers(0, 4)).tolist()
        requests.append(row | {"onboarding": {"artists": rng.integers(1, 5, rng.integers(0, 3)).tolist()}})
    return requests


def as_first_days(ready: LoadedRelease, requests: list[dict]) -> FirstDays:
    """The same listeners in the format of the training data."""
    import pyarrow as pa

    import contracts
    from contracts.arrow import arrow_schema

    rows, by_id = [], {track.track_id: track for track in ready.tracks}
    for user_id, request in enumerate(requests):
        row = {
            "user_id": user_id,
            "country": request["country"],
            "age": request["age"],
            **{name: [] for name in INTERACTIONS},
        }
        row["onboarding_like_artists"] = [int(i) for i in request["onboarding"]["artists"]]
        for word, prefix in WORDS.items():
            for level, ids in request[word].items():
                row[f"{prefix}_{'songs' if level == 'tracks' else level}"] = [int(i) for i in ids]
        # The signals of bans are those of tracks; a banned artist or album is a rule of the list.
        known = [by_id[i] for i in row["banned_songs"] if i in by_id]
        row |= {"banned_artists": [t.artist_id for t in known], "banned_albums": [t.album_id for t in known]}
        rows.append(row)
    return FirstDays.from_arrow(pa.Table.from_pylist(rows, schema=arrow_schema(contracts.load("first_day"))))


@pytest.mark.parametrize("make_requests", [cohort_requests, requests_with_every_signal])
def test_online_inputs_are_bit_identical_to_the_training_inputs(ready, make_requests):
    requests = make_requests()
    entities, demographics, _ = small_week.space_parts()
    expected = input_vectors(as_first_days(ready, requests), entities, demographics)
    assert np.abs(expected).sum() > 0
    listeners = [signals(ready, request) for request in requests]
    np.testing.assert_array_equal(ready.inputs(days_of(ready, listeners)), expected)
    for listener, row in zip(listeners, expected, strict=True):
        np.testing.assert_array_equal(ready.inputs(days_of(ready, [listener]))[0], row)


@pytest.mark.parametrize("method", ["semi_pers", "full_pers", "popularity"])
def test_lists_equal_those_evaluated_by_the_gate(live, method):
    release, days = live.release_home.open(live.release_home.first), FirstDays.from_arrow(small_week.cohort()[0])
    recommender = release.spaces["tt_svd"].method(method)
    expected = release.track_ids[recommender.recommend(release.inputs("tt_svd", days), 20, days)]
    for request, ids in zip(cohort_requests()[:30], expected, strict=False):
        response = live.lists(request, method=method, k=20)
        schema.Recommendation.model_validate(response)
        assert [track["track_id"] for track in response["tracks"]] == texts(ids)
        streamed = bool(request["streams"]["tracks"])
        assert (response["method"], response["degraded"], response["n_filled"], response["unknown"]) == (
            method if streamed or method == "popularity" else "country_age",
            None,
            0,
            {},
        )
    assert live.lists(cohort_requests()[1], k=20)["method"] == "semi_pers", "the method of the promoted release"


def test_batch_equals_single_requests(live):
    requests = cohort_requests()[:40]
    status, _, response = live.call("/v1/recommendations/batch", {"listeners": requests, "k": 10})
    assert status == 200
    schema.Batch.model_validate(response)
    for request, answer in zip(requests, response["answers"], strict=True):
        single = live.lists(request, k=10)
        assert answer["tracks"] == single["tracks"]
        assert answer["segment"]["segment_id"] == single["segment"]["segment_id"]


def test_missing_artists_and_albums_of_streamed_tracks_are_filled_in(live, ready):
    track = ready.tracks[7]
    streams = {"tracks": [track.track_id, track.track_id, 5]}
    tracks_only = signals(ready, {"streams": streams})
    full = {**streams, "artists": [track.artist_id] * 2, "albums": [track.album_id] * 2}
    full = signals(ready, {"streams": full})
    np.testing.assert_array_equal(ready.inputs(days_of(ready, [tracks_only])), ready.inputs(days_of(ready, [full])))
    empty = signals(ready, {"streams": {**streams, "artists": [], "albums": []}})
    assert (ready.inputs(days_of(ready, [empty])) != ready.inputs(days_of(ready, [full]))).any()


def test_excluded_banned_and_streamed_tracks_are_not_recommended(live):
    listener = {"country": "FR", "age": 20}
    ids = [track["track_id"] for track in live.lists(listener, k=10)["tracks"]]
    remaining = live.lists({**listener}, k=10, exclude=[*ids[:3], 5])
    assert [track["track_id"] for track in remaining["tracks"]][:7] == ids[3:]
    assert len(remaining["tracks"]) == 10
    banned = live.lists({**listener, "bans": {"tracks": ids[:2]}}, k=50)["tracks"]
    assert not {track["track_id"] for track in banned} & set(ids[:2])
    streamed = {**listener, "streams": {"tracks": ids[:2]}}
    for heard, included in ((None, True), ("keep", True), ("leave_out", False), ("only_new_artists", False)):
        response = live.lists(streamed, k=60, heard=heard)["tracks"]
        assert (ids[0] in {track["track_id"] for track in response}) is included


def test_short_ranking_is_filled_with_popular_tracks(live):
    listener = {"country": "FR", "onboarding": {"artists": [3]}}
    response = live.lists(listener, k=100)
    ids = [track["track_id"] for track in response["tracks"]]
    assert (len(ids), len(set(ids)), response["n_filled"]) == (100, 100, 40), (
        "the rankings of the small week have 60 tracks"
    )
    popular = [track["track_id"] for track in live.lists(method="popularity", k=100)["tracks"]]
    assert ids[60:] == [i for i in popular if i not in ids[:60]][:40]
    filtered = live.lists(listener, k=100, exclude=popular[:80])
    assert len(filtered["tracks"]) == 70, "the list contains all remaining tracks"
    assert not {track["track_id"] for track in filtered["tracks"]} & set(popular[:80])


def test_contribution_is_the_change_of_distance_without_the_signal(live, ready):
    tracks = [track.track_id for track in ready.tracks[:6]]
    listener = {"country": "FR", "age": 20, "streams": {"tracks": tracks}, "favourites": {"artists": [2]}}
    response = live.lists(listener, explain=True)
    schema.Recommendation.model_validate(response)
    centroid = ready.space.centroids_KD[response["segment"]["segment_id"]]

    def distance(request: dict) -> float:
        x = ready.inputs(days_of(ready, [signals(ready, request)]))
        return float(np.linalg.norm(normalise(ready.space.vectors(x))[0] - centroid))

    full_distance = distance(listener)
    assert response["segment"]["distance"] == pytest.approx(full_distance, abs=1e-5)
    contributions = {("country", "FR"): distance({**listener, "country": None}) - full_distance}
    contributions["age", "20"] = distance({**listener, "age": None}) - full_distance
    contributions["favourites.artists", "2"] = distance({**listener, "favourites": {}}) - full_distance
    for i in tracks:
        contributions["streams.tracks", str(i)] = (
            distance({**listener, "streams": {"tracks": [j for j in tracks if j != i]}}) - full_distance
        )
    assert response["reasons"]["n_signals"] == len(contributions) == 9
    reported = {
        (signal["signal"], signal["id"]): signal["contribution"] for signal in response["reasons"]["top_signals"]
    }
    expected = dict(
        sorted(
            ((key, contribution) for key, contribution in contributions.items() if contribution > 0),
            key=lambda pair: -pair[1],
        )[:5]
    )
    assert reported == pytest.approx(expected, abs=1e-5)
    assert list(reported.values()) == sorted(reported.values(), reverse=True)
    assert live.lists(listener)["reasons"]["top_signals"] is None


def test_reasons_contain_the_segment_card(live):
    response = live.lists({"country": "DE", "onboarding": {"artists": [2]}})
    card = response["segment"]["card"]
    assert response["reasons"]["text"].startswith(card["sentence"])
    of_country = live.lists({"country": "DE"})
    assert of_country["reasons"]["text"] == "The tracks that most listeners of your country and age play"
    assert of_country["method"] == "country_age"
    of_nothing = live.lists({"country": "ZW"})
    assert (of_nothing["method"], of_nothing["degraded"]) == ("popularity", None)
    assert of_nothing["tracks"] == live.lists(method="popularity")["tracks"]
    means = live.lists({"country": "DE"}, method="country_age_mean")
    assert (means["method"], means["reasons"]["text"].startswith(card["sentence"])) == ("semi_pers", True)
    assert "size" not in response["segment"], "only the card may contain the size of a segment"
    assert "most listeners play" in live.lists(method="popularity")["reasons"]["text"]


def test_unknown_ids_are_reported_once_and_do_not_fail_the_request(live):
    unknown = {"tracks": [5, 5, 6], "artists": [77]}
    artists = [1, str(2**63 - 1), "x"]
    response = live.lists({"country": "ZW", "favourites": unknown, "onboarding": {"artists": artists}}, k=3)
    assert response["unknown"] == {
        "country": ["ZW"],
        "favourites.tracks": ["5", "6"],
        "favourites.artists": ["77"],
        "onboarding.artists": [str(2**63 - 1), "x"],
    }
    assert len(response["tracks"]) == 3


def test_a_listener_with_unknown_ids_only_gets_the_list_of_country_and_age(live):
    silent, unknown = {"country": "DE"}, {"country": "DE", "streams": {"tracks": [999_999]}}
    response = live.lists(unknown)
    assert (response["method"], response["unknown"]) == ("country_age", {"streams.tracks": ["999999"]})
    assert response["tracks"] == live.lists(silent)["tracks"]


def test_known_names_are_returned(live):
    for track in live.lists({"country": "FR"}, k=60)["tracks"]:
        assert track["title"] == (f"Song {track['track_id']}" if int(track["track_id"]) % 10 else None)
        assert track["artist"] == ("Ada", "Bo & the <b>Bs</b>", None)[int(track["artist_id"]) - 1]


def test_vectors_and_neighbours(live):
    release = live.release_home.open(live.release_home.first)
    for space in small_week.SPACES:
        entities = release.spaces[space].entities
        for kind, inner in (("tracks", "song"), ("artists", "artist"), ("albums", "album"), ("playlists", "playlist")):
            entity_id = int(entities.ids[inner][1])
            status, _, response = live.call(f"/v1/{kind}/{entity_id}?space={space}")
            assert status == 200
            schema.Entity.model_validate(response)
            np.testing.assert_array_equal(np.float32(response["vector"]), entities.vectors[inner][1])
    _, _, segment = live.call("/v1/segments/2")
    np.testing.assert_array_equal(np.float32(segment["vector"]), release.spaces["tt_svd"].array("centroids")[2])
    assert segment["card"] == {"sentence": "segment 2"}
    assert len(segment["tracks"]) == 10
    ids, _, vectors = small_week.tracks()
    order = np.argsort(-(vectors @ vectors[4]), kind="stable")
    _, _, neighbourhood = live.call(f"/v1/tracks/{ids[4]}/neighbours?k=5")
    schema.Neighbourhood.model_validate(neighbourhood)
    assert [neighbour["id"] for neighbour in neighbourhood["neighbours"]] == texts(ids[order[1:6]]), (
        "nearest first, without the track itself"
    )
    _, _, tracks = live.call("/v1/segments/1/neighbours?of=tracks&k=3")
    assert all(
        small_week.tracks()[1][ids.tolist().index(int(neighbour["id"]))] == 1 for neighbour in tracks["neighbours"]
    )
    for path in ("/v1/tracks/5", "/v1/segments/3", "/v1/artists/0/neighbours"):
        status, _, response = live.call(path)
        assert (status, "has no" in response["detail"]) == (404, True)
    assert live.call("/v1/tracks/5?space=elsewhere")[0] == 422


@pytest.mark.parametrize(
    "text", ["beyonc\u00e9", "BEYONCE\u0301", "yonce\u0301", "\u00c9 & Stra\u00dfe", "e\u0301 & strasse"]
)
@pytest.mark.parametrize("name", ["Beyonc\u00e9 & Stra\u00dfe", "Beyonce\u0301 & Stra\u00dfe"])
def test_search_ignores_case_and_the_encoding_of_accents(name, text):
    track = SimpleNamespace(title=name, artist=name, track_id=1, artist_id=2, genre=None)
    ids = SimpleNamespace(outside=lambda kind, number: str(number))
    at = {"artists": {2: 0}}
    loaded = SimpleNamespace(
        name="one", tracks=[track], most_popular_at=at, ids=ids, track_texts=["1"], track_idx={1: 0}
    )
    for kind, expected in (("tracks", "1"), ("artists", "2")):
        results = entity_lookup.search(loaded, kind, text, 5, EMPTY)["results"]
        assert [(result["id"], result["name"]) for result in results] == [(expected, name)]
    assert not entity_lookup.search(loaded, "tracks", "Beyonce ", 5, EMPTY)["results"]


def test_search_matches_names_and_orders_by_popularity(live):
    _, _, response = live.call("/v1/search?kind=artists")
    schema.Search.model_validate(response)
    assert [result["id"] for result in response["results"]] == ["1", "2", "3"]
    assert [result["id"] for result in live.call("/v1/search?kind=artists&q=aDA")[2]["results"]] == ["1"]
    _, _, tracks = live.call("/v1/search?kind=tracks&q=song%201&limit=200")
    expected = [str(i) for i in small_week.tracks()[0] if i % 10]
    assert [result["id"] for result in tracks["results"]] == expected


def test_carousel_is_ordered_by_relevance_and_exposure_decreases(live):
    status, _, response = live.call(
        "/v1/carousels", {"listener": {"country": "BR"}, "diversity": 0, "n_nearest_tracks": 2}
    )
    assert status == 200
    schema.Carousel.model_validate(response)
    relevance = [playlist["relevance"] for playlist in response["playlists"]]
    assert relevance == sorted(relevance, reverse=True)
    assert response["playlists"][0]["playlist_id"] == "1", "listeners from BR prefer the first group"
    assert [playlist["exposure"] for playlist in response["playlists"]] == pytest.approx(
        [1, 1 / np.log2(3), 0.5], abs=1e-6
    )
    weighted = np.average(relevance, weights=[playlist["exposure"] for playlist in response["playlists"]])
    assert response["expected_relevance"] == pytest.approx(weighted, abs=1e-5)
    assert all(len(playlist["nearest_tracks"]) == 2 for playlist in response["playlists"])
    _, _, shorter = live.call("/v1/carousels", {"listener": {"country": "BR"}, "exclude": [1], "n": 1})
    assert [playlist["playlist_id"] for playlist in shorter["playlists"]] != ["1"]
    _, _, empty = live.call("/v1/carousels", {"listener": {}, "exclude": [1, 2, 3]})
    assert empty["playlists"] == []


def test_cascade_exposure_is_constant_then_decreases_geometrically():
    assert carousel.exposures("cascade", 5).tolist() == pytest.approx([1, 1, 1, 0.85, 0.85**2])
    assert carousel.exposures("log", 3).tolist() == pytest.approx([1, 0.63093, 0.5], abs=1e-5)


def test_diversity_lowers_similarity_and_keeps_the_most_relevant_first():
    rng = np.random.default_rng(0)
    unit = normalise(rng.standard_normal((60, 6)) + np.repeat(3 * np.eye(6)[:3], 20, axis=0))
    relevance = unit @ normalise(np.ones((1, 6)))[0]
    mean_similarity = []
    for diversity in (0, 0.3, 0.7, 1):
        row = carousel.select_diverse(relevance, unit, 12, diversity)
        assert len(set(row)) == 12
        assert row[0] == int(relevance.argmax())
        similarity = unit[row] @ unit[row].T
        mean_similarity.append((similarity.sum() - 12) / 132)
    assert carousel.select_diverse(relevance, unit, 12, 0) == np.argsort(-relevance, kind="stable")[:12].tolist()
    assert mean_similarity[0] >= mean_similarity[1]
    assert mean_similarity[0] > max(mean_similarity[2:])
    assert len(carousel.select_diverse(relevance[:4], unit[:4], 12, 0.5)) == 4
