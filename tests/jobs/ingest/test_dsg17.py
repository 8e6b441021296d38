"""Test the DSG17 adapter: real rows are converted exactly, bad rows are counted by reason, bad files are rejected."""

import json
import time
from datetime import date

import pandas as pd
import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.ingest.dsg17 import adapter as dsg17
from jobs.ingest.dsg17 import generate as dsg17_generate
from jobs.release.skip import submission
from tests.helpers.quarantine import quarantined
from tests.helpers.skip_tables import NAMES, VALID, skip_context, write_rows

TEST_NAMES = ("sample_id", *NAMES[:-1])
pytestmark = pytest.mark.usefixtures("spark")


def plays(context):
    parts = [context.lake.read("plays", **day).to_pandas() for day in context.lake.partitions("plays")]
    return pd.concat(parts, ignore_index=True)


@pytest.fixture
def context_and_data(home, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    return skip_context(home, max_bad_share=1.0), data


def test_real_files_are_converted_exactly(data_dir, home):
    context = skip_context(home)
    folder = data_dir("dsg17")
    report = dsg17.run(context, folder)
    train, test = pd.read_csv(folder / "train_sample.csv"), pd.read_csv(folder / "test.csv")
    recent = train[train.ts_listen >= 1_420_070_400]
    assert report["files"]["train"] == {
        "file": "train_sample.csv",
        "read": len(train),
        "bad": {},
        "early": len(train) - len(recent),
        "kept": len(recent),
        "listened": int(recent.is_listened.sum()),
    }
    assert report["files"]["test"]["kept"] == len(test)
    assert report["repeats"] == 0
    rows = plays(context)
    assert rows.play_id.is_unique
    labelled, unlabelled = rows[rows.is_listened.notna()], rows[rows.is_listened.isna()]
    for part, raw in ((labelled, recent), (unlabelled, test)):
        columns = {"media_id": "track_id", "artist_id": "artist_id", "user_id": "user_id", "genre_id": "genre_id"}
        key = ["ts_listen", "user_id", "media_id"]
        written = part.assign(ts_listen=part.ts.dt.as_unit("s").astype("int64"))
        written = written.rename(columns={new: old for old, new in columns.items()}).sort_values(key, ignore_index=True)
        raw = raw.sort_values(key, ignore_index=True)
        for name in (*key, "artist_id", "genre_id", "album_id", "context_type", "user_age", "user_gender"):
            assert (written[name] == raw[name]).all(), name
        assert (written.is_flow == (raw.listen_type == 1)).all()
        assert (written.duration_s == raw.media_duration).all()
        released = pd.to_datetime(raw.release_date.astype(str), format="%Y%m%d")
        invalid = (released < "1900-01-11") | (released > pd.to_datetime(raw.ts_listen, unit="s").dt.floor("D"))
        assert (written.release_date.isna() == invalid).all()
    assert sorted(unlabelled.sample_id) == list(range(len(test)))


def test_a_second_run_writes_equal_rows_and_drops_old_days(context_and_data):
    context, data = context_and_data
    write_rows(data / "train.csv", [{}, {"ts_listen": VALID["ts_listen"] + 86_400 * 3}])
    dsg17.run(context, data)
    first = plays(context)
    dsg17.run(context, data)
    pd.testing.assert_frame_equal(first, plays(context))
    write_rows(data / "train.csv", [{}])
    assert len(dsg17.run(context, data)["days_dropped"]) == 1
    assert len(plays(context)) == 1


def test_each_bad_row_is_counted_for_one_reason(context_and_data):
    context, data = context_and_data
    rows = [
        {},
        {"is_listened": 2},
        {"is_listened": None},
        {"user_id": None},
        {"user_id": "x"},
        {"media_id": -1},
        {"listen_type": 3},
        {"ts_listen": 5_000_000_000},
        {"user_age": 200},
        {"media_duration": 2**31},
    ]
    write_rows(data / "train.csv", rows)
    with (data / "train.csv").open("a") as lines:
        lines.write("1,2,3\n")
    whole = dsg17.run(context, data)
    report = whole["files"]["train"]
    assert whole["quarantined"] == {"plays": 10}
    stored = {reason: (row, file) for reason, row, file, _ in quarantined(context.lake)["plays"]}
    assert set(stored) == set(report["bad"])
    assert stored["not 15 values"] == ("1,2,3", "train.csv")
    assert json.loads(stored["user_id is not an integer"][0])["user_id"] == "x"
    assert report["bad"] == {
        "is_listened is not 0 or 1": 1,
        "is_listened is missing": 1,
        "user_id is missing": 1,
        "user_id is not an integer": 1,
        "media_id is negative": 1,
        "listen_type is not 0 or 1": 1,
        "ts_listen is not between 1970 and 2100": 1,
        "user_age is above 150": 1,
        "media_duration is too large": 1,
        "not 15 values": 1,
    }
    assert (report["read"], report["kept"]) == (11, 1)


def test_times_in_the_future_are_bad_and_days_before_both_first_days_are_dropped(context_and_data):
    context, data = context_and_data
    now = int(time.time())
    moments = [VALID["ts_listen"], now + 82_800, now + 90_000, 86_400 * 17_166 - 1, 86_400 * 17_167]
    write_rows(data / "train.csv", [{"ts_listen": ts} for ts in moments])
    report = dsg17.run(context, data)
    assert report["files"]["train"]["bad"] == {"ts_listen is in the future": 1}
    assert report["rows"] == {"plays": 4}
    source = context.settings.source.model_copy(update={"earliest_day": date(2017, 1, 1)})
    context.settings = context.settings.model_copy(update={"source": source})
    report = dsg17.run(context, data)
    assert (report["files"]["train"]["early"], report["days"]["first"]) == (2, "2017-01-01")


@pytest.mark.parametrize("quoted", [False, True])
def test_a_byte_order_mark_is_no_part_of_the_header(context_and_data, quoted):
    context, data = context_and_data
    for name, names in (("train.csv", NAMES), ("test.csv", TEST_NAMES)):
        write_rows(data / name, [{"sample_id": 5, "ts_listen": VALID["ts_listen"] + len(name)}], names)
        header, rows = (data / name).read_text().split("\n", 1)
        if quoted:
            header = ",".join(f'"{column}"' for column in header.split(","))
        (data / name).write_text(f"\ufeff{header}\n{rows}", encoding="utf-8")
    report = dsg17.run(context, data)
    assert [report["files"][part]["kept"] for part in ("train", "test")] == [1, 1]
    assert submission.read_test_rows(data / "test.csv").sample_N.tolist() == [5]


@pytest.mark.parametrize(
    "folder", ["my data", "T\u00e9le\u0301chargements", "a#b", "a%20b", "a[1]", "{a,b}", "a?*", "a:b", "a\\b"]
)
def test_a_folder_may_have_any_name(context_and_data, folder):
    context, data = context_and_data
    plain, named = data / "plain", data / folder
    plain.mkdir()
    write_rows(plain / "train.csv", [{}, {"user_age": 31}])
    write_rows(plain / "test.csv", [{"sample_id": 9, "user_age": 32}], TEST_NAMES)
    expected = dsg17.run(context, plain)
    rows = plays(context)
    plain.rename(named)
    assert {**dsg17.run(context, named), "path": ""} == {**expected, "path": ""}
    pd.testing.assert_frame_equal(plays(context), rows)
    assert submission.read_test_rows(named / "test.csv").sample_N.tolist() == [9]


def test_too_many_bad_rows_stop_the_run_before_anything_is_written(home, tmp_path):
    context = skip_context(home, max_bad_share=0.2)
    write_rows(tmp_path / "train.csv", [{}, {}, {"is_listened": 7}])
    with pytest.raises(CheckFailed, match=r"1 of 3 rows .*max_bad_share = 0\.2.*is_listened is not 0 or 1: 1"):
        dsg17.run(context, tmp_path)
    assert not context.lake.partitions("plays")


def test_timestamps_in_milliseconds_raise(context_and_data):
    context, data = context_and_data
    write_rows(data / "train.csv", [{"ts_listen": 1_478_000_000_000 + n} for n in range(3)])
    with pytest.raises(CheckFailed, match=r"train\.csv: column 'ts_listen' contains milliseconds"):
        dsg17.run(context, data)


def test_a_missing_column_raises_with_file_and_column(context_and_data):
    context, data = context_and_data
    write_rows(data / "train.csv", [{}], [name for name in NAMES if name != "artist_id"])
    with pytest.raises(CheckFailed, match=r"train\.csv: column 'artist_id' is missing"):
        dsg17.run(context, data)
    write_rows(data / "train.csv", [{}])
    write_rows(data / "test.csv", [{}], NAMES[:-1])
    with pytest.raises(CheckFailed, match=r"test\.csv: column 'sample_id' is missing"):
        dsg17.run(context, data)


def test_labels_in_the_test_file_raise(context_and_data):
    context, data = context_and_data
    write_rows(data / "train.csv", [{}])
    write_rows(data / "test.csv", [{}], ("sample_id", *NAMES))
    with pytest.raises(CheckFailed, match=r"test\.csv: has the column 'is_listened'"):
        dsg17.run(context, data)


def test_missing_files_rows_or_days_raise(context_and_data):
    context, data = context_and_data
    with pytest.raises(BadArgument, match=r"neither train\.csv nor train_sample\.csv"):
        dsg17.run(context, data)
    write_rows(data / "train.csv", [])
    with pytest.raises(CheckFailed, match="the file has no rows"):
        dsg17.run(context, data)
    write_rows(data / "train.csv", [{"ts_listen": 5}])
    with pytest.raises(CheckFailed, match="first_day = 2015-01-01"):
        dsg17.run(context, data)


def test_column_order_repeated_rows_and_invalid_dates(context_and_data):
    context, data = context_and_data
    same = {"ts_listen": VALID["ts_listen"]}
    rows = [
        {**same},
        {**same},
        {**same, "is_listened": 0},
        {"release_date": 19000101},
        {"release_date": 20161131},
        {"release_date": 20170101},
        {"ts_listen": 86_400 * 17_106},
        {"ts_listen": 86_400 * 17_106 - 1},
    ]
    write_rows(data / "train.csv", rows, NAMES[::-1])
    report = dsg17.run(context, data)
    assert report["repeats"] == 2
    rows_written = plays(context).sort_values("ts", ignore_index=True)
    assert len(rows_written) == 6
    assert rows_written.is_listened.tolist().count(False) == 1  # repeats with both labels become False
    assert rows_written.release_date.isna().sum() == 3
    assert [p["day"] for p in context.lake.partitions("plays")] == ["2016-10-31", "2016-11-01"]


def test_command_exit_codes(home, tmp_path, command):
    code, _, err = command("ingest", "dsg17", "--data", tmp_path / "nowhere")
    assert code == 2
    assert "--data" in err
    write_rows(tmp_path / "train.csv", [{}], NAMES[:-1])
    code, _, err = command("ingest", "dsg17", "--data", tmp_path)
    assert code == 3
    assert "is_listened" in err
    assert "Traceback" not in err


def test_synthetic_files_have_the_documented_properties(home, tmp_path, command):
    code, out, _ = command("make-dsg17", "--out", tmp_path / "a", "--rows", 20_000)
    assert code == 0
    assert '"train": 20000' in out
    train, test = pd.read_csv(tmp_path / "a" / "train.csv"), pd.read_csv(tmp_path / "a" / "test.csv")
    assert list(train.columns) == list(NAMES)
    assert list(test.columns) == list(TEST_NAMES)
    assert not train.duplicated().any()
    assert (test.listen_type == 1).all()
    assert test.user_id.is_unique
    assert set(train.user_id) == set(test.user_id)
    rate = train.groupby("listen_type").is_listened.mean()
    assert rate[0] == pytest.approx(dsg17_generate.LISTENED, abs=0.02)
    assert rate[1] == pytest.approx(dsg17_generate.LISTENED_FLOW, abs=0.02)
    after = train.merge(test[["user_id", "ts_listen"]], on="user_id", suffixes=("", "_test"))
    assert (after.ts_listen < after.ts_listen_test).all()
    dsg17_generate.run(tmp_path / "b", 20_000)
    for name in ("train.csv", "test.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    with pytest.raises(BadArgument, match="--rows: must be at least 1000"):
        dsg17_generate.run(tmp_path / "c", 5)
