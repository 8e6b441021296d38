"""Digests of tables: independent of part files and row order, changed by any value, null, name or partition."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

import contracts
from contracts.arrow import arrow_schema
from jobs.platform import table_digest
from jobs.platform.lake import Lake

VECTORS = [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]
AT = {"week": "2026-11-16", "space": "tt_svd"}


def frame(vectors=VECTORS, order=None):
    order = order if order is not None else range(len(vectors))
    return pa.table(
        {"track_idx": [i for i in order], "vector": [vectors[i] for i in order]},
        schema=arrow_schema(contracts.load("track_vectors")),
    )


def events(listened=(30, None, 0), kinds=("stream", "ban", "skip")):
    moment = datetime(2026, 11, 10, 12, tzinfo=UTC)
    rows = {
        "user_id": [1] * 3,
        "ts": [moment] * 3,
        "kind": kinds,
        "entity": ["track"] * 3,
        "entity_id": [5, 6, 7],
        "listened_s": listened,
    }
    return pa.table(rows, schema=arrow_schema(contracts.load("events"), optional=False))


def test_digest_is_independent_of_row_order_and_part_files(tmp_path, spark):
    lake = Lake(str(tmp_path / "a"))
    lake.write("track_vectors", frame(), **AT)
    other = Lake(str(tmp_path / "b"))
    shuffled = lake.spark(spark, "track_vectors", **AT).orderBy("track_idx", ascending=False).repartition(3)
    other.write("track_vectors", shuffled, **AT)
    assert table_digest.digest_table(other, "track_vectors") == table_digest.digest_table(lake, "track_vectors")
    assert table_digest.digest_table(lake, "track_vectors").rows == 3


@pytest.mark.parametrize(
    "changed",
    [
        frame([[1.0, 2.0], [3.0, 4.0], [5.0, np.nextafter(np.float32(6), np.float32(7))]]),
        frame([[1.0, 2.0, 3.0], [4.0], [5.0, 6.0]]),
        frame(VECTORS[:2]),
        frame([VECTORS[1], VECTORS[0], VECTORS[2]]),
    ],
    ids=["last bit", "border between lists", "missing row", "vectors of two tracks swapped"],
)
def test_any_change_of_a_list_column_changes_the_digest(changed):
    assert table_digest.digest_rows("track_vectors", changed) != table_digest.digest_rows("track_vectors", frame())


@pytest.mark.parametrize(
    "changed",
    [events((30, 0, 0)), events((30, None, None)), events(kinds=("stream", "skip", "skip"))],
    ids=["null becomes 0", "0 becomes null", "another kind"],
)
def test_any_change_of_a_scalar_column_changes_the_digest(changed):
    assert table_digest.digest_rows("events", changed) != table_digest.digest_rows("events", events())


def test_digest_ignores_the_buffer_below_a_null():
    data = np.array([30, 77, 0], np.int32)
    masked = pa.array(data, mask=np.array([False, True, False]))
    changed = events().set_column(5, events().schema.field("listened_s"), masked)
    assert table_digest.digest_rows("events", changed) == table_digest.digest_rows("events", events())


def test_command_prints_the_digests_of_a_week(context, command):
    context.lake.write("track_vectors", frame(), **AT)
    context.lake.write("track_vectors", frame(VECTORS[:1]), week="2026-11-23", space="tt_svd")
    for day in ("2026-11-10", "2026-11-16"):
        context.lake.write("events", events(), day=day)
    code, out, _ = command("lake", "digest", "--week", "2026-11-16")
    assert code == 0
    assert [line.split("  ")[1:] for line in out.splitlines()[:-1]] == [
        ["events", "1 partitions", "3 rows"],
        ["track_vectors", "1 partitions", "3 rows"],
    ]
    code, out, _ = command("lake", "digest", "track_vectors")
    assert code == 0
    assert "2 partitions  4 rows" in out


def test_unknown_and_missing_tables_raise_with_their_name(context, command):
    code, _, err = command("lake", "digest", "nonsense")
    assert code == 2
    assert "nonsense" in err
    code, _, err = command("lake", "digest", "users")
    assert code == 3
    assert "users" in err
