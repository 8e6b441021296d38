"""Statistics of A/B tests: rates by arm, lifts with intervals, and checks of the assignment.

Shapes   U users of an arm; displays and successes are counts per user, (U,)
Rate     Successes / displays over all users of an arm: a ratio of two means, because users see different numbers of
         lists. Users are assigned to arms, not displays, so the variance is that of a ratio over users (delta method;
         Deng, Knoblich, Lu 2018). Displays of one user are correlated, and a test that takes them as independent
         rejects too often
Lift     of an arm against the control: the logarithm of the ratio of two rates is taken as normal, and intervals are
         symmetric on that scale
Several  arms share one error rate by Holm's step-down procedure (Holm 1979)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri
from scipy.stats import chi2


@dataclass(frozen=True)
class Rate:
    """The rate of one arm.

    Attributes:
        users: number of users.
        displays: number of displays.
        successes: number of displays with a success.
        value: successes / displays.
        error: standard error of the value, over users.
        design_effect: variance over that of independent displays.
    """

    users: int
    displays: int
    successes: int
    value: float
    error: float
    design_effect: float


@dataclass(frozen=True)
class Lift:
    """A rate relative to the control's, with its interval: 1.1 is 10 % more; all None where a rate is zero."""

    ratio: float | None
    low: float | None
    high: float | None
    p_value: float | None


def compute_rate(displays_U: ArrayLike, successes_U: ArrayLike) -> Rate:
    """Compute the rate of an arm from counts per user.

    Args:
        displays_U: displays of each user, at least 1.
        successes_U: successes of each user, at most the displays.

    Raises:
        ValueError: shapes differ, there are fewer than two users, or a count is out of range.
    """
    n, y = np.asarray(displays_U, np.float64), np.asarray(successes_U, np.float64)
    if n.shape != y.shape or n.ndim != 1:
        raise ValueError(f"rate: displays and successes must be (U,), got {n.shape} and {y.shape}")
    if n.size < 2 or (n <= 0).any():
        raise ValueError(f"rate: needs at least two users, each with a display; got {n.size} users")
    if (y < 0).any() or (y > n).any():
        raise ValueError("rate: a user has more successes than displays, or a negative number")
    total = n.sum()
    value = float(y.sum() / total)
    residual = y - value * n
    variance = n.size / (n.size - 1) * float(residual @ residual) / total**2
    independent = value * (1 - value) / total
    effect = variance / independent if independent else 1.0
    return Rate(n.size, int(total), int(y.sum()), value, math.sqrt(variance), effect)


def compute_lift(arm: Rate, control: Rate, alpha: float) -> Lift:
    """Compare an arm with the control.

    Args:
        arm: rate of the arm.
        control: rate of the control.
        alpha: error rate of the two-sided test; the interval has level 1 - alpha.
    """
    if not arm.successes or not control.successes:
        return Lift(None, None, None, None)
    error = math.hypot(arm.error / arm.value, control.error / control.value)
    log_ratio = math.log(arm.value / control.value)
    if error == 0:  # all users have the same rate: the ratio is exact
        exact = math.exp(log_ratio)
        return Lift(exact, exact, exact, 1.0 if log_ratio == 0 else 0.0)
    reach = float(-ndtri(alpha / 2)) * error
    p_value = float(2 * ndtr(-abs(log_ratio) / error))
    return Lift(math.exp(log_ratio), math.exp(log_ratio - reach), math.exp(log_ratio + reach), p_value)


def adjust_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Return p-values adjusted for multiple comparisons, in the order given; reject where one is at most alpha."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, (len(p_values) - place) * p_values[name])
        adjusted[name] = min(1.0, largest)
    return {name: adjusted[name] for name in p_values}


def sample_ratio_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """Return the p-value of Pearson's chi-squared test that the users are distributed over the arms by the shares.

    Args:
        users: number of users of each arm.
        shares: planned share of each arm.

    Raises:
        ValueError: lengths differ, or there is no user.
    """
    users_A, total = np.asarray(users, np.float64), float(np.sum(users))
    if users_A.size != len(shares) or not total:
        raise ValueError(f"sample ratio: {users_A.size} arms, {len(shares)} shares, {total:.0f} users")
    expected = total * np.asarray(shares, np.float64)
    statistic = float(((users_A - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, users_A.size - 1)) if users_A.size > 1 else 1.0


def required_users(
    baseline: float, min_effect: float, alpha: float, power: float, displays: float, design_effect: float
) -> int:
    """Return how many users each arm needs to detect a relative effect with a given power.

    Two proportions, two-sided normal test; the design effect accounts for the correlation of a user's displays.

    Args:
        baseline: rate of the control, between 0 and 1.
        min_effect: relative effect to detect, 0.1 for 10 %.
        alpha: error rate; divide it by the number of comparisons where there are several.
        power: probability of detecting the effect.
        displays: displays per user.
        design_effect: variance over that of independent displays.

    Raises:
        ValueError: a rate is not between 0 and 1.
    """
    better = baseline * (1 + min_effect)
    if not 0 < baseline < better < 1:
        raise ValueError(f"required users: rates must be between 0 and 1, got {baseline} and {better:.4g}")
    reach = float(ndtri(1 - alpha / 2) + ndtri(power))
    noise = baseline * (1 - baseline) + better * (1 - better)
    return math.ceil(reach**2 * noise / (better - baseline) ** 2 * design_effect / displays)
