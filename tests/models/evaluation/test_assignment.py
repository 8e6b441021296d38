"""Assignment by hash: reproducible, in the configured shares, independent across experiments."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import chi2_contingency, chisquare

from models.evaluation.assignment import BUCKETS, arm_index, bucket_bounds, bucket_of

ENDS = bucket_bounds([0.3, 0.3, 0.2, 0.2])


@pytest.mark.parametrize(("user", "wanted"), [(1, 474), (42, 9896), (1_000_000_007, 5868)])
def test_bucket_equals_the_sha256sum_calculation(user, wanted):
    """printf 'first_day/1/42' | sha256sum, first 16 hexadecimal digits, modulo 10 000."""
    assert bucket_of("first_day", "1", str(user)) == wanted


def test_arms_are_equal_in_another_process():
    code = (
        "from models.evaluation.assignment import *; "
        "print([arm_index('x', 's', str(u), bucket_bounds([0.5, 0.5])) for u in range(64)])"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    ]
    assert (
        outputs[0]
        == outputs[1]
        == f"{[arm_index('x', 's', str(user), bucket_bounds([0.5, 0.5])) for user in range(64)]}\n"
    )


def test_assignment_follows_the_shares():
    arms = [arm_index("first_day", "1", str(user), ENDS) for user in range(40_000)]
    assert chisquare(np.bincount(arms, minlength=4), 40_000 * np.array([0.3, 0.3, 0.2, 0.2])).pvalue > 1e-3


@pytest.mark.parametrize("other", [("second", "1"), ("first_day", "2")])
def test_arms_are_independent_across_experiments_and_salts(other):
    table = np.zeros((4, 4))
    for user in range(40_000):
        table[arm_index("first_day", "1", str(user), ENDS), arm_index(*other, str(user), ENDS)] += 1
    assert chi2_contingency(table).pvalue > 1e-3


def test_bounds_cover_every_bucket():
    assert bucket_bounds([0.0001, 0.9999]) == [1, BUCKETS]
    assert bucket_bounds([0.3, 0.3, 0.4]) == [3_000, 6_000, BUCKETS]


@pytest.mark.parametrize("shares", [[0.5, 0.4], [1.0, 0.0], [0.33333, 0.66667], [1.2, -0.2]])
def test_invalid_shares_raise(shares):
    with pytest.raises(ValueError, match="shares"):
        bucket_bounds(shares)
