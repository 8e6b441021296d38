"""Test bad input at the command line: an error that names the problem, the documented exit code, no lost data."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.platform.context import Context
from tests.helpers.one_week import TINY

WEEK = ["--week", "2026-11-16"]
CHECK = ["check", "users", "tracks", "events", "playlists", *WEEK]
DAY = "2026-11-10"


@pytest.fixture
def damaged_week(copied, monkeypatch, spark) -> Context:
    """Copy of a finished week that a test may damage."""
    monkeypatch.setenv("OVERTURE_CONFIG", str(TINY))
    return copied


@pytest.fixture
def overture(command):
    """Run a command; return the exit code and the combined output."""

    def run(*arguments: str) -> tuple[int, str]:
        code, out, err = command(*arguments)
        return code, out + err

    return run


def replace(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    values = table.column(column).to_pylist()
    values[row] = value
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(column), pa.array(values, table.schema.field(column).type))


def change_users(column: str, value: object):
    def damage(context: Context) -> None:
        context.lake.write("users", replace(context.lake.read("users"), column, 0, value))

    return damage


def duplicate_event(context: Context) -> None:
    events = context.lake.read("events", day=DAY)
    context.lake.write("events", pa.concat_tables([events, events.slice(0, 1)]), day=DAY)


def future_event(context: Context) -> None:
    events = context.lake.read("events", day=DAY)
    future = datetime(2027, 3, 1, tzinfo=UTC) + timedelta(hours=1)
    context.lake.write("events", replace(events, "ts", 0, future), day=DAY)


def unknown_track(context: Context) -> None:
    events = context.lake.read("events", day=DAY)
    row = pc.index(events["entity"], "track").as_py()
    context.lake.write("events", replace(events, "entity_id", row, 987654321987), day=DAY)


def missing_column(context: Context) -> None:
    import pyarrow.parquet as pq

    file = Path(context.lake.files("tracks")[0])
    pq.write_table(pq.ParquetFile(file).read().drop_columns("album_id"), file)


def truncated_file(context: Context) -> None:
    file = Path(context.lake.files("tracks")[0])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty_week(context: Context) -> None:
    for partition in context.lake.partitions("events"):
        context.lake.drop("events", **partition)


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (change_users("country", "XX"), ("users", "country", "XX")),
        (change_users("age", 400), ("users", "age", "400")),
        (duplicate_event, ("events", "user_id, ts, kind, entity, entity_id")),
        (future_event, ("events", "ts", "2027-03-01")),
        (missing_column, ("tracks", "album_id", ".parquet")),
        (truncated_file, ("tracks", ".parquet")),
        (empty_week, ("events",)),
    ],
    ids=["country", "age", "duplicate", "future", "missing column", "truncated", "empty week"],
)
def test_bad_data_fails_the_check_and_keeps_the_champion(damaged_week, overture, damage, named):
    before = (damaged_week.home / "releases" / "champion.json").read_bytes()
    damage(damaged_week)
    code, output = overture(*CHECK)
    assert code == 3, output
    for word in named:
        assert word in output
    assert "Traceback" not in output
    assert (damaged_week.home / "releases" / "champion.json").read_bytes() == before


def test_one_event_of_an_unknown_track_is_a_warning(damaged_week, overture):
    unknown_track(damaged_week)
    code, output = overture(*CHECK)
    assert code == 0, output
    for word in ("events", "entity_id", "987654321987"):
        assert word in output


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["matrix", "catalog", "--week", "2026-11-18"], "2026-11-18 is a Wednesday"),
        (["matrix", "catalog", "--week", "2026-02-30"], "'2026-02-30' is not a date"),
        (["segments", "--space", "tt_als", *WEEK], "unknown space 'tt_als'; choose tt_svd or ut_als"),
        (["ingest", "spotify"], "unknown source 'spotify'"),
        (["ingest", "mpd", "--data", "nowhere"], "needs the folder"),
        (["check", "listens", *WEEK], "listens"),
        (["begin", "--config", "nowhere.yaml", *WEEK], "no such file nowhere.yaml"),
        (["release", "promote"], "--week"),
    ],
)
def test_bad_arguments_exit_with_code_2(damaged_week, overture, arguments, named):
    code, output = overture(*arguments)
    assert code == 2, output
    assert named in output
    assert "Traceback" not in output


def test_unavailable_mlflow_is_reported_and_keeps_the_champion(damaged_week, overture):
    before = (damaged_week.home / "releases" / "champion.json").read_bytes()
    database = damaged_week.home / "mlflow" / "mlflow.db"
    database.unlink()
    database.mkdir()
    code, output = overture("release", "promote", *WEEK)
    assert code == 1, output
    assert "MLflow" in output
    assert (damaged_week.home / "releases" / "champion.json").read_bytes() == before
    code, output = overture("status")
    assert code == 0, output
    assert "semi" in output


def test_missing_java_is_reported_in_one_line(damaged_week, overture, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    code, output = overture("matrix", "catalog", *WEEK)
    assert code == 1, output
    assert "Java" in output
    assert "JAVA_HOME" in output


def test_week_without_events_fails_in_the_matrix_job(damaged_week, overture):
    empty_week(damaged_week)
    code, output = overture("matrix", "catalog", *WEEK)
    assert code == 3, output
    assert "2026-11-16" in output
