"""`overture init`: formats, days and columns are guessed, and the file that it writes is a settings file."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from contracts.errors import BadArgument
from jobs.ingest.tables.guess import expression_of, match_columns, normalized, write_settings
from jobs.ingest.tables.look import Group, find_groups, pattern_of
from jobs.settings.settings import load


@pytest.fixture
def service(tmp_path) -> Path:
    """The files of a small service."""
    data = tmp_path / "my data"
    (data / "listens").mkdir(parents=True)
    (data / "users-2.csv.gz").write_bytes(
        gzip.compress(b"userUuid;countryCode;birth_year;signup_at\nu-1;de;1990;2026-01-02T03:04:05Z\n")
    )
    pq.write_table(
        pa.table({"song_id": ["t-1"], "artist_id": ["a-1"], "length_ms": [180_000], "name": ["One"]}),
        data / "songs.parquet",
    )
    for day in ("2026-11-15", "2026-11-16"):
        lines = [{"user": "u-1", "played_at": 1_794_700_000, "song": "t-1", "action": "play"}]
        (data / "listens" / f"{day}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return data


def test_settings_of_a_service_load_and_map_every_file(service):
    report = write_settings(service, service / "overture.yaml")
    assert report["tables"] == {"users": ["users"], "tracks": ["songs"], "events": ["listens"]}
    source = load(service / "overture.yaml").source
    assert source.inputs["users"].options == {"header": True, "sep": ";"}
    assert source.inputs["listens"].path == "{data}/listens/{day}.jsonl"
    users, tracks, events = (" ".join(source.tables[t].split()) for t in ("users", "tracks", "events"))
    assert (
        "userUuid AS user_id, upper(countryCode) AS country, year(DATE'{day}') - CAST(birth_year AS INT) AS age"
        in users
    )
    assert "song_id AS track_id, artist_id, artist_id AS album_id, -- CHECK: no album found" in tracks
    assert "length_ms div 1000 AS duration_s" in tracks
    assert "user AS user_id, timestamp_seconds(played_at) AS ts" in events
    assert "CASE action WHEN 'play' THEN 'stream' ELSE action END AS kind" in events
    assert "song AS entity_id" in events


def test_existing_settings_are_kept(service):
    (service / "overture.yaml").write_text("mine")
    with pytest.raises(BadArgument, match="exists"):
        write_settings(service, service / "overture.yaml")
    assert (service / "overture.yaml").read_text() == "mine"


def test_a_file_that_cannot_be_read_is_noted(service):
    (service / "songs.parquet").write_bytes(b"no parquet")
    report = write_settings(service, service / "overture.yaml")
    assert report["missing_tables"] == ["tracks"]
    assert report["unused_inputs"] == ["songs"]
    text = (service / "overture.yaml").read_text()
    assert "songs.parquet cannot be read" in text
    assert "FILL IN, required: no input found" in text
    assert set(yaml.safe_load(text)["source"]["tables"]) == {"users", "events"}


def test_empty_folder(tmp_path):
    with pytest.raises(BadArgument, match="contains no file of a known format"):
        find_groups(tmp_path)


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("listens/day=2026-11-16/part-00001.jsonl.gz", "listens/day={day}/part-*.jsonl.gz"),
        ("listens-2026-11-16.csv", "listens-{day}.csv"),
        ("top10/f.csv", "top10/f.csv"),
        ("a{day}/f.csv", "a{{day}}/f.csv"),
        ("part-00000-0aa1b2c3-1111-2222-3333-444455556666-c000.snappy.parquet", "part-*-c*.snappy.parquet"),
    ],
)
def test_dates_become_days_and_numbers_become_globs(path, pattern):
    assert pattern_of(Path(path)) == pattern


@pytest.mark.parametrize("name", ["userUuid", "user-uuid", "User UUID", "user_uuid"])
def test_names_are_normalized(name):
    assert normalized(name) in ("user_uuid", "user_uuid")


def test_a_column_is_used_once():
    columns = match_columns("tracks", ["id", "artist", "title"])
    assert columns == {"track_id": "id", "artist_id": "artist", "title": "title"}


@pytest.mark.parametrize(
    ("column", "source", "values", "file_format", "expected"),
    [
        ("ts", "t", [1_794_700_000], "parquet", "timestamp_seconds(t)"),
        ("ts", "t", [1_794_700_000_123], "json", "timestamp_millis(t)"),
        ("ts", "t", ["1794700000123456"], "csv", "timestamp_micros(CAST(t AS BIGINT))"),
        ("ts", "t", ["2026-11-16T10:00:00Z"], "json", "t"),
        ("ts", "t", ["2026-11-16T10:00:00Z"], "parquet", "to_timestamp(t)"),
        ("ts", "t", [datetime(2026, 11, 16, tzinfo=UTC)], "parquet", "t"),
        ("ts", "t", ["16/11/2026 10:00"], "csv", "try_to_timestamp(t, 'd/M/yyyy H:mm[:ss]')"),
        ("age", "a", [34], "json", "a"),
        ("age", "born", [1990], "json", "year(DATE'{day}') - born"),
        ("age", "dob", [date(1990, 1, 1)], "parquet", "year(DATE'{day}') - year(dob)"),
        ("release_date", "y", [1999], "parquet", "make_date(y, 1, 1)"),
        ("duration_s", "length", [180_000], "parquet", "length div 1000"),
        ("duration_s", "length", [180], "parquet", "length"),
        ("listened_s", "msPlayed", ["5"], "csv", "CAST(msPlayed AS BIGINT) div 1000"),
        ("country", "cc", ["DE"], "csv", "cc"),
        ("user_id", "user", [{"id": "u"}], "json", "user.id"),
        ("user_id", "user id", ["u"], "csv", "`user id`"),
        ("kind", "k", ["stream", "skip"], "csv", "k"),
    ],
)
def test_expressions_follow_the_values(column, source, values, file_format, expected):
    group = Group("{data}/x", file_format, [], rows=[{source: value} for value in values])
    assert expression_of(column, source, group)[0] == expected


def test_json_array_latin1_and_separator(tmp_path):
    (tmp_path / "a.json").write_text('[{"user_id": 1, "country": "DE"}, {"user_id": 2}]')
    (tmp_path / "b.csv").write_bytes("track_id\ttitle\n1\tété\n".encode("latin-1"))
    first, second = find_groups(tmp_path)
    assert (first.options, len(first.rows)) == ({"multiLine": True}, 2)
    assert second.options == {"header": True, "sep": "\t", "encoding": "ISO-8859-1"}
