"""Paired differences: bounds against simulation and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from models.evaluation.paired import PairedDifference


def test_bounds_equal_those_of_scipy() -> None:
    rng = np.random.default_rng(0)
    rival, ours = rng.random(40), rng.random(40)
    difference = PairedDifference.of(ours, rival)
    expected = stats.ttest_rel(ours, rival).confidence_interval(0.90)
    np.testing.assert_allclose(difference.bounds(), np.array([expected.low, expected.high]) / rival.mean())
    assert difference.change == pytest.approx((ours.mean() - rival.mean()) / rival.mean())
    assert difference.p_not_worse == pytest.approx(stats.ttest_rel(ours, rival, alternative="less").pvalue)


def test_lower_bound_covers_the_truth_with_its_level() -> None:
    rng, n_covered = np.random.default_rng(1), 0
    for _ in range(2_000):
        rival = rng.exponential(1.0, 60)
        low, _ = PairedDifference.of(rival - 0.05 + rng.normal(0, 0.5, 60), rival).bounds()
        n_covered += low * rival.mean() <= -0.05
    assert 0.93 < n_covered / 2_000 < 0.97


def test_one_listener_has_infinite_bounds() -> None:
    difference = PairedDifference.of([0.4], [0.2])
    assert difference.change == 1.0
    assert difference.bounds() == (-math.inf, math.inf)
    assert difference.p_not_worse == 1.0


def test_a_rival_without_hits_gives_no_relative_bound() -> None:
    equal, better = PairedDifference.of([0.0] * 9, [0.0] * 9), PairedDifference.of([0.1] * 9, [0.0] * 9)
    assert (equal.change, equal.bounds()) == (0.0, (-math.inf, math.inf))
    assert (better.change, better.p_not_worse) == (math.inf, 1.0)
    assert PairedDifference.of([0.0] * 9, [0.1] * 9).p_not_worse == 0.0


def test_wrong_values_raise() -> None:
    for ours, rival in (([], []), ([1.0], [1.0, 2.0]), ([math.nan], [1.0])):
        with pytest.raises(ValueError, match="paired difference"):
            PairedDifference.of(ours, rival)
