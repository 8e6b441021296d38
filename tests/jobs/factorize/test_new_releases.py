"""Vectors of new releases in the weekly factorisations: which rows are estimated, and from whose streams."""

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array

from contracts.errors import CheckFailed
from jobs.factorize import als, svd
from jobs.factorize.new_releases import content_features, sample_streams, with_new_releases
from jobs.platform.list_columns import to_matrix
from jobs.settings.matrix import AlsSettings, NewReleaseSettings, SvdSettings
from models.cold_start.new_releases import NewReleases, TrackFacts
from models.cold_start.top_k import normalise
from tests.helpers.small_tables import fill_matrix, ratings, table

N_USERS, N_TRACKS, N_NEW, MIN_USERS = 60, 40, 4, 5
N_OTHERS = N_TRACKS - N_NEW
GENRES = ("rock", None, "jazz")


@pytest.fixture
def filled(spark, context):
    """A week of 40 tracks: the last four are new releases, of which the last two have too few listeners."""
    x = ratings(N_USERS, N_TRACKS).tolil()
    x[:, N_OTHERS:] = 0
    for track, n_listeners in zip(range(N_OTHERS, N_TRACKS), (12, 8, MIN_USERS - 1, 0), strict=True):
        x[3 : 3 + n_listeners, track] = 1.0
    x = x.tocsr()
    fill_matrix(context, x)
    tracks = np.arange(N_TRACKS)
    catalog = {
        "track_idx": pa.array(tracks, pa.int32()),
        "track_id": 100 + tracks,
        "artist_id": tracks // 4,
        "album_id": tracks // 2,
        "n_listeners": 90 - tracks,
        "is_new": tracks >= N_OTHERS,
    }
    context.lake.write("catalog", pa.table(catalog), week=context.week.name)
    rows = [
        {"track_id": 100 + t, "artist_id": t // 4, "album_id": t // 2, "genre": GENRES[t % 3]} for t in tracks.tolist()
    ]
    context.lake.write("tracks", table("tracks", rows))
    update = {
        "svd": SvdSettings(d=6, oversampling=4),
        "als": AlsSettings(d=6, iterations=2),
        "new_releases": NewReleaseSettings(enabled=True),
        "groups": context.settings.groups.model_copy(update={"min_users": MIN_USERS}),
    }
    context.settings = context.settings.model_copy(update=update)
    return x


def vectors(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((N_TRACKS, 6)) * np.linspace(3, 1, N_TRACKS)[:, None]).astype(np.float32)


def test_rows_of_new_releases_are_those_of_the_model_over_unit_vectors(context, filled):
    vectors_ND = vectors()
    got = with_new_releases(context, "ut_als", vectors_ND)
    np.testing.assert_array_equal(got[:N_OTHERS], vectors_ND[:N_OTHERS])
    heard = filled.toarray() > 0.3
    heard_UN = csr_array(heard[heard.any(axis=1)].astype(np.float32))
    genre = np.array([{"rock": 0, None: -1, "jazz": 1}[GENRES[t % 3]] for t in range(N_TRACKS)])
    facts = TrackFacts(genre, np.arange(N_TRACKS) // 4, np.arange(N_TRACKS) // 2)
    seed = context.seed("new_releases/ut_als")
    unit = normalise(vectors_ND[:N_OTHERS])
    model = NewReleases.fit(unit, facts.take(slice(N_OTHERS)), heard_UN[:, :N_OTHERS], seed)
    new = facts.take(slice(N_OTHERS, None))
    both, content = normalise(model.vectors(new, heard_UN[:, N_OTHERS:])), normalise(model.content(new))
    length = np.linalg.norm(vectors_ND[N_OTHERS - 3 : N_OTHERS], axis=1).mean()  # a tenth of 36 tracks
    np.testing.assert_allclose(got[N_OTHERS : N_OTHERS + 2], length * both[:2], rtol=1e-4, atol=1e-5)
    # Few listeners, and none: content alone. Nobody's vector can be derived from that of a release.
    np.testing.assert_allclose(got[N_OTHERS + 2 :], length * content[2:], rtol=1e-4, atol=1e-5)
    assert not np.allclose(both[0], content[0], atol=1e-3)


def test_features_of_the_tracks_are_used_and_rows_without_them_stay_as_before(context, filled):
    before = with_new_releases(context, "tt_svd", vectors())
    tracks = context.lake.read("tracks").sort_by("track_id")
    rng = np.random.default_rng(4)
    features = (normalise(vectors()) @ rng.standard_normal((6, 9))).tolist()
    features[N_OTHERS + 1] = None  # not given for the second new release
    column = pa.array(features, pa.list_(pa.float32()))
    at = tracks.schema.get_field_index("content_features")
    context.lake.write("tracks", tracks.set_column(at, "content_features", column))
    got = content_features(context, N_TRACKS)
    np.testing.assert_allclose(got[0], features[0], rtol=1e-6)
    assert np.isnan(got).all(axis=1).nonzero()[0].tolist() == [N_OTHERS + 1]
    after = with_new_releases(context, "tt_svd", vectors())
    truth = normalise(vectors()[N_OTHERS:])
    cosine = (normalise(after[N_OTHERS:]) * truth).sum(axis=1)
    assert (cosine > (normalise(before[N_OTHERS:]) * truth).sum(axis=1))[[0, 2, 3]].all()
    features[3] = [1.0]
    column = pa.array(features, pa.list_(pa.float32()))
    context.lake.write("tracks", tracks.set_column(at, "content_features", column))
    with pytest.raises(CheckFailed, match="tracks: column 'content_features': vectors of different lengths, 1 to 9"):
        with_new_releases(context, "tt_svd", vectors())


def test_the_vectors_that_a_factorisation_gives_new_releases_are_not_used(context, filled):
    poisoned = vectors()
    poisoned[N_OTHERS:] = 1e6
    np.testing.assert_array_equal(
        with_new_releases(context, "tt_svd", vectors()), with_new_releases(context, "tt_svd", poisoned)
    )


def test_without_new_releases_the_vectors_stay_as_they_are(context, filled):
    catalog = context.lake.read("catalog", week=context.week.name)
    for is_new in (pa.array([False] * N_TRACKS), pa.nulls(N_TRACKS, pa.bool_())):
        context.lake.write("catalog", catalog.set_column(5, "is_new", is_new), week=context.week.name)
        vectors_ND = vectors()
        assert with_new_releases(context, "tt_svd", vectors_ND) is vectors_ND


def test_the_sample_has_the_first_listeners_and_is_bounded(context, filled):
    heard = filled.toarray() > 0.3
    first = heard[:, N_OTHERS:].any(axis=1).sum()
    for most in (first, first + 10):
        new_releases = context.settings.new_releases.model_copy(update={"max_listeners": int(most)})
        context.settings = context.settings.model_copy(update={"new_releases": new_releases})
        sample = sample_streams(context, N_OTHERS, N_TRACKS, 1)
        assert sample.shape == (most, N_TRACKS)
        np.testing.assert_array_equal(sample[:, N_OTHERS:].sum(axis=0), heard[:, N_OTHERS:].sum(axis=0))
        rows = {row.tobytes() for row in heard}
        assert all((row > 0).tobytes() in rows for row in sample.toarray())


@pytest.mark.parametrize("job", [svd, als])
def test_both_factorisations_write_the_estimates(context, filled, job):
    rng = np.random.default_rng(2)
    dense = np.triu(rng.random((N_OTHERS, N_OTHERS)), 1)  # no new release has a pair
    i, j = np.nonzero(dense > 0.6)
    columns = [*(pa.array(a, pa.int32()) for a in (i, j, np.full(len(i), 2))), pa.array(dense[i, j], pa.float32())]
    pairs = pa.table(columns, ["track_idx_i", "track_idx_j", "n_together", "pmi"])
    context.lake.write("track_pairs", pairs, week=context.week.name)
    job.run(context)
    key = {"week": context.week.name, "space": job.SPACE}
    first = context.lake.read("track_vectors", **key)
    vectors_ND = to_matrix(first.sort_by("track_idx"))
    lengths = np.linalg.norm(vectors_ND, axis=1)
    assert (lengths[N_OTHERS:] > 0).all()
    np.testing.assert_allclose(lengths[N_OTHERS:], lengths[N_OTHERS - 3 : N_OTHERS].mean(), rtol=1e-4)
    job.run(context)
    assert context.lake.read("track_vectors", **key) == first


def test_too_few_albums_name_table_and_setting(context, filled):
    catalog = context.lake.read("catalog", week=context.week.name)
    one_album = pa.array(np.zeros(N_TRACKS, np.int64))
    context.lake.write("catalog", catalog.set_column(3, "album_id", one_album), week=context.week.name)
    with pytest.raises(CheckFailed, match=r"track_vectors: tt_svd: .* at least 4 albums, got 1; disable new_releases"):
        with_new_releases(context, "tt_svd", vectors())
