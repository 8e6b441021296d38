"""The lake: data conforms to the contract, writes are atomic and repeatable, also after a crash."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from pyspark.sql import functions as F

from contracts.errors import BadArgument, CheckFailed, OvertureError
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column, to_matrix
from jobs.platform.table_schema import spark_schema

ROOT = Path(__file__).parents[3]


@pytest.fixture
def lake(tmp_path):
    return Lake(str(tmp_path / "lake"))


def frame(values):
    values = np.asarray(values, np.float32)
    return pa.table({"track_idx": pa.array(range(len(values)), pa.int32()), "vector": to_list_column(values)})


AT = {"week": "2026-11-16", "space": "tt_svd"}


def test_written_partition_is_read_back(lake):
    written = lake.write("track_vectors", frame([[1, 2], [3, 4]]), report={"why": "test"}, **AT)
    assert written.rows == lake.rows("track_vectors", **AT) == 2
    assert lake.report("track_vectors", **AT) == {"why": "test"}
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[1, 2], [3, 4]]
    assert lake.partitions("track_vectors") == [AT]


def test_write_replaces_the_partition_and_older_versions_can_be_read(lake):
    versions = [lake.write("track_vectors", frame(np.full((n, 2), n)), **AT).version for n in (1, 2, 3)]
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[3, 3]] * 3
    assert versions == [1, 2, 3]
    (old,) = DeltaTable(f"{lake.root}/track_vectors", version=2).file_uris()
    assert to_matrix(pq.ParquetFile(old).read()).tolist() == [[2, 2]] * 2


def test_version_of_a_partition_is_that_of_its_own_commit(lake):
    lake.write("track_vectors", frame([[1, 2]]), report={"n": 1}, **AT)
    before = lake.version("track_vectors", **AT)
    lake.write("track_vectors", frame([[1, 2]]), report={"n": 2}, **AT | {"space": "ut_als"})
    assert lake.version("track_vectors", **AT) == before
    assert before.startswith("1-")
    assert lake.report("track_vectors", **AT) == {"n": 1}
    assert Lake(lake.root).version("track_vectors", **AT | {"space": "ut_als"}).startswith("2-")


def test_empty_second_write_removes_the_old_rows(lake, spark):
    lake.write("track_vectors", frame([[1, 2]]), **AT)
    empty = lake.spark(spark, "track_vectors", **AT).where("track_idx > 5")
    lake.write("track_vectors", empty, **AT)
    assert lake.read("track_vectors", **AT).num_rows == 0
    assert lake.spark(spark, "track_vectors", **AT).count() == 0


def test_spark_and_arrow_write_the_same_table(lake, spark):
    lake.write("track_vectors", frame([[1, 2], [3, 4]]), **AT)
    other = AT | {"space": "ut_als"}
    lake.write("track_vectors", lake.spark(spark, "track_vectors", **AT), **other)
    assert lake.read("track_vectors", **other).equals(lake.read("track_vectors", **AT))


def test_columns_are_written_in_the_contracts_order(lake):
    table = frame([[1, 2]]).append_column("noise", pa.array([1])).select(["noise", "vector", "track_idx"])
    lake.write("track_vectors", table, **AT)
    assert lake.read("track_vectors", **AT).schema.names == ["track_idx", "vector"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.drop_columns("vector"), "column 'vector' is missing"),
        (lambda t: t.set_column(0, "track_idx", pa.array([0.5])), "column 'track_idx' is double"),
        (lambda t: t.set_column(0, "track_idx", pa.array([None], pa.int32())), "column 'track_idx' has 1 nulls"),
    ],
)
def test_invalid_data_raises_and_keeps_the_old_data(lake, spark, spoil, message):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    bad = spoil(frame([[1, 2]]))
    with pytest.raises(CheckFailed, match=f"track_vectors: {message}"):
        lake.write("track_vectors", bad, **AT)
    if "nulls" not in message:
        with pytest.raises(CheckFailed, match=f"track_vectors: {message}"):
            lake.write("track_vectors", spark.createDataFrame(bad.to_pandas()), **AT)
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[7, 7]]


def test_error_of_a_missing_partition_names_the_task(lake):
    with pytest.raises(CheckFailed, match=r"track_vectors: week=2026-11-16 space=tt_svd has not been written"):
        lake.read("track_vectors", **AT)
    with pytest.raises(BadArgument, match=r"partition is \(week, space\), got \(week\)"):
        lake.read("track_vectors", week="2026-11-16")


def test_error_names_the_truncated_file(lake):
    lake.write("track_vectors", frame([[1, 2]]), **AT)
    file = Path(lake.files("track_vectors", **AT)[0])
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(CheckFailed, match=rf"{file.name} cannot be read as Parquet"):
        lake.read("track_vectors", **AT)


def event(ts, user_id=1):
    columns = {"user_id": [user_id], "ts": [ts], "kind": ["stream"], "entity": ["track"], "entity_id": [5]}
    types = [pa.int64(), pa.timestamp("us", "UTC"), pa.string(), pa.string(), pa.int64()]
    arrays = {name: pa.array(v, t) for (name, v), t in zip(columns.items(), types, strict=True)}
    return pa.table(arrays | {"listened_s": pa.array([None], pa.int32())})


def test_events_include_the_start_and_exclude_the_end(lake, spark):
    start, end = datetime(2026, 11, 2, tzinfo=UTC), datetime(2026, 11, 4, tzinfo=UTC)
    moments = {
        "2026-11-01": datetime(2026, 11, 1, 23, 59, 59, 999999, UTC),
        "2026-11-02": start,
        "2026-11-03": datetime(2026, 11, 3, 23, 59, 59, 999999, UTC),
        "2026-11-04": end,
    }
    for day, moment in moments.items():
        lake.write("events", event(moment, int(day[-1])), day=day)
    assert sorted(r.user_id for r in lake.events(spark, start, end).collect()) == [2, 3]


def test_days_that_were_not_written_have_no_events(lake, spark):
    moment = datetime(2026, 11, 2, tzinfo=UTC)
    assert lake.events(spark, moment, moment.replace(day=5)).count() == 0


# Ends the process at the nth file system call of a write, as a power failure would.
CRASH = """
import os, sys
import numpy as np, pyarrow as pa
from pyarrow import fs
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column
lake = Lake(sys.argv[1])
left = int(sys.argv[2])
def step():
    global left
    if left == 0: os._exit(9)
    left -= 1
class Plug:
    def __init__(self, inner): self.inner = inner
    def __getattr__(self, name):
        method = getattr(self.inner, name)
        def call(*args, **kwargs):
            step()
            return method(*args, **kwargs)
        return call if name in ("create_dir", "open_output_stream", "move", "delete_dir", "delete_file") else method
lake.fs = Plug(lake.fs)
from contracts import atomic_files
from deltalake import DeltaTable
sync, commit = atomic_files.sync, DeltaTable.create_write_transaction
atomic_files.sync = lambda path: (step(), sync(path))
def committed(*args, **kwargs):
    step()
    commit(*args, **kwargs)
    step()
DeltaTable.create_write_transaction = committed
table = pa.table({"track_idx": pa.array([0, 1], pa.int32()), "vector": to_list_column(np.ones((2, 2), np.float32))})
lake.write("track_vectors", table, week="2026-11-16", space="tt_svd")
"""


def test_crash_between_two_steps_leaves_one_complete_version(lake):
    old, new = [[7, 7]], [[1, 1], [1, 1]]
    outcomes = set()
    for n in range(40):
        lake.write("track_vectors", frame(old), **AT)
        process = subprocess.run([sys.executable, "-c", CRASH, lake.root, str(n)], cwd=ROOT, check=False)
        rows = to_matrix(lake.read("track_vectors", **AT)).tolist()
        assert rows in (old, new)
        outcomes.add((process.returncode, len(rows)))
        if process.returncode == 0:
            break
    # Killed before the commit: the old rows. Killed after it, while the log is flushed: the new ones.
    assert {(9, 1), (9, 2), (0, 2)} <= outcomes


FULL = """
import resource, signal, sys
import numpy as np, pyarrow as pa
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
n = 50_000
table = pa.table({"track_idx": pa.array(np.arange(n, dtype=np.int32)),
                  "vector": to_list_column(np.random.default_rng(0).random((n, 16), np.float32))})
try:
    Lake(sys.argv[1]).write("track_vectors", table, week="2026-11-16", space="tt_svd")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_full_disk_keeps_the_old_data_and_leaves_no_partial_version(lake):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    command = [sys.executable, "-c", FULL, lake.root]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert process.stdout.startswith("OvertureError track_vectors: could not write")
    assert "the old data is unchanged" in process.stdout
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[7, 7]]
    assert len(list((Path(lake.root) / "track_vectors/week=2026-11-16/space=tt_svd").iterdir())) == 1


@pytest.mark.parametrize("error", [OSError("no space"), KeyboardInterrupt()])
def test_an_error_after_the_commit_does_not_remove_the_committed_rows(lake, monkeypatch, error):
    lake.write("track_vectors", frame([[7, 7]]), **AT)

    def fail(version):
        raise error

    monkeypatch.setattr(lake.log("track_vectors"), "_sync_log", fail)
    with pytest.raises(type(error)):
        lake.write("track_vectors", frame([[8, 8]]), **AT)
    assert to_matrix(Lake(lake.root).read("track_vectors", **AT)).tolist() == [[8, 8]]


def test_failing_spark_job_keeps_the_old_data(lake, spark):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    bad = lake.spark(spark, "track_vectors", **AT).select(
        F.raise_error(F.lit("the disk is full")).cast("int").alias("track_idx"), "vector"
    )
    with pytest.raises(OvertureError, match="the old data is unchanged"):
        lake.write("track_vectors", bad, **AT)
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[7, 7]]


def test_drop_removes_a_partition(lake):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    lake.drop("track_vectors", **AT)
    lake.drop("track_vectors", **AT)
    assert not lake.exists("track_vectors", **AT)
    assert lake.partitions("track_vectors") == []


def test_lake_accepts_a_uri(tmp_path):
    lake = Lake((tmp_path / "lake").as_uri())
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    assert lake.root == str(tmp_path / "lake")
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[7, 7]]


def test_ragged_vectors_raise(lake):
    table = pa.table(
        {"track_idx": pa.array([0, 1], pa.int32()), "vector": pa.array([[1.0], [1.0, 2.0]], pa.list_(pa.float32()))}
    )
    with pytest.raises(CheckFailed, match="lengths, 1 to 2"):
        to_matrix(table)


def test_matrix_rows_are_in_index_order(lake):
    shuffled = frame([[0, 0], [1, 1], [2, 2]]).take(pa.array([2, 0, 1]))
    lake.write("track_vectors", shuffled, **AT)
    assert lake.matrix("track_vectors", **AT).tolist() == [[0, 0], [1, 1], [2, 2]]
    lake.write("track_vectors", shuffled.slice(0, 2), **AT)
    with pytest.raises(CheckFailed, match="'track_idx' does not run from 0 to 1"):
        lake.matrix("track_vectors", **AT)


def frame_by_day(spark, **rows):
    """A frame of skip_state rows with these keys by day: d16 is 2026-11-16."""
    schema = spark_schema("skip_state")
    states = [
        {
            "kind": "user",
            "key": key,
            "other": -1,
            "n_plays": 1,
            "n_listened": 0,
            "n_flow": 0,
            "n_flow_listened": 0,
            "last_ts": 5,
            "days": [],
            "plays": [],
            "day": f"2026-11-{day[1:]}",
        }
        for day, keys in rows.items()
        for key in keys
    ]
    return spark.createDataFrame(states, schema.add("day", "string"))


def test_write_replaces_given_days_only(lake, spark):
    written = lake.write_days("skip_state", frame_by_day(spark, d16=[1, 2], d17=[3]), report={"n": 1})
    assert {day: w.rows for day, w in written.items()} == {"2026-11-16": 2, "2026-11-17": 1}
    lake.write_days("skip_state", frame_by_day(spark, d17=[4, 5, 6], d18=[7]), report={"n": 2})
    keys_by_day = {
        p["day"]: lake.read("skip_state", **p).column("key").to_pylist() for p in lake.partitions("skip_state")
    }
    assert {day: sorted(keys) for day, keys in keys_by_day.items()} == {
        "2026-11-16": [1, 2],
        "2026-11-17": [4, 5, 6],
        "2026-11-18": [7],
    }
    assert [lake.report("skip_state", **p)["n"] for p in lake.partitions("skip_state")] == [1, 2, 2]


def test_days_may_have_reports_of_their_own(lake, spark):
    lake.write_days("skip_state", frame_by_day(spark, d16=[1], d17=[2, 3]), report=lambda day: {"of": day})
    days = lake.partitions("skip_state")
    assert [p["day"] for p in days] == ["2026-11-16", "2026-11-17"]
    assert [lake.report("skip_state", **p)["of"] for p in days] == ["2026-11-16", "2026-11-17"]
    before = [lake.version("skip_state", **p) for p in days]
    lake.write_days("skip_state", frame_by_day(spark, d17=[2, 3]), report={"of": "both"})
    assert lake.report("skip_state", day="2026-11-17") == {"of": "both"}
    states = lake.states("skip_state")
    assert [s.partition for s in states] == days
    assert [s.report for s in states] == [lake.report("skip_state", **p) for p in days]
    assert [s.version for s in states] == [lake.version("skip_state", **p) for p in days]
    assert lake.version("skip_state", day="2026-11-16") == before[0]
    assert lake.version("skip_state", day="2026-11-17") != before[1]


def test_invalid_or_failing_days_change_nothing(lake, spark):
    lake.write_days("skip_state", frame_by_day(spark, d16=[1]))
    wrong = frame_by_day(spark, d16=[9]).withColumn("n_plays", F.lit("x"))
    with pytest.raises(CheckFailed, match="n_plays"):
        lake.write_days("skip_state", wrong)
    broken = frame_by_day(spark, d16=[9]).withColumn("key", F.raise_error(F.lit("no disk")).cast("bigint"))
    with pytest.raises(OvertureError, match="no disk"):
        lake.write_days("skip_state", broken)
    assert lake.read("skip_state", day="2026-11-16").column("key").to_pylist() == [1]
