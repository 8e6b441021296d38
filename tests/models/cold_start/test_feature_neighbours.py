"""Test the nearest tracks by features: which tracks count, own albums, unknown features, and the sample."""

import numpy as np
import pytest

from models.cold_start import feature_neighbours
from models.cold_start.feature_neighbours import NEAREST, FeatureNeighbours


@pytest.fixture
def two_styles():
    """60 tracks of two styles: vectors that count them, features around two opposite directions, albums of six."""
    rng = np.random.default_rng(0)
    style = np.arange(60) % 2
    vector_ND = np.eye(2)[style]
    features_NF = (np.where(style, 3, -3)[:, None] + rng.standard_normal((60, 8))).astype(np.float32)
    return vector_ND, features_NF, np.arange(60) // 6


def test_sums_are_those_of_the_nearest_tracks(two_styles):
    vector_ND, features_NF, _ = two_styles
    near = FeatureNeighbours(*two_styles)
    sum_MD, count_M = near.of(features_NF[:4] * 1.1, 4)
    np.testing.assert_array_equal(count_M, np.full(4, NEAREST))
    np.testing.assert_array_equal(sum_MD, NEAREST * vector_ND[:4])
    centred = features_NF - features_NF.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1)[:, None]
    spread = FeatureNeighbours(np.eye(60), features_NF, two_styles[2])
    expected = np.argsort(-(unit @ unit[7]))[:NEAREST]
    np.testing.assert_array_equal(np.flatnonzero(spread.of(features_NF[7:8], 1)[0][0]), np.sort(expected))


def test_tracks_of_the_own_album_do_not_count(two_styles):
    _, features_NF, album_N = two_styles
    near = FeatureNeighbours(np.eye(60), features_NF, album_N)
    sum_ND, count_N, is_complete_N = near.of_sample(0)
    assert is_complete_N.all()
    assert (count_N == NEAREST).all()
    same_album = album_N[:, None] == album_N
    assert not sum_ND[same_album].any()


def test_a_track_without_features_is_no_neighbour_and_has_none(two_styles):
    _, features_NF, album_N = two_styles
    features_NF[:50] = np.nan
    near = FeatureNeighbours(np.eye(60), features_NF, album_N)
    sum_ND, count_N, _ = near.of_sample(0)
    assert not sum_ND[:50].any()
    assert not count_N[:50].any()
    assert not sum_ND[:, :50].any()
    np.testing.assert_array_equal(count_N[50:], [6, 6, 6, 6, 4, 4, 4, 4, 4, 4])  # albums of 4 and of 6 tracks
    for nobody in (features_NF * np.nan, None):
        for sums, counts in (
            near.of(nobody, 60),
            FeatureNeighbours(np.eye(60), nobody, album_N).of(features_NF, 60),
            FeatureNeighbours(np.eye(60), nobody, album_N).of_sample(0)[:2],
        ):
            assert not sums.any()
            assert not counts.any()


def test_a_large_catalogue_is_sampled(two_styles, monkeypatch):
    monkeypatch.setattr(feature_neighbours, "MAX_SEARCHES", 10)
    vector_ND, features_NF, album_N = two_styles
    features_NF[:5] = np.nan
    near = FeatureNeighbours(vector_ND, features_NF, album_N)
    _, count_N, is_complete_N = near.of_sample(3)
    assert (count_N > 0).sum() == 10
    np.testing.assert_array_equal(is_complete_N, (count_N > 0) | (np.arange(60) < 5))
    np.testing.assert_array_equal(count_N, near.of_sample(3)[1])
    assert (near.of_sample(4)[1] != count_N).any()


def test_features_of_another_width_are_refused(two_styles):
    with pytest.raises(ValueError, match="3 values of a track, 8 of the tracks of the space"):
        FeatureNeighbours(*two_styles).of(np.zeros((2, 3), np.float32), 2)
