"""Off-policy evaluation: the value of another policy, from lists that a randomised policy showed.

Shapes   R displays (a track at a place of one list), k places, U users
Logging  propensity_R: the probability that the logging policy shows this track at this place to this listener
Target   target_R: the probability that the target policy does; the weight of a display is target / propensity
Assumes  The response to a track depends on the listener, the track and its place, not on the other tracks of the list
         (the item-position model of Li et al. 2018), so that places can be weighted one by one
IPS      sum of weight * outcome / displays: unbiased if the logging policy can show all that the target shows
SNIPS    sum of weight * outcome / sum of weights (Swaminathan, Joachims 2015): a small bias, far less variance
Errors   over users, as a ratio of two means, because a user's displays are correlated
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

from models.arrays import AnyVector, DoubleVector

MEAN_WEIGHT_ALPHA = 1e-4  # error rate of the interval of mean_weight


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OffPolicy:
    """Both estimates and their diagnostics.

    Attributes:
        ips: inverse propensity score estimate.
        snips: self-normalised estimate.
        displays: number of displays.
        users: number of users.
        matched: displays that the target policy could have made.
        effective_users: Kish's (sum of weights)^2 / (sum of squared weights), over users, because displays of one user
            are not independent.
        mean_weight: expected to be 1 if the propensities are right; its interval has level 1 - MEAN_WEIGHT_ALPHA.
        max_weight: the largest weight before clipping.
        clipped_weight: share of all weight that clipping removed.
    """

    ips: Estimate
    snips: Estimate
    displays: int
    users: int
    matched: int
    effective_users: float
    mean_weight: Estimate
    max_weight: float
    clipped_weight: float


def slate_propensities(shown: ArrayLike, greedy: ArrayLike, pool: int, share: float) -> DoubleVector:
    """Return the probability of each place of a list, (k,), under the policy of serving/experiment/assignment.py.

    With probability `share` the list is a random draw without repeats from a pool of tracks. Each track of the pool is
    then at each place with probability 1 / pool. Otherwise the list is `greedy`.

    Args:
        shown: tracks of the list that was shown, (k,).
        greedy: tracks of the list that is not randomised, (k,).
        pool: number of tracks in the pool.
        share: probability of a random list.
    """
    same = np.asarray(shown) == np.asarray(greedy)
    return np.asarray((1 - share) * same + share / pool)


def effective_size(weights: ArrayLike) -> float:
    """Return Kish's effective sample size; 0 where all weights are 0."""
    weight = np.asarray(weights, np.float64)
    sum_of_squares = float(weight @ weight)
    return float(weight.sum() ** 2 / sum_of_squares) if sum_of_squares else 0.0


def estimate_value(
    user_R: ArrayLike,
    outcome_R: ArrayLike,
    propensity_R: ArrayLike,
    target_R: ArrayLike,
    clip: float,
    alpha: float = 0.05,
) -> OffPolicy:
    """Estimate the value of the target policy per display.

    Args:
        user_R: user of each display.
        outcome_R: outcome of each display.
        propensity_R: probability of the display under the logging policy, in (0, 1].
        target_R: probability of the display under the target policy, in [0, 1].
        clip: larger weights are set to this.
        alpha: the intervals have level 1 - alpha.

    Raises:
        ValueError: shapes differ, a probability is out of range, or no display has weight.
    """
    y, p, t = (np.asarray(values, np.float64) for values in (outcome_R, propensity_R, target_R))
    users, at = np.unique(np.asarray(user_R), return_inverse=True)
    if not y.shape == p.shape == t.shape == at.shape or y.ndim != 1:
        raise ValueError(f"off policy: all must be (R,), got {at.shape}, {y.shape}, {p.shape} and {t.shape}")
    if y.size == 0 or not ((p > 0) & (p <= 1)).all() or not ((t >= 0) & (t <= 1)).all():
        raise ValueError("off policy: needs displays with propensities in (0, 1] and targets in [0, 1]")
    weight_R = t / p
    if not weight_R.any():
        raise ValueError("off policy: no display has a positive probability under the target policy")
    clipped_R = np.minimum(weight_R, clip)
    n_U = np.bincount(at, minlength=users.size).astype(np.float64)
    weight_U, value_U = (np.bincount(at, values, users.size) for values in (clipped_R, clipped_R * y))
    return OffPolicy(
        ips=_ratio(value_U, n_U, alpha),
        snips=_ratio(value_U, weight_U, alpha),
        displays=y.size,
        users=users.size,
        matched=int((t > 0).sum()),
        effective_users=effective_size(weight_U),
        mean_weight=_ratio(np.bincount(at, weight_R, users.size), n_U, MEAN_WEIGHT_ALPHA),
        max_weight=float(weight_R.max()),
        clipped_weight=float(1 - clipped_R.sum() / weight_R.sum()),
    )


def _ratio(numerator_U: AnyVector, denominator_U: AnyVector, alpha: float) -> Estimate:
    """Return the ratio of two sums over users with its delta-method interval."""
    n, total = numerator_U.size, float(denominator_U.sum())
    value = float(numerator_U.sum()) / total
    residual = numerator_U - value * denominator_U
    variance = n / max(n - 1, 1) * float(residual @ residual) / total**2
    reach = float(-ndtri(alpha / 2)) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach)
