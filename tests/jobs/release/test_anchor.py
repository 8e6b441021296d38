"""Tests of the anchor: set by the first promotion, moved by a person only, kept by prune."""

from __future__ import annotations

import pytest

from contracts.errors import CheckFailed
from jobs.release import anchor, bundle, gate, promote, prune, registry
from jobs.release.destination import read_champion
from jobs.tracking.tracker import Tracker
from tests.helpers import small_week

FIRST, SECOND, THIRD = "2026-11-16", "2026-11-23", "2026-11-30"


def promote_week(home, week: str, seed: int) -> str:
    """Build, evaluate and promote another release; returns its name."""
    context = small_week.ready(home, week, seed=seed, delta=0.5)
    bundle.run(context)
    gate.run(context)
    return str(promote.run(context)["champion"])


def test_only_the_first_promotion_sets_the_anchor(home):
    context = small_week.staged(home, "champion")
    first = read_champion(context).release
    assert registry.read_anchor(context, Tracker.connect(context)) == registry.Anchor(first, FIRST)
    second = promote_week(home, SECOND, seed=5)
    assert anchor.run(context) == {"anchor": first, "since": FIRST, "before": first, "champion": second}
    lines = {line["rule"]: line for line in gate.read_record(small_week.context_at(home, SECOND))["lines"]}
    assert lines["against anchor"]["verdict"] == "pass"
    assert first[:12] in lines["against anchor"]["why"]


def test_a_person_moves_and_confirms_the_anchor(home):
    context = small_week.staged(home, "champion")
    first, second = read_champion(context).release, promote_week(home, SECOND, seed=5)
    assert anchor.run(context, confirm=True) == {"anchor": first, "since": SECOND, "before": first, "champion": second}
    moved = anchor.run(context, second)
    assert (moved["anchor"], moved["before"]) == (second, first)
    assert registry.read_aliases(context, Tracker.connect(context))["champion"] == second
    again = small_week.context_at(home, SECOND)
    whys = {line["rule"]: line["why"] for line in gate.run(again)["lines"]}
    assert whys["against anchor"] == "the same release"


def test_an_anchor_without_its_tag_counts_from_its_week(home):
    """Somebody set the alias in MLflow's page."""
    context = small_week.staged(home, "champion")
    second = promote_week(home, SECOND, seed=5)
    tracker = Tracker.connect(context)
    registry.set_alias(context, tracker, registry.ANCHOR, registry.find_version(context, tracker, second))
    assert registry.read_anchor(context, tracker) == registry.Anchor(second, SECOND)


def test_prune_keeps_the_anchor(home):
    context = small_week.staged(home, "champion")
    first = read_champion(context).release
    for seed, week in ((5, SECOND), (6, THIRD)):
        promote_week(home, week, seed)
    fourth = small_week.ready(home, "2026-12-07", seed=7, delta=0.5)
    bundle.run(fourth)
    report = prune.run(fourth, keep=1)
    assert (report["kept"][first], report["removed"]) == ("the anchor", [])


def test_without_a_champion_there_is_nothing_to_confirm(home):
    context = small_week.ready(home)
    assert anchor.run(context) == {"anchor": None, "since": None, "before": None, "champion": None}
    with pytest.raises(CheckFailed, match="the first promotion sets the anchor"):
        anchor.run(context, confirm=True)
