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
def after_experiment(finished, tmp_path_factory) -> Context:
    """Copy of the finished week after a simulated experiment; `simulation` contains the report of the simulation."""
    home = tmp_path_factory.mktemp("tested") / "home"
    for part in ("lake", "releases", "mlflow"):
        shutil.copytree(finished.home / part, home / part)
    settings = finished.settings.model_validate({**finished.settings.model_dump(), "experiment": SECTION})
    context = Context(settings, finished.week, home)
    context.__dict__["simulation"] = simulate.run(context, LISTENERS, 12, 1)
    return context


def test_verdict_matches_the_simulated_taste(after_experiment):
    simulation = after_experiment.__dict__["simulation"]
    assert simulation["bad"] == {}
    assert simulation["days"] == 8
    analysis = analyse.run(after_experiment, "first_day")
    probabilities = simulation["stream_probabilities"]
    for arm, rates in analysis["arms"].items():
        assert abs(rates["stream"]["rate"] - probabilities[arm]) < 4 * rates["stream"]["error"], arm
    assert probabilities["semi_pers"] > probabilities["default"] > 0
    interval = analysis["arms"]["semi_pers"]["stream"]
    assert interval["low"] < probabilities["semi_pers"] / probabilities["default"] < interval["high"]
    assert analysis["verdicts"]["semi_pers"] == "better"
    assert analysis["sample_ratio_p"] > 0.001
    assert set(analysis["unmatched_outcomes"].values()) == {0}


def test_off_policy_estimate_matches_the_arm_of_that_policy(after_experiment):
    probabilities = after_experiment.__dict__["simulation"]["stream_probabilities"]
    for policy in ("popularity", "semi_pers"):
        estimate = off_policy.run(after_experiment, "first_day", "exploring", policy)["estimates"]["stream"]
        tolerance = 2 * (estimate["snips"]["high"] - estimate["snips"]["low"]) / 1.96  # four standard errors
        assert abs(estimate["snips"]["value"] - probabilities[policy]) < tolerance, policy
        assert estimate["clipped_weight"] == 0


def test_policy_without_support_in_the_arm_raises(after_experiment):
    with pytest.raises(CheckFailed, match="never shows"):
        off_policy.run(after_experiment, "first_day", "exploring", "full_pers")
    with pytest.raises(CheckFailed, match="never shows"):
        off_policy.run(after_experiment, "first_day", "semi_pers", "popularity")
    with pytest.raises(BadArgument, match="does not contain blend"):
        off_policy.run(after_experiment, "first_day", "exploring", "blend")


def test_too_few_effective_listeners_raise(after_experiment):
    """The registered plan applies, not the current settings, so the test makes the registered plan stricter."""
    plan, _ = analyse.plan_of(after_experiment, "first_day")
    strict = plan.model_copy(update={"min_effective_users": 100_000})
    arm = next(arm for arm in strict.arms if arm.name == "exploring")
    shown = off_policy.policy_targets(after_experiment, strict, arm, "popularity")
    with pytest.raises(CheckFailed, match="effective sample size"):
        off_policy.estimate_rate(strict, shown, "stream")
    wrong = shown.assign(propensity=shown["propensity"] / 2)
    with pytest.raises(CheckFailed, match="propensities do not fit"):
        off_policy.estimate_rate(plan, wrong, "stream")


def test_equal_seeds_give_equal_rows(after_experiment):
    before = {
        table: after_experiment.lake.read(table, day="2026-11-25")
        for table in ("exposures", "outcomes", "exposure_contexts")
    }
    again = simulate.run(after_experiment, LISTENERS, 12, 1)
    assert again["already_registered"]
    for table, rows in before.items():
        assert after_experiment.lake.read(table, day="2026-11-25").equals(rows), table


def test_real_displays_are_not_overwritten(after_experiment, tmp_path):
    other = after_experiment.settings.experiment.model_copy(update={"name": "another"})
    context = Context(
        after_experiment.settings.model_copy(update={"experiment": other}), after_experiment.week, after_experiment.home
    )
    with pytest.raises(BadArgument, match="first_day"):
        simulate.run(context, LISTENERS, 12, 1)
    source = after_experiment.settings.source.model_copy(update={"kind": "mpd"})
    with pytest.raises(BadArgument, match="only simulated listeners"):
        simulate.run(
            Context(
                after_experiment.settings.model_copy(update={"source": source}),
                after_experiment.week,
                after_experiment.home,
            ),
            100,
            12,
            1,
        )
