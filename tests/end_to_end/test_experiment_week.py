"""Test an A/B test on the smallest service: the champion recommends to new listeners, and estimates match the truth."""

from __future__ import annotations

import shutil

import pytest

from contracts.errors import BadArgument, CheckFailed
from jobs.experiments import analyse, off_policy, simulate
from jobs.platform.context import Context

SECTION = {
    "last_day": "2026-11-30",
    "min_effect": 0.8,
    "baseline_rate": 0.08,
    "alpha": 0.05,
    "min_effective_users": 100,
    "arms": [
        {"name": "default", "method": "country_age_mean", "share": 0.3},
        {"name": "semi_pers", "method": "semi_pers", "share": 0.2},
        {"name": "popularity", "method": "popularity", "share": 0.2},
        {
            "name": "exploring",
            "method": "semi_pers",
            "share": 0.3,
            "explore": {"share": 0.5, "methods": ["popularity"]},
        },
    ],
}
LISTENERS = 2_500


@pytest.fixture(scope="module")
def tested(finished, tmp_path_factory) -> Context:
    """Copy of the finished week after a simulated experiment; `told` contains the report of the simulation."""
    home = tmp_path_factory.mktemp("tested") / "home"
    for part in ("lake", "releases", "mlflow"):
        shutil.copytree(finished.home / part, home / part)
    settings = finished.settings.model_validate({**finished.settings.model_dump(), "experiment": SECTION})
    context = Context(settings, finished.week, home)
    context.__dict__["told"] = simulate.run(context, LISTENERS, 12, 1)
    return context


def test_the_verdict_finds_what_the_listeners_taste_is(tested):
    told = tested.__dict__["told"]
    assert told["bad"] == {}
    assert told["days"] == 8
    found = analyse.run(tested, "first_day")
    stream_probabilities = told["stream_probabilities"]
    for arm, said in found["arms"].items():
        assert abs(said["stream"]["rate"] - stream_probabilities[arm]) < 4 * said["stream"]["error"], arm
    assert stream_probabilities["semi_pers"] > stream_probabilities["default"] > 0
    one = found["arms"]["semi_pers"]["stream"]
    assert one["low"] < stream_probabilities["semi_pers"] / stream_probabilities["default"] < one["high"]
    assert found["verdicts"]["semi_pers"] == "better"
    assert found["sample_ratio_p"] > 0.001
    assert set(found["unmatched_outcomes"].values()) == {0}


def test_the_estimate_of_another_policy_is_what_its_own_arm_shows(tested):
    stream_probabilities = tested.__dict__["told"]["stream_probabilities"]
    for policy in ("popularity", "semi_pers"):
        found = off_policy.run(tested, "first_day", "exploring", policy)["estimates"]["stream"]
        reach = 2 * (found["snips"]["high"] - found["snips"]["low"]) / 1.96  # four standard errors
        assert abs(found["snips"]["value"] - stream_probabilities[policy]) < reach, policy
        assert found["clipped_weight"] == 0


def test_what_the_arm_never_shows_cannot_be_estimated(tested):
    with pytest.raises(CheckFailed, match="never shows"):
        off_policy.run(tested, "first_day", "exploring", "full_pers")
    with pytest.raises(CheckFailed, match="never shows"):
        off_policy.run(tested, "first_day", "semi_pers", "popularity")
    with pytest.raises(BadArgument, match="does not contain blend"):
        off_policy.run(tested, "first_day", "exploring", "blend")


def test_too_few_effective_listeners_are_refused(tested):
    """The registered plan applies, not the current settings, so the test makes the registered plan stricter."""
    plan, _ = analyse.plan_of(tested, "first_day")
    strict = plan.model_copy(update={"min_effective_users": 100_000})
    arm = next(arm for arm in strict.arms if arm.name == "exploring")
    shown = off_policy.policy_targets(tested, strict, arm, "popularity")
    with pytest.raises(CheckFailed, match="effective sample size"):
        off_policy.estimate_rate(strict, shown, "stream")
    wrong = shown.assign(propensity=shown["propensity"] / 2)
    with pytest.raises(CheckFailed, match="propensities do not fit"):
        off_policy.estimate_rate(plan, wrong, "stream")


def test_the_same_seed_gives_the_same_rows(tested):
    before = {
        table: tested.lake.read(table, day="2026-11-25") for table in ("exposures", "outcomes", "exposure_contexts")
    }
    again = simulate.run(tested, LISTENERS, 12, 1)
    assert again["already_registered"]
    for table, rows in before.items():
        assert tested.lake.read(table, day="2026-11-25").equals(rows), table


def test_real_displays_are_not_overwritten(tested, tmp_path):
    other = tested.settings.experiment.model_copy(update={"name": "another"})
    context = Context(tested.settings.model_copy(update={"experiment": other}), tested.week, tested.home)
    with pytest.raises(BadArgument, match="first_day"):
        simulate.run(context, LISTENERS, 12, 1)
    source = tested.settings.source.model_copy(update={"kind": "mpd"})
    with pytest.raises(BadArgument, match="only simulated listeners"):
        simulate.run(
            Context(tested.settings.model_copy(update={"source": source}), tested.week, tested.home), 100, 12, 1
        )
