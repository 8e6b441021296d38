"""Each promise is broken once, and bites: right column, rule and count, with an example; its neighbours stay kept."""

import json
import shutil
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
from jobs.quality.measures import Measured, inspect_files
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


def put(lake, table, *changes, schema=None, **partition):
    """Write rows that differ from the valid one as stated; goes past the lake's own checks on the way to the disk."""
    wanted = schema or pa.schema([f.with_nullable(True) for f in arrow_schema(contracts.load(table))])
    rows = pa.Table.from_pylist([{**ROWS[table], **change} for change in changes], schema=wanted)
    valid = pa.Table.from_pylist([ROWS[table]] * len(changes), schema=arrow_schema(contracts.load(table)))
    file = Path(lake.write(table, valid, **partition).path) / "part-00000.parquet"
    pq.write_table(rows, file)
    return file


@pytest.fixture
def ready(context):
    """A context with the four source tables, all of them valid."""
    put(context.lake, "users", {}, {"user_id": 2, "country": None, "age": None})
    put(context.lake, "tracks", {}, {"track_id": 8})
    put(
        context.lake, "events", {}, {"entity_id": 8}, {"kind": "favorite", "entity": "artist", "entity_id": 99}, day=DAY
    )
    put(context.lake, "playlists", {}, {"position": 1})
    return context


@pytest.fixture(params=["arrow", "spark"])
def either(ready, request):
    """The same context, its rows measured in the process or on Spark: both must say the same."""
    if request.param == "spark":
        ready.__dict__["spark"] = request.getfixturevalue("spark")
        ready.settings = ready.settings.model_copy(update={"checks": CheckSettings(spark_min_mb=0)})
    return ready


def broken(result, verdict="failed"):
    """What was broken, as {measure: observed}."""
    return {c["measure"]: c["observed"] for c in result[verdict]}


def examples(result, measure):
    return next(c["examples"] for c in result["checks"] if c["measure"] == measure)


def test_valid_tables_keep_every_promise_and_leave_one_page(ready):
    report = check.run(ready, ["users", "tracks", "events", "playlists"])
    folder = ready.home / "quality" / "2026-11-16"
    assert {t: r["success"] for t, r in report["tables"].items()} == dict.fromkeys(report["tables"], True)
    assert report["tables"]["events"]["not_run"] == 1  # rows_vs_last_week has no week before
    assert sorted(f.name for f in folder.glob("*.json")) == [
        "events.json",
        "playlists.json",
        "tracks.json",
        "users.json",
    ]
    html = (folder / "index.html").read_text()
    assert "kept its contract" in html
    assert not any(word in html for word in ("http://", "https://", "<script", "<link", "src="))
    before = {f.name: f.read_bytes() for f in folder.glob("*.*")}
    check.run(ready, ["tracks"])
    assert {f.name: f.read_bytes() for f in folder.glob("*.*")} == before


def test_users_break_every_promise(ready):
    file = put(
        ready.lake,
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
    (result,) = check.check(ready, ["users"])
    assert broken(result) == {
        "country country": 1,
        "age range": 2,
        "user_id unique": 2,
        "user_id range": 1,
        "registered_at never_null": 1,
    }
    assert examples(result, "user_id unique") == [{"user_id": 5, "n_times": 3}]
    assert [(e["user_id"], e["age"]) for e in examples(result, "age range")] == [(3, 400), (4, 4)]
    lines = [check.problem(result, c) for c in result["failed"]]
    name = f"users/{file.parent.name}/part-00000.parquet"
    said = "  users.country: 1 row breaks 'is an ISO 3166-1 alpha-2 country code'"
    assert f"{said}\n    e.g. user_id=2 country=XX in {name}" in lines


def test_unknown_ages_only_warn(ready, capsys):
    put(ready.lake, "users", *({"user_id": i, "age": None} for i in range(20)))
    report = check.run(ready, ["users"])
    assert report["tables"]["users"]["warned"] == 1
    assert "users.age: 100.0% unknown; the contract: is unknown in at most 90% of the rows" in capsys.readouterr().err


def test_events_break_every_promise(either):
    future = datetime(2027, 1, 1, tzinfo=UTC)
    put(either.lake, "events", {}, {"ts": NOON + timedelta(seconds=1), "listened_s": 3}, day="2026-11-09")
    put(
        either.lake,
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
    (result,) = check.check(either, ["events"])
    assert broken(result) == {
        "ts within_partition": 3,
        "user_id ts kind entity entity_id unique": 2,
        "entity_id track_exists": 1,
        "user_id references": 1,
        "kind values": 1,
        "entity values": 1,
        "entity kind pairs": 1,
        "listened_s range": 1,
    }
    assert examples(result, "ts within_partition")[2]["ts"] == "2027-01-01 00:00:00"
    assert f"events/day={DAY}/v-" in examples(result, "ts within_partition")[2]["file"]
    (orphan,) = examples(result, "entity_id track_exists")
    assert (orphan["entity_id"], orphan["kind"], orphan["ts"]) == (12345, "skip", "2026-11-10 12:00:00")


def test_both_borders_of_a_day_belong_to_it_or_not(either):
    last = datetime(2026, 11, 10, 23, 59, 59, 999999, tzinfo=UTC)
    first = datetime(2026, 11, 10, tzinfo=UTC)
    put(either.lake, "events", {"ts": first}, {"ts": last}, day=DAY)
    assert broken(check.check(either, ["events"])[0]) == {}
    one = timedelta(microseconds=1)
    put(either.lake, "events", {"ts": first - one}, {"ts": last + one}, day=DAY)
    assert broken(check.check(either, ["events"])[0]) == {"ts within_partition": 2}


def test_fewer_events_than_the_week_before_only_warn(ready):
    put(ready.lake, "events", *({"ts": datetime(2026, 11, 3, 0, i, tzinfo=UTC)} for i in range(9)), day="2026-11-03")
    (result,) = check.check(ready, ["events"])
    assert result["success"]
    assert broken(result, "warned") == {"rows_vs_last_week": pytest.approx(3 / 9 - 1)}


def test_an_empty_week_says_which_days_there_are(ready):
    shutil.rmtree(f"{ready.lake.root}/events/day={DAY}")
    put(ready.lake, "events", {}, day="2026-12-24")
    with pytest.raises(
        CheckFailed, match="no events from 2026-08-18 to 2026-11-15; the log has 2026-12-24 to 2026-12-24"
    ):
        check.run(ready, ["events"])


def test_files_are_named_with_what_is_wrong(ready):
    cut = put(ready.lake, "users", {})
    cut.write_bytes(cut.read_bytes()[:-20])
    full = arrow_schema(contracts.load("tracks"))
    put(ready.lake, "tracks", {}, schema=full.remove(full.get_field_index("album_id")))
    wrong = pa.schema(
        [
            f if f.name != "position" else pa.field("position", pa.int64())
            for f in arrow_schema(contracts.load("playlists"))
        ]
    )
    put(ready.lake, "playlists", {}, schema=wrong)
    with pytest.raises(CheckFailed) as error:
        check.run(ready, ["users", "tracks", "events", "playlists"])
    assert f"users/{cut.parent.name}/part-00000.parquet is no whole Parquet file" in str(error.value)
    assert "part-00000.parquet column 'album_id' is missing; the file has track_id, artist_id," in str(error.value)
    assert "part-00000.parquet column 'position' is int64, not int32" in str(error.value)
    assert "events.entity_id: cannot be checked: tracks is not in the lake or cannot be read" in str(error.value)
    kept = json.loads((ready.home / "quality" / "2026-11-16" / "users.json").read_text())
    assert [c["measure"] for c in kept["failed"]] == ["readable"]
    assert kept["statistics"]["not_run"] == 9
    html = (ready.home / "quality" / "2026-11-16" / "index.html").read_text()
    assert html.index("is no whole Parquet file") < html.index("kept")


def test_a_file_spoiled_in_the_middle_is_found(either):
    file = put(either.lake, "users", *({"user_id": i, "age": 5 + i % 90} for i in range(500)))
    content = bytearray(file.read_bytes())
    content[4:400] = b"\xff" * 396
    file.write_bytes(content)
    with pytest.raises(CheckFailed, match=r"part-00000.parquet column 'user_id' cannot be read"):
        check.run(either, ["users"])


def test_rows_that_were_lost_or_added_by_hand_are_noticed(ready):
    file = put(ready.lake, "users", {})
    pq.write_table(pa.concat_tables([pq.read_table(file)] * 2), file)
    (result,) = check.check(ready, ["users"])
    assert broken(result) == {"whole": 1, "user_id unique": 1}
    assert "1 rows were written, 2 are there" in examples(result, "whole")[0]["problem"]


def test_an_orphan_in_a_playlist(ready):
    put(ready.lake, "playlists", {}, {"position": 1, "track_id": 404}, {"position": -1})
    (result,) = check.check(ready, ["playlists"])
    assert broken(result) == {"track_id references": 1, "position range": 1}


def test_spaces_are_judged_apart(either):
    bad = [{"centroid": [float("nan"), 0.0]}, {"segment_id": 2, "centroid": [1.0], "ranking": [None]}]
    put(either.lake, "segments", {}, {"segment_id": 1}, week="2026-11-16", space="ut_als")
    put(either.lake, "segments", *bad, week="2026-11-16", space="tt_svd")
    (result,) = check.check(either, ["segments"])
    assert broken(result) == {"segment_id dense": 1, "centroid elements": 1, "centroid width": 1, "ranking elements": 1}
    assert all(c["units"] == ["space tt_svd"] for c in result["failed"])


def test_numbers_that_are_none(either):
    bad = [{"value": float("nan")}, {"k": 20, "high": float("inf")}]
    put(either.lake, "evaluation", {"k": 10}, *bad, week="2026-11-16", space="tt_svd")
    (result,) = check.check(either, ["evaluation"])
    assert broken(result) == {"value finite": 1, "value range": 1, "high finite": 1, "high range": 1}


def test_weekly_tables_are_held_against_the_week_before(ready):
    put(ready.lake, "catalog", *({"track_idx": i, "track_id": i} for i in range(10)), week="2026-11-09")
    put(ready.lake, "catalog", *({"track_idx": i, "track_id": i} for i in range(6)), week="2026-11-16")
    (result,) = check.check(ready, ["catalog"])
    assert broken(result, "warned") == {"rows_vs_last_week": pytest.approx(-0.4)}
    assert result["success"]


def test_a_table_that_is_not_there(ready):
    with pytest.raises(CheckFailed, match=r"catalog: nothing in .*/catalog for week 2026-11-16; the contract: is in"):
        check.run(ready, ["catalog"])


def test_an_unknown_table_is_a_wrong_argument(context):
    with pytest.raises(BadArgument, match="no contract for ratings; tables are catalog, "):
        check.run(context, ["ratings"])


def test_a_promise_that_was_not_measured_is_not_counted_as_kept(ready):
    promises = [
        Expectation("present", "fail", (), "is there", low=1, high=None),
        Expectation("rows", "fail", (), "has rows"),
    ]
    found = Measured(contracts.load("users"), promises, measures={"": {"present": 1.0}})
    assert [c["verdict"] for c in check.judge(ready, found)["checks"]] == ["passed", "not run"]


def test_the_page_shows_what_people_typed_as_text(ready):
    put(ready.lake, "users", {"country": "<script>alert(1)</script>"})
    with pytest.raises(CheckFailed):
        check.run(ready, ["users"])
    html = (ready.home / "quality" / "2026-11-16" / "index.html").read_text()
    assert "<script" not in html
    assert "&lt;script&gt;" in html


def test_both_engines_take_the_same_measures(ready, spark):
    """On rows that break most rules at once; examples too, whatever their order."""
    put(
        ready.lake,
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
    arrow, by_spark = (_measured(ready, "events") for _ in range(2))
    keys = {table: _measured(ready, table) for table in ("users", "tracks")}
    quality_arrow.measure(ready.lake, arrow, keys)
    quality_spark.measure(spark, ready.lake, by_spark, keys)
    assert arrow.measures == by_spark.measures
    assert arrow.columns == by_spark.columns
    for name in {*arrow.examples, *by_spark.examples}:
        assert sorted(map(str, arrow.examples[name])) == sorted(map(str, by_spark.examples[name]))


def _measured(context, table):
    contract = contracts.load(table)
    return inspect_files(context.lake, contract, expectations(contract), context.week, 90)


def test_hashes_tell_rows_apart_and_know_them_again():
    rows = pa.RecordBatch.from_pylist([{"a": i, "b": w, "t": NOON} for i in range(50) for w in ("x", "y", None)])
    found = quality_arrow.hashes(rows, ("a", "b", "t"))
    assert len(set(found.tolist())) == 150
    assert (quality_arrow.hashes(rows.slice(75), ("a", "b", "t")) == found[75:]).all()
