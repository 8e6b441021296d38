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
    ("factor", "noise", "n", "verdict"),
    [
        (1.00, 0.1, 1_000, "pass"),
        (1.10, 0.1, 1_000, "pass"),
        (0.99, 0.1, 1_000, "pass"),  # a small loss that is below delta for certain
        (0.98, 0.1, 1_000, "grey"),  # delta itself is not excluded
        (0.95, 0.1, 1_000, "fail"),  # worse by more than delta for certain
        (1.00, 1.0, 1_000, "grey"),  # equal, but the listeners are too few to show it
        (0.95, 2.0, 1_000, "grey"),
        (0.50, 1.0, 1_000, "fail"),
        (1.00, 0.0, 10, "pass"),
        (1.00, 0.0, 9, "grey"),  # of so few listeners no bound is reliable
        (0.50, 0.0, 5, "grey"),
        (1.00, 0.0, 1, "grey"),
    ],
)
def test_a_release_passes_if_the_bound_excludes_a_loss_of_delta(factor, noise, n, verdict):
    champion = np.full(n, 0.2)
    ours = champion * factor + 0.2 * noise * np.resize([1.0, -1.0], n)
    line = rules.not_worse_than("against champion", ours, champion, 0.02, "champion")
    assert (line.verdict, line.bound) == (verdict, -0.02)
    assert "approval needed" in line.why or verdict != "grey"


def test_no_listener_and_a_champion_without_hits_need_a_person():
    assert rules.not_worse_than("against champion", np.empty(0), np.empty(0), 0.02, "champion").verdict == "grey"
    line = rules.not_worse_than("against champion", np.full(50, 0.1), np.zeros(50), 0.02, "champion")
    assert (line.verdict, line.measured) == ("grey", None)


def slice_verdicts(ratios: dict[str, float], n: int = 60, noise: float = 0.5, **settings) -> dict[str, str]:
    popularity = np.full(n, 0.2)
    values = {
        name: rules.SliceValues(popularity * ratio + 0.2 * noise * np.resize([1.0, -1.0], n), popularity)
        for name, ratio in ratios.items()
    }
    lines = rules.slice_lines(values, settings.get("min_users", 50), settings.get("required", ()))
    return {line.rule.removeprefix("slice "): line.verdict for line in lines}


def test_a_slice_fails_if_it_is_worse_than_popularity_with_confidence():
    assert slice_verdicts({"age=18-24": 0.5, "country=FR": 1.0}) == {"age=18-24": "fail", "country=FR": "pass"}
    assert slice_verdicts({"age=18-24": 0.87}) == {"age=18-24": "fail"}
    twelve = {f"country={n}": 1.2 for n in range(11)}
    assert slice_verdicts({"age=18-24": 0.87} | twelve)["age=18-24"] == "pass", "one of twelve is so low by chance"
    assert slice_verdicts({"age=18-24": 0.5} | twelve)["age=18-24"] == "fail"


def test_small_slices_are_grey_only_where_the_settings_require_them():
    ratios = {"age=18-24": 0.1, "country=FR": 0.1}
    assert slice_verdicts(ratios, n=49, required=["country=FR", "country=BR"]) == {
        "age=18-24": "skip", "country=FR": "grey", "country=BR": "grey",
    }  # fmt: skip
    line = rules.slice_lines({"x": rules.SliceValues(np.zeros(50), np.zeros(50))}, 50, ())[0]
    assert (line.verdict, line.measured) == ("pass", 1.0)


def test_an_anchor_that_nobody_confirms_makes_its_line_grey():
    week = small_week.Week.parse("2026-11-23")
    assert rules.confirmed(line("pass"), week, "2026-09-07", 12).verdict == "pass"
    old = rules.confirmed(line("pass"), week, "2026-08-31", 12)
    assert (old.verdict, "12 weeks ago" in old.why) == ("grey", True)
    assert rules.confirmed(line("fail"), week, "2020-01-06", 12).verdict == "fail"


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


def test_a_loss_above_delta_fails_and_an_accepted_delta_passes(home):
    second = second_week_with_champion(home, 0.75)
    with pytest.raises(CheckFailed, match=r"against champion.*worse by more than 0\.02"):
        gate.run(second)
    lines = lines_of(second)
    assert lines["against anchor"]["verdict"] == "fail", "the first champion is the anchor"
    loss = lines["against champion"]["measured"]
    assert -0.5 < loss < -0.05
    unclear = small_week.context_at(home, "2026-11-23", delta=-loss)
    assert gate.run(unclear)["verdict"] == "grey"
    with pytest.raises(CheckFailed, match="--approved"):
        promote.run(unclear)
    assert promote.run(unclear, approved=True)["promoted"] is True
    wide = small_week.context_at(home, "2026-11-23", delta=0.9)
    assert lines_of(wide)["against champion"]["verdict"] == "grey"
    assert gate.run(wide)["verdict"] == "pass"


def test_an_older_champion_is_compared_on_days_that_neither_has_learned_from(home):
    """The champion is a week older: of the truth, only the half that was streamed before its as-of time counts."""
    second = second_week_with_champion(home, 1.0)
    gate.run(second)
    lines = lines_of(second)
    assert "1 week older, compared on days 1 to 23 or more" in lines["against champion"]["why"]
    assert "compared on days" not in lines["against anchor"]["why"]
    cohort = second.lake.read("cohort", week="2026-11-23")
    last = cohort["truth_day"].to_pylist()[0][-1]
    all_late = pa.array([[last] * len(one) for one in cohort["truth"].to_pylist()], pa.list_(pa.int32()))
    second.lake.write("cohort", cohort.set_column(3, "truth_day", all_late), week="2026-11-23")
    report = gate.run(second)
    lines = lines_of(second)
    assert (report["verdict"], lines["against champion"]["verdict"]) == ("grey", "grey")
    assert "no listener to compare" in lines["against champion"]["why"]


def test_rivals_are_compared_on_the_tracks_of_both_catalogues():
    shared_N = np.array([True, False, True, True, False])
    lists_BL = np.array([[1, 0, 4, 3], [4, 1, 2, 6]])
    np.testing.assert_array_equal(cold_start_gate.shared_tracks(lists_BL, shared_N, 2), [[0, 3], [2, 10]])


def test_listeners_without_interactions_are_judged_on_country_and_age_where_they_are_few(context):
    bundle.run(context)
    gate.run(small_week.context_at(context.home, slice_min_users=9))
    assert lines_of(context)["slice interactions=none"]["why"].endswith("9 listeners")
    gate.run(context)
    none = lines_of(context)["slice interactions=none"]
    assert none["why"].endswith("48 listeners, the interactions of their first day removed")
    assert none["verdict"] == "pass"


def test_a_small_slice_is_evaluated_together_with_the_listeners_of_earlier_weeks(home):
    second = second_week_with_champion(home, 1.0)
    settings = {"slice_min_users": 20, "pooled_weeks": 4}
    gate.run(small_week.context_at(home, "2026-11-23", **settings))
    line = lines_of(second)["slice country=FR"]
    assert line["verdict"] == "pass"
    assert "32 listeners, 16 of them of this week, the others of up to 1 weeks before" in line["why"]
    for changed in ({"pooled_weeks": 0}, {"k": 10}, {"metric": "recall"}):
        gate.run(small_week.context_at(home, "2026-11-23", **{**settings, **changed}))
        assert lines_of(second)["slice country=FR"]["verdict"] == "skip", "nothing comparable is stored"
    gate.run(small_week.context_at(home, "2026-11-23", slice_min_users=16))
    assert lines_of(second)["slice country=FR"]["why"].endswith("16 listeners"), "enough without the weeks before"


def test_listeners_of_a_release_that_failed_are_not_used_by_later_weeks(home):
    second = second_week_with_champion(home, 0.75)
    with pytest.raises(CheckFailed, match="against champion"):
        gate.run(second)
    assert second.lake.exists("gate_listeners", week="2026-11-16")
    assert not second.lake.exists("gate_listeners", week="2026-11-23")
    gate.run(small_week.context_at(home, "2026-11-23", delta=0.9))
    assert second.lake.exists("gate_listeners", week="2026-11-23")
    with pytest.raises(CheckFailed, match="against champion"):
        gate.run(second)
    assert not second.lake.exists("gate_listeners", week="2026-11-23"), "the last evaluation failed"


def test_stored_listeners_make_a_slice_fail_that_is_worse_over_several_weeks(home):
    second = second_week_with_champion(home, 1.0)
    stored = second.lake.read("gate_listeners", week="2026-11-16")
    is_french = np.array(["country=FR" in names for names in stored["slices"].to_pylist()])
    value = np.where(is_french, 0.0, stored["value"].to_numpy())
    at = stored.schema.get_field_index("value")
    second.lake.write("gate_listeners", stored.set_column(at, "value", pa.array(value)), week="2026-11-16")
    stored_popularity = stored["popularity"].to_numpy()[is_french]
    values = {"country=FR": rules.SliceValues(np.full(16, 0.001), np.full(16, 0.002))}
    pooled = cold_start_gate.with_earlier_weeks(small_week.context_at(home, "2026-11-23", slice_min_users=20), values)
    assert pooled["country=FR"].ours_B.tolist() == [0.001] * 16 + [0.0] * 16
    assert pooled["country=FR"].popularity_B.tolist() == [0.002] * 16 + stored_popularity.tolist()
    assert rules.slice_lines(pooled, 20, ())[0].verdict == "fail"
    bare = {"interactions=none": rules.SliceValues(np.ones(5), np.ones(5))}
    again = cold_start_gate.with_earlier_weeks(small_week.context_at(home, "2026-11-23", slice_min_users=20), bare)
    assert again == bare, "listeners whose interactions were removed are not mixed with others"


def test_champion_is_evaluated_by_track_id_on_this_weeks_cohort(home):
    """With another numbering of the tracks the same models score the same, except for tracks that left."""
    second = second_week_with_champion(home, 1.0)
    cohort = cold_start_gate.read_cohort(second)
    release = open_release(gate.pointer.releases(home) / bundle.release_of_week(second))
    rules = second.settings.rules.rules()
    before, _ = cold_start_gate.recommend(release, "tt_svd", "semi_pers", cohort, 20, rules)
    np.testing.assert_array_equal(
        before,
        release.spaces["tt_svd"].method("semi_pers").recommend(release.inputs("tt_svd", cohort.days), 20, cohort.days),
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
    assert lines_of(second)["against champion"]["why"] == "the same release"
    assert again["verdict"] == "pass"
    older = small_week.ready(home, "2026-11-09")
    bundle.run(older)
    assert gate.run(older)["verdict"] == "pass"
    assert lines_of(older)["against champion"]["verdict"] == "skip"


def test_unreadable_champion_fails(home):
    second = second_week_with_champion(home, 1.0)
    champion = gate.pointer.read(home).release
    (gate.pointer.releases(home) / champion / "tt_svd" / "rankings.npy").unlink()
    with pytest.raises(CheckFailed, match=r"against champion: cannot be opened.*tt_svd/rankings.npy is missing"):
        gate.run(second)


def test_empty_cohort_and_missing_bundle_raise(context):
    with pytest.raises(CheckFailed, match="overture release bundle"):
        gate.run(context)
    empty = context.lake.read("first_day", week="2026-11-16", split="test").slice(0, 0)
    context.lake.write("first_day", empty, week="2026-11-16", split="test")
    bundle.run(context)
    with pytest.raises(CheckFailed, match="no test listeners"):
        gate.run(context)


def test_cohort_user_without_truth_raises(context):
    cohort = context.lake.read("cohort", week="2026-11-16")
    context.lake.write("cohort", cohort.slice(0, 8), week="2026-11-16")
    with pytest.raises(CheckFailed, match="lacks the truth"):
        cold_start_gate.read_cohort(context)


def test_cohort_of_an_older_version_raises(context):
    cohort = context.lake.read("cohort", week="2026-11-16").drop_columns(["truth_day"])
    context.lake.write("cohort", cohort, week="2026-11-16")
    with pytest.raises(CheckFailed, match="truth_day; run `overture matrix first-day`"):
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
