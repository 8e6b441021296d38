"""Test the segments of a finished week: minimum size of cards, table of members, continuity with last week."""

from __future__ import annotations

import json

import numpy as np

from jobs.cold_start import segments
from jobs.platform.context import Context
from jobs.tracking.tracker import Tracker


def as_last_week(context: Context) -> None:
    """Store the week's tables as those of the previous week."""
    now, then = {"week": context.week.name}, {"week": context.week.previous.name}
    for table, where in (("warm_users", {}), ("user_segments", {"space": "tt_svd"}), ("segments", {"space": "tt_svd"})):
        context.lake.write(table, context.lake.read(table, **now, **where), **then, **where)


def newest_run(context: Context):
    tracker = Tracker.connect(context)
    runs = tracker.client.search_runs([tracker.experiment_id], "tags.task = 'segments' and tags.space = 'tt_svd'")
    return tracker.client, max(runs, key=lambda run: run.info.start_time)


def test_segment_sizes_equal_member_counts(finished):
    where = {"week": finished.week.name, "space": "tt_svd"}
    table = finished.lake.read("segments", **where).sort_by("segment_id")
    members = finished.lake.read("user_segments", **where).column("segment_id").to_numpy()
    assert np.bincount(members).tolist() == table.column("size").to_pylist()
    floor = finished.settings.groups.min_users
    for size, text in zip(table.column("size").to_pylist(), table.column("card").to_pylist(), strict=True):
        card = json.loads(text)
        if size < floor:
            assert card["sentence"] == f"fewer than {floor} listeners: too few to describe"
            assert not any(card[kind] for kind in ("countries", "ages", "genres", "artists", "tracks", "exemplars"))
        else:
            assert card["size"] == size
            assert all(round(trait["share"] * size) >= floor for trait in card["countries"])


def test_equal_segments_have_full_stability(copied):
    before = copied.lake.read("segments", week=copied.week.name, space="tt_svd")
    as_last_week(copied)
    report = segments.run(copied, "tt_svd")
    assert report["stability.stayed_share"] == 1
    assert report["stability.median_jaccard"] == 1
    assert report["stability.common_listeners"] == copied.lake.rows("warm_users", week=copied.week.name)
    client, run = newest_run(copied)
    assert run.data.metrics["stability.stayed_share"] == 1
    assert {"stability.json", "segment_map.png", "segment_sizes.png"} <= {
        file.path for file in client.list_artifacts(run.info.run_id)
    }
    assert copied.lake.read("segments", week=copied.week.name, space="tt_svd").equals(before)


def test_no_stability_without_a_previous_week(copied):
    assert not any(name.startswith("stability") for name in segments.run(copied, "tt_svd"))
