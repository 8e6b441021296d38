"""Tests of jobs/experiments/ingest.py: invalid lines are counted by reason, and a second run writes equal rows."""

from __future__ import annotations

import bz2
import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.experiments import ingest
from jobs.experiments.exposures import Displays

DAY = "2026-11-24"
LINE = {
    "request_id": "a1",
    "user_id": 7,
    "ts": f"{DAY}T10:00:00+00:00",
    "experiment": "first_day",
    "arm": "default",
    "method": "popularity",
    "release": "r",
    "tracks": [11, 12],
    "propensities": [1.0, 0.25],
}
OUTCOME = {"request_id": "a1", "user_id": 7, "track_id": 12, "ts": f"{DAY}T11:00:00+00:00", "kind": "stream"}


def write_logs(folder, exposures=(), outcomes=(), day=DAY, name="1"):
    folder.mkdir(exist_ok=True)
    for kind, lines in (("exposures", exposures), ("outcomes", outcomes)):
        if lines:
            text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
            (folder / f"{kind}-{day}.{name}.jsonl").write_text(text)
    return folder


def test_lines_become_rows_and_a_second_run_writes_equal_rows(context, tmp_path):
    signals = {"listener": {"country": "FR", "streams": {"tracks": [5]}}, "leave_out": [9], "leave_out_first_day": True}
    folder = write_logs(
        tmp_path / "logs", [{**LINE, "context": signals}, {**LINE, "request_id": "a2", "propensities": None}], [OUTCOME]
    )
    for _ in range(2):
        report = ingest.run(context, folder)
        assert report["rows"] == {"exposures": 4, "exposure_contexts": 1, "outcomes": 1}
        assert report["bad"] == {}
        rows = context.lake.read("exposures", day=DAY).to_pylist()
        assert [(r["request_id"], r["position"], r["track_id"], r["propensity"]) for r in rows] == [
            ("a1", 1, 11, 1.0),
            ("a1", 2, 12, 0.25),
            ("a2", 1, 11, None),
            ("a2", 2, 12, None),
        ]
        stored = context.lake.read("exposure_contexts", day=DAY).to_pylist()[0]
        assert (stored["country"], stored["age"], stored["streamed_songs"]) == ("FR", None, [5])
        assert (stored["leave_out"], stored["leave_out_first_day"]) == ([9], True)
    # If no line has a context, the day's contexts are removed from the lake.
    write_logs(tmp_path / "logs", [LINE])
    ingest.run(context, folder)
    assert not context.lake.exists("exposure_contexts", day=DAY)


def test_ids_are_external_and_numbers_of_older_logs_are_the_same_ids(context, tmp_path):
    large = 2**62 + 12_345_678_901
    signals = {"leave_out": [large], "leave_out_first_day": None, "listener": {"bans": {"tracks": [large]}}}
    old = {**LINE, "user_id": large, "tracks": [large], "propensities": None, "context": signals}
    new = json.loads(json.dumps(old).replace(str(large), f'"{large}"'))
    outcome = {**OUTCOME, "user_id": large, "track_id": large}
    tables = []
    for number, (line, result) in enumerate(
        ((old, outcome), (new, json.loads(json.dumps(outcome).replace(str(large), f'"{large}"'))))
    ):
        assert ingest.run(context, write_logs(tmp_path / str(number), [line], [result]))["bad"] == {}
        tables.append([context.lake.read(t, day=DAY) for t in ("exposures", "exposure_contexts", "outcomes")])
    assert tables[0] == tables[1]
    assert tables[1][0]["user_external_id"].null_count == 1
    assert tables[1][1]["banned_songs"].to_pylist() == [[large]]


def test_numbers_are_invalid_where_the_ids_are_texts(context, tmp_path):
    row = {"track_id": 1, "artist_id": 1, "album_id": 1, "external_id": "one"}
    tracks = pa.Table.from_pylist([row], schema=arrow_schema(contracts.load("tracks")))
    context.lake.write("tracks", tracks, report={"ids": {"user": "text", "track": "text"}})
    texts = [{**LINE, "request_id": f"q{n}", "user_id": "u", "tracks": ["one", "two"]} for n in range(150)]
    assert ingest.run(context, write_logs(tmp_path, [*texts, LINE]))["bad"] == {"exposures: user_id is not an id": 1}
    assert context.lake.read("exposures", day=DAY)["user_external_id"].unique().to_pylist() == ["u"]


INVALID_EXPOSURES = {
    "not JSON with a time": "{torn",
    "a time without a time zone": {**LINE, "ts": f"{DAY}T10:00:00"},
    "a day other than its file's": {**LINE, "ts": "2026-11-25T00:00:00+00:00"},
    "without arm": {k: v for k, v in LINE.items() if k != "arm"},
    "user_id is not an id": {**LINE, "user_id": "seven"},
    "track_id is not an id": {**LINE, "tracks": [11, -1]},
    "experiment is not a text": {**LINE, "experiment": ""},
    "tracks is not a list": {**LINE, "tracks": []},
    "propensities and tracks differ in length": {**LINE, "propensities": [1.0]},
    "a propensity is not in (0, 1]": {**LINE, "propensities": [1.0, 0]},
    "its context is not a listener": {**LINE, "context": {"listener": {"country": "france"}}},
}
# A line that raises something else than ValueError in a careless reader; each is one bad line of its reason.
HOSTILE_LINES = [
    ("not JSON with a time", {"ts": "0001-01-01T00:00:00+01:00"}),
    ("not JSON with a time", {"ts": "9999-12-31T23:59:59-01:00"}),
    ("not JSON with a time", {"ts": 1e999}),
    ("not JSON with a time", {"ts": ["2026"]}),
    ("not JSON with a time", "[" * 200_000),
    ("not JSON with a time", '{"ts":' * 200_000),
    ("not JSON with a time", '{"ts": ' + "9" * 200_000 + "}"),
    ("not JSON with a time", "7"),
    ("not JSON with a time", '"text"'),
    ("not JSON with a time", ""),
    ("not JSON with a time", "\x00"),
    ("request_id is not a text", {"request_id": "\ud800"}),
    ("request_id is not a text", {"request_id": ["a"]}),
]
INVALID_OUTCOMES = {
    "kind is neither stream nor favorite": {**OUTCOME, "kind": "skip"},
    "without track_id": {k: v for k, v in OUTCOME.items() if k != "track_id"},
    "user_id is not an id": {**OUTCOME, "user_id": 2**63},
}


@pytest.mark.parametrize(
    ("kind", "reason"), [("exposures", r) for r in INVALID_EXPOSURES] + [("outcomes", r) for r in INVALID_OUTCOMES]
)
def test_an_invalid_line_is_excluded_and_counted_by_reason(context, tmp_path, kind, reason):
    good = [{**LINE, "request_id": f"g{n}"} for n in range(120)]
    bad = (INVALID_EXPOSURES if kind == "exposures" else INVALID_OUTCOMES)[reason]
    folder = write_logs(
        tmp_path / "logs", good + [bad] * (kind == "exposures"), [OUTCOME] + [bad] * (kind == "outcomes")
    )
    report = ingest.run(context, folder)
    assert report["bad"] == {f"{kind}: {reason}": 1}
    assert report["rows"] == {"exposures": 240, "outcomes": 1}


@pytest.mark.parametrize("kind", ["exposures", "outcomes"])
@pytest.mark.parametrize(("reason", "line"), HOSTILE_LINES)
def test_a_hostile_line_is_one_bad_line(context, tmp_path, kind, reason, line):
    base = LINE if kind == "exposures" else OUTCOME
    good = [{**base, "request_id": f"g{n}"} for n in range(200)]
    lines = [*good, line if isinstance(line, str) else {**base, **line}]
    report = ingest.run(context, write_logs(tmp_path / "logs", **{kind: lines}))
    assert report["bad"] == {f"{kind}: {reason}": 1}
    assert report["rows"][kind] == 200 * (2 if kind == "exposures" else 1)


@pytest.mark.parametrize("propensity", [10**400, -(10**400), float("nan"), float("inf"), True, "1", [1]])
def test_a_propensity_is_a_number_above_0_up_to_1(context, tmp_path, propensity):
    good = [{**LINE, "request_id": f"g{n}"} for n in range(200)]
    report = ingest.run(context, write_logs(tmp_path / "logs", [*good, {**LINE, "propensities": [propensity, 1]}]))
    assert report["bad"] == {"exposures: a propensity is not in (0, 1]": 1}


def pack(path, suffix):
    """Replace a file by its compressed form."""
    content = path.read_bytes()
    if suffix == ".zst":
        with pa.output_stream(str(path) + suffix, compression="zstd") as sink:
            sink.write(content)
    else:
        packed = {".gz": gzip.compress, ".bz2": bz2.compress}[suffix]
        half = content.index(b"\n") + 1
        Path(str(path) + suffix).write_bytes(packed(content[:half]) + packed(content[half:]))  # appended to
    path.unlink()


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".zst"])
def test_rotated_and_compressed_logs_of_a_day_are_read_together(context, tmp_path, suffix):
    lines = [{**OUTCOME, "request_id": f"q{n}"} for n in range(20)]
    write_logs(tmp_path / "logs", outcomes=lines[:5], name="1")
    folder = write_logs(tmp_path / "logs", outcomes=lines[5:10], name="2")
    pack(folder / f"outcomes-{DAY}.2.jsonl", suffix)
    for n, start in (("1", 10), ("12", 15)):
        write_logs(folder, outcomes=lines[start : start + 5], name="x")
        (folder / f"outcomes-{DAY}.x.jsonl").rename(folder / f"outcomes-{DAY}.jsonl.{n}")
    pack(folder / f"outcomes-{DAY}.jsonl.12", suffix)
    report = ingest.run(context, folder)
    assert report["rows"] == {"outcomes": 20}
    assert len(context.lake.report("outcomes", day=DAY)["files"]) == 4
    damaged = folder / f"outcomes-{DAY}.2.jsonl{suffix}"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(CheckFailed, match=rf"outcomes-{DAY}\.2\.jsonl\{suffix}: cannot be read"):
        ingest.run(context, folder)
    assert context.lake.rows("outcomes", day=DAY) == 20


@pytest.mark.parametrize(
    "name",
    [
        f"outcomes-{DAY}.jsonl.xz",
        f"outcomes-{DAY}.zip",
        f"outcomes-{DAY}.json",
        f"Outcomes-{DAY}.jsonl",
        f"outcomes-{DAY}.jsonl.gz.part",
        f"outcomes-{DAY}7.jsonl",
        "outcomes-20261124.jsonl",
        f"exposures-{DAY}.jsonl~",
        f"exposures-{DAY}.jsonl/",
    ],
)
def test_another_file_that_begins_like_a_log_is_refused_by_name(context, tmp_path, name):
    folder = write_logs(tmp_path / "logs", [LINE], [OUTCOME])
    (folder / name).mkdir() if name.endswith("/") else (folder / name).write_text("")
    (folder / "readme.txt").write_text("")
    with pytest.raises(BadArgument, match=re.escape(f"cannot read {name.rstrip('/')}; a log is a file")):
        ingest.run(context, folder)
    assert not context.lake.exists("outcomes", day=DAY)


def test_too_many_invalid_lines_stop_the_job_before_it_writes(context, tmp_path):
    folder = write_logs(tmp_path / "logs", [LINE, "{torn"])
    with pytest.raises(CheckFailed, match=r"1 of 2 lines are invalid.*not JSON with a time: 1"):
        ingest.run(context, folder)
    assert not context.lake.exists("exposures", day=DAY)


def test_repeated_lines_count_once_and_are_not_invalid(context, tmp_path):
    later = {**OUTCOME, "ts": f"{DAY}T12:00:00+00:00"}
    folder = write_logs(tmp_path / "logs", [LINE, LINE], [later, OUTCOME, OUTCOME])
    report = ingest.run(context, folder)
    assert report["bad"] == {"exposures: repeated": 1, "outcomes: repeated": 1}
    rows = context.lake.read("outcomes", day=DAY).to_pylist()
    assert [row["ts"].hour for row in rows] == [11]


def test_a_folder_without_logs_is_rejected(context, tmp_path, command, home):
    with pytest.raises(BadArgument, match="no such folder"):
        ingest.run(context, tmp_path / "nowhere")
    (tmp_path / "exposures.txt").write_text("")
    with pytest.raises(BadArgument, match="contains no exposures"):
        ingest.run(context, tmp_path)
    assert command("ab-ingest", "--data", tmp_path)[0] == 2


def test_outcomes_are_attributed_to_their_display_within_the_attribution_hours(context, tmp_path):
    plan = context.settings.experiment
    shown = [{**LINE, "request_id": f"q{n}", "user_id": 10 + n, "ts": f"{DAY}T20:00:00+00:00"} for n in range(6)]

    def outcome(n, ts, **changes):
        return {**OUTCOME, "request_id": f"q{n}", "user_id": 10 + n, "ts": ts, **changes}

    same_day = [
        outcome(0, f"{DAY}T20:00:00+00:00"),
        outcome(1, f"{DAY}T19:59:59+00:00"),
        outcome(2, f"{DAY}T21:00:00+00:00", user_id=99),
        outcome(5, f"{DAY}T21:00:00+00:00", track_id=777),
    ]
    next_day = [outcome(3, "2026-11-25T20:00:00+00:00", kind="favorite"), outcome(4, "2026-11-25T20:00:01+00:00")]
    folder = write_logs(tmp_path / "logs", shown, same_day)
    write_logs(folder, outcomes=next_day, day="2026-11-25")
    ingest.run(context, folder)
    displays = Displays(context.lake, plan)
    days = dict(displays.by_day())
    assert list(days) == [DAY]
    frame = days[DAY]
    assert len(frame) == 12
    assert frame.loc[frame["stream"], ["request_id", "track_id"]].to_numpy().tolist() == [["q0", 12]]
    assert frame.loc[frame["favorite"], ["request_id", "track_id"]].to_numpy().tolist() == [["q3", 12]]
    assert displays.unmatched == {
        "other listener than the display": 1,
        "before the display or more than 24 hours after it": 2,
    }
    assert len(displays.missing) == 27
