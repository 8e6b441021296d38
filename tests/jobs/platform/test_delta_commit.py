"""Commits of Delta partitions: concurrent writers conflict, also at the first write of a partition."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.errors import OvertureError

pytest.importorskip("deltalake")
from jobs.platform import delta_commit

SCHEMA = pa.schema([pa.field("x", pa.int32(), nullable=False)])
WEEK = {"week": "2026-11-16"}


def put(root, name, values, partition=WEEK):
    path = root.joinpath(*(f"{k}={v}" for k, v in partition.items()), name, "part-0.parquet")
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table({"x": pa.array(values, pa.int32())}, schema=SCHEMA), path)
    file = delta_commit.DataFile(str(path.relative_to(root)), path.stat().st_size, len(values))
    delta_commit.sync_files(root, [file])
    return [file]


def values(root, partition=WEEK):
    table = delta_commit.open_or_create(str(root), SCHEMA, list(partition))
    return [
        v for f in delta_commit.partition_files(table, partition) for v in pq.ParquetFile(f).read()["x"].to_pylist()
    ]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("partition", [WEEK, {}])
def test_second_writer_of_a_partition_fails(tmp_path, exists, partition):
    keys = list(partition)
    if exists:
        first = delta_commit.open_or_create(str(tmp_path), SCHEMA, keys)
        delta_commit.commit_partition(first, partition, put(tmp_path, "old", [0], partition), {})
    a, b = (delta_commit.open_or_create(str(tmp_path), SCHEMA, keys) for _ in range(2))
    delta_commit.commit_partition(a, partition, put(tmp_path, "a", [1, 2], partition), {"n": 1})
    with pytest.raises(OvertureError, match="another writer committed"):
        delta_commit.commit_partition(b, partition, put(tmp_path, "b", [3], partition), {})
    assert values(tmp_path, partition) == [1, 2]


def test_writers_of_other_partitions_both_commit(tmp_path):
    other = {"week": "2026-11-23"}
    a, b = (delta_commit.open_or_create(str(tmp_path), SCHEMA, ["week"]) for _ in range(2))
    delta_commit.commit_partition(a, WEEK, put(tmp_path, "a", [1]), {})
    delta_commit.commit_partition(b, other, put(tmp_path, "b", [2], other), {})
    assert (values(tmp_path), values(tmp_path, other)) == ([1], [2])
