"""Test the contents of segment cards, and that no number is based on too few listeners."""

import numpy as np
from scipy.sparse import csr_matrix

from jobs.cold_start.segment_cards import lifts, member_traits, sentence, track_traits

LABELS = np.array([0] * 6 + [1] * 6)
MEMBER = csr_matrix((np.ones(12, np.float32), (LABELS, np.arange(12))), shape=(2, 12))


def test_countries_by_lift():
    found = lifts(member_traits(MEMBER, ["FR"] * 6 + ["FR", "BR", "BR", "BR", "BR", None]), 2)
    assert found[0] == [{"name": "FR", "share": 1.0, "lift": round(1 / (7 / 11), 2)}]
    assert found[1] == [{"name": "BR", "share": 0.8, "lift": round(0.8 / (4 / 11), 2)}]  # one French listener: too few


def test_no_trait_that_fewer_than_the_floor_stand_behind():
    names = ["FR"] * 9 + ["BR"] * 3
    assert [t["name"] for t in lifts(member_traits(MEMBER, names), 3)[1]] == ["BR", "FR"]
    assert lifts(member_traits(MEMBER, names), 4) == [[{"name": "FR", "share": 1.0, "lift": 1.33}], []]


def test_a_genre_counts_tracks_but_is_told_for_listeners():
    heard = np.zeros((12, 4), np.float32)
    heard[:6, 0] = 1  # six listeners, a rock track each
    heard[0, 1:3] = 1  # one listener with two jazz tracks
    heard[6:, 3] = 1
    trait = track_traits(MEMBER, csr_matrix(heard), ["rock", "jazz", "jazz", None])
    assert trait.names == ["jazz", "rock"]
    assert trait.weight.tolist() == [[2, 6], [0, 0]]
    assert trait.listeners.tolist() == [[1, 6], [0, 0]]
    assert [t["name"] for t in lifts(trait, 2)[0]] == ["rock"]
    assert [t["name"] for t in lifts(trait, 1)[0]] == ["jazz", "rock"]


def test_of_thousands_of_artists_none_needs_a_large_share():
    heard = csr_matrix((np.ones(12 * 40, np.float32), (np.repeat(np.arange(12), 40), np.tile(np.arange(40), 12))))
    found = lifts(track_traits(MEMBER, heard, [f"artist {n}" for n in range(40)]), 6)
    assert [len(one) for one in found] == [3, 3]


def test_sentences():
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
