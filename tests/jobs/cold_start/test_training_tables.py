"""Features, demographics, slices and training data of a week of three users, calculated by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed
from jobs.cold_start import evaluate, features, train
from jobs.cold_start.segment_cards import warm_demographics
from jobs.platform.context import Context
from jobs.platform.list_columns import to_list_column
from jobs.platform.week import Week
from jobs.settings.settings import Settings
from models.cold_start.input_vector import FirstDays
from models.cold_start.ragged import Ragged

SPACE, WEEK = "tt_svd", "2026-11-16"
WARM = {"user_idx": [2, 0, 1], "user_id": [30, 10, 20]}  # rows in no order
VECTORS = {0: [1.0, 0.0], 1: [0.0, 1.0], 2: [0.0, 0.0]}
USERS = [
    {"user_id": 10, "country": "FR", "age": 20},
    {"user_id": 20, "country": "FR", "age": None},
    {"user_id": 40, "country": "BR", "age": 60},  # not warm; user 30 has left
]


@pytest.fixture
def context(tmp_path) -> Context:
    """Return a week of three warm users with two catalogue tracks."""
    settings = Settings.model_validate(
        {"name": "t", "week": WEEK, "svd": {"d": 2}, "groups": {"min_users": 1, "prior_users": 1}}
    )
    made = Context(settings, Week.parse(WEEK), tmp_path)
    lake, of_space = made.lake, {"week": WEEK, "space": SPACE}
    registered = np.datetime64("2026-01-01", "us").item()
    users = [row | {"registered_at": registered} for row in USERS]
    schema = arrow_schema(contracts.load("users"), optional=False)
    lake.write("users", pa.Table.from_pylist(users, schema=schema.remove_metadata()))
    lake.write("warm_users", pa.table({**ints(WARM), "n_tracks": pa.array([9, 9, 9], pa.int32())}), week=WEEK)
    vectors = pa.table(
        {
            "user_idx": pa.array([1, 2, 0], pa.int32()),
            "vector": to_list_column(np.array([VECTORS[i] for i in (1, 2, 0)], np.float32)),
        }
    )
    lake.write("user_vectors", vectors, **of_space)
    return made


def ints(columns: dict[str, list[int]]) -> dict[str, pa.Array]:
    return {name: pa.array(v, pa.int32() if name.endswith("idx") else pa.int64()) for name, v in columns.items()}


def write_features(context: Context, user_ids: list[int]) -> None:
    x = np.tile(np.array(user_ids, np.float32)[:, None], (1, 59))
    rows = pa.table({"user_id": pa.array(user_ids, pa.int64()), "x": to_list_column(x)})
    context.lake.write("features", rows, week=WEEK, space=SPACE, split="train")


def test_means_of_groups():
    vectors = np.array([[1, 2], [3, 4], [5, 8]], np.float32)
    ids, mean = features.means(np.array([7, 5, 7]), np.array([0, 1, 2]), vectors)
    assert ids.tolist() == [5, 7]
    assert mean.tolist() == [[3, 4], [3, 5]]
    names, mean = features.means(np.array(["b", "a", "b", "b"]), np.array([0, 0, 0, 2]), vectors)
    assert names.tolist() == ["a", "b"]  # a member that occurs twice counts twice
    np.testing.assert_allclose(mean, [[1, 2], [7 / 3, 4]])


def test_demographics_of_warm_users_by_user_idx(context):
    people = warm_demographics(context)
    assert people.country.tolist() == ["FR", "FR", None]
    assert people.age_class.tolist() == ["18-24", None, None]


def add_streams(context: Context) -> None:
    columns = {"track_idx": [0, 1], "track_id": [5, 6], "artist_id": [1, 1], "album_id": [1, 1]}
    context.lake.write("catalog", pa.table({**ints(columns), "n_listeners": pa.array([3, 1], pa.int64())}), week=WEEK)
    rows = [(0, 1, 2), (1, 1, 1), (1, 0, 0), (2, 0, 3)]  # user, track, streams: one track was skipped only
    schema = arrow_schema(contracts.load("user_track"))
    empty = {field.name: 0 for field in schema}
    made = [empty | {"user_idx": u, "track_idx": t, "n_streams": n} for u, t, n in rows]
    context.lake.write("user_track", pa.Table.from_pylist(made, schema=schema), week=WEEK)


def test_demographic_vectors_and_rankings(context):
    add_streams(context)
    demographics = features.demographic_vectors(context, SPACE)
    assert {name: vector.tolist() for name, vector in demographics.country.items()} == {"FR": [0.5, 0.5]}
    assert demographics.age_class.tolist() == [[0, 0], [1, 0], [0, 0], [0, 0], [0, 0]]
    rows = context.lake.read("demographic_vectors", week=WEEK, space=SPACE).to_pylist()
    assert [(r["kind"], r["name"], r["n_users"], r["vector"]) for r in rows] == [
        ("country", "FR", 2, [0.5, 0.5]),
        ("age_class", "18-24", 1, [1, 0]),
        ("country_age", "FR/18-24", 1, [1, 0]),
    ]
    rankings = context.lake.read("demographic_rankings", week=WEEK, space=SPACE).to_pylist()
    assert {(r["kind"], r["name"]): r["ranking"] for r in rankings} == {
        ("country", "FR"): [1, 0],
        ("age_class", "18-24"): [1, 0],
        ("country_age", "FR/18-24"): [1, 0],
    }


def test_groups_of_few_users_have_no_vector_and_no_ranking(context):
    add_streams(context)
    settings = context.settings.model_copy(
        update={"groups": context.settings.groups.model_copy(update={"min_users": 2})}
    )
    demographics = features.demographic_vectors(Context(settings, context.week, context.home), SPACE)
    assert list(demographics.country) == ["FR"]
    assert not demographics.age_class.any()
    rows = context.lake.read("demographic_vectors", week=WEEK, space=SPACE).to_pylist()
    assert [(r["kind"], r["name"], r["n_users"]) for r in rows] == [("country", "FR", 2)]
    assert context.lake.rows("demographic_rankings", week=WEEK, space=SPACE) == 1
    settings = settings.model_copy(update={"groups": settings.groups.model_copy(update={"min_users": 3})})
    assert features.demographic_vectors(Context(settings, context.week, context.home), SPACE).country == {}
    assert context.lake.rows("demographic_rankings", week=WEEK, space=SPACE) == 0


def test_training_set_pairs_by_user_id_and_leaves_out_zero_vectors(context):
    write_features(context, [20, 30, 10])
    x, y = train.training_set(context, SPACE)
    assert x[:, 0].tolist() == [20, 10]
    assert y.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("user_ids", "message"), [([10, 20, 99], "1 of 3 training users are not warm"), ([], "0 of 0")]
)
def test_training_set_of_other_users_raises(context, user_ids, message):
    write_features(context, user_ids)
    with pytest.raises(CheckFailed, match=message):
        train.training_set(context, SPACE)


def test_slices():
    streams = Ragged.from_lists([[1, 2], [], []])
    bans = Ragged.from_lists([[], [], [3]])
    days = FirstDays(
        np.array(["FR", None, "BR"], object), np.array([17, 18, -1]), {"streamed_songs": streams, "banned_songs": bans}
    )
    got = {name: mask.tolist() for name, mask in evaluate.slices(days).items()}
    t, f = True, False
    assert got == {
        "all": [t, t, t],
        "interactions=none": [f, t, f],
        "interactions=some": [t, f, t],
        "country=FR": [t, f, f],
        "country=BR": [f, f, t],
        "country=unknown": [f, t, f],
        "age=under 18": [t, f, f],
        "age=18-24": [f, t, f],
        "age=25-34": [f, f, f],
        "age=35-49": [f, f, f],
        "age=50+": [f, f, f],
        "age=unknown": [f, f, t],
    }


def test_slices_of_the_largest_countries_only_and_of_nobody():
    names = [f"{a}{b}" for a in "AB" for b in "ABC"] + ["AA"]
    days = FirstDays(np.array(names, object), np.full(7, 30), {})
    countries = [name for name in evaluate.slices(days) if name.startswith("country=")]
    assert countries == ["country=AA", "country=AB", "country=AC", "country=BA", "country=BB", "country=unknown"]
    nobody = evaluate.slices(FirstDays(np.empty(0, object), np.empty(0, np.int64), {}))
    assert all(mask.shape == (0,) for mask in nobody.values())
