"""Tests of the gate: each rule at its bound, then the verdict on a small week."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pytest

from contracts.errors import CheckFailed
from jobs.cold_start import onnx_export
from jobs.platform.list_columns import to_list_column
from jobs.release import bundle, gate, promote, rules
from jobs.release.cold_start import bundle as cold_start_bundle
from jobs.release.cold_start import gate as cold_start_gate
from jobs.release.rules import GateLine
from jobs.tracking.tracker import Tracker
from serving.release.bundle import open_release
from tests.helpers import small_week

GOOD = {"success": True, "failed": [], "warned": []}


def line(verdict: str) -> GateLine:
    return GateLine("any", 1.0, 1.0, verdict, "")


def test_overall_verdict_is_the_worst_line():
    assert rules.overall_verdict([line("pass"), line("skip")]) == "pass"
    assert rules.overall_verdict([line("pass"), line("grey")]) == "grey"
    assert rules.overall_verdict([line("grey"), line("fail")]) == "fail"
    assert rules.overall_verdict([]) == "fail"


def test_data_checks_must_have_run_and_passed():
    results = {table: dict(GOOD) for table in rules.REQUIRED_TABLES}
    assert rules.data_checks(results).verdict == "pass"
    results["catalog"] = {**GOOD, "warned": ["few rows"]}
    assert "warnings in catalog" in rules.data_checks(results).why
    results["catalog"] = {**GOOD, "success": False}
    assert (rules.data_checks(results).verdict, rules.data_checks(results).why) == ("fail", "failed: catalog")
    del results["catalog"], results["events"]
    assert rules.data_checks(results).verdict == "fail"
    assert "overture check events" in rules.data_checks(results).why


@pytest.mark.parametrize(("difference", "verdict"), [(1e-4, "pass"), (1.01e-4, "fail"), (float("nan"), "fail")])
def test_onnx_parity_at_the_bound(difference, verdict):
    assert rules.onnx_parity("tt_svd", difference, 1e-4).verdict == verdict


def test_lower_bound_of_gain_over_popularity_must_reach_the_margin():
    popularity = np.full(100, 0.2)
    assert rules.better_than_popularity(popularity * 1.06, popularity, 0.05).verdict == "pass"
    assert rules.better_than_popularity(popularity * 1.04, popularity, 0.05).verdict == "fail"
    noisy = popularity * 1.06 + np.tile([0.2, -0.2], 50)
    assert rules.better_than_popularity(noisy, popularity, 0.05).verdict == "fail", (
        "the mean gain exceeds the margin, but is not significant"
    )
    assert rules.better_than_popularity(popularity, popularity, 0.0).verdict == "fail", "equal is not better"
    assert rules.better_than_popularity(popularity[:0], popularity[:0], 0.0).verdict == "fail"


@pytest.mark.parametrize(
    ("factor", "noise", "verdict"),
    [
        (1.00, 0.0, "pass"),
        (1.10, 0.0, "pass"),
        (0.99, 0.0, "grey"),
        (0.97, 0.0, "fail"),
        (0.99, 0.2, "pass"),
        (0.95, 0.4, "pass"),
        (0.80, 0.9, "fail"),
    ],
)
def test_not_worse_than_champion(factor, noise, verdict):
    """A loss is significant if the whole interval is below zero; a large loss fails even if it is not significant."""
    champion = np.full(100, 0.2)
    ours = champion * factor + noise * np.tile([1.0, -1.0], 50)
    assert rules.not_worse_than_champion(ours, champion, grey_zone=0.02, max_loss=0.1).verdict == verdict


def test_slices_have_a_minimum_and_small_ones_are_skipped():
    popularity = np.full(50, 0.2)
    assert rules.slice_ratio("country=FR", popularity * 0.5, popularity, 0.5, 50).verdict == "pass"
    assert rules.slice_ratio("country=FR", popularity * 0.49, popularity, 0.5, 50).verdict == "fail"
    assert rules.slice_ratio("country=FR", popularity[1:] * 0, popularity[1:], 0.5, 50).verdict == "skip"
    assert rules.slice_ratio("country=FR", popularity * 0, popularity * 0, 0.5, 50).verdict == "pass"


def test_guardrails():
    assert rules.popularity_share(np.tile(np.arange(4), (5, 1)), 200, 0.5).measured == 0.5
    assert rules.popularity_share(np.tile(np.arange(4), (5, 1)), 200, 0.49).verdict == "fail"


@pytest.mark.parametrize(
    ("measured", "verdict", "counted", "n"),
    [([9.9, 1.0], "pass", 9.9, 1), ([30.0, 9.9, 1.0], "pass", 9.9, 2), ([30.0, 10.1, 20.0, 1.0], "fail", 10.1, 3)],
)
def test_latency_is_measured_again_before_it_fails(measured, verdict, counted, n):
    left = iter(measured)
    line = rules.latency(lambda: next(left), 10, "one list")
    assert (line.verdict, line.measured, measured.index(next(left))) == (verdict, counted, n)
    assert line.why == ("one list" if n == 1 else f"one list; the shortest of {n} measurements")


# -- the whole ------------------------------------------------------------------------------------------------------


@pytest.fixture
def context(home):
    return small_week.ready(home)


def lines_of(context) -> dict[str, dict]:
    return {line["rule"]: line for line in gate.read_record(context)["lines"]}


def test_good_first_release_passes_and_is_recorded(context, capfd):
    release = bundle.run(context)["release"]
    report = gate.run(context)
    assert (report["verdict"], report["release"], report["champion"], report["revision"]) == ("pass", release, None, 0)
    assert json.loads(json.dumps(report)) == report
    assert gate.read_record(context) == gate.read_record(context, release)
    lines = lines_of(context)
    assert lines.keys() >= {
        "data checks",
        "onnx parity tt_svd",
        "onnx parity ut_als",
        "better than popularity",
        "against champion",
        "slice interactions=none",
        "slice country=FR",
        "slice age=18-24",
        "popularity bias",
        "latency p99 ms",
    }
    assert lines["against champion"]["why"].startswith("first release")
    out, err = capfd.readouterr()
    assert out == ""
    assert "better than popularity" in err
    client = Tracker.connect(context).client
    run = client.get_run(report["mlflow_run"])
    assert run.data.tags["verdict"] == "pass"
    assert run.data.metrics["gate/better than popularity"] == lines["better than popularity"]["measured"]
    assert "gate.json" in {file.path for file in client.list_artifacts(report["mlflow_run"])}


def test_release_no_better_than_popularity_fails_and_is_recorded(home):
    context = small_week.ready(home, taste=0.0)
    bundle.run(context)
    with pytest.raises(CheckFailed, match="better than popularity") as raised:
        gate.run(context)
    assert raised.value.exit_code == 3
    assert gate.read_record(context)["verdict"] == "fail"
    with pytest.raises(CheckFailed, match="the gate failed release"):
        promote.run(context, approved=True)


def test_predictions_that_differ_from_training_fail(context):
    _, onnx, predictions = small_week.trained()
    ids = small_week.cohort()[0]["user_id"].to_numpy()
    onnx_export.write_network(context, "ut_als", onnx, ids[::-1], predictions[::-1] + 1e-3, {})
    onnx_export.write_network(context, "tt_svd", onnx, ids[::-1], predictions[::-1], {})
    bundle.run(context)
    with pytest.raises(CheckFailed, match="onnx parity ut_als"):
        gate.run(context)
    assert lines_of(context)["onnx parity tt_svd"]["verdict"] == "pass", "paired by user, not by position"


def test_missing_check_fails(context):
    (context.home / "quality" / "2026-11-16" / "events.json").unlink()
    bundle.run(context)
    with pytest.raises(CheckFailed, match="not checked: events"):
        gate.run(context)


def second_week_with_champion(home, taste: float, **gate_settings) -> small_week.Context:
    """Return week two, bundled and not yet evaluated, with week one as champion."""
    small_week.staged(home, "champion")
    second = small_week.ready(home, "2026-11-23", taste, seed=5, **gate_settings)
    bundle.run(second)
    return second


def test_worse_than_the_champion_fails_and_a_small_loss_is_grey(home):
    second = second_week_with_champion(home, 0.75)
    with pytest.raises(CheckFailed, match="a significant loss"):
        gate.run(second)
    loss = lines_of(second)["against champion"]["measured"]
    assert -0.5 < loss < -0.05
    wider = small_week.context_at(home, "2026-11-23", grey_zone=-loss + 0.01)
    assert gate.run(wider)["verdict"] == "grey"
    with pytest.raises(CheckFailed, match="--approved"):
        promote.run(wider)
    assert promote.run(wider, approved=True)["promoted"] is True


def test_champion_is_evaluated_by_track_id_on_this_weeks_cohort(home):
    """With another numbering of the tracks the same models score the same, except for tracks that left."""
    second = second_week_with_champion(home, 1.0)
    cohort = cold_start_gate.read_cohort(second)
    release = open_release(gate.pointer.releases(home) / bundle.release_of_week(second))
    rules = second.settings.rules.rules()
    before, _ = cold_start_gate.recommend(release, "tt_svd", "semi_pers", cohort, 20, rules)
    np.testing.assert_array_equal(
        before, release.spaces["tt_svd"].method("semi_pers").recommend(release.inputs("tt_svd", cohort.days), 20)
    )
    catalog = second.lake.read("catalog", week="2026-11-23")
    turned = catalog["track_id"].to_numpy()[::-1].copy()
    turned[turned == catalog["track_id"].to_numpy()[before[0, 0]]] = 77
    second.lake.write("catalog", catalog.set_column(1, "track_id", pa.array(turned)), week="2026-11-23")
    cohort = cold_start_gate.read_cohort(second)
    after, _ = cold_start_gate.recommend(release, "tt_svd", "semi_pers", cohort, 20, rules)
    here = before != before[0, 0]
    np.testing.assert_array_equal(after[here], small_week.N_TRACKS - 1 - before[here])
    assert (after[~here] >= small_week.N_TRACKS).all()


def test_same_release_and_older_week_are_not_compared(home):
    second = second_week_with_champion(home, 1.0)
    assert gate.run(second)["verdict"] == "pass"
    promote.run(second)
    again = gate.run(second)
    assert lines_of(second)["against champion"]["why"].startswith("same release")
    assert again["verdict"] == "pass"
    older = small_week.ready(home, "2026-11-09")
    bundle.run(older)
    assert gate.run(older)["verdict"] == "pass"
    assert lines_of(older)["against champion"]["verdict"] == "skip"


def test_unreadable_champion_fails(home):
    second = second_week_with_champion(home, 1.0)
    champion = gate.pointer.read(home).release
    (gate.pointer.releases(home) / champion / "tt_svd" / "rankings.npy").unlink()
    with pytest.raises(CheckFailed, match=r"the champion cannot be opened.*tt_svd/rankings.npy is missing"):
        gate.run(second)


def test_empty_cohort_and_missing_bundle_raise(context):
    with pytest.raises(CheckFailed, match="overture release bundle"):
        gate.run(context)
    empty = context.lake.read("first_day", week="2026-11-16", split="test").slice(0, 0)
    for split in ("validation", "test"):
        context.lake.write("first_day", empty, week="2026-11-16", split=split)
    bundle.run(context)
    with pytest.raises(CheckFailed, match="empty cohort"):
        gate.run(context)


def test_cohort_user_without_truth_raises(context):
    cohort = context.lake.read("cohort", week="2026-11-16")
    context.lake.write("cohort", cohort.slice(1), week="2026-11-16")
    with pytest.raises(CheckFailed, match="lacks the truth"):
        cold_start_gate.read_cohort(context)


def test_ragged_ranking_raises(context):
    segments = context.lake.read("segments", week="2026-11-16", space="tt_svd")
    short = pa.array([[1, 2], [1], [2, 3]], pa.list_(pa.int32()))
    place = segments.schema.get_field_index("ranking")
    context.lake.write("segments", segments.set_column(place, "ranking", short), week="2026-11-16", space="tt_svd")
    with pytest.raises(CheckFailed, match="'ranking' has lists of different lengths"):
        bundle.build(context, cold_start_bundle)
    narrow = to_list_column(np.zeros((3, 4), np.float32))
    place = segments.schema.get_field_index("centroid")
    context.lake.write("segments", segments.set_column(place, "centroid", narrow), week="2026-11-16", space="tt_svd")
    with pytest.raises(CheckFailed, match="centroids 4"):
        bundle.build(context, cold_start_bundle)
