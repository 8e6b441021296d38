"""Writers of one table: two of one partition conflict, also at its first write."""

import threading
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from contracts.errors import CheckFailed, OvertureError
from jobs.platform import lake_maintenance
from jobs.platform.lake import Lake
from jobs.platform.list_columns import to_list_column, to_matrix

AT = {"week": "2026-11-16", "space": "tt_svd"}
OTHER = AT | {"space": "ut_als"}


def frame(values):
    values = np.asarray(values, np.float32)
    return pa.table({"track_idx": pa.array(range(len(values)), pa.int32()), "vector": to_list_column(values)})


def write_during_another_write(root, inner, *, outer=AT, between=AT):
    """Write `outer`; while its rows are produced, another writer commits `between`."""

    def batches():
        if inner is not None:
            Lake(root).write("track_vectors", frame(inner), report={"who": "inner"}, **between)
        yield from frame([[9, 9]]).to_batches()

    return Lake(root).write("track_vectors", batches(), **outer)


@pytest.mark.parametrize("exists", [False, True])
def test_second_writer_of_a_partition_fails_and_changes_nothing(tmp_path, exists):
    lake = Lake(str(tmp_path / "lake"))
    if exists:
        lake.write("track_vectors", frame([[7, 7]]), **AT)
    with pytest.raises(OvertureError, match="another writer committed week=2026-11-16/space=tt_svd"):
        write_during_another_write(lake.root, [[1, 1], [2, 2]])
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[1, 1], [2, 2]]
    assert lake.report("track_vectors", **AT) == {"who": "inner"}
    write_during_another_write(lake.root, None)  # the retry
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[9, 9]]


def test_writers_of_different_partitions_both_commit(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    write_during_another_write(lake.root, [[1, 1]], between=OTHER)
    assert to_matrix(lake.read("track_vectors", **AT)).tolist() == [[9, 9]]
    assert to_matrix(lake.read("track_vectors", **OTHER)).tolist() == [[1, 1]]


def test_a_partition_that_was_dropped_during_a_write_is_a_conflict(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    lake.write("track_vectors", frame([[7, 7]]), **AT)

    def batches():
        Lake(lake.root).drop("track_vectors", **AT)
        yield from frame([[9, 9]]).to_batches()

    with pytest.raises(OvertureError, match="another writer committed"):
        lake.write("track_vectors", batches(), **AT)
    assert not lake.exists("track_vectors", **AT)


def test_many_concurrent_first_writers_leave_the_rows_of_exactly_one(tmp_path):
    root, barrier, results = str(tmp_path / "lake"), threading.Barrier(6), []

    def work(n):
        def batches():
            barrier.wait(20)
            yield from frame([[n, n]] * (n + 1)).to_batches()

        try:
            Lake(root).write("track_vectors", batches(), **AT)
            results.append(n)
        except OvertureError as error:
            results.append(str(error))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winners = [n for n in results if isinstance(n, int)]
    assert len(winners) == 1, results
    assert all("another writer committed" in text for text in results if isinstance(text, str))
    assert to_matrix(Lake(root).read("track_vectors", **AT)).tolist() == [[winners[0]] * 2] * (winners[0] + 1)


def events_of(user_id):
    at = datetime(2026, 11, 16, tzinfo=UTC)
    one = {"user_id": user_id, "ts": at, "kind": "stream", "entity": "track", "entity_id": 3}
    return pa.Table.from_pylist([one], schema=arrow_schema(contracts.load("events")))


def write_days(lake, users, during=lambda: None):
    """Write one event a day, of the user given by day; run `during` before the commit."""

    def fill(stage):
        for day, user in users.items():
            lake.stage_day("events", stage, day, "part", events_of(user))
        during()

    return lake.replace_days("events", fill, report=lambda day: {"day": day, "user": users[day]})


def users_by_day(lake):
    return {p["day"]: lake.read("events", **p)["user_id"].to_pylist() for p in lake.partitions("events")}


def test_days_are_replaced_in_one_commit_and_each_keeps_its_report(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    first = write_days(lake, {"2026-11-14": 1, "2026-11-15": 2, "2026-11-16": 3})
    assert {result.version for result in first.values()} == {1}  # version 0 creates the table
    second = write_days(lake, {"2026-11-15": 4, "2026-11-17": 5})
    assert {result.version for result in second.values()} == {2}
    for read in (lake, Lake(lake.root)):
        assert users_by_day(read) == {"2026-11-14": [1], "2026-11-15": [4], "2026-11-16": [3], "2026-11-17": [5]}
        assert [state.report["user"] for state in read.states("events")] == [1, 4, 3, 5]
        numbers = [state.version.split("-")[0] for state in read.states("events")]
        assert numbers == ["1", "2", "1", "2"]
    newest, oldest, _ = lake_maintenance.history(lake, "events", 3)
    assert newest["partition"] == "day=2026-11-15 to day=2026-11-17 (2)"
    assert (oldest["partition"], oldest["report"]["user"]) == ("day=2026-11-14 to day=2026-11-16 (3)", 3)
    assert write_days(lake, {}) == {}
    assert lake.log("events").version() == 2


@pytest.mark.parametrize("exists", [False, True])
def test_a_conflict_of_one_day_replaces_none(tmp_path, exists):
    lake = Lake(str(tmp_path / "lake"))
    before = write_days(lake, {"2026-11-14": 1, "2026-11-15": 2}) if exists else {}
    with pytest.raises(OvertureError, match="another writer committed day=2026-11-15"):
        write_days(
            lake,
            {"2026-11-14": 7, "2026-11-15": 8, "2026-11-16": 9},
            lambda: write_days(Lake(lake.root), {"2026-11-15": 5}),
        )
    assert users_by_day(lake) == {**({"2026-11-14": [1]} if before else {}), "2026-11-15": [5]}


def test_writers_of_different_days_both_commit(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    write_days(
        lake,
        {"2026-11-14": 1, "2026-11-15": 2},
        lambda: write_days(Lake(lake.root), {"2026-11-16": 3, "2026-11-17": 4}),
    )
    assert users_by_day(lake) == {"2026-11-14": [1], "2026-11-15": [2], "2026-11-16": [3], "2026-11-17": [4]}


def test_a_table_with_columns_of_other_types_is_refused(tmp_path, monkeypatch):
    from jobs.platform import lake as module

    old = Lake(str(tmp_path / "lake"))
    monkeypatch.setattr(
        module, "arrow_schema", lambda contract: pa.schema([pa.field("track_idx", pa.int64()), ("vector", pa.string())])
    )
    old.write("track_vectors", pa.table({"track_idx": pa.array([1]), "vector": ["x"]}), **AT)
    monkeypatch.undo()
    with pytest.raises(CheckFailed, match="other columns than the contract: track_idx, vector"):
        Lake(old.root).write("track_vectors", frame([[1, 1]]), **OTHER)


def test_a_new_nullable_column_joins_an_existing_table(tmp_path, monkeypatch):
    from jobs.platform import lake as module

    old = Lake(str(tmp_path / "lake"))
    users = pa.table(
        {"user_id": [1], "country": ["DE"], "age": pa.array([3], pa.int32()), "registered_at": [None]}
    ).set_column(3, "registered_at", pa.array([0], pa.timestamp("us", "UTC")))
    full = module.arrow_schema
    monkeypatch.setattr(module, "arrow_schema", lambda contract: full(contract, optional=False))
    old.write("users", users)
    monkeypatch.undo()
    assert Lake(old.root).read("users").column("external_id").to_pylist() == [None]
    Lake(old.root).write("users", users.append_column("external_id", pa.array(["u"])))
    assert Lake(old.root).read("users").column("external_id").to_pylist() == ["u"]
