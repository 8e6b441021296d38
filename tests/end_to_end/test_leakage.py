"""Test for leakage: change all data that a week must not use, and require bit-identical outputs.

Changed: every event and every playlist row at or after as_of, every event of a cohort user after the registration day,
every listener who registered after the cohort, and the cohort's own collections.
Required to be equal: catalogue, warm users, matrix, pairs, both spaces, segments, first days, inputs and networks.
The ground truth must differ, which shows that the changed rows were read.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.cold_start import features, segments, train
from jobs.factorize import als, svd
from jobs.matrix import catalog, first_day, track_pairs, user_track
from jobs.platform.context import Context
from jobs.settings.base import SPACES

COMPARED_TABLES = (
    ("catalog", {}),
    ("warm_users", {}),
    ("user_track", {}),
    ("collections", {}),
    ("track_pairs", {}),
    ("first_day", {"split": "train"}),
    ("first_day", {"split": "validation"}),
    ("first_day", {"split": "test"}),
    *((table, {"space": s}) for s in SPACES for table in ("track_vectors", "user_vectors", "segments")),
    *((table, {"space": s}) for s in SPACES for table in ("entity_vectors", "demographic_vectors")),
    *(("features", {"space": s, "split": p}) for s in SPACES for p in ("train", "validation", "test")),
)


def run_jobs(context: Context) -> None:
    for job in (catalog, user_track, track_pairs, first_day, als, svd):
        job.run(context)
    for space in SPACES:
        segments.run(context, space)
        features.run(context, space)
        train.run(context, space)


def sorted_rows(table: pa.Table) -> pa.Table:
    keys = [n for n in table.schema.names if not pa.types.is_list(table.schema.field(n).type)]
    return table.sort_by([(k, "ascending") for k in keys])


def change_later_rows(context: Context) -> None:
    """Change every row of the lake that is later than the week may use."""
    lake, week = context.lake, context.week
    rng = np.random.default_rng(1)
    users = lake.read("users")
    registered = users.column("registered_at")
    start, end = pa.scalar(week.cohort_start, registered.type), pa.scalar(week.cohort_end, registered.type)
    in_cohort = pc.and_(pc.greater_equal(registered, start), pc.less(registered, end))
    cohort = users.filter(in_cohort)
    after = dict(
        zip(
            cohort.column("user_id").to_pylist(),
            [
                datetime(t.year, t.month, t.day, tzinfo=UTC) + timedelta(days=1)
                for t in cohort.column("registered_at").to_pylist()
            ],
            strict=True,
        )
    )
    newer = set(users.filter(pc.greater_equal(registered, end)).column("user_id").to_pylist())
    tracks = lake.read("tracks").column("track_id").to_numpy()
    for day in [p["day"] for p in lake.partitions("events")]:
        frame = lake.read("events", day=day).to_pandas()
        hidden = (frame.ts >= week.as_of) | frame.user_id.isin(newer)
        hidden |= [u in after and t >= after[u] for u, t in zip(frame.user_id, frame.ts, strict=True)]
        wrong = rng.choice(tracks[: max(len(tracks) // 10, 1)], len(frame))
        on_tracks = hidden & (frame.entity == "track")
        frame.loc[on_tracks, "entity_id"] = wrong[on_tracks]
        frame = frame[~(hidden & (rng.random(len(frame)) < 0.2))].drop_duplicates(
            ["user_id", "ts", "kind", "entity", "entity_id"]
        )
        lake.write(
            "events",
            pa.Table.from_pandas(frame, preserve_index=False).cast(lake.read("events", day=day).schema),
            day=day,
        )
    frame = lake.read("playlists").to_pandas()
    hidden = (frame.added_at >= week.as_of) | frame.user_id.isin(set(after) | newer)
    frame.loc[hidden, "track_id"] = rng.choice(tracks, hidden.sum())
    schema = lake.read("playlists").schema
    lake.write("playlists", pa.Table.from_pandas(frame, schema=schema, preserve_index=False))


@pytest.mark.slow
def test_later_data_changes_neither_inputs_nor_models(finished, tmp_path, monkeypatch, spark):
    clean, week = finished, finished.week
    changed = Context(clean.settings, week, tmp_path / "changed")
    for table in ("users", "tracks", "events", "playlists"):
        shutil.copytree(clean.home / "lake" / table, changed.home / "lake" / table)
    change_later_rows(changed)
    monkeypatch.setenv("OVERTURE_HOME", str(changed.home))
    changed.__dict__["spark"] = spark
    run_jobs(changed)
    for table, partition in COMPARED_TABLES:
        one, two = (c.lake.read(table, week=week.name, **partition) for c in (clean, changed))
        if partition.get("split") in ("validation", "test"):
            # Which listeners are evaluated depends on the ground truth, by the protocol; their features must not.
            both = pc.is_in(one["user_id"], two["user_id"]), pc.is_in(two["user_id"], one["user_id"])
            one, two = one.filter(both[0]), two.filter(both[1])
        assert one.num_rows, f"{table} {partition} is empty: nothing was compared"
        assert sorted_rows(one).equals(sorted_rows(two)), (
            f"{table} {partition} depends on data that the week must not use"
        )
    for space in SPACES:
        networks = [(c.work / space / "network.onnx").read_bytes() for c in (clean, changed)]
        assert networks[0] == networks[1]
    truths = [c.lake.read("cohort", week=week.name).sort_by("user_id") for c in (clean, changed)]
    assert not truths[0].equals(truths[1])
