"""Tests of the commands with bad plays: exit code 3, one line that names file and column, and nothing written."""

import shutil

import numpy as np
import pytest
import yaml

from jobs.platform.lake import Lake
from jobs.release import pointer
from tests.helpers import skip_week
from tests.helpers.skip_tables import NAMES, VALID, write_rows

DAY_S = 86_400
pytestmark = pytest.mark.usefixtures("spark")


@pytest.fixture
def overture(home, command, tmp_path, monkeypatch):
    """Return a function that runs a command with small settings: its exit code and last line of stderr."""
    settings = {"name": "small", "week": "2016-12-05", "skip": {**skip_week.SMALL, "models": list(skip_week.MODELS)}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    monkeypatch.setenv("OVERTURE_CONFIG", str(tmp_path / "small.yaml"))

    def run(*arguments, **skip):
        (tmp_path / "small.yaml").write_text(yaml.safe_dump({**settings, "skip": {**settings["skip"], **skip}}))
        code, _, err = command(*arguments)
        assert "Traceback" not in err
        return code, err

    return run


def plays_of_users(n=60, **columns):
    """Return plays of n users, an hour apart, every third skipped."""
    return [
        {
            "ts_listen": VALID["ts_listen"] + 3600 * i,
            "user_id": i,
            "is_listened": int(i % 3 > 0),
            **{name: values[i] for name, values in columns.items()},
        }
        for i in range(n)
    ]


BAD_FILES = {
    "a column is missing": (
        "train.csv",
        plays_of_users(),
        [n for n in NAMES if n != "media_id"],
        "'media_id' is missing",
    ),
    "a column is there twice": ("train.csv", plays_of_users(), (*NAMES, "user_id"), "column 'user_id' is repeated"),
    "a label is neither 0 nor 1": (
        "train.csv",
        plays_of_users(is_listened=[2] * 60),
        NAMES,
        "60 of 60 rows cannot be used",
    ),
    "rows to judge have labels": ("test.csv", plays_of_users(), ("sample_id", *NAMES), "has the column 'is_listened'"),
    "a category is no number": (
        "train.csv",
        plays_of_users(context_type=["radio"] * 60),
        NAMES,
        "context_type is not an integer: 60",
    ),
    "a category is negative": (
        "train.csv",
        plays_of_users(platform_name=[-1] * 60),
        NAMES,
        "platform_name is negative: 60",
    ),
    "times are milliseconds": (
        "train.csv",
        plays_of_users(ts_listen=[1_478_000_000_000 + i for i in range(60)]),
        NAMES,
        "column 'ts_listen' contains milliseconds",
    ),
    "there are no rows": ("train.csv", [], NAMES, "the file has no rows"),
}


@pytest.mark.parametrize("what", BAD_FILES)
def test_ingest_of_a_bad_file_raises_and_writes_nothing(overture, home, tmp_path, what):
    name, rows, names, message = BAD_FILES[what]
    data = tmp_path / "data"
    data.mkdir()
    write_rows(data / "train.csv", plays_of_users())
    write_rows(data / name, rows, names)
    code, err = overture("ingest", "dsg17", "--data", data)
    assert code == 3, err
    assert str(data / name) in err
    assert message in err
    assert not Lake(str(home / "lake")).partitions("plays")


def ingested(overture, tmp_path, rows):
    write_rows(tmp_path / "train.csv", rows)
    for arguments in (("ingest", "dsg17", "--data", tmp_path), ("skip", "features")):
        code, err = overture(*arguments)
        assert code == 0, err


def train(overture, model="logistic_features", **skip):
    return overture("skip", "train", "--model", model, "--week", "2016-12-05", **skip)


@pytest.mark.parametrize(("label", "what"), [(1, "listened to"), (0, "skipped")])
def test_training_on_plays_of_one_class_raises(overture, tmp_path, label, what):
    ingested(overture, tmp_path, plays_of_users(is_listened=[label] * 60))
    code, err = train(overture)
    assert code == 3
    assert f"training plays were {what}; a model needs plays of both classes" in err


def test_users_with_one_row_can_be_trained_on_but_not_split_by_user(overture, tmp_path):
    ingested(overture, tmp_path, plays_of_users(300))
    code, err = train(overture)
    assert code == 0, err
    code, err = train(overture, split={"kind": "user"})
    assert code == 3
    assert "split user leaves a part without plays" in err


def test_plays_with_unseen_categories_are_predicted(overture, tmp_path):
    late = np.arange(300) >= 250  # all test plays and some validation plays
    columns = {name: np.where(late, 77, 1).tolist() for name in ("context_type", "platform_name", "platform_family")}
    ingested(overture, tmp_path, plays_of_users(300, **columns, genre_id=np.where(late, 99_999, 7).tolist()))
    for model in ("logistic_features", "boosted_trees", "session_gru"):
        code, err = train(overture, model)
        assert code == 0, err


def test_daily_update_of_an_empty_day_raises(overture, home, skip_week_home):
    shutil.copytree(skip_week_home, home)
    before, lake = pointer.read(home / "skip"), Lake(str(home / "lake"))
    rows = lake.read("plays", day=skip_week.DAY)
    lake.write("plays", rows.slice(0, 0), day=skip_week.DAY)
    code, err = overture("skip", "update", "--day", skip_week.DAY)
    assert code == 3
    assert f"skip update: {skip_week.DAY} has no labelled plays" in err
    lake.drop("plays", day=skip_week.DAY)
    code, err = overture("skip", "update", "--day", skip_week.DAY)
    assert code == 3
    assert f"plays: day={skip_week.DAY} has not been written; ingest the day first" in err
    code, err = overture("skip", "features", "--day", skip_week.DAY)
    assert code == 3
    assert f"plays: no day from {skip_week.DAY} to {skip_week.DAY}; the table has" in err
    assert pointer.read(home / "skip") == before
