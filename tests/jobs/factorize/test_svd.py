"""The weekly SVD job: the two tables, and error messages that contain table and setting."""

from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.factorize import svd as job
from jobs.platform.list_columns import to_matrix
from jobs.settings.matrix import SvdSettings
from tests.helpers.small_tables import fill_matrix, ratings


def test_the_job_writes_unit_track_vectors_and_mean_user_vectors(spark, context):
    context.settings = context.settings.model_copy(update={"svd": SvdSettings(d=6, oversampling=4)})
    x = ratings(30, 20)
    fill_matrix(context, x)
    week = context.week.name
    dense = np.triu(np.random.default_rng(1).random((20, 20)), 1)
    dense[dense < 0.6] = 0
    dense[4] = dense[:, 4] = 0
    i, j = np.nonzero(dense)
    columns = [*(pa.array(a, pa.int32()) for a in (i, j, np.full(len(i), 2))), pa.array(dense[i, j], pa.float32())]
    context.lake.write("track_pairs", pa.table(columns, ["track_idx_i", "track_idx_j", "n_together", "pmi"]), week=week)
    report = job.run(context)

    key = {"week": week, "space": "tt_svd"}
    tracks = to_matrix(context.lake.read("track_vectors", **key))
    lengths = np.linalg.norm(tracks, axis=1)
    np.testing.assert_allclose(np.delete(lengths, 4), 1, rtol=1e-5)
    assert lengths[4] == 0
    assert report["tracks_without_a_pair"] == 1
    users = context.lake.read("user_vectors", **key).sort_by("user_idx")
    streamed = (x.toarray() > 0.3).astype(float)
    mean = streamed @ tracks
    length = np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(to_matrix(users), mean / np.where(length > 0, length, 1), atol=1e-5)
    job.run(context)
    assert context.lake.read("user_vectors", **key).sort_by("user_idx") == users
    np.testing.assert_array_equal(to_matrix(context.lake.read("track_vectors", **key)), tracks)


def test_missing_pairs_raise_check_failed(spark, context):
    fill_matrix(context, ratings(30, 20))
    with pytest.raises(CheckFailed, match=r"track_pairs: .* has not been written"):
        job.run(context)


def test_the_librarys_defaults_are_not_used():
    settings = SvdSettings(d=3, oversampling=4, power_iterations=1)
    parameters = asdict(job.svd_parameters(settings))
    assert parameters == {name: getattr(settings, name) for name in parameters}
    assert {*parameters, "exponent"} == set(SvdSettings.model_fields)


def test_a_rank_above_the_matrix_raises_bad_argument(spark, context):
    context.settings = context.settings.model_copy(update={"svd": SvdSettings(d=21)})
    fill_matrix(context, ratings(30, 20))
    pairs = {"track_idx_i": [0], "track_idx_j": [1], "n_together": [2]}
    columns = {name: pa.array(values, pa.int32()) for name, values in pairs.items()}
    table = pa.table({**columns, "pmi": pa.array([0.5], pa.float32())})
    context.lake.write("track_pairs", table, week=context.week.name)
    with pytest.raises(BadArgument, match=r"svd\.d: rank 21 of a matrix of 20 x 20; allowed are 1 to 20"):
        job.run(context)
