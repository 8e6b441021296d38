"""The approximate index of a large catalogue in a release: where it is built, the gate's line, the service's lists."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from contracts.errors import CheckFailed
from jobs.platform.context import Context
from jobs.release import bundle, gate
from jobs.release.cold_start import bundle as cold_start_bundle
from models.cold_start import track_index
from serving.app import COMPUTE
from serving.release import loaded as loaded_release
from serving.release.bundle import open_release
from tests.helpers import release_keys, small_week
from tests.helpers.live import Live, cohort_requests

LINE = "track index recall"


def with_index(home: Path, above_tracks: int) -> Context:
    """Return a filled week whose releases contain the index above a number of tracks."""
    context = small_week.ready(home)
    section = context.settings.track_index.model_copy(update={"above_tracks": above_tracks})
    context.settings = context.settings.model_copy(update={"track_index": section})
    return context


def lines_of(context: Context) -> dict[str, dict]:
    return {line["rule"]: line for line in gate.read_record(context)["lines"]}


def test_a_large_catalogue_has_an_index_in_the_space_that_recommends(home):
    context = with_index(home, small_week.N_TRACKS - 1)
    folder, _ = bundle.build(context, cold_start_bundle)
    release = open_release(folder)
    assert {name: space.track_index is not None for name, space in release.spaces.items()} == {
        "tt_svd": True,
        "ut_als": False,
    }
    again, reused = bundle.build(context, cold_start_bundle)
    assert (again, reused) == (folder, True), "equal inputs give equal bytes"


def test_a_small_catalogue_has_none_and_the_gate_no_line(home):
    context = with_index(home, small_week.N_TRACKS)
    release = bundle.run(context)["release"]
    gate.run(context)
    assert open_release(home / "releases" / release).spaces["tt_svd"].track_index is None
    assert LINE not in lines_of(context)


def test_the_gate_measures_the_recall_without_banned_and_blocked_tracks(home):
    context = with_index(home, 100)
    (home / "block_list.jsonl").write_text(json.dumps({"kind": "artist", "id": "1"}) + "\n")
    bundle.run(context)
    assert gate.run(context)["verdict"] == "pass"
    line = lines_of(context)[LINE]
    assert (line["verdict"], line["bound"]) == ("pass", 0.99)
    assert 0.99 <= line["measured"] <= 1


def test_an_index_that_finds_other_tracks_fails_the_gate(home, monkeypatch):
    context = with_index(home, 100)
    write = track_index.write
    monkeypatch.setattr(track_index, "write", lambda path, items, *rest: write(path, np.array(items[::-1]), *rest))
    bundle.run(context)
    with pytest.raises(CheckFailed, match=LINE):
        gate.run(context)
    assert lines_of(context)[LINE]["measured"] < 0.9


def test_the_service_recommends_with_the_index_outside_its_event_loop(home, monkeypatch):
    exact, _ = bundle.build(with_index(home, small_week.N_TRACKS), cold_start_bundle)
    indexed, _ = bundle.build(with_index(home, 100), cold_start_bundle)
    runs = []
    run = COMPUTE.run
    monkeypatch.setattr(COMPUTE, "run", lambda *arguments: runs.append(1) or run(*arguments))
    monkeypatch.setattr(loaded_release, "SLOW_VALUES", small_week.N_TRACKS * small_week.D - 1)
    lists = []
    for folder in (exact, indexed):
        release_keys.promote(home, folder.name)
        live = Live(home)
        try:
            requests = cohort_requests()[:30]
            answers = [live.lists(request, method="full_pers", k=20) for request in requests]
            live.lists(requests[0], method="semi_pers", k=20)
        finally:
            live.stop()
        assert {answer["release"] for answer in answers} == {folder.name}
        lists.append([[track["track_id"] for track in answer["tracks"]] for answer in answers])
    assert len(runs) == 2 * len(lists[0])
    shares = [len(set(one) & set(other)) / 20 for one, other in zip(*lists, strict=True)]
    assert np.mean(shares) >= 0.99
