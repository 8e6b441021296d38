"""The lake on an object store: a real S3 API on loopback, with faults."""

import os
import subprocess
import sys
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import CheckFailed, OvertureError
from jobs.platform import lake_maintenance
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column, to_matrix
from tests.helpers.s3_server import BUCKET, s3_server

ROOT = Path(__file__).parents[3]
AT = {"week": "2026-11-16", "space": "tt_svd"}
pytestmark = pytest.mark.server


def frame(values):
    values = np.asarray(values, np.float32)
    return pa.table({"track_idx": pa.array(range(len(values)), pa.int32()), "vector": to_list_column(values)})


@pytest.fixture(scope="module")
def module_server():
    with s3_server() as server:
        yield server


@pytest.fixture
def server(module_server, monkeypatch):
    for name, value in module_server.environment.items():
        monkeypatch.setenv(name, value)
    yield module_server
    module_server.heal()


@pytest.fixture
def lake(server):
    return Lake(f"s3://{BUCKET}/{uuid.uuid4().hex}/lake")


def rows(lake):
    return to_matrix(Lake(lake.root).read("track_vectors", **AT)).tolist()


def test_partitions_are_written_read_replaced_and_dropped(lake):
    assert not lake.exists("track_vectors", **AT)
    lake.write("track_vectors", frame([[7, 7]]), report={"n": 1}, **AT)
    written = lake.write("track_vectors", frame([[1, 2], [3, 4]]), report={"n": 2}, **AT)
    assert (written.rows, written.version) == (2, 2)
    assert rows(lake) == [[1, 2], [3, 4]]
    assert lake.report("track_vectors", **AT) == {"n": 2}
    assert [t.rows for t in lake_maintenance.summaries(lake)] == [2]
    lake.drop("track_vectors", **AT)
    assert lake.partitions("track_vectors") == []


def test_second_writer_of_a_new_partition_fails(lake):
    def batches():
        Lake(lake.root).write("track_vectors", frame([[1, 1]]), **AT)
        yield from frame([[9, 9]]).to_batches()

    with pytest.raises(OvertureError, match="another writer committed"):
        lake.write("track_vectors", batches(), **AT)
    assert rows(lake) == [[1, 1]]


def test_vacuum_and_compaction_work_on_an_object_store(lake):
    for n in (1, 2):
        lake.write("track_vectors", frame([[n, n]]), **AT)
    version = lake.version("track_vectors", **AT)
    assert lake_maintenance.compact(lake, "track_vectors", dry_run=False) == {}
    assert lake_maintenance.vacuum(lake, "track_vectors", 0, dry_run=False)[0] == 1
    assert (rows(lake), lake.version("track_vectors", **AT)) == ([[2, 2]], version)


@pytest.mark.parametrize(("method", "where"), [("PUT", ".parquet"), ("PUT", "_delta_log"), ("GET", "_delta_log")])
def test_refused_requests_leave_the_old_rows(lake, server, method, where):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    server.fail(method, where, 403)
    with pytest.raises(OvertureError, match="track_vectors"):
        Lake(lake.root).write("track_vectors", frame([[1, 1]]), **AT)
    assert server.heal()
    assert rows(lake) == [[7, 7]]
    lake.write("track_vectors", frame([[2, 2]]), **AT)
    assert rows(lake) == [[2, 2]]


@pytest.mark.parametrize("kind", [503, "cut"])
@pytest.mark.parametrize("where", [".parquet", "_delta_log"])
def test_a_fault_of_a_moment_is_retried(lake, server, kind, where):
    lake.write("track_vectors", frame([[7, 7]]), **AT)
    server.fail("PUT", where, kind, times=1)
    lake.write("track_vectors", frame([[1, 1]]), **AT)
    assert server.heal() == 1
    assert rows(lake) == [[1, 1]]


def test_a_bucket_that_does_not_exist_is_named(server):
    lake = Lake("s3://no-such-bucket/lake")
    for use in (lambda: lake.write("track_vectors", frame([[1, 1]]), **AT), lambda: lake.read("track_vectors", **AT)):
        with pytest.raises(CheckFailed, match=r"no-such-bucket.*check the bucket and the credentials"):
            use()


def test_a_refused_key_is_named(lake, server):
    server.fail("GET", "list-type", 403)
    with pytest.raises(CheckFailed, match=r"cannot be read.*check the bucket and the credentials"):
        Lake(lake.root).read("track_vectors", **AT)


def test_a_killed_writer_leaves_the_old_rows_or_all_new_ones(lake, server):
    from tests.jobs.platform.test_lake import CRASH

    outcomes = set()
    for n in (0, 1, 2, 3, 4, 5, 40):
        lake.write("track_vectors", frame([[7, 7]]), **AT)
        command = [sys.executable, "-c", CRASH, lake.root, str(n)]
        process = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False)
        assert rows(lake) in ([[7, 7]], [[1, 1], [1, 1]])
        outcomes.add((process.returncode, len(rows(lake))))
    assert {(9, 1), (0, 2)} <= outcomes
