"""Test vectors of new tracks: right values of each level, nothing learned from what is left out, edge cases."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from models.cold_start.new_releases import KAPPAS, NewReleases, TrackFacts, choose_kappa, listener_vectors, shrink
from models.cold_start.top_k import normalise

D = 8


def facts(genre, artist, album):
    return TrackFacts(*(np.asarray(ids, np.int64) for ids in (genre, artist, album)))


def streams(rows, n_tracks):
    """Return the matrix of listeners who stream the tracks of each row."""
    listener = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    track = np.array([track for row in rows for track in row], np.int64)
    return csr_array((np.ones(len(track)), (listener, track)), shape=(len(rows), n_tracks))


def world(n_artists=40, n_albums=3, per_album=5, n_listeners=600, n_streams=12, noise=0.4, seed=0):
    """Return vectors, facts and streams: artists around genres, tracks around artists, listeners of similar tracks."""
    rng = np.random.default_rng(seed)
    genre = np.arange(n_artists) % 4
    center = 2 * rng.standard_normal((4, D))
    artist_AD = center[genre] + rng.standard_normal((n_artists, D))
    artist = np.repeat(np.arange(n_artists), n_albums * per_album)
    album = np.arange(len(artist)) // per_album
    vector_ND = artist_AD[artist] + noise * rng.standard_normal((len(artist), D))
    taste = center[rng.integers(0, 4, n_listeners)] + rng.standard_normal((n_listeners, D))
    affinity = normalise(taste) @ normalise(vector_ND).T + 0.3 * rng.standard_normal((n_listeners, len(artist)))
    rows = np.argsort(-affinity, axis=1)[:, :n_streams]
    return vector_ND.astype(np.float32), facts(genre[artist], 100 + artist, 1000 + album), streams(rows, len(artist))


def split(vector_ND, facts_N, heard_UN, new):
    """Fit without the new tracks; return the model, and facts, streams and vectors of the new ones."""
    model = NewReleases.fit(vector_ND[~new], facts_N.take(~new), heard_UN[:, ~new], 3)
    return model, facts_N.take(new), heard_UN[:, new], vector_ND[new]


def squared_error(estimate, vector):
    return float(np.square(estimate - vector).sum(axis=1).mean())


def test_shrink_is_a_weighted_mean():
    got = shrink(np.array([[6.0, 0.0], [0.0, 0.0]]), np.array([2.0, 0.0]), np.array([[1.0, 2.0], [5.0, 5.0]]), 2.0)
    np.testing.assert_array_equal(got, [[2.0, 1.0], [5.0, 5.0]])


def test_kappa_is_small_where_groups_are_right_and_large_where_the_estimate_above_is():
    target = np.array([[1.0], [2.0], [3.0]])
    two = np.full(3, 2.0)
    assert choose_kappa(target, 2 * target, two, target - 9) == KAPPAS[0]
    assert choose_kappa(target, 2 * (target - 9), two, target) == KAPPAS[-1]
    # error (2 (1 + x) + kappa (1 - x)) / (2 + kappa) - 1 = x (2 - kappa) / (2 + kappa): none at kappa 2
    near = choose_kappa(target, 2 * (target + 1), two, target - 1)
    assert near == min(KAPPAS, key=lambda kappa: abs(2 - kappa) / (2 + kappa))
    assert choose_kappa(target, 0 * target, np.zeros(3), target) == KAPPAS[-1]


def test_listener_vectors_are_normalised_means_of_unit_vectors():
    track_ND = np.array([[3.0, 0.0], [0.0, 0.5], [0.0, 0.0]])
    heard_UN = streams([[0, 1], [0], [2], []], 3)
    heard_UN.data[:] = [7, 1, 1, 1]  # numbers of streams do not matter
    half = np.sqrt(0.5)
    np.testing.assert_allclose(listener_vectors(heard_UN, track_ND), [[half, half], [1, 0], [0, 0], [0, 0]], rtol=1e-6)


def test_content_is_the_chain_of_levels():
    vector_ND, facts_N, heard_UN = world()
    model = NewReleases.fit(vector_ND, facts_N, heard_UN, 0)
    genre, artist, album = 1, 105, 1017  # artist 5 is of genre 1, its albums are 15, 16 and 17
    estimate = vector_ND.mean(axis=0, dtype=np.float64)
    for level, of_level in (("genre", genre), ("artist", artist), ("album", album)):
        rows = vector_ND[getattr(facts_N, level) == of_level].astype(np.float64)
        assert len(rows)
        estimate = (rows.sum(axis=0) + model.kappa[level] * estimate) / (len(rows) + model.kappa[level])
    np.testing.assert_allclose(model.content(facts([genre], [artist], [album]))[0], estimate, rtol=1e-5)


def test_an_unknown_or_new_level_leaves_the_estimate_above():
    vector_ND, facts_N, heard_UN = world()
    model = NewReleases.fit(vector_ND, facts_N, heard_UN, 0)
    nothing, absent = model.content(facts([-1, 77], [-1, 5], [-1, 7]))
    np.testing.assert_allclose(nothing, vector_ND.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(nothing, absent)
    of_genre, of_debut = model.content(facts([2, 2], [-1, 999], [-1, 99]))
    np.testing.assert_array_equal(of_genre, of_debut)
    rows = vector_ND[facts_N.genre == 2]
    assert squared_error(of_genre[None], rows) < squared_error(nothing[None], rows)


def test_content_and_listeners_are_nearer_to_the_true_vector_than_each_alone():
    vector_ND, facts_N, heard_UN = world(noise=0.8)
    new = facts_N.album % 3 == 0  # one of three albums of each artist
    model, facts_M, heard_UM, truth_MD = split(vector_ND, facts_N, heard_UN, new)
    heard = np.asarray((heard_UM > 0).sum(axis=0)).ravel() > 0
    both = squared_error(model.vectors(facts_M, heard_UM)[heard], truth_MD[heard])
    content = squared_error(model.content(facts_M)[heard], truth_MD[heard])
    listeners = squared_error(model.first_listeners(heard_UM)[heard], truth_MD[heard])
    mean = squared_error(vector_ND[~new].mean(axis=0)[None], truth_MD[heard])
    assert both < 0.97 * content
    assert both < 0.8 * listeners
    assert max(content, listeners) < 0.8 * mean


def with_features(facts_N, vector_ND, noise=0.5, unknown=()):
    """Return the facts with features that are a linear map of the vectors, and noise."""
    rng = np.random.default_rng(9)
    features = vector_ND @ rng.standard_normal((D, 12)) + noise * rng.standard_normal((len(facts_N), 12))
    features[list(unknown)] = np.nan
    return TrackFacts(facts_N.genre, facts_N.artist, facts_N.album, features.astype(np.float32))


def test_features_describe_tracks_of_artists_that_the_space_does_not_contain():
    vector_ND, facts_N, heard_UN = world(noise=0.8)
    new = facts_N.artist % 5 == 0  # all tracks of some artists
    plain, facts_M, heard_UM, truth_MD = split(vector_ND, facts_N, heard_UN, new)
    model, facts_M, _, _ = split(vector_ND, with_features(facts_N, vector_ND), heard_UN, new)
    for estimate in (lambda one: one.content(facts_M), lambda one: one.vectors(facts_M, heard_UM)):
        assert squared_error(estimate(model), truth_MD) < 0.85 * squared_error(estimate(plain), truth_MD)


def test_features_of_noise_do_not_matter():
    vector_ND, facts_N, heard_UN = world()
    rng = np.random.default_rng(1)
    noise = TrackFacts(facts_N.genre, facts_N.artist, facts_N.album, rng.standard_normal((len(facts_N), 12)))
    model, facts_M, _, truth_MD = split(vector_ND, noise, heard_UN, facts_N.album % 3 == 0)
    assert model.kappa["features"] >= 8
    plain = split(vector_ND, facts_N, heard_UN, facts_N.album % 3 == 0)[0]
    assert squared_error(model.content(facts_M), truth_MD) < 1.02 * squared_error(plain.content(facts_M), truth_MD)


def test_tracks_without_features_have_the_estimate_of_the_other_levels():
    vector_ND, facts_N, heard_UN = world()
    some = with_features(facts_N, vector_ND, unknown=range(0, 300, 3))
    model = NewReleases.fit(vector_ND, some, heard_UN, 0)
    rows = np.arange(0, 300, 3)
    without = TrackFacts(facts_N.genre[rows], facts_N.artist[rows], facts_N.album[rows])
    np.testing.assert_array_equal(model.content(some.take(rows)), model.content(without))
    # No track has any: the same as without the column, to the bit.
    nothing = TrackFacts(facts_N.genre, facts_N.artist, facts_N.album, np.full((len(facts_N), 3), np.nan, np.float32))
    a, b = (NewReleases.fit(vector_ND, one, heard_UN, 0) for one in (nothing, facts_N))
    assert a.kappa == b.kappa
    np.testing.assert_array_equal(a.vectors(nothing, heard_UN), b.vectors(facts_N, heard_UN))


def test_without_listeners_content_decides_and_a_listener_without_a_vector_does_not_count():
    vector_ND, facts_N, heard_UN = world()
    silent = csr_array((2, len(facts_N)), dtype=np.float64)
    heard_UN = csr_array(np.concatenate([heard_UN.toarray(), silent.toarray()]))
    model = NewReleases.fit(vector_ND, facts_N, heard_UN, 0)
    new = facts([0, 0], [100, 100], [-1, -1])
    nobody = csr_array((heard_UN.shape[0], 2), dtype=np.float64)
    np.testing.assert_array_equal(model.vectors(new, nobody), model.content(new))
    np.testing.assert_array_equal(model.first_listeners(nobody), np.zeros((2, D)))
    only_silent = streams([[]] * (heard_UN.shape[0] - 2) + [[0], [0, 1]], 2)
    np.testing.assert_array_equal(model.vectors(new, only_silent), model.content(new))
    one = streams([[0]] + [[]] * (heard_UN.shape[0] - 1), 2)
    for artist, album, name in (
        (100, -1, "listeners"),
        (-1, 1000, "listeners"),  # an album of the space
        (999, -1, "listeners, no artist"),
    ):
        new, kappa = facts([0, 0], [artist, artist], [album, album]), model.kappa[name]
        want = (model.first_listeners(one)[0] + kappa * model.content(new)[0]) / (1 + kappa)
        np.testing.assert_allclose(model.vectors(new, one)[0], want, rtol=1e-4, atol=1e-5)
    assert model.first_listeners(one)[0].any()
    assert model.kappa["listeners, no artist"] < model.kappa["listeners"]


def test_tracks_with_a_zero_vector_are_not_learned_from():
    vector_ND, facts_N, heard_UN = world()
    zero = np.arange(len(facts_N)) % 7 == 0
    with_zeros = np.where(zero[:, None], np.float32(0), vector_ND)
    a = NewReleases.fit(with_zeros, facts_N, heard_UN, 1)
    b = NewReleases.fit(vector_ND[~zero], facts_N.take(~zero), heard_UN[:, ~zero], 1)
    new, heard_UM = facts([0], [104], [-1]), heard_UN[:, [3]]
    assert a.kappa == b.kappa
    np.testing.assert_array_equal(a.vectors(new, heard_UM), b.vectors(new, heard_UM))


def test_the_album_of_a_track_is_left_out_of_its_artist():
    """Albums that have nothing in common with the artist's others give an artist no weight."""
    rng = np.random.default_rng(5)
    album = np.repeat(np.arange(60), 6)
    vector_ND = rng.standard_normal((60, D))[album] + 0.01 * rng.standard_normal((len(album), D))
    heard_UN = streams(rng.integers(0, len(album), (50, 5)), len(album))
    model = NewReleases.fit(vector_ND, facts(album % 2, album // 2, album), heard_UN, 0)
    assert model.kappa["artist"] > 16  # by chance, not the largest
    assert model.kappa["album"] == KAPPAS[0]


def test_a_compilation_is_left_out_for_its_own_tracks_of_an_artist_alone():
    rng = np.random.default_rng(6)
    artist = np.repeat(np.arange(30), 4)
    vector_ND = 3 * rng.standard_normal((30, D))[artist] + 0.05 * rng.standard_normal((len(artist), D))
    album = np.where(np.arange(len(artist)) % 4 == 0, 900 + artist // 3, np.arange(len(artist)))  # of three artists
    heard_UN = streams(rng.integers(0, len(artist), (50, 5)), len(artist))
    assert NewReleases.fit(vector_ND, facts(0 * artist, artist, album), heard_UN, 0).kappa["artist"] == KAPPAS[0]


def test_tracks_without_an_album_are_not_one_album():
    rng = np.random.default_rng(7)
    artist = np.repeat(np.arange(30), 4)
    vector_ND = 3 * rng.standard_normal((30, D))[artist] + 0.05 * rng.standard_normal((len(artist), D))
    heard_UN = streams(rng.integers(0, len(artist), (50, 5)), len(artist))
    model = NewReleases.fit(vector_ND, facts(0 * artist, artist, np.full(len(artist), -1)), heard_UN, 0)
    assert model.kappa["artist"] == KAPPAS[0]
    assert model.kappa["album"] == KAPPAS[-1]


def test_the_vector_of_a_held_out_track_is_not_in_the_vectors_of_its_listeners():
    """Streams at random say nothing about a vector, except through the track itself."""
    rng = np.random.default_rng(8)
    n = 400
    vector_ND = rng.standard_normal((n, D))
    heard_UN = streams([rng.choice(n, 3, replace=False) for _ in range(1500)], n)
    one_album_each = facts(np.zeros(n), np.zeros(n), np.arange(n))
    kappa = NewReleases.fit(vector_ND, one_album_each, heard_UN, 0).kappa
    assert min(kappa["listeners"], kappa["listeners, no artist"]) >= KAPPAS[-3]


def test_the_seed_alone_decides():
    vector_ND, facts_N, heard_UN = world()
    a, b = (NewReleases.fit(vector_ND, facts_N, heard_UN, 2) for _ in range(2))
    np.testing.assert_array_equal(
        a.vectors(facts_N.take([0, 9]), heard_UN[:, [0, 9]]), b.vectors(facts_N.take([0, 9]), heard_UN[:, [0, 9]])
    )


def test_a_space_in_which_nobody_streams_held_out_tracks_has_content_alone():
    vector_ND, facts_N, heard_UN = world()
    nobody = csr_array(heard_UN.shape, dtype=np.float64)
    model = NewReleases.fit(vector_ND, facts_N, nobody, 0)
    np.testing.assert_array_equal(model.vectors(facts_N, nobody), model.content(facts_N))


def test_no_new_track_and_few_albums():
    vector_ND, facts_N, heard_UN = world()
    model = NewReleases.fit(vector_ND, facts_N, heard_UN, 0)
    assert model.vectors(facts_N.take([]), heard_UN[:, []]).shape == (0, D)
    four = facts_N.album < 1004
    NewReleases.fit(vector_ND[four], facts_N.take(four), heard_UN[:, four], 0)
    three = facts_N.album < 1003
    with pytest.raises(ValueError, match="at least 4 albums, got 3"):
        NewReleases.fit(vector_ND[three], facts_N.take(three), heard_UN[:, three], 0)


def test_invalid_arguments_are_refused():
    vector_ND, facts_N, heard_UN = world()
    with pytest.raises(ValueError, match="must be flat integer arrays of one length"):
        facts([1, 2], [1], [1])
    with pytest.raises(ValueError, match=r"features of 2 tracks have the shape \(1, 3\)"):
        TrackFacts(*(np.arange(2) for _ in range(3)), np.zeros((1, 3), np.float32))
    with pytest.raises(ValueError, match="must be of the same tracks"):
        NewReleases.fit(vector_ND[1:], facts_N, heard_UN, 0)
    with pytest.raises(ValueError, match="NaN"):
        NewReleases.fit(np.where(vector_ND > 4, np.nan, vector_ND), facts_N, heard_UN, 0)
    with pytest.raises(ValueError, match="2 columns for"):
        listener_vectors(heard_UN[:, :2], vector_ND)
    model = NewReleases.fit(vector_ND, facts_N, heard_UN, 0)
    with pytest.raises(ValueError, match="facts of 1 tracks, 2 columns"):
        model.vectors(facts_N.take([0]), heard_UN[:, :2])
    with pytest.raises(ValueError, match=r"5 listeners, 600 in the fit"):
        model.first_listeners(heard_UN[:5, :2])
