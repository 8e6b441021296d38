"""Test the source `tables` over a real PostgreSQL server, with its own JDBC driver, by the command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import yaml

from contracts.errors import OvertureError
from jobs.local.maven import copy_jars, file_name
from jobs.local.processes import free_port
from jobs.platform.lake import Lake
from tests.helpers.postgres_server import PASSWORD, PostgresServer

DRIVER = "org.postgresql:postgresql:42.7.7"
ANN, BOB = "6f1e0c52-5a3b-4a52-9d3e-0b8f6f3c1a01", "0c4e5ad2-66de-4b55-8f5a-2e9b9d7c1b02"
SCHEMA = f"""
CREATE TABLE accounts (id uuid PRIMARY KEY, country text, birth_year int, created timestamptz);
INSERT INTO accounts VALUES ('{ANN}', 'de', 1990, '2026-11-01 10:00:00+01'), ('{BOB}', 'xk', 2001, '2026-11-14 23:30Z');
CREATE TABLE songs (id bigint, artist bigint, title text, markets text[], explicit boolean);
INSERT INTO songs VALUES (1, 7, 'Größe', ARRAY['DE', 'XK'], false), (2, 7, 'Two', NULL, true);
CREATE TABLE listens (who uuid, song bigint, started timestamptz, seconds numeric(8, 2), day date);
INSERT INTO listens VALUES
  ('{ANN}', 1, '2026-11-14 10:00:00Z', 30.40, '2026-11-14'), ('{BOB}', 2, '2026-11-14 23:40:00Z', 200, '2026-11-14'),
  ('{ANN}', 2, '2026-11-15 08:00:00Z', 12, '2026-11-15');
"""
SOURCE = {
    "kind": "tables",
    "inputs": {
        "accounts": {"format": "jdbc", "url": "env:WAREHOUSE_URL", "table": "accounts"},
        "songs": {"format": "jdbc", "url": "env:WAREHOUSE_URL", "table": "public.songs"},
        "listens": {
            "format": "jdbc",
            "url": "env:WAREHOUSE_URL",
            "query": "SELECT who, song, started, seconds FROM listens WHERE day = DATE '{day}'",
        },
    },
    "tables": {
        "users": "SELECT id AS user_id, upper(country) AS country, year(DATE'{day}') - birth_year AS age, "
        "created AS registered_at FROM accounts",
        "tracks": "SELECT id AS track_id, artist AS artist_id, artist AS album_id, title, markets AS countries, "
        "explicit FROM songs",
        "events": "SELECT who AS user_id, started AS ts, 'stream' AS kind, 'track' AS entity, song AS entity_id, "
        "CAST(seconds AS INT) AS listened_s FROM listens",
    },
}


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver") / "jars"
    try:
        copy_jars([DRIVER], folder, transitive=False)
    except OvertureError as error:
        pytest.skip(str(error))
    return folder / file_name(DRIVER)


@pytest.fixture(scope="module")
def postgres():
    server = PostgresServer()
    server.sql(SCHEMA)
    yield server
    server.stop()


@pytest.fixture
def ingest(tmp_path, driver):
    """A function that runs `overture ingest tables` in a process of its own, which alone can load the driver."""
    spark = {"master": "local[1]", "partitions": 1, "extra": {"spark.jars": str(driver)}}
    settings = {"name": "warehouse", "week": "2026-11-16", "spark": spark, "source": SOURCE}
    (tmp_path / "warehouse.yaml").write_text(yaml.safe_dump(settings))

    def run(url: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "jobs.cli.main", "ingest", "tables", "--config", tmp_path / "warehouse.yaml"]
        command += ["--data", tmp_path, "--from", "2026-11-14", "--to", "2026-11-15"]
        environment = {**os.environ, "OVERTURE_HOME": str(tmp_path / "home"), "WAREHOUSE_URL": url}
        return subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_tables_of_a_database_are_ingested_by_day(postgres, ingest, tmp_path):
    done = ingest(postgres.url())
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["ids"]["user"] == "text"
    assert report["ids"]["track"] == "integer"
    lake = Lake(str(tmp_path / "home" / "lake"))
    users = {row["external_id"]: row for row in lake.read("users").to_pylist()}
    assert {name: (row["country"], row["age"], f"{row['registered_at']:%d %H:%M}") for name, row in users.items()} == {
        ANN: ("DE", 36, "01 09:00"),
        BOB: ("XK", 25, "14 23:30"),
    }
    tracks = {row["track_id"]: row for row in lake.read("tracks").to_pylist()}
    assert (tracks[1]["title"], tracks[1]["countries"], tracks[1]["explicit"]) == ("Größe", ["DE", "XK"], False)
    assert (tracks[2]["countries"], tracks[2]["explicit"]) == (None, True)
    events = [row for p in lake.partitions("events") for row in lake.read("events", **p).to_pylist()]
    assert sorted((f"{row['ts']:%d %H:%M}", row["entity_id"], row["listened_s"]) for row in events) == [
        ("14 10:00", 1, 30),
        ("14 23:40", 2, 200),
        ("15 08:00", 2, 12),
    ]


def test_a_refused_password_is_reported_and_not_printed(postgres, ingest, tmp_path):
    done = ingest(postgres.url("a wrong one"))
    printed = done.stdout + done.stderr
    assert done.returncode == 3
    assert "source.inputs.listens: the database refuses the login" in printed
    assert "password authentication failed" in printed
    assert not any(secret in printed for secret in ("a wrong one", "a%20wrong%20one", PASSWORD, postgres.url()))
    assert not (tmp_path / "home" / "lake" / "users").exists()


def test_a_database_that_is_away_is_an_error_to_retry(postgres, ingest):
    done = ingest(postgres.url().replace(str(postgres.port), str(free_port())))
    assert done.returncode == 1
    assert "source.inputs.listens: the database does not answer: Connection to 127.0.0.1:" in done.stderr
