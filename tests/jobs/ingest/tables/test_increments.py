"""Incremental ingestion: what is read and written again, the quarantine, and colliding ids."""

import random
from datetime import date

import pytest

from contracts.entity_ids import stable_id
from contracts.errors import CheckFailed
from jobs.ingest.tables.checks import collisions
from jobs.platform.lake import Lake
from jobs.platform.table_digest import digest_table
from tests.jobs.ingest.tables.test_ingest import EVENTS, Service

RAW = ("users", "tracks", "playlists", "events")


@pytest.fixture
def service(spark, tmp_path, monkeypatch) -> Service:
    return Service(spark, tmp_path, monkeypatch)


def versions(service) -> dict:
    lake = service.context().lake
    return {table: lake.log(table).start().version for table in (*RAW, "quarantine", "ingested_days")}


def digests(service) -> dict:
    lake = Lake(str(service.home / "lake"))
    found = {table: digest_table(lake, table) for table in (*RAW, "quarantine")}
    return {table: digest and digest.sha256 for table, digest in found.items()}


def test_second_run_of_a_day_writes_nothing(service):
    service.day(15, [("u1", "10:00:00", "t1", 1), ("u1", "1970-01-01T00:00:00Z", "t2", 2)])
    service.ingest()
    before = versions(service)
    for selection in [(), ("2026-11-15", "", ""), ("2026-11-14", "", "")]:
        report = service.ingest(*selection)
        assert report["days"]["events"]["written"] == 0
        assert report["unchanged"] == ["tracks", "users"]
        assert versions(service) == before
    (service.data / "listens/day=2026-11-15/a.jsonl").touch()  # read again, with equal rows
    report = service.ingest()
    assert report["days"]["events"]["written"] == 0
    assert {**versions(service), "ingested_days": 0} == {**before, "ingested_days": 0}


def test_only_a_changed_day_is_written(service):
    service.day(15, [("u1", "10:00:00", "t1", 1)])
    service.day(16, [("u1", "10:00:00", "t1", 1)])
    service.ingest()
    lake = service.context().lake
    before = {day: lake.version("events", day=f"2026-11-{day}") for day in (14, 15, 16)}
    service.day(15, [("u1", "10:00:00", "t1", 1), ("u2", "10:00:00", "t2", 2)])
    assert service.ingest()["days"]["events"]["written"] == 1
    after = {day: lake.version("events", day=f"2026-11-{day}") for day in (14, 15, 16)}
    assert [day for day in before if before[day] != after[day]] == [15]


def test_a_changed_mapping_writes_the_days_again(service):
    service.ingest()
    service.tables["events"] = EVENTS.replace("s AS listened_s", "s + 1 AS listened_s")
    assert service.ingest()["days"]["events"]["written"] == 1
    assert sorted(row["listened_s"] for row in service.rows("events")) == [31, 41]


def test_a_partition_that_was_dropped_is_written_again(service):
    service.ingest()
    service.context().lake.drop("events", day="2026-11-14")
    assert service.ingest()["days"]["events"]["written"] == 1
    assert len(service.rows("events")) == 2


def test_rows_that_left_the_files_leave_the_lake(service):
    service.day(15, [("u1", "10:00:00", "t1", 1)])
    service.ingest()
    service.day(15, [("u1", "1970-01-01T00:00:00Z", "t1", 1), ("u1", "2026-11-14T23:00:00Z", "t1", 9)])
    assert service.ingest()["days"]["events"]["removed"] == ["2026-11-15"]
    assert {row["ts"].day for row in service.rows("events")} == {14}
    service.users("id,country,born,created\nu1,DE,30,2026-11-01T10:00:00Z\n")
    report = service.ingest()
    assert [row["external_id"] for row in service.rows("users")] == ["u1"]
    assert report["unchanged"] == ["tracks"]


def test_events_of_a_user_who_arrives_later_are_kept(service):
    service.users("id,country,born,created\nu1,DE,30,2026-11-01T10:00:00Z\n")
    service.ingest()
    assert {row["user_id"] for row in service.rows("events")} == {stable_id("u1"), stable_id("u2")}


def test_days_one_by_one_in_any_order_equal_one_load(service, tmp_path):
    rng = random.Random(5)
    days = list(range(14, 19))
    for number in days:
        late = [rng.choice([0, 0, 1, 2, 3, 5]) for _ in range(12)]
        rows = [
            (rng.choice(["u1", "u2"]), f"2026-11-{number - n:02d}T{hour:02d}:00:00Z", "t1", hour)
            for hour, n in enumerate(late)
        ]
        service.day(number, [*rows, rows[0], (*rows[1][:3], 99)])  # a repeated row, and one with another value
    service.ingest()
    once = digests(service)
    assert len(service.rows("quarantine")) > 0
    service.home = tmp_path / "shuffled"
    for number in rng.sample(days, len(days)):
        service.ingest(f"2026-11-{number}", "", "")
    assert digests(service) == once


def test_late_rows_join_a_day_whose_files_are_gone(service):
    service.ingest()
    (service.data / "listens/day=2026-11-14/a.jsonl").unlink()
    (service.data / "listens/day=2026-11-14").rmdir()
    service.day(15, [("u1", "10:00:00", "t1", 5), ("u2", "2026-11-14T12:00:00Z", "t1", 6)])
    report = service.ingest("2026-11-15", "", "")["days"]["events"]
    assert (report["written"], report["repeated"], report["removed"]) == (2, 0, [])
    assert sorted(row["listened_s"] for row in service.rows("events")) == [5, 6, 30, 40]
    assert service.ingest("2026-11-15", "", "")["days"]["events"]["written"] == 0


def test_one_file_without_days_is_compared_by_the_rows_of_each_day(service):
    service.inputs["listens"] = {"format": "json", "path": "{data}/all.jsonl"}
    row = '{{"who": "u1", "at": "2026-11-{:02d}T10:00:00Z", "what": "t1", "s": {}}}\n'
    service.write("all.jsonl", row.format(14, 1) + row.format(15, 1))
    assert service.ingest()["days"]["events"]["written"] == 2
    service.write("all.jsonl", row.format(14, 1) + row.format(15, 2) + row.format(16, 3))
    report = service.ingest()["days"]["events"]
    assert (report["written"], report["unchanged"], report["removed"]) == (2, 1, [])
    service.write("all.jsonl", row.format(14, 1) + row.format(16, 3))
    assert service.ingest()["days"]["events"]["removed"] == ["2026-11-15"]


def test_bad_rows_are_quarantined_with_reason_row_and_file(service):
    service.day(15, [("u1", "1970-01-01T00:00:00Z", "t1", 7)], extra='{"who": "u1", "at": "2026')
    service.ingest()
    bad, torn = sorted(service.rows("quarantine"), key=lambda row: row["reason"], reverse=True)
    assert bad["reason"] == "ts is before 2000-01-01"
    assert '"entity_id":"t1"' in bad["row"]
    assert bad["source_file"] == str(service.data / "listens/day=2026-11-15/a.jsonl")
    assert (torn["reason"], torn["row"]) == ("a record of input listens cannot be read", '{"who": "u1", "at": "2026')
    assert torn["source_file"] == bad["source_file"]
    assert service.context().lake.partitions("quarantine") == [{"raw_table": "events", "day": "2026-11-15"}]
    service.day(15, [("u1", "10:00:00", "t1", 7)])  # mended at the source
    service.ingest()
    assert service.rows("quarantine") == []


def test_plays_of_one_track_within_seconds_are_one_play(service):
    service.day(14, [("u1", "10:00:00", "t1", 1), ("u1", "10:00:05", "t1", 2), ("u1", "10:00:06", "t2", 3)])
    assert service.ingest()["days"]["events"]["repeated"] == 0
    service.source["duplicate_s"] = 5
    assert service.ingest()["days"]["events"]["repeated"] == 1
    assert sorted(row["listened_s"] for row in service.rows("events")) == [1, 3]


def test_two_ids_of_one_hash_are_named(service, spark, monkeypatch):
    import contracts

    rows = spark.createDataFrame([(1, "a"), (1, "b"), (2, "c")], "user_id long, external_id string").selectExpr(
        "*", "CAST(NULL AS STRING) AS _bad"
    )
    message = "user_id: the ids 'a' and 'b' have the same hash 1"
    assert collisions(contracts.load("users"), rows) == message
    assert collisions(contracts.load("users"), rows.where("external_id <> 'b'")) == ""
    monkeypatch.setattr("jobs.ingest.tables.adapter.collisions", lambda contract, frame: message)
    with pytest.raises(CheckFailed, match="'a' and 'b' have the same hash 1; nothing was written"):
        service.ingest()
    assert service.is_empty()


def test_ingested_days_are_listed(service):
    service.day(15, [("u1", "10:00:00", "t1", 1)])
    service.ingest()
    rows = sorted(service.rows("ingested_days"), key=lambda row: row["day"])
    assert [(row["day"], row["n_rows"]) for row in rows] == [(date(2026, 11, 14), 2), (date(2026, 11, 15), 1)]
    assert rows[0]["version"] == service.context().lake.version("events", day="2026-11-14")
