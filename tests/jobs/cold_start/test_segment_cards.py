"""Test the contents of segment cards, and the minimum number of listeners behind each number."""

import numpy as np
from scipy.sparse import csr_matrix

from jobs.cold_start.segment_cards import lifts, member_traits, sentence, track_traits

LABELS = np.array([0] * 6 + [1] * 6)
MEMBER = csr_matrix((np.ones(12, np.float32), (LABELS, np.arange(12))), shape=(2, 12))


def test_countries_by_lift():
    traits = lifts(member_traits(MEMBER, ["FR"] * 6 + ["FR", "BR", "BR", "BR", "BR", None]), 2)
    assert traits[0] == [{"name": "FR", "share": 1.0, "lift": round(1 / (7 / 11), 2)}]
    assert traits[1] == [{"name": "BR", "share": 0.8, "lift": round(0.8 / (4 / 11), 2)}]  # one French listener: too few


def test_traits_with_too_few_listeners_are_excluded():
    names = ["FR"] * 9 + ["BR"] * 3
    assert [t["name"] for t in lifts(member_traits(MEMBER, names), 3)[1]] == ["BR", "FR"]
    assert lifts(member_traits(MEMBER, names), 4) == [[{"name": "FR", "share": 1.0, "lift": 1.33}], []]


def test_genre_weights_count_tracks_and_the_minimum_applies_to_listeners():
    streamed = np.zeros((12, 4), np.float32)
    streamed[:6, 0] = 1  # six listeners, a rock track each
    streamed[0, 1:3] = 1  # one listener with two jazz tracks
    streamed[6:, 3] = 1
    trait = track_traits(MEMBER, csr_matrix(streamed), ["rock", "jazz", "jazz", None])
    assert trait.names == ["jazz", "rock"]
    assert trait.weight.tolist() == [[2, 6], [0, 0]]
    assert trait.listeners.tolist() == [[1, 6], [0, 0]]
    assert [t["name"] for t in lifts(trait, 2)[0]] == ["rock"]
    assert [t["name"] for t in lifts(trait, 1)[0]] == ["jazz", "rock"]


def test_lifts_include_artists_with_small_shares():
    streamed = csr_matrix((np.ones(12 * 40, np.float32), (np.repeat(np.arange(12), 40), np.tile(np.arange(40), 12))))
    traits = lifts(track_traits(MEMBER, streamed, [f"artist {n}" for n in range(40)]), 6)
    assert [len(segment_traits) for segment_traits in traits] == [3, 3]


def test_sentence_describes_the_strongest_traits():
    track = [{"title": "One", "artist": "A"}]
    trait = [{"name": "X", "share": 0.5, "lift": 2.0}]
    empty = {"countries": [], "ages": [], "genres": [], "artists": [], "tracks": []}
    assert sentence({**empty, "size_below": 10}) == "fewer than 10 listeners: too few to describe"
    assert sentence({**empty, "size": 12, "artists": trait, "tracks": track}) == (
        "12 listeners who play more X than others; first track: One by A"
    )
    assert sentence({**empty, "size": 12, "countries": trait}) == "12 listeners, often in X"
    assert sentence({**empty, "size": 12, "ages": trait, "countries": trait, "genres": trait}) == (
        "12 listeners, often aged X and in X, who play more X than others"
    )
