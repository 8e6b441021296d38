"""What an A/B test says: rates of displays by arm, how far they can be trusted, and what must hold before they count.

Shapes   U users of an arm; displays and successes are counts by user, (U,)
Rate     successes / displays over all users of an arm: a ratio of two means, because users see different numbers of
         lists. Users are drawn to arms, not displays, so its variance is that of a ratio over users (delta method;
         Deng, Knoblich, Lu 2018): displays of one user are alike, and counting them as independent rejects too often
Against  the control: the logarithm of the ratio of two rates, normal; intervals are symmetric on that scale
Several  arms are held to one error rate by Holm's step-down rule (Holm 1979)
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
    """A rate of one arm: `error` is the standard error over users, `design_effect` what clustering costs."""

    users: int
    displays: int
    successes: int
    value: float
    error: float
    design_effect: float


@dataclass(frozen=True)
class Lift:
    """A rate relative to the control's: 1.1 is ten per cent more; None where a rate is zero and no ratio exists."""

    ratio: float | None
    low: float | None
    high: float | None
    p_value: float | None


def compute_rate(displays_U: ArrayLike, successes_U: ArrayLike) -> Rate:
    """The rate of an arm from counts by user.

    Raises:
        ValueError: shapes differ, nobody saw anything, or more successes than displays.
    """
    n, y = np.asarray(displays_U, np.float64), np.asarray(successes_U, np.float64)
    if n.shape != y.shape or n.ndim != 1:
        raise ValueError(f"rate: displays and successes must be (U,), got {n.shape} and {y.shape}")
    if n.size < 2 or (n <= 0).any():
        raise ValueError(f"rate: needs two users or more, each with a display; got {n.size} users")
    if (y < 0).any() or (y > n).any():
        raise ValueError("rate: a user has more successes than displays, or fewer than none")
    total = n.sum()
    value = float(y.sum() / total)
    residual = y - value * n
    variance = n.size / (n.size - 1) * float(residual @ residual) / total**2
    independent = value * (1 - value) / total
    effect = variance / independent if independent else 1.0
    return Rate(n.size, int(total), int(y.sum()), value, math.sqrt(variance), effect)


def compute_lift(arm: Rate, control: Rate, alpha: float) -> Lift:
    """An arm against the control, with the two-sided 1 - alpha interval and p-value."""
    if not arm.successes or not control.successes:
        return Lift(None, None, None, None)
    error = math.hypot(arm.error / arm.value, control.error / control.value)
    log_ratio = math.log(arm.value / control.value)
    if error == 0:  # every user alike: the ratio is exact
        exact = math.exp(log_ratio)
        return Lift(exact, exact, exact, 1.0 if log_ratio == 0 else 0.0)
    reach = float(-ndtri(alpha / 2)) * error
    p_value = float(2 * ndtr(-abs(log_ratio) / error))
    return Lift(math.exp(log_ratio), math.exp(log_ratio - reach), math.exp(log_ratio + reach), p_value)


def adjust_holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being several, in the order given: reject where the adjusted one is at most alpha."""
    adjusted: dict[str, float] = {}
    largest = 0.0
    for place, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        largest = max(largest, (len(p_values) - place) * p_values[name])
        adjusted[name] = min(1.0, largest)
    return {name: adjusted[name] for name in p_values}


def sample_ratio_p_value(users: Sequence[int], shares: Sequence[float]) -> float:
    """p-value of Pearson's chi-squared test that users came to the arms by their shares.

    Raises:
        ValueError: lengths differ or nobody came.
    """
    found, total = np.asarray(users, np.float64), float(np.sum(users))
    if found.size != len(shares) or not total:
        raise ValueError(f"sample ratio: {found.size} arms, {len(shares)} shares, {total:.0f} users")
    expected = total * np.asarray(shares, np.float64)
    statistic = float(((found - expected) ** 2 / expected).sum())
    return float(chi2.sf(statistic, found.size - 1)) if found.size > 1 else 1.0


def required_users(
    baseline: float, min_effect: float, alpha: float, power: float, displays: float, design_effect: float
) -> int:
    """Users that each arm needs, so that a relative effect of `min_effect` is found with this power.

    Two proportions, two-sided normal test; displays of a user are alike, which `design_effect` (variance against
    independent displays) makes up for. Give alpha divided by the comparisons where there are several.

    Raises:
        ValueError: the better rate would not be below 1.
    """
    better = baseline * (1 + min_effect)
    if not 0 < baseline < better < 1:
        raise ValueError(f"required users: rates must lie in (0, 1), got {baseline} and {better:.4g}")
    reach = float(ndtri(1 - alpha / 2) + ndtri(power))
    noise = baseline * (1 - baseline) + better * (1 - better)
    return math.ceil(reach**2 * noise / (better - baseline) ** 2 * design_effect / displays)
