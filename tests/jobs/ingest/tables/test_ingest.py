"""Ingestion of a service's own files: rows, days, bad input, what is refused and what is written."""

from __future__ import annotations

import gzip
import json
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.ids import stable_id
from jobs.ingest.tables import adapter
from jobs.ingest.tables.days import Selection
from jobs.ingest.tables.derive import UNKNOWN_REGISTRATION
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.settings import Settings

USERS = "SELECT id AS user_id, country, born AS age, created AS registered_at FROM users"
TRACKS = "SELECT uuid AS track_id, artist AS artist_id, artist AS album_id, title FROM songs"
EVENTS = (
    "SELECT who AS user_id, at AS ts, 'stream' AS kind, 'track' AS entity, what AS entity_id, s AS listened_s "
    "FROM listens"
)
INPUTS = {
    "users": {"format": "csv", "path": "{data}/users*.csv"},
    "songs": {"format": "parquet", "path": "{data}/songs"},
    "listens": {"format": "json", "path": "{data}/listens/day={day}/*.jsonl"},
}


class Service:
    """Files of a service in a folder, and runs of the adapter over them."""

    def __init__(self, spark, root: Path, monkeypatch) -> None:
        self.data, self.home = root / "my [1] data", root / "home"
        self.inputs = {name: dict(settings) for name, settings in INPUTS.items()}
        self.tables = {"users": USERS, "tracks": TRACKS, "events": EVENTS}
        self.source = {"max_bad_share": 0.5}
        self.users("id,country,born,created\nu1,DE,30,2026-11-01T10:00:00Z\nu2,,,2026-11-02 10:00:00\n")
        self.songs({"uuid": ["t1", "t2"], "artist": ["a1", "a1"], "title": ["One", "Beyonce\u0301"]})
        self.day(14, [("u1", "10:00:00", "t1", 30), ("u2", "11:00:00", "t2", 40)])

    def write(self, name: str, content: str | bytes) -> None:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def users(self, text: str | bytes, name: str = "users.csv") -> None:
        self.write(name, text)

    def songs(self, columns: dict, name: str = "songs/part-0.parquet") -> None:
        path = self.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), path)

    def day(self, number: int, rows: list, extra: str = "") -> None:
        """Write the events of a day of November 2026: (user, time or full time, track, seconds) or a ready object."""
        lines = []
        for row in rows:
            if not isinstance(row, dict):
                who, at, what, seconds = row
                at = at if "T" in at else f"2026-11-{number:02d}T{at}Z"
                row = {"who": who, "at": at, "what": what, "s": seconds}
            lines.append(json.dumps(row))
        self.write(f"listens/day=2026-11-{number:02d}/a.jsonl", "".join(line + "\n" for line in lines) + extra)

    def context(self) -> Context:
        source = {"kind": "tables", "inputs": self.inputs, "tables": self.tables, **self.source}
        settings = Settings.model_validate({"name": "t", "week": "2026-11-16", "source": source})
        return Context(settings, Week.parse("2026-11-16"), self.home)

    def ingest(self, *selection: str) -> dict:
        days = Selection.parse(*(selection or ("", "", "")))
        return adapter.run(self.context(), self.data, days)

    def rows(self, table: str) -> list[dict]:
        lake = self.context().lake
        parts = [lake.read(table, **p).to_pylist() for p in lake.partitions(table)]
        return [row for part in parts for row in part]

    def is_empty(self) -> bool:
        return not any(self.context().lake.exists(table) for table in ("users", "tracks", "playlists"))


@pytest.fixture
def service(spark, tmp_path, monkeypatch) -> Service:
    return Service(spark, tmp_path, monkeypatch)


def at(number: int, hour: int = 10) -> datetime:
    return datetime(2026, 11, number, hour, tzinfo=UTC)


def test_all_tables_are_written(service):
    report = service.ingest()
    assert report["rows"] == {"tracks": 2, "users": 2, "events": 2, "playlists": 0}
    assert report["ids"]["user"] == "text"
    users = sorted(service.rows("users"), key=lambda row: row["registered_at"])
    assert users == [
        {
            "user_id": stable_id("u1"), "country": "DE", "age": 30, "registered_at": at(1),
            "external_id": "u1", "opt_out": None,
        },
        {
            "user_id": stable_id("u2"), "country": None, "age": None, "registered_at": at(2),
            "external_id": "u2", "opt_out": None,
        },
    ]  # fmt: skip
    ids = [(row["external_id"], row["artist_external_id"]) for row in service.rows("tracks")]
    assert sorted(ids)[0][0] == "t1"
    assert None not in ids[0]
    titles = {row["track_id"]: row["title"] for row in service.rows("tracks")}
    assert titles[stable_id("t2")] == "Beyonc\u00e9"  # composed
    event = min(service.rows("events"), key=lambda row: row["ts"])
    assert event == {
        "user_id": stable_id("u1"), "ts": at(14), "kind": "stream", "entity": "track",
        "entity_id": stable_id("t1"), "listened_s": 30, "event_id": None, "platform": None, "context": None,
    }  # fmt: skip


def test_integer_ids_are_kept_also_as_text_in_csv(service):
    service.users("id,country,born,created\n7,DE,30,2026-11-01\n8,DE,30,2026-11-01\n")
    service.day(14, [(7, "10:00:00", "t1", 30), (8, "10:00:00", "t1", 30)])
    report = service.ingest()
    assert (report["ids"]["user"], report["ids"]["track"]) == ("integer", "text")
    assert {row["user_id"] for row in service.rows("users")} == {7, 8}
    assert {row["user_id"] for row in service.rows("events")} == {7, 8}


def test_late_rows_join_their_day_in_any_order_of_ingestion(service, tmp_path):
    service.day(15, [("u1", "10:00:00", "t1", 1), ("u1", "2026-11-14T23:59:59Z", "t2", 2)])
    service.day(16, [("u1", "00:00:00", "t1", 3), ("u2", "2026-11-14T12:00:00Z", "t2", 4)])
    service.ingest()
    once = sorted(map(str, service.rows("events")))
    assert len(once) == 6
    for order in ((14, 15, 16), (16, 14, 15)):
        service.home = tmp_path / f"home{order}"
        for number in order:
            service.ingest(f"2026-11-{number}", "", "")
        assert sorted(map(str, service.rows("events"))) == once
    service.ingest("2026-11-15", "", "")
    assert sorted(map(str, service.rows("events"))) == once


def test_rows_beyond_late_days_and_of_the_future_are_bad(service):
    service.source["late_days"] = 0
    service.day(
        15,
        [("u1", "10:00:00", "t1", 1), ("u1", "2026-11-14T10:00:00Z", "t1", 1), ("u1", "2026-11-16T00:00:00Z", "t1", 1)],
    )
    bad = service.ingest()["tables"]["events"]["bad"]
    assert bad == {"ts is after the day of its file": 1, "ts is more than 0 days before the day of its file": 1}


def test_bad_rows_are_counted_by_reason(service):
    service.users(
        "id,country,born,created\nu1,DE,30,2026-11-01\nu2,XX,30,2026-11-01\nu3,DE,121,2026-11-01\n,DE,30,2026-11-01\n"
        "u4 ,DE,30,2026-11-01\nu5,DE,old,2026-11-01\nu6,DE,30,yesterday\n" + "u" * 600 + ",DE,30,2026-11-01\n"
        "u8,DE,30,2036-11-01\n"
    )
    service.day(
        14,
        [
            ("u1", "10:00:00", "t1", 1),
            ("u1", "10:00:01", "t9", 1),
            ("u9", "10:00:02", "t1", 1),
            ("u1", "1970-01-01T00:00:00Z", "t1", 1),
        ],
    )
    report = service.ingest()
    assert report["tables"]["users"]["bad"] == {
        "country is not an ISO 3166-1 alpha-2 country code": 1,
        "age is not 5 to 120 years": 1,
        "user_id is null": 1,
        "user_id has spaces around it; use trim() in SQL": 1,
        "age is not a number that fits": 1,
        "registered_at is not a time": 1,
        "user_id is longer than 512 bytes": 1,
        "registered_at is in the future": 1,
    }
    assert report["tables"]["events"]["bad"] == {
        "ts is before 2000-01-01": 1,
    }  # fmt: skip
    assert len(service.rows("users")) == 1
    assert len(service.rows("events")) == 3  # `check` counts events of users and tracks that do not exist
    assert report["quarantined"] == {"events": 1, "users": 8, "tracks": 0}


def test_too_many_bad_rows_stop_before_anything_is_written(service):
    service.source["max_bad_share"] = 0.3
    service.day(14, [("u1", "10:00:00", "t1", 1), ("u1", "10:00:01", "t2", -9)])
    with pytest.raises(
        CheckFailed, match=r'events: more bad rows(.|\n)*1 of 2 rows: listened_s is not 0(.|\n)*"entity_id":"t2"'
    ):
        service.ingest()
    assert service.is_empty()
    assert service.rows("quarantine") == []


def test_users_from_events_and_sessions_for_playlists(service):
    del service.tables["users"]
    service.write(
        "listens/day=2026-10-01/a.jsonl", json.dumps({"who": "u1", "at": "2026-10-01T10:00:00Z", "what": "t1", "s": 1})
    )
    service.day(
        14,
        [
            ("u1", "10:00:00", "t1", 1),
            ("u1", "10:30:00", "t2", 1),
            ("u1", "11:00:01", "t1", 1),
            ("u2", "10:00:00", "t1", 1),
        ],
    )
    report = service.ingest()
    registered = {row["user_id"]: row["registered_at"] for row in service.rows("users")}
    assert registered == {stable_id("u1"): UNKNOWN_REGISTRATION, stable_id("u2"): at(14)}
    assert {row["external_id"] for row in service.rows("users")} == {"u1", "u2"}
    lists = sorted(service.rows("playlists"), key=lambda row: row["position"])
    assert [(r["position"], r["track_id"], r["user_id"], r["public"]) for r in lists] == [
        (0, stable_id("t1"), stable_id("u1"), False), (1, stable_id("t2"), stable_id("u1"), False),
    ]  # fmt: skip
    assert len(report["notes"]) == 2


def test_one_event_with_a_wrong_time_makes_no_registration_known(service):
    """Listeners of the first 30 days of the log have an unknown registration; a stray day is not the log's first."""
    del service.tables["users"]
    service.day(14, [(f"u{n}", f"10:00:{n:02d}", "t1", 1) for n in range(10)])
    service.write(
        "listens/day=2026-01-01/a.jsonl", json.dumps({"who": "u0", "at": "2026-01-01T10:00:00Z", "what": "t1", "s": 1})
    )
    service.ingest()
    assert {row["registered_at"] for row in service.rows("users")} == {UNKNOWN_REGISTRATION}


WRONG_MAPPINGS = [
    ("users", USERS, "id AS", "idd AS", r"users: there is no column `idd`; nearest: .*`id`"),
    ("users", USERS, "FROM users", "FROM members JOIN songs", "there is no input `members`"),
    (
        "users",
        USERS,
        "created AS registered_at",
        "1 AS x",
        r"'registered_at' is missing; .*write created AS registered_at",
    ),
    ("users", USERS, "country", "country AS contry", r"'country' is missing; nearest is 'contry'"),
    ("users", USERS, "country", "country, born AS country", r"'country' is ambiguous: the SQL returns it 2 times"),
    ("users", USERS, "SELECT", "SELEC", r"PARSE_SYNTAX_ERROR"),
    ("users", USERS, "FROM users", "FROM users WHERE id = 'nobody'", r"users: the SQL returns no row"),
    ("tracks", TRACKS, "artist AS artist_id", "1.5D AS artist_id", r"'artist_id' is double, .*write CAST"),
    ("tracks", TRACKS, "title", "title AS release_date", r"'release_date' is string, .*write to_date\(release_date\)"),
    ("events", EVENTS, "at AS ts", "1 AS ts", r"'ts' is int, .*write timestamp_seconds\(ts\)"),
    ("events", EVENTS, "who AS", "struct(who AS id) AS", r"'user_id' is struct<id:string>.*user_id.id AS user_id"),
    ("events", EVENTS, "at AS ts", "CAST(what AS TIMESTAMP) AS ts", r"CAST_INVALID_INPUT.*write try_cast"),
]


@pytest.mark.parametrize(("table", "sql", "old", "new", "message"), WRONG_MAPPINGS)
def test_a_wrong_mapping_is_refused_by_name(service, table, sql, old, new, message):
    service.tables[table] = sql.replace(old, new)
    with pytest.raises((BadArgument, CheckFailed), match=message):
        service.ingest()
    assert service.is_empty()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "id;country;born;created\nu1;DE;30;2026-11-01\n",
            r"users.csv: the header is one column.*set options: \{sep: ';'\}",
        ),
        ("id,country,id,created\nu1,DE,30,2026-11-01\n", "users.csv: column 'id' occurs twice"),
        ("", "are empty"),
    ],
)
def test_a_wrong_csv_file_is_refused(service, text, message):
    service.users(text)
    with pytest.raises((BadArgument, CheckFailed), match=message):
        service.ingest()


def test_csv_with_quoted_newline_mark_latin1_and_torn_line(service):
    service.tables["users"] = USERS.replace("country", "upper(country) AS country")
    service.users('\ufeffid,country,born,created\n"u1","d\ne",30,2026-11-01\nu2,de,30,2026-11-01\nu3,"fr",20')
    report = service.ingest()
    assert report["tables"]["users"] == {
        "rows": 3,
        "bad": {"a record of input users cannot be read": 1, "country is not an ISO 3166-1 alpha-2 country code": 1},
    }
    service.songs({"uuid": ["t1"], "artist": ["a1"], "title": ["x"]})
    service.inputs["songs"] = {"format": "csv", "path": "{data}/songs.csv"}
    service.write("songs.csv", "uuid,artist,title\nt1,a1,été\nt2,a1,b\n".encode("latin-1"))
    assert service.ingest()["tables"]["tracks"]["bad"] == {
        "title is not UTF-8; set options: {encoding: ...} of the input": 1
    }
    service.inputs["songs"]["options"] = {"encoding": "ISO-8859-1"}
    service.ingest()
    assert {row["title"] for row in service.rows("tracks")} == {"été", "b"}


def test_json_with_nan_numbers_as_text_and_a_torn_line(service):
    rows = [
        {"who": "u1", "at": "2026-11-14T10:00:00Z", "what": "t1", "s": float("nan")},
        {"who": "u1", "at": "2026-11-14T10:00:01Z", "what": "t1", "s": "30"},
        {"who": "u1", "at": "2026-11-14T10:00:02Z", "what": "t1", "s": 40},
    ]
    service.day(14, rows, extra='{"who": "u1", "at"')
    report = service.ingest()
    assert report["tables"]["events"]["bad"] == {
        "a record of input listens cannot be read": 1, "listened_s is not a number that fits": 1,
    }  # fmt: skip
    assert sorted(row["listened_s"] for row in service.rows("events")) == [30, 40]


def test_parquet_days_may_differ_in_width_but_not_in_kind(service):
    service.inputs["listens"] = {"format": "parquet", "path": "{data}/p/{day}.parquet"}
    times = pa.array([at(14)], pa.timestamp("us", "UTC"))
    first = {"who": ["u1"], "at": times, "what": ["t1"], "s": pa.array([1], pa.int64())}
    service.songs(first, "p/2026-11-14.parquet")
    service.songs(
        first | {"s": pa.array([2], pa.int32()), "at": pa.array([at(15)], pa.timestamp("us", "UTC"))},
        "p/2026-11-15.parquet",
    )
    service.ingest()
    assert sorted(row["listened_s"] for row in service.rows("events")) == [1, 2]
    service.songs(first | {"at": ["2026-11-15"]}, "p/2026-11-15.parquet")
    with pytest.raises(CheckFailed, match=r"column 'at' is string in .*2026-11-15.parquet, but timestamp in"):
        service.ingest()
    with pytest.raises((BadArgument, CheckFailed), match=r"'at'|'ts'"):
        service.ingest("2026-11-15", "", "")


def test_embeddings_of_any_width_of_number_are_features(service):
    vectors = pa.array([[0.5, 2.0], [1.5, float("nan")]], pa.list_(pa.float64()))
    service.songs({"uuid": ["t1", "t2"], "artist": ["a1", "a1"], "title": ["One", "Two"], "embedding": vectors})
    service.tables["tracks"] = TRACKS.replace("title", "title, embedding AS content_features")
    report = service.ingest()
    assert [row["content_features"] for row in service.rows("tracks")] == [[0.5, 2.0]]
    assert report["tables"]["tracks"]["bad"] == {"content_features breaks the rule: contains only finite numbers": 1}


def test_missing_files_are_named(service):
    service.inputs["users"]["path"] = "{data}/people/*.csv"
    with pytest.raises(CheckFailed, match=r"source.inputs.users: no file matches .*contains listens, songs, users.csv"):
        service.ingest()
    with pytest.raises(CheckFailed, match=r"listens: no file of 2026-11-20; days found are 2026-11-14 to 2026-11-14"):
        service.ingest("2026-11-20", "", "")


def test_damaged_files_are_named(service):
    service.write("songs/part-1.parquet", b"PAR1 nothing")
    with pytest.raises(CheckFailed, match=r"part-1.parquet cannot be read as Parquet"):
        service.ingest()
    (service.data / "songs/part-1.parquet").unlink()
    (service.data / "users.csv").unlink()
    service.inputs["users"]["path"] = "{data}/users.csv.gz"
    service.write("users.csv.gz", gzip.compress(b"id,country,born,created\n" + b"u1,DE,30,2026-11-01\n" * 9999)[:-40])
    with pytest.raises(CheckFailed, match="users"):
        service.ingest()
    assert service.is_empty()


def test_two_users_of_one_id_stop_the_run(service):
    service.users("id,country,born,created\nu1,DE,30,2026-11-01\nu1,FR,30,2026-11-01\nu2,FR,30,2026-11-01\n")
    with pytest.raises(CheckFailed, match=r"users: user_id occurs more than once with different values(.|\n)*u1"):
        service.ingest()


def test_secrets_come_from_the_environment_and_are_never_printed(service, monkeypatch):
    service.inputs["warehouse"] = {
        "format": "jdbc",
        "url": "env:TEST_URL",
        "table": "t",
        "options": {"password": "env:TEST_PW"},
    }
    service.tables["users"] = "SELECT * FROM warehouse"
    with pytest.raises(BadArgument, match="the environment variable TEST_PW is not set"):
        service.ingest()
    monkeypatch.setenv("TEST_PW", "hunter2")
    monkeypatch.setenv("TEST_URL", "jdbc:nothing://host/hunter2")
    with pytest.raises((BadArgument, CheckFailed), match="No suitable driver") as error:
        service.ingest()
    assert "hunter2" not in str(error.value)


def test_dry_run_writes_nothing(service, capfd):
    from jobs.ingest.tables.dry_run import dry_run

    service.day(15, [("u1", "10:00:00", "t9", 1)])
    before = sorted(service.home.rglob("*"))
    report = dry_run(service.context(), service.data, Selection())
    assert report["days_found"]["listens"] == {"n": 2, "first": "2026-11-14", "last": "2026-11-15"}
    assert [path for path in sorted(service.home.rglob("*")) if path not in before and "lake" in path.parts] == []
    printed = capfd.readouterr().err
    for text in ("registered_at", "ids: text", "input listens: 2 days", "nothing was written"):
        assert text in printed


def test_day_in_the_sql_of_users_is_the_newest_day(service):
    service.tables["users"] = USERS.replace("born AS age", "day(DATE'{day}') AS age")
    service.day(15, [("u1", "10:00:00", "t1", 1)])
    service.ingest("2026-11-15", "", "")
    assert {row["age"] for row in service.rows("users")} == {15}
    service.ingest("2026-11-14", "", "")
    assert {row["age"] for row in service.rows("users")} == {15}


def test_events_without_days_in_paths(service):
    service.inputs["listens"] = {"format": "json", "path": "{data}/listens/**/*.jsonl"}
    service.day(15, [("u1", "10:00:00", "t1", 1)])
    days = service.ingest()["days"]["events"]
    assert (days["written"], days["first"], days["last"]) == (2, "2026-11-14", "2026-11-15")
    assert date(2026, 11, 14) == min(row["ts"] for row in service.rows("events")).date()


def test_the_form_of_ids_is_decided_once(service):
    service.users("id,country,born,created\n7,DE,30,2026-11-01\n8,DE,30,2026-11-01\n")
    service.day(14, [(7, "10:00:00", "t1", 30)])
    service.ingest()
    service.users("id,country,born,created\n7,DE,30,2026-11-01\nx8,DE,30,2026-11-01\n")
    bad = service.ingest()["tables"]["users"]["bad"]
    assert bad == {"user_id is not an integer, but the ids of this kind are integers": 1}
    assert [row["user_id"] for row in service.rows("users")] == [7]


def test_made_up_files_are_ingested_with_their_own_settings(spark, tmp_path):
    from jobs.ingest.tables import generate
    from jobs.settings.settings import load

    out = tmp_path / "é#1"
    written = generate.run(out, generate.TablesOptions(60, 120, 40, "2026-11-01", "2026-11-05"))["rows"]
    with pytest.raises(BadArgument, match="is not empty"):
        generate.run(out, generate.TablesOptions(60, 120, 40, "2026-11-01", "2026-11-05"))
    settings = load(out / "overture.yaml")
    # So few rows are a larger share.
    settings = settings.model_copy(update={"source": settings.source.model_copy(update={"max_bad_share": 0.2})})
    report = adapter.run(Context(settings, Week.parse(settings.week), tmp_path / "home"), out)
    assert report["rows"]["events"] == written["listens"]
    assert report["rows"]["tracks"] == written["catalogue"]
    assert {report["ids"][kind] for kind in ("user", "track", "artist", "album", "playlist")} == {"text"}


def test_plays_for_the_skip_engine(service):
    play = {"who": "u1", "at": "2026-11-14T10:00:00Z", "what": "t1", "artist": "a1", "ok": True, "born": 1990}
    service.day(14, [play, play | {"at": "2026-11-14T10:05:00Z", "ok": None}, play | {"born": 1700}])
    service.tables = {
        "plays": "SELECT at AS ts, who AS user_id, what AS track_id, artist AS artist_id, artist AS album_id, "
        "1 AS genre_id, 0 AS context_type, 0 AS platform_name, 0 AS platform_family, 200 AS duration_s, "
        "false AS is_flow, 0 AS user_gender, year(DATE'{day}') - born AS user_age, ok AS is_listened FROM listens"
    }
    report = service.ingest()
    assert report["rows"] == {"plays": 2}
    assert report["tables"]["plays"]["bad"] == {"user_age is not 0 to 150 years": 1}
    assert report["absent_columns"] == {"plays": ["play_id", "sample_id", "release_date"]}
    first, second = sorted(service.rows("plays"), key=lambda row: row["ts"])
    assert (first["user_id"], first["genre_id"], first["user_age"]) == (stable_id("u1"), 1, 36)
    assert (first["is_listened"], second["is_listened"]) == (True, None)
    assert first["play_id"] != second["play_id"]
    again = service.ingest()
    assert again["days"] == {"plays": {"written": 0, "unchanged": 1, "removed": []}}
    assert {row["play_id"] for row in service.rows("plays")} == {first["play_id"], second["play_id"]}


def test_a_database_with_days(service, spark, tmp_path, monkeypatch):
    """Derby, which Spark ships, stands for any database with a JDBC driver."""
    url = f"jdbc:derby:{tmp_path}/db"
    rows = [("u1", "2026-11-14 10:00:00", "t1", 30), ("u2", "2026-11-15 10:00:00", "t2", 40)]
    frame = spark.createDataFrame(rows, "who string, at string, what string, s int")
    frame.selectExpr("who", "CAST(at AS TIMESTAMP) AS at", "what", "s", "CAST(at AS DATE) AS d").write.jdbc(
        f"{url};create=true", "listens"
    )
    monkeypatch.setenv("TEST_URL", url)
    service.inputs["listens"] = {
        "format": "jdbc",
        "url": "env:TEST_URL",
        "query": 'SELECT "who", "at", "what", "s" FROM listens WHERE "d" = DATE(\'{day}\')',
    }
    with pytest.raises(BadArgument, match=r"input listens of a database has \{day\}; name the days"):
        service.ingest()
    report = service.ingest("", "2026-11-14", "2026-11-15")
    written = {"written": 2, "unchanged": 0, "repeated": 0, "removed": [], "first": "2026-11-14", "last": "2026-11-15"}
    assert report["days"]["events"] == written
    assert service.ingest("", "2026-11-14", "2026-11-15")["days"]["events"] == written | {"written": 0, "unchanged": 2}
    assert sorted(row["listened_s"] for row in service.rows("events")) == [30, 40]
    service.inputs["listens"] |= {"query": "SELECT * FROM nowhere WHERE d = '{day}'"}
    with pytest.raises((BadArgument, CheckFailed), match=r"(?i)source.inputs.listens.*nowhere") as error:
        service.ingest("2026-11-14", "", "")
    assert url not in str(error.value)


def test_orc_bz2_a_partitioned_folder_and_weeks(service):
    import bz2

    from pyarrow import orc

    service.write("people/w=2026-11-09/u.csv.bz2", bz2.compress(b"id,country,born,created\nu1,DE,30,2026-11-01\n"))
    service.inputs["users"]["path"] = "{data}/people/w={week}/*.csv.bz2"
    orc.write_table(pa.table({"uuid": ["t1"], "artist": ["a1"]}), service.data / "songs.orc")
    service.inputs["songs"] = {"format": "orc", "path": "{data}/songs.orc"}
    service.inputs["names"] = {"format": "parquet", "path": "{data}/names"}
    service.songs({"uuid": ["t1"], "title": ["One"]}, "names/genre=rock/a.parquet")
    service.tables["tracks"] = (
        "SELECT s.uuid AS track_id, artist AS artist_id, artist AS album_id, title, genre "
        "FROM songs s JOIN names USING (uuid)"
    )
    service.day(14, [("u1", "10:00:00", "t1", 30)])
    assert service.ingest()["rows"] == {"tracks": 1, "users": 1, "events": 1, "playlists": 0}
    assert [(row["title"], row["genre"]) for row in service.rows("tracks")] == [("One", "rock")]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "avro", "path": "{data}/users.csv"}, r"spark-avro"),
        ({"format": "csv", "path": "{data}/users.zip"}, r"users.zip: unpack this file first"),
        ({"format": "csv", "path": "s3://no-such-bucket-a/x.csv"}, r"s3://no-such-bucket-a"),
    ],
)
def test_inputs_that_cannot_be_read_say_what_to_do(service, settings, message, monkeypatch):
    # A port on which nothing listens: the object store is away.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    service.write("users.zip", b"PK")
    service.inputs["users"] = settings
    with pytest.raises((BadArgument, CheckFailed), match=message):
        service.ingest()
    assert service.is_empty()
