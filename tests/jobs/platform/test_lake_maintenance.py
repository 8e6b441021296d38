"""Maintenance of the lake, other engines as readers, and lakes of older versions."""

import json
from pathlib import Path

import duckdb
import numpy as np
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable
from typer.testing import CliRunner

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import BadArgument, CheckFailed
from jobs.cli.main import app
from jobs.platform import lake_maintenance
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column, to_matrix

AT = {"week": "2026-11-16", "space": "tt_svd"}
OTHER = AT | {"week": "2026-11-23"}


def frame(values):
    values = np.asarray(values, np.float32)
    return pa.table({"track_idx": pa.array(range(len(values)), pa.int32()), "vector": to_list_column(values)})


@pytest.fixture
def lake(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    lake.write("track_vectors", frame([[1, 1]]), **AT)
    lake.write("track_vectors", frame([[2, 2], [3, 3]]), report={"n": 2}, **AT)
    lake.write("track_vectors", frame([[4, 4]]), **OTHER)
    return lake


def test_other_engines_read_the_rows_in_force(lake):
    expected = [("2026-11-16", 0, [2.0, 2.0]), ("2026-11-16", 1, [3.0, 3.0]), ("2026-11-23", 0, [4.0, 4.0])]
    frame = polars.read_delta(f"{lake.root}/track_vectors").sort("week", "track_idx")
    assert frame.select("week", "track_idx", "vector").rows() == expected
    files = DeltaTable(f"{lake.root}/track_vectors").file_uris()
    columns = "SELECT week, track_idx, vector FROM read_parquet($files, hive_partitioning = true) ORDER BY ALL"
    with duckdb.connect() as connection:
        rows = connection.execute(columns, {"files": files}).fetchall()
    assert [(str(week), index, vector) for week, index, vector in rows] == expected


def test_tables_and_history_list_what_was_written(lake):
    (summary,) = lake_maintenance.summaries(lake)
    assert (summary.table, summary.version, summary.partitions, summary.files, summary.rows) == (
        "track_vectors", 3, 2, 2, 3,
    )  # fmt: skip
    newest, second, *_ = lake_maintenance.history(lake, "track_vectors", 3)
    assert (newest["version"], newest["partition"]) == (3, "week=2026-11-23/space=tt_svd")
    assert (second["version"], second["report"]) == (2, {"n": 2})


def test_vacuum_removes_old_and_uncommitted_files_only(lake):
    stray = Path(lake.root) / "track_vectors/week=2026-11-16/space=tt_svd/v00000009-abcdabcd/part-00000.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"x")
    assert lake_maintenance.vacuum(lake, "track_vectors", 1, dry_run=False) == (0, 0)
    assert stray.exists()  # a write may be in progress
    assert lake_maintenance.vacuum(lake, "track_vectors", 0, dry_run=True)[0] == 2
    assert stray.exists()
    assert lake_maintenance.vacuum(lake, "track_vectors", 0, dry_run=False)[0] == 2
    assert not stray.parent.exists()
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[2, 2], [3, 3]]
    assert lake.report("track_vectors", **AT) == {"n": 2}


def test_compaction_joins_files_and_keeps_rows_report_and_version(lake, spark):
    rows = lake.spark(spark, "track_vectors", **AT).repartition(3)
    lake.write("track_vectors", rows, report={"n": 3}, **AT)
    before = (sorted(to_matrix(lake.read("track_vectors", **AT)).tolist()), lake.version("track_vectors", **AT))
    n_files = len(lake.files("track_vectors", **AT))
    assert n_files > 1
    assert lake_maintenance.compact(lake, "track_vectors", dry_run=True) == {"week=2026-11-16/space=tt_svd": n_files}
    assert len(lake.files("track_vectors", **AT)) == n_files
    lake_maintenance.compact(lake, "track_vectors", dry_run=False)
    assert len(lake.files("track_vectors", **AT)) == 1
    after = (sorted(to_matrix(lake.read("track_vectors", **AT)).tolist()), lake.version("track_vectors", **AT))
    assert after == before
    assert lake.report("track_vectors", **AT) == {"n": 3}
    lake.write("track_vectors", frame([[5, 5]]), **AT)
    assert lake.version("track_vectors", **AT) != before[1]


def write_old_partition(root, table, rows, report, **partition):
    """Write a partition as version 0.1 of Overture did."""
    folder = root.joinpath(table, *(f"{key}={value}" for key, value in partition.items()))
    (folder / "v-0123456789abcdef").mkdir(parents=True)
    pq.write_table(rows, folder / "v-0123456789abcdef/part-00000.parquet")
    pointer = {"version": "v-0123456789abcdef", "rows": rows.num_rows, "contract": 1, "report": report}
    (folder / "_current.json").write_text(json.dumps(pointer))


@pytest.fixture
def old_lake(tmp_path):
    root = tmp_path / "old"
    write_old_partition(root, "track_vectors", frame([[1, 1]]), {"n": 1}, **AT)
    write_old_partition(root, "track_vectors", frame([[2, 2]]), {"n": 2}, **OTHER)
    schema = arrow_schema(contracts.load("tracks"), optional=False)
    track = {"track_id": 1, "artist_id": 2, "album_id": 3}
    write_old_partition(root, "tracks", pa.Table.from_pylist([track], schema), {})
    return root


def test_an_old_lake_is_refused_with_the_command_that_migrates_it(old_lake):
    lake = Lake(str(old_lake))
    for use in (lambda: lake.read("tracks"), lambda: lake.partitions("track_vectors")):
        with pytest.raises(CheckFailed, match="overture lake migrate"):
            use()


def test_migration_keeps_rows_and_reports_and_can_be_repeated(old_lake):
    assert lake_maintenance.migrate(str(old_lake), dry_run=True) == {"track_vectors": 2, "tracks": 1}
    with pytest.raises(CheckFailed, match="overture lake migrate"):
        Lake(str(old_lake)).read("tracks")
    assert lake_maintenance.migrate(str(old_lake), dry_run=False) == {"track_vectors": 2, "tracks": 1}
    lake = Lake(str(old_lake))
    assert to_matrix(lake.read("track_vectors", **OTHER)).tolist() == [[2, 2]]
    assert [lake.report("track_vectors", **p)["n"] for p in lake.partitions("track_vectors")] == [1, 2]
    assert lake.read("tracks").column("external_id").to_pylist() == [None]
    assert not list(old_lake.rglob("v-*"))
    assert not list(old_lake.rglob("_current.json"))
    assert lake_maintenance.migrate(str(old_lake), dry_run=False) == {}


def test_migration_that_stops_in_the_middle_is_refused_until_it_is_repeated(old_lake):
    damaged = next((old_lake / "track_vectors/week=2026-11-16").rglob("*.parquet"))
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-8])
    with pytest.raises(CheckFailed, match="cannot be read as Parquet"):
        lake_maintenance.migrate(str(old_lake), dry_run=False)
    with pytest.raises(CheckFailed, match="overture lake migrate"):
        Lake(str(old_lake)).partitions("track_vectors")
    damaged.write_bytes(content)
    lake_maintenance.migrate(str(old_lake), dry_run=False)
    assert len(Lake(str(old_lake)).partitions("track_vectors")) == 2


def test_commands_print_and_end_with_json(lake, tmp_path, monkeypatch):
    config = tmp_path / "settings.yaml"
    config.write_text(f'name: t\nweek: "2026-11-16"\nlake: "{lake.root}"\n')
    for arguments, words in [
        (["tables"], "track_vectors"),
        (["history", "track_vectors"], "week=2026-11-23/space=tt_svd"),
        (["vacuum", "--dry-run"], "track_vectors: 0 files, 0.0 MB would be removed"),
        (["compact", "track_vectors"], "track_vectors: 0 files became 0"),
        (["migrate", "--dry-run"], '{"dry_run": true, "rows": {}}'),
    ]:
        result = CliRunner().invoke(app, ["lake", *arguments, "--config", str(config)])
        assert result.exit_code == 0, result.output
        assert words in result.output
        json.loads(result.output.splitlines()[-1])


@pytest.mark.parametrize("name", ["a b", "é", "a[1]", "a#b", "100%", "a{b}"])
def test_the_root_may_contain_any_character(tmp_path, spark, name):
    lake = Lake(str(tmp_path / name))
    lake.write("track_vectors", frame([[1, 1]]), **AT)
    lake.write("track_vectors", lake.spark(spark, "track_vectors", **AT), **OTHER)
    assert to_matrix(Lake(lake.root).read("track_vectors", **OTHER)).tolist() == [[1, 1]]
    assert lake.spark(spark, "track_vectors", **OTHER).count() == 1
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_root_that_delta_rs_would_misread_is_refused(tmp_path):
    with pytest.raises(BadArgument, match=r"a%20b: the path of a lake cannot contain %"):
        Lake(str(tmp_path / "a%20b"))


def test_file_list_is_built_once_per_version(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    for day in range(1, 29):
        lake.write("track_vectors", frame([[day, day]]), week=f"2026-11-{day:02d}", space="tt_svd")
    opened = []
    original = lake.log("track_vectors")._partitions
    lake.log("track_vectors")._partitions = lambda table: opened.append(1) or original(table)
    assert sum(lake.rows("track_vectors", **p) for p in lake.partitions("track_vectors")) == 28
    assert len(opened) == 1
