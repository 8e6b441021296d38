"""ALS on Spark: the kernels' answer whatever the number of blocks; bad input; the job's two tables."""

import numpy as np
import pytest

from jobs.errors import BadArgument, CheckFailed
from jobs.factorize import als as job
from jobs.factorize import blocks
from jobs.lake import vectors
from jobs.settings import AlsSettings
from models import als
from tests.jobs.small_world import fill_matrix, frame, ratings

SETTINGS = AlsSettings(d=8, iterations=4, cg_steps=3, alpha=5.0, regularisation=2.0, tolerance=0.0)


def fit(spark, x, n_blocks, folder, settings=SETTINGS):
    folder.mkdir()
    packed = blocks.pack(frame(spark, x), "user_track", x.shape, n_blocks, folder, positive=True)
    start = als.first_factors(x.shape[1], settings.d, seed=3)
    found = job.train(spark, packed, settings, start)
    users = np.vstack([found.users(block) for block in packed.blocks])
    return np.array(found.items()), users, found.losses


def test_one_block_and_four_agree_and_the_loss_is_the_loss(spark, tmp_path):
    x = ratings()
    items, users, losses = fit(spark, x, 1, tmp_path / "one")
    items4, users4, losses4 = fit(spark, x, 4, tmp_path / "four")
    np.testing.assert_allclose(losses, losses4, rtol=1e-4)
    np.testing.assert_allclose(items, items4, atol=1e-3)
    np.testing.assert_allclose(users, users4, atol=1e-3)
    whole = als.Ratings(x.indptr.astype(np.int64), x.indices.astype(np.int32), x.data)
    assert losses[-1] == pytest.approx(als.loss(whole, users, items, 5.0, 2.0), rel=1e-4)
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
        blocks.pack(data, "user_track", (60, 40), 3, tmp_path, positive=True)


def test_a_rank_above_the_matrix_is_refused(spark, tmp_path):
    with pytest.raises(BadArgument, match=r"als\.d: 8 factors of a matrix of 5 users by 40 tracks; allowed are 1 to 5"):
        fit(spark, ratings(5), 1, tmp_path / "a")


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
    lengths = np.linalg.norm(vectors(users), axis=1)
    empty = np.diff(x.indptr) == 0
    assert empty[7]
    np.testing.assert_allclose(lengths, np.where(empty, 0, 1), rtol=1e-5)
    assert vectors(tracks).shape == (20, 8)
    assert len(report["loss"]) == 4
    assert not list((context.home / "scratch").iterdir())
    job.run(context)
    assert context.lake.read("user_vectors", **key).sort_by("user_idx") == users
    assert context.lake.read("track_vectors", **key) == tracks
