"""ALS on Spark: the kernels' answer whatever the number of blocks; bad input; the job's two tables."""

from copy import copy

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from blockfactor import als_kernels, csr_blocks
from contracts.errors import BadArgument, CheckFailed
from jobs.factorize import als as job
from jobs.platform.list_columns import to_matrix
from jobs.settings.matrix import AlsSettings
from tests.helpers.small_tables import fill_matrix, frame, ratings

SETTINGS = AlsSettings(d=8, iterations=4, cg_steps=3, alpha=5.0, regularisation=2.0, tolerance=0.0)


def fit(spark, x, n_blocks, folder, settings=SETTINGS):
    folder.mkdir()
    packed = csr_blocks.pack(frame(spark, x), "user_track", x.shape, n_blocks, folder, positive=True)
    found = job.train(spark, packed, settings, 3)
    users = np.vstack([found.users(block) for block in packed.blocks])
    return np.array(found.items()), users, found.losses


def test_one_block_and_four_agree_and_the_loss_is_the_loss(spark, tmp_path):
    x = ratings()
    items, users, losses = fit(spark, x, 1, tmp_path / "one")
    items4, users4, losses4 = fit(spark, x, 4, tmp_path / "four")
    np.testing.assert_allclose(losses, losses4, rtol=1e-4)
    np.testing.assert_allclose(items, items4, atol=1e-3)
    np.testing.assert_allclose(users, users4, atol=1e-3)
    whole = als_kernels.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data)
    assert losses[-1] == pytest.approx(als_kernels.loss(whole, users, items, 5.0, 2.0), rel=1e-4)
    assert list(losses) == sorted(losses, reverse=True)


def test_it_stops_when_the_loss_hardly_falls(spark, tmp_path):
    settings = SETTINGS.model_copy(update={"tolerance": 0.5, "iterations": 10})
    assert len(fit(spark, ratings(), 2, tmp_path / "a", settings)[2]) == 2


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ((0, 0, float("nan")), r"user_track: entry \(row 0, column 0\) is nan; it must be finite and above 0"),
        ((3, 2, float("inf")), r"entry \(row 3, column 2\) is inf"),
        ((3, 2, -1.0), r"entry \(row 3, column 2\) is -1"),
        ((60, 0, 1.0), "row index 60 is out of range; allowed are 0 to 59"),
        ((0, 40, 1.0), "column index 40 is out of range; allowed are 0 to 39"),
        ((-1, 0, 1.0), "row index -1 is out of range"),
        ((59, 1, 1.0), r"entry \(row 59, column 1\) comes twice"),
    ],
)
def test_bad_entries_are_refused_by_name(spark, tmp_path, entry, message):
    good = [(59, 1, 1.0), (0, 39, 2.0)]
    data = spark.createDataFrame([*good, entry], "row int, column int, value float")
    with pytest.raises(CheckFailed, match=message):
        csr_blocks.pack(data, "user_track", (60, 40), 3, tmp_path, positive=True)


def test_a_rank_above_the_matrix_is_refused(spark, tmp_path):
    with pytest.raises(BadArgument, match=r"als\.d: 8 factors of a matrix of 5 users by 40 tracks; allowed are 1 to 5"):
        fit(spark, ratings(5), 1, tmp_path / "a")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("d", 0, "greater than 0"),
        ("alpha", -1.0, "greater than 0"),
        ("alpha", float("inf"), "finite"),
        ("alpha", float("nan"), "finite|greater"),
        ("regularisation", -20.0, "greater than 0"),
        ("frequency_exponent", 1.5, "less than or equal to 1"),
        ("cg_steps", 0, "greater than 0"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(field, value, message):
    with pytest.raises(ValidationError, match=rf"(?s){field}.*({message})"):
        AlsSettings(**{field: value})


def test_regularisation_by_frequency_is_the_loss_that_is_told(spark, tmp_path):
    x = ratings().tolil()
    x[:, 7] = 0  # a track without a listener
    x[9] = 0  # a listener without a track
    x = x.tocsr()
    x.eliminate_zeros()
    settings = SETTINGS.model_copy(update={"frequency_exponent": 1.0, "regularisation": 0.3})
    items, users, losses = fit(spark, x, 2, tmp_path / "a", settings)
    whole = als_kernels.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data)
    assert losses[-1] == pytest.approx(als_kernels.loss(whole, users, items, 5.0, 0.3, 1.0), rel=1e-4)
    assert list(losses) == sorted(losses, reverse=True)
    assert np.isfinite(items).all()
    np.testing.assert_array_equal(users[9], 0)


def test_the_spectral_start_is_worth_more_than_noise(spark, tmp_path):
    x = ratings(200, 80)
    packed = csr_blocks.pack(frame(spark, x), "user_track", x.shape, 2, tmp_path, positive=True)
    noise = als_kernels.noise(80, 8, 3) * np.float32(0.1 / np.sqrt(8))
    assert job.train(spark, packed, SETTINGS, 3).losses[1] < job.train(spark, packed, SETTINGS, noise).losses[1]


def test_a_warm_start_takes_last_weeks_tracks_by_id_and_needs_fewer_iterations(spark, context, capsys):
    cold = SETTINGS.model_copy(update={"iterations": 30, "tolerance": 1e-3})
    x = ratings(60, 40)
    last = copy(context)
    last.week = context.week.previous
    last.settings = context.settings.model_copy(update={"als": cold})
    fill_matrix(last, x)
    job.run(last)
    context.settings = context.settings.model_copy(update={"als": cold.model_copy(update={"warm_start": True})})
    fill_matrix(context, x[:, ::-1].tocsr())  # the same tracks, in another order
    catalog = context.lake.read("catalog", week=context.week.name)
    ids = pa.array(np.arange(40)[::-1])
    context.lake.write("catalog", catalog.set_column(1, "track_id", ids), week=context.week.name)
    warm = job.run(context)
    assert warm["iterations"] < job.run(last)["iterations"]
    assert warm["loss"][0] == pytest.approx(job.run(last)["loss"][-1], rel=0.02)
    assert f"40 of 40 tracks start from week {last.week}" in capsys.readouterr().err
    report = context.lake.report("track_vectors", week=context.week.name, space="ut_als")
    assert report["started_from"] == last.week.name


def test_a_warm_start_without_a_last_week_says_so_and_starts_cold(spark, context, capsys):
    settings = SETTINGS.model_copy(update={"warm_start": True})
    context.settings = context.settings.model_copy(update={"als": settings})
    fill_matrix(context, ratings(30, 20))
    job.run(context)
    assert f"no warm start: track_vectors week={context.week.previous} space=ut_als" in capsys.readouterr().err


def test_the_job_writes_both_tables_and_again_the_same(spark, context):
    context.settings = context.settings.model_copy(update={"als": SETTINGS})
    x = ratings(30, 20).tolil()
    x[7] = 0
    x = x.tocsr()
    x.eliminate_zeros()
    fill_matrix(context, x)
    report = job.run(context)
    key = {"week": context.week.name, "space": "ut_als"}
    users = context.lake.read("user_vectors", **key).sort_by("user_idx")
    tracks = context.lake.read("track_vectors", **key)
    assert users.column("user_idx").to_pylist() == list(range(30))
    lengths = np.linalg.norm(to_matrix(users), axis=1)
    empty = np.diff(x.indptr) == 0
    assert empty[7]
    np.testing.assert_allclose(lengths, np.where(empty, 0, 1), rtol=1e-5)
    assert to_matrix(tracks).shape == (20, 8)
    assert len(report["loss"]) == 4
    assert not list((context.home / "scratch").iterdir())
    job.run(context)
    assert context.lake.read("user_vectors", **key).sort_by("user_idx") == users
    assert context.lake.read("track_vectors", **key) == tracks
