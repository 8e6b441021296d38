"""Test that the service and the week's Spark jobs compute bit-identical inputs for the same listener."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.platform.list_columns import to_matrix
from jobs.release import pointer
from serving.recommend.signals import days_of
from serving.release.loaded import LoadedRelease
from serving.release.watcher import ChampionWatcher
from tests.helpers import release_keys
from tests.helpers.as_request import listener


@pytest.fixture(scope="module")
def ready(finished) -> LoadedRelease:
    champion = ChampionWatcher(release_keys.folders(finished.home), poll_s=1.0)
    champion.refresh()
    assert champion.current is not None, champion.problem
    assert champion.current.name == pointer.read(finished.home).release
    return champion.current


@pytest.mark.parametrize("split", ["train", "test"])
def test_service_inputs_equal_the_rows_of_training_and_evaluation(finished, ready, split):
    week, lake = finished.week.name, finished.lake
    rows = lake.read("first_day", week=week, split=split).slice(0, 300).to_pylist()
    # A request names banned tracks only, and the service knows the artists and albums of the catalogue's tracks.
    rows = [row for row in rows if all(track in ready.track_idx for track in row["banned_songs"])]
    assert any(row["banned_songs"] for row in rows)
    for space in ready.spaces:
        table = lake.read("features", week=week, space=space, split=split)
        place = {user: i for i, user in enumerate(table["user_id"].to_pylist())}
        wanted = to_matrix(table, "x")[[place[row["user_id"]] for row in rows]]
        listeners = [listener(ready, row) for row in rows]
        assert len(listeners) > 10
        np.testing.assert_array_equal(ready.release.inputs(space, days_of(ready, listeners)), wanted)
        for person, row in zip(listeners[:20], wanted, strict=False):
            np.testing.assert_array_equal(ready.release.inputs(space, days_of(ready, [person]))[0], row)


def test_service_has_the_names_and_cards_of_the_week(finished, ready):
    tracks = {row["track_id"]: row for row in finished.lake.read("tracks").to_pylist()}
    for track in ready.tracks:
        assert (track.title, track.artist) == (tracks[track.track_id]["title"], tracks[track.track_id]["artist_name"])
    assert {segment["segment_id"] for segment in ready.space.segments} == set(range(len(ready.space.centroids_KD)))
    assert all(segment["card"]["sentence"] for segment in ready.space.segments)
