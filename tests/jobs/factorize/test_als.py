"""The weekly ALS job: settings, warm start, the two tables, and error messages that contain table and setting."""

from copy import copy
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from contracts.errors import BadArgument, CheckFailed
from jobs.factorize import als as job
from jobs.platform.list_columns import to_matrix
from jobs.settings.matrix import AlsSettings
from tests.helpers.small_tables import fill_matrix, ratings

SETTINGS = AlsSettings(d=8, iterations=4, cg_steps=3, alpha=5.0, regularisation=2.0, tolerance=0.0)


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
def test_a_setting_out_of_range_raises(field, value, message):
    with pytest.raises(ValidationError, match=rf"(?s){field}.*({message})"):
        AlsSettings(**{field: value})


def test_a_warm_start_matches_tracks_by_id_and_needs_fewer_iterations(spark, context, capsys):
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


def test_a_warm_start_without_last_week_logs_the_reason_and_starts_from_the_seed(spark, context, capsys):
    settings = SETTINGS.model_copy(update={"warm_start": True})
    context.settings = context.settings.model_copy(update={"als": settings})
    fill_matrix(context, ratings(30, 20))
    job.run(context)
    assert f"no warm start: track_vectors week={context.week.previous} space=ut_als" in capsys.readouterr().err


def test_the_job_writes_both_tables_and_a_second_run_writes_equal_rows(spark, context):
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


def test_the_librarys_defaults_are_not_used():
    settings = AlsSettings(d=3, iterations=2, cg_steps=1, alpha=4.0, regularisation=5.0, frequency_exponent=0.5)
    parameters = asdict(job.als_parameters(settings))
    assert parameters == {name: getattr(settings, name) for name in parameters}
    assert {*parameters, "warm_start"} == set(AlsSettings.model_fields)


def test_a_rank_above_the_matrix_raises_bad_argument(spark, context):
    context.settings = context.settings.model_copy(update={"als": SETTINGS})
    fill_matrix(context, ratings(5))
    with pytest.raises(BadArgument, match=r"als\.d: 8 factors of a matrix of 5 users by 40 items; allowed are 1 to 5"):
        job.run(context)


def test_an_invalid_affinity_raises_check_failed(spark, context):
    x = ratings(30, 20)
    x.data[3] = -1
    fill_matrix(context, x)
    with pytest.raises(CheckFailed, match=r"user_track: entry \(row .*\) is -1.0; it must be finite and above 0"):
        job.run(context)
