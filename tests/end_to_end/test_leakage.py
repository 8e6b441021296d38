"""Test for leakage: change all data that a week must not use, and require bit-identical outputs.

Changed: every event and every playlist row at or after as_of, every event of a cohort user after the registration day,
every listener who registered after the cohort, and the cohort's own collections.
Required to be equal: catalogue, warm users, matrix, pairs, both spaces, segments, first days, inputs and networks, and
of every method (the blend, DropoutNet, MeLU, the peers, ...) the loss of each epoch and the lists of the cohort.
Run for the weekly run and for a backtest, whose cohort registers after as_of.
The ground truth must differ, which shows that the changed rows were read.
"""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.cold_start import features, segments, train
from jobs.cold_start.methods import method_factory
from jobs.cold_start.training_data import first_days, load
from jobs.factorize import als, svd
from jobs.ingest.simulate import adapter as simulate
from jobs.matrix import catalog, first_day, track_pairs, user_track
from jobs.platform.context import Context
from jobs.platform.week import Week
from jobs.settings.base import SPACES, Space
from jobs.settings.cold_start import (
    METHODS,
    DropoutNetSettings,
    FirstDayNetworkSettings,
    MeluSettings,
    MixtureSettings,
    RankerSettings,
)
from jobs.settings.matrix import NewReleaseSettings
from jobs.settings.settings import load as load_settings
from tests.helpers.one_week import TINY

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

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
    *(
        (table, {"space": s})
        for s in SPACES
        for table in ("entity_vectors", "demographic_vectors", "demographic_rankings")
    ),
    *(("features", {"space": s, "split": p}) for s in SPACES for p in ("train", "validation", "test")),
)


RAW = ("users", "tracks", "events", "playlists")
BACKTEST = "2026-10-05"  # its cohort and the thirty days after are in the simulated log
SMALL_NETWORKS = {
    "dropoutnet": DropoutNetSettings(hidden=(32, 16), rank=8, epochs=2, batch_users=64, batch_tracks=256),
    "melu": MeluSettings(embedding_dim=8, hidden=8, epochs=2, batch_users=64),
    "autoencoder": FirstDayNetworkSettings(width=16, epochs=2, batch_users=64),
    "mixture": MixtureSettings(width=16, epochs=2, batch_users=64, list_length=60),
    "ranker": RankerSettings(trees=10, draws=1, scored_folds=1, max_listeners=200, candidates=60),
}


def learned_methods(context: Context, space: str, cohort: Context) -> dict[str, object]:
    """Return the losses of all methods by epoch, and each method's lists for the test listeners of `cohort`."""
    losses: list[tuple[str, int, float]] = []
    settings = context.settings.model_copy(update=SMALL_NETWORKS)
    trained = Context(settings, context.week, context.home)
    factory = method_factory(trained, space, lambda *epoch: losses.append(epoch))
    user_id, x_BF = load(cohort, space, "test")
    days = first_days(cohort, "test", user_id)
    names = [name for name in METHODS if name != "ials_fold_in" or space == "ut_als"]
    lists = {name: factory.build(name).recommend(x_BF, 20, days).tolist() for name in names}
    assert {name for name, _, _ in losses} >= {"dropoutnet", "melu", "first_day_autoencoder", "segment_mixture"}
    return {"losses": losses, **lists}


def run_jobs(context: Context, spaces: tuple[Space, ...]) -> None:
    factorisations = [job for job, space in ((als, "ut_als"), (svd, "tt_svd")) if space in spaces]
    for job in (catalog, user_track, track_pairs, first_day, *factorisations):
        job.run(context)
    for space in spaces:
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
        hidden = frame.user_id.isin(newer) | (frame.ts >= week.as_of)
        # A cohort user's first day is an input, in a backtest too, where it is after as_of.
        pairs = zip(hidden, frame.user_id, frame.ts, strict=True)
        hidden = pd.Series([t >= after[u] if u in after else is_hidden for is_hidden, u, t in pairs], frame.index, bool)
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


def with_raw_tables(source: Context, week: Week, home: Path, spark: SparkSession) -> Context:
    """Return the context of a new home with a copy of the raw tables."""
    context = Context(source.settings, week, home)
    for table in RAW:
        shutil.copytree(source.home / "lake" / table, home / "lake" / table)
    context.__dict__["spark"] = spark
    return context


@pytest.mark.slow
@pytest.mark.parametrize("backtest", [False, True], ids=["week", "backtest"])
def test_later_data_changes_neither_inputs_nor_models(finished, backtest, tmp_path, monkeypatch, spark):
    clean, week, spaces = finished, finished.week, SPACES
    if backtest:
        week, spaces = Week.parse(BACKTEST, backtest=True), ("tt_svd",)
        clean = with_raw_tables(finished, week, tmp_path / "clean", spark)
        monkeypatch.setenv("OVERTURE_HOME", str(clean.home))
        run_jobs(clean, spaces)
    changed = with_raw_tables(finished, week, tmp_path / "changed", spark)
    change_later_rows(changed)
    monkeypatch.setenv("OVERTURE_HOME", str(changed.home))
    run_jobs(changed, spaces)
    for table, partition in COMPARED_TABLES:
        if partition.get("space", "tt_svd") not in spaces:
            continue
        one, two = (c.lake.read(table, week=week.name, **partition) for c in (clean, changed))
        if partition.get("split") in ("validation", "test"):
            # Which listeners are evaluated depends on the ground truth, by the protocol; their features must not.
            both = pc.is_in(one["user_id"], two["user_id"]), pc.is_in(two["user_id"], one["user_id"])
            one, two = one.filter(both[0]), two.filter(both[1])
        assert one.num_rows, f"{table} {partition} is empty: nothing was compared"
        assert sorted_rows(one).equals(sorted_rows(two)), (
            f"{table} {partition} depends on data that the week must not use"
        )
    for space in spaces:
        networks = [(c.work / space / "network.onnx").read_bytes() for c in (clean, changed)]
        assert networks[0] == networks[1]
    one, two = (learned_methods(c, "tt_svd", cohort=clean) for c in (clean, changed))
    for name, value in one.items():
        assert value == two[name], f"{name} depends on data that the week must not use"
    truths = [c.lake.read("cohort", week=week.name).sort_by("user_id") for c in (clean, changed)]
    assert not truths[0].equals(truths[1])


@pytest.mark.slow
def test_later_data_do_not_change_the_vectors_of_new_releases(tmp_path, monkeypatch, spark):
    settings = load_settings(TINY)
    update = {
        "simulate": settings.simulate.model_copy(update={"release_share": 0.5}),
        "matrix": settings.matrix.model_copy(update={"n_catalog": 500}),
        "groups": settings.groups.model_copy(update={"min_users": 3}),
        "new_releases": NewReleaseSettings(enabled=True, days=60),
    }
    clean = Context(settings.model_copy(update=update), Week.parse(settings.week), tmp_path / "clean")
    clean.__dict__["spark"] = spark
    monkeypatch.setenv("OVERTURE_HOME", str(clean.home))
    simulate.run(clean)
    changed = with_raw_tables(clean, clean.week, tmp_path / "changed", spark)
    change_later_rows(changed)
    for context in (clean, changed):
        monkeypatch.setenv("OVERTURE_HOME", str(context.home))
        for job in (catalog, user_track, track_pairs, als, svd):
            job.run(context)
    week = clean.week.name
    assert pc.sum(clean.lake.read("catalog", week=week)["is_new"]).as_py() > 10
    for table, partition in (("catalog", {}), *(("track_vectors", {"space": space}) for space in SPACES)):
        one, two = (context.lake.read(table, week=week, **partition) for context in (clean, changed))
        assert one.sort_by("track_idx").equals(two.sort_by("track_idx")), f"{table} {partition} depends on later data"
