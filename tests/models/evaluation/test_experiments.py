"""Statistics of an A/B test: manual calculations, false positive rate, power and coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import chisquare, norm

from models.evaluation.experiments import (
    Rate,
    adjust_holm,
    compute_lift,
    compute_rate,
    required_users,
    sample_ratio_p_value,
)


def test_rate_equals_a_manual_calculation():
    """4 of 10 displays; residuals y - 0.4 n are 1.2, -0.4, -0.8, so the variance is 3/2 * 2.24 / 100."""
    result = compute_rate([2, 6, 2], [2, 2, 0])
    assert (result.users, result.displays, result.successes, result.value) == (3, 10, 4, 0.4)
    assert result.error == pytest.approx(math.sqrt(1.5 * 2.24 / 100))
    assert result.design_effect == pytest.approx(0.0336 / 0.024)


def test_lift_equals_a_manual_calculation():
    arm, control = Rate(9, 90, 18, 0.2, 0.02, 1.0), Rate(9, 90, 9, 0.1, 0.02, 1.0)
    result = compute_lift(arm, control, 0.05)
    error = math.hypot(0.1, 0.2)
    assert result.ratio == pytest.approx(2)
    assert (result.low, result.high) == pytest.approx((2 * math.exp(-1.959964 * error), 2 * math.exp(1.959964 * error)))
    assert result.p_value == pytest.approx(2 * norm.sf(math.log(2) / error))
    assert compute_lift(Rate(9, 90, 0, 0.0, 0.0, 1.0), control, 0.05).ratio is None


@pytest.mark.parametrize(
    ("displays", "successes"), [([1, 2], [1]), ([3], [1]), ([2, 0], [1, 0]), ([2, 2], [3, 0]), ([2, 2], [-1, 0])]
)
def test_invalid_counts_raise(displays, successes):
    with pytest.raises(ValueError, match="rate"):
        compute_rate(displays, successes)


def test_holm_adjustment_equals_a_manual_calculation():
    assert adjust_holm({"a": 0.03, "b": 0.01, "c": 0.04}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert adjust_holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert adjust_holm({}) == {}


def test_sample_ratio_p_value_equals_pearsons_test():
    users, shares = [3_010, 2_950, 4_040], [0.3, 0.3, 0.4]
    assert sample_ratio_p_value(users, shares) == pytest.approx(chisquare(users, 10_000 * np.array(shares)).pvalue)
    assert sample_ratio_p_value([5_300, 4_700], [0.5, 0.5]) < 1e-8


def listeners(n: int, mean: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Simulate displays and successes of n listeners who differ in activity and in success probability."""
    displays = 12 * (1 + rng.poisson(1.0, n))
    return displays, rng.binomial(displays, np.clip(mean * rng.gamma(1.0, 1.0, n), 0, 1))


def test_false_positive_rate_equals_alpha():
    rng, alpha, n_tests = np.random.default_rng(0), 0.05, 3_000
    by_user, by_display = 0, 0
    for _ in range(n_tests):
        one, two = (compute_rate(*listeners(400, 0.1, rng)) for _ in range(2))
        by_user += compute_lift(one, two, alpha).p_value <= alpha
        naive = [
            Rate(r.users, r.displays, r.successes, r.value, r.error / math.sqrt(r.design_effect), 1.0)
            for r in (one, two)
        ]
        by_display += compute_lift(*naive, alpha).p_value <= alpha
    spread = 4 * math.sqrt(alpha * (1 - alpha) / n_tests)
    assert abs(by_user / n_tests - alpha) < spread
    assert by_display / n_tests > 0.2  # the rate if displays were treated as independent


def test_family_wise_error_rate_stays_below_alpha():
    rng, alpha, n_tests = np.random.default_rng(1), 0.05, 1_500
    wrong = 0
    for _ in range(n_tests):
        control, *arms = (compute_rate(*listeners(300, 0.1, rng)) for _ in range(4))
        p = {str(at): compute_lift(arm, control, alpha).p_value for at, arm in enumerate(arms)}
        wrong += min(adjust_holm(p).values()) <= alpha
    assert wrong / n_tests < alpha + 4 * math.sqrt(alpha * (1 - alpha) / n_tests)


def test_planned_sample_size_reaches_the_planned_power():
    rng, alpha, power = np.random.default_rng(2), 0.05, 0.8
    pilot = compute_rate(*listeners(20_000, 0.1, rng))
    n = required_users(pilot.value, 0.15, alpha, power, pilot.displays / pilot.users, pilot.design_effect)
    rejected_share = np.mean(
        [
            compute_lift(compute_rate(*listeners(n, 0.115, rng)), compute_rate(*listeners(n, 0.1, rng)), alpha).p_value
            <= alpha
            for _ in range(600)
        ]
    )
    assert power - 0.07 < rejected_share < power + 0.09
    assert required_users(0.1, 0.15, 0.01, power, 24, 3) > required_users(0.1, 0.15, 0.05, power, 24, 3)
    with pytest.raises(ValueError, match="rates"):
        required_users(0.6, 0.8, 0.05, 0.8, 24, 3)


def test_lift_intervals_have_nominal_coverage():
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(600):
        result = compute_lift(compute_rate(*listeners(500, 0.12, rng)), compute_rate(*listeners(500, 0.08, rng)), 0.05)
        covered += result.low <= 1.5 <= result.high
    assert 0.92 < covered / 600 < 0.98
