"""Tests of jobs/quality/check.py: each violated expectation is reported with column, rule, count and an example."""

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from contracts.expectations import Expectation, expectations
from jobs.quality import arrow as quality_arrow
from jobs.quality import check
from jobs.quality import spark as quality_spark
from jobs.quality.measures import TableMeasures, inspect_files
from jobs.settings.platform import CheckSettings

DAY = "2026-11-10"
NOON = datetime(2026, 11, 10, 12, tzinfo=UTC)
ROWS = {
    "users": {"user_id": 1, "country": "FR", "age": 30, "registered_at": datetime(2026, 7, 1, tzinfo=UTC)},
    "tracks": {
        "track_id": 7,
        "artist_id": 3,
        "album_id": 4,
        "genre": "rock",
        "duration_s": 200,
        "release_date": date(2020, 1, 1),
        "title": "t",
        "artist_name": "a",
    },
    "events": {"user_id": 1, "ts": NOON, "kind": "stream", "entity": "track", "entity_id": 7, "listened_s": 100},
    "playlists": {"playlist_id": 1, "position": 0, "track_id": 7, "user_id": None, "added_at": NOON},
    "segments": {"segment_id": 0, "centroid": [1.0, 0.0], "size": 3, "ranking": [0, 1], "card": "{}"},
    "evaluation": {
        "method": "popularity",
        "split": "test",
        "slice": "all",
        "metric": "ndcg",
        "k": 50,
        "n_users": 9,
        "value": 0.1,
        "low": 0.0,
        "high": 0.2,
    },
    "catalog": {"track_idx": 0, "track_id": 7, "artist_id": 3, "album_id": 4, "n_listeners": 2},
}


def write_unchecked(lake, table, *changes, schema=None, **partition):
    """Write rows that differ from the valid row by `changes`, without the checks of the lake."""
    wanted = schema or pa.schema([f.with_nullable(True) for f in arrow_schema(contracts.load(table))])
    rows = pa.Table.from_pylist([{**ROWS[table], **change} for change in changes], schema=wanted)
    valid = pa.Table.from_pylist([ROWS[table]] * len(changes), schema=arrow_schema(contracts.load(table)))
    lake.write(table, valid, **partition)
    file = Path(lake.files(table, **partition)[0])
    pq.write_table(rows, file)
    return file


@pytest.fixture
def valid_context(context):
    """A context with the four source tables, all valid."""
    write_unchecked(context.lake, "users", {}, {"user_id": 2, "country": None, "age": None})
    write_unchecked(context.lake, "tracks", {}, {"track_id": 8})
    write_unchecked(
        context.lake, "events", {}, {"entity_id": 8}, {"kind": "favorite", "entity": "artist", "entity_id": 99}, day=DAY
    )
    write_unchecked(context.lake, "playlists", {}, {"position": 1})
    return context


@pytest.fixture(params=["arrow", "spark"])
def context_per_engine(valid_context, request):
    """The context of `valid_context`, whose rows are measured by Arrow or by Spark. Results must be equal."""
    if request.param == "spark":
        valid_context.__dict__["spark"] = request.getfixturevalue("spark")
        valid_context.settings = valid_context.settings.model_copy(update={"checks": CheckSettings(spark_min_mb=0)})
    return valid_context


def violations(result, verdict="failed"):
    """Violated expectations as {measure: observed}."""
    return {c["measure"]: c["observed"] for c in result[verdict]}


def examples(result, measure):
    """Examples of the violations of one measure."""
    return next(c["examples"] for c in result["checks"] if c["measure"] == measure)


def test_valid_tables_pass_and_write_one_page(valid_context):
    report = check.run(valid_context, ["users", "tracks", "events", "playlists"])
    folder = valid_context.home / "quality" / "2026-11-16"
    assert {t: r["success"] for t, r in report["tables"].items()} == dict.fromkeys(report["tables"], True)
    assert (
        report["tables"]["events"]["not_run"] == 2
    )  # no week before to compare with; a simulated source is loaded at once
    assert sorted(f.name for f in folder.glob("*.json")) == [
        "events.json",
        "playlists.json",
        "tracks.json",
        "users.json",
    ]
    html = (folder / "index.html").read_text()
    assert "Data checks passed" in html
    assert not any(word in html for word in ("http://", "https://", "<script", "<link", "src="))
    before = {f.name: f.read_bytes() for f in folder.glob("*.*")}
    check.run(valid_context, ["tracks"])
    assert {f.name: f.read_bytes() for f in folder.glob("*.*")} == before


def test_each_violation_in_users_is_reported(valid_context):
    file = write_unchecked(
        valid_context.lake,
        "users",
        {},
        {"user_id": 2, "country": "XX"},
        {"user_id": 3, "age": 400},
        {"user_id": 4, "age": 4},
        {"user_id": 5},
        {"user_id": 5},
        {"user_id": 5},
        {"user_id": -1},
        {"user_id": 6, "registered_at": None},
    )
    (result,) = check.check(valid_context, ["users"])
    assert violations(result) == {
        "country country": 1,
        "age range": 2,
        "user_id unique": 2,
        "user_id range": 1,
        "registered_at never_null": 1,
    }
    assert examples(result, "user_id unique") == [{"user_id": 5, "n_times": 3}]
    assert [(e["user_id"], e["age"]) for e in examples(result, "age range")] == [(3, 400), (4, 4)]
    lines = [check.format_problem(result, c) for c in result["failed"]]
    name = f"users/{file.parent.name}/part-00000.parquet"
    message = "  users.country: 1 row violates 'is an ISO 3166-1 alpha-2 country code'"
    assert f"{message}\n    e.g. user_id=2 country=XX in {name}" in lines


def test_high_share_of_unknown_ages_is_a_warning(valid_context, capsys):
    write_unchecked(valid_context.lake, "users", *({"user_id": i, "age": None} for i in range(20)))
    report = check.run(valid_context, ["users"])
    assert report["tables"]["users"]["warned"] == 1
    assert "users.age: 100.0% unknown; the contract: is unknown in at most 90% of the rows" in capsys.readouterr().err


def test_each_violation_in_events_is_reported(context_per_engine):
    future = datetime(2027, 1, 1, tzinfo=UTC)
    write_unchecked(
        context_per_engine.lake, "events", {}, {"ts": NOON + timedelta(seconds=1), "listened_s": 3}, day="2026-11-09"
    )
    write_unchecked(
        context_per_engine.lake,
        "events",
        {},
        {},
        {"ts": future},
        {"entity_id": 12345, "kind": "skip"},
        {"user_id": 77},
        {"kind": "hum", "entity": "album"},
        {"entity": "artist"},
        {"listened_s": 90_000, "entity_id": 8},
        {"entity": "song", "kind": "search"},
        day=DAY,
    )
    (result,) = check.check(context_per_engine, ["events"])
    assert violations(result, "warned") == {"entity_id track_exists": 1, "user_id references": 1}
    assert violations(result) == {
        "ts within_partition": 3,
        "user_id ts kind entity entity_id unique": 2,
        "kind values": 1,
        "entity values": 1,
        "entity kind pairs": 1,
        "listened_s range": 1,
    }
    assert examples(result, "ts within_partition")[2]["ts"] == "2027-01-01 00:00:00"
    assert f"events/day={DAY}/v0" in examples(result, "ts within_partition")[2]["file"]
    (orphan,) = examples(result, "entity_id track_exists")
    assert (orphan["entity_id"], orphan["kind"], orphan["ts"]) == (12345, "skip", "2026-11-10 12:00:00")


def test_day_includes_its_start_and_excludes_its_end(context_per_engine):
    last = datetime(2026, 11, 10, 23, 59, 59, 999999, tzinfo=UTC)
    first = datetime(2026, 11, 10, tzinfo=UTC)
    write_unchecked(context_per_engine.lake, "events", {"ts": first}, {"ts": last}, day=DAY)
    assert violations(check.check(context_per_engine, ["events"])[0]) == {}
    microsecond = timedelta(microseconds=1)
    write_unchecked(context_per_engine.lake, "events", {"ts": first - microsecond}, {"ts": last + microsecond}, day=DAY)
    assert violations(check.check(context_per_engine, ["events"])[0]) == {"ts within_partition": 2}


def test_fewer_events_than_in_the_previous_week_are_a_warning(valid_context):
    write_unchecked(
        valid_context.lake,
        "events",
        *({"ts": datetime(2026, 11, 3, 0, i, tzinfo=UTC)} for i in range(9)),
        day="2026-11-03",
    )
    (result,) = check.check(valid_context, ["events"])
    assert result["success"]
    assert violations(result, "warned") == {"rows_vs_last_week": pytest.approx(3 / 9 - 1)}


def test_error_of_an_empty_week_names_the_existing_days(valid_context):
    valid_context.lake.drop("events", day=DAY)
    write_unchecked(valid_context.lake, "events", {}, day="2026-12-24")
    with pytest.raises(
        CheckFailed, match="no events from 2026-08-18 to 2026-11-15; the log has 2026-12-24 to 2026-12-24"
    ):
        check.run(valid_context, ["events"])


def test_error_names_invalid_files_and_their_problem(valid_context):
    cut = write_unchecked(valid_context.lake, "users", {})
    cut.write_bytes(cut.read_bytes()[:-20])
    full = arrow_schema(contracts.load("tracks"))
    write_unchecked(valid_context.lake, "tracks", {}, schema=full.remove(full.get_field_index("album_id")))
    wrong = pa.schema(
        [
            f if f.name != "position" else pa.field("position", pa.int64())
            for f in arrow_schema(contracts.load("playlists"))
        ]
    )
    write_unchecked(valid_context.lake, "playlists", {}, schema=wrong)
    with pytest.raises(CheckFailed) as error:
        check.run(valid_context, ["users", "tracks", "events", "playlists"])
    assert f"users/{cut.parent.name}/part-00000.parquet is not a complete Parquet file" in str(error.value)
    assert "part-00000.parquet column 'album_id' is missing; the file has track_id, artist_id," in str(error.value)
    assert "part-00000.parquet column 'position' is int64, not int32" in str(error.value)
    assert "events.entity_id: cannot be checked: tracks is not in the lake or cannot be read" in str(error.value)
    stored = json.loads((valid_context.home / "quality" / "2026-11-16" / "users.json").read_text())
    assert [c["measure"] for c in stored["failed"]] == ["readable"]
    assert stored["statistics"]["not_run"] == 9
    html = (valid_context.home / "quality" / "2026-11-16" / "index.html").read_text()
    assert html.index("is not a complete Parquet file") < html.index('<section class="card"')


def test_file_with_corrupted_bytes_fails(context_per_engine):
    file = write_unchecked(context_per_engine.lake, "users", *({"user_id": i, "age": 5 + i % 90} for i in range(500)))
    content = bytearray(file.read_bytes())
    content[4:400] = b"\xff" * 396
    file.write_bytes(content)
    with pytest.raises(CheckFailed, match=r"part-00000.parquet column 'user_id' cannot be read"):
        check.run(context_per_engine, ["users"])


def test_row_count_different_from_the_written_count_fails(valid_context):
    file = write_unchecked(valid_context.lake, "users", {})
    pq.write_table(pa.concat_tables([pq.read_table(file)] * 2), file)
    (result,) = check.check(valid_context, ["users"])
    assert violations(result) == {"whole": 1, "user_id unique": 1}
    assert "1 rows were written, but the files contain 2" in examples(result, "whole")[0]["problem"]


@pytest.mark.parametrize(("n_unknown", "fails"), [(1, False), (2, False), (3, True)])
def test_rows_of_removed_users_and_tracks_fail_above_a_fifth(context_per_engine, n_unknown, fails):
    """The share is one of the rows that refer to the other table: favourite artists are no tracks."""
    lake, share = context_per_engine.lake, n_unknown / 10
    unknown = [{"user_id": 77, "entity_id": 404}] * n_unknown
    rows = [change | {"listened_s": n} for n, change in enumerate([*unknown, *[{}] * (10 - n_unknown)])]
    rows = [row | {"ts": NOON + timedelta(seconds=n)} for n, row in enumerate(rows)]
    artists = [{"kind": "favorite", "entity": "artist", "entity_id": n, "user_id": 1} for n in range(40)]
    write_unchecked(lake, "events", *rows, *artists, day=DAY)
    playlists = [{"position": n, "track_id": 404 if n < n_unknown else 7} for n in range(10)]
    write_unchecked(lake, "playlists", *playlists)
    events, lists = check.check(context_per_engine, ["events", "playlists"])
    assert violations(events, "warned") == {"user_id references": n_unknown, "entity_id track_exists": n_unknown}
    assert violations(lists, "warned") == {"track_id references": n_unknown}
    failed = {"entity_id missing_share": pytest.approx(share)}
    assert violations(events) == (failed if fails else {})
    assert violations(lists) == ({"track_id missing_share": pytest.approx(share)} if fails else {})
    if fails:
        line = check.format_problem(events, events["failed"][0])
        assert "events.entity_id: 30.0% missing; the contract: of a track exists in tracks in at least 80%" in line
        assert "entity_id=404" in line


def test_spaces_are_checked_separately(context_per_engine):
    bad = [{"centroid": [float("nan"), 0.0]}, {"segment_id": 2, "centroid": [1.0], "ranking": [None]}]
    write_unchecked(context_per_engine.lake, "segments", {}, {"segment_id": 1}, week="2026-11-16", space="ut_als")
    write_unchecked(context_per_engine.lake, "segments", *bad, week="2026-11-16", space="tt_svd")
    (result,) = check.check(context_per_engine, ["segments"])
    assert violations(result) == {
        "segment_id dense": 1,
        "centroid elements": 1,
        "centroid width": 1,
        "ranking elements": 1,
    }
    assert all(c["units"] == ["space tt_svd"] for c in result["failed"])


def test_features_of_some_tracks_must_have_one_length(context_per_engine):
    lake = context_per_engine.lake
    write_unchecked(lake, "tracks", {"content_features": [1.0, 2.0]}, {"track_id": 8, "content_features": None})
    (result,) = check.check(context_per_engine, ["tracks"])
    assert violations(result) == {}
    write_unchecked(lake, "tracks", {"content_features": [1.0, 2.0]}, {"track_id": 8, "content_features": [1.0]})
    (result,) = check.check(context_per_engine, ["tracks"])
    assert violations(result) == {"content_features width": 1}


def test_nan_and_infinity_fail(context_per_engine):
    bad = [{"value": float("nan")}, {"k": 20, "high": float("inf")}]
    write_unchecked(context_per_engine.lake, "evaluation", {"k": 10}, *bad, week="2026-11-16", space="tt_svd")
    (result,) = check.check(context_per_engine, ["evaluation"])
    assert violations(result) == {"value finite": 1, "value range": 1, "high finite": 1, "high range": 1}


def test_weekly_tables_are_compared_with_the_previous_week(valid_context):
    write_unchecked(
        valid_context.lake, "catalog", *({"track_idx": i, "track_id": i} for i in range(10)), week="2026-11-09"
    )
    write_unchecked(
        valid_context.lake, "catalog", *({"track_idx": i, "track_id": i} for i in range(6)), week="2026-11-16"
    )
    (result,) = check.check(valid_context, ["catalog"])
    assert violations(result, "warned") == {"rows_vs_last_week": pytest.approx(-0.4)}
    assert result["success"]


def test_missing_table_fails(valid_context):
    with pytest.raises(CheckFailed, match=r"catalog: nothing in .*/catalog for week 2026-11-16; the contract: is in"):
        check.run(valid_context, ["catalog"])


def test_unknown_table_is_a_bad_argument(context):
    with pytest.raises(BadArgument, match="no contract for ratings; tables are active_users, "):
        check.run(context, ["ratings"])


def test_unmeasured_expectation_does_not_pass(valid_context):
    rules = [
        Expectation("present", "fail", (), "is there", low=1, high=None),
        Expectation("rows", "fail", (), "has rows"),
    ]
    measured = TableMeasures(contracts.load("users"), rules, measures={"": {"present": 1.0}})
    assert [c["verdict"] for c in check.evaluate_table(valid_context, measured)["checks"]] == ["passed", "not run"]


def test_page_escapes_values_of_the_tables(valid_context):
    write_unchecked(valid_context.lake, "users", {"country": "<script>alert(1)</script>"})
    with pytest.raises(CheckFailed):
        check.run(valid_context, ["users"])
    html = (valid_context.home / "quality" / "2026-11-16" / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_both_engines_compute_the_same_measures(valid_context, spark):
    """On rows that violate most rules at once. Examples are equal too, except for their order."""
    write_unchecked(
        valid_context.lake,
        "events",
        {},
        {},
        {},
        {"ts": NOON - timedelta(days=1)},
        {"entity_id": 5, "listened_s": None},
        {"kind": None},
        {"user_id": None},
        {"user_id": None},
        {"entity": "album", "kind": "skip"},
        {"listened_s": -3, "entity_id": -1},
        day=DAY,
    )
    arrow, by_spark = (_measured(valid_context, "events") for _ in range(2))
    keys = {table: _measured(valid_context, table) for table in ("users", "tracks")}
    quality_arrow.measure(valid_context.lake, arrow, keys)
    quality_spark.measure(spark, valid_context.lake, by_spark, keys)
    assert arrow.measures == by_spark.measures
    assert arrow.columns == by_spark.columns
    for name in {*arrow.examples, *by_spark.examples}:
        assert sorted(map(str, arrow.examples[name])) == sorted(map(str, by_spark.examples[name]))


def _measured(context, table):
    contract = contracts.load(table)
    return inspect_files(context.lake, contract, expectations(contract), context.week, 90)


def test_row_hashes_are_distinct_and_deterministic():
    rows = pa.RecordBatch.from_pylist([{"a": i, "b": w, "t": NOON} for i in range(50) for w in ("x", "y", None)])
    hashes = quality_arrow.hash_rows(rows, ("a", "b", "t"))
    assert len(set(hashes.tolist())) == 150
    assert (quality_arrow.hash_rows(rows.slice(75), ("a", "b", "t")) == hashes[75:]).all()


def test_rows_in_quarantine_are_counted_by_reason_on_the_page(valid_context):
    lake = valid_context.lake
    rows = [{"reason": "age is not 5 to 120 years", "row": f"{n}", "source_file": None, "n_rows": n} for n in (2, 3)]
    rows.append({"reason": "user_id is null", "row": "{}", "source_file": "a.csv", "n_rows": 1})
    schema = arrow_schema(contracts.load("quarantine"))
    lake.write("quarantine", pa.Table.from_pylist(rows[:1], schema), raw_table="users", day="2026-11-01")  # replaced
    lake.write("quarantine", pa.Table.from_pylist(rows, schema), raw_table="users", day=DAY)
    lake.write("quarantine", pa.Table.from_pylist(rows, schema), raw_table="events", day="2020-01-01")
    users, events = check.check(valid_context, ["users", "events"])
    assert users["quarantined"] == [
        {"reason": "age is not 5 to 120 years", "n_rows": 5},
        {"reason": "user_id is null", "n_rows": 1},
    ]
    assert events["quarantined"] == []
    folder = check.write_results(valid_context, [users, events])
    assert '<td>age is not 5 to 120 years</td><td class="num">5</td>' in (folder / "index.html").read_text()
