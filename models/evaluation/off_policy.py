"""What another policy would have been worth, from the lists that a random one showed.

Shapes   R displays (a track at a place of one list), Q requests, U users
Logging  propensity_R: how likely the logging policy was to show this track at this place to this listener
Target   target_R: how likely the other policy is; the weight of a display is target / propensity
Assumes  what a listener does with a track depends on the listener, the track and its place, not on the tracks beside
         it (the item-position model of Li et al. 2018), so that places can be weighed one by one
IPS      sum of weight * outcome / displays: unbiased where the target shows nothing that logging never shows
SNIPS    sum of weight * outcome / sum of weights (Swaminathan, Joachims 2015): a little bias, far less variance
Errors   over users, as a ratio of two means: a user's displays are alike
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri

MEAN_WEIGHT_ALPHA = 1e-4


@dataclass(frozen=True)
class Estimate:
    """A value with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OffPolicy:
    """Both estimates and what they rest on.

    effective_users is Kish's (sum of weights)^2 / (sum of squared weights), over users: displays of one user do not
    stand for each other. mean_weight is 1 but for chance where the propensities are right; its interval is one of
    1 - SURE.
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


def slate_propensities(shown: ArrayLike, greedy: ArrayLike, pool: int, share: float) -> np.ndarray:
    """How likely each place of a list was, (k,), under the shuffled list of serving/experiment/assignment.py.

    With probability `share` the whole list is a random draw without repeats out of a pool of `pool` tracks; every
    track of the pool is then at every place with probability 1 / pool. Otherwise it is `greedy`, (k,).
    """
    same = np.asarray(shown) == np.asarray(greedy)
    return np.asarray((1 - share) * same + share / pool)


def effective_size(weights: ArrayLike) -> float:
    """Kish's effective sample size; 0 where all weights are 0."""
    w = np.asarray(weights, np.float64)
    squares = float(w @ w)
    return float(w.sum() ** 2 / squares) if squares else 0.0


def estimate_value(
    user_R: ArrayLike,
    outcome_R: ArrayLike,
    propensity_R: ArrayLike,
    target_R: ArrayLike,
    clip: float,
    alpha: float = 0.05,
) -> OffPolicy:
    """Value of the target policy by display, with 1 - alpha intervals.

    Weights above `clip` are cut to it; `clipped_weight` is the share of all weight that this cost.

    Raises:
        ValueError: shapes differ, a propensity is not in (0, 1], a target not in [0, 1], or no display has weight.
    """
    y, p, t = (np.asarray(values, np.float64) for values in (outcome_R, propensity_R, target_R))
    users, at = np.unique(np.asarray(user_R), return_inverse=True)
    if not y.shape == p.shape == t.shape == at.shape or y.ndim != 1:
        raise ValueError(f"off policy: all must be (R,), got {at.shape}, {y.shape}, {p.shape} and {t.shape}")
    if y.size == 0 or not ((p > 0) & (p <= 1)).all() or not ((t >= 0) & (t <= 1)).all():
        raise ValueError("off policy: needs displays with propensities in (0, 1] and targets in [0, 1]")
    whole = t / p
    if not whole.any():
        raise ValueError("off policy: no display is one that the target would have made")
    w = np.minimum(whole, clip)
    n_U = np.bincount(at, minlength=users.size).astype(np.float64)
    weight_U, value_U = (np.bincount(at, values, users.size) for values in (w, w * y))
    return OffPolicy(
        ips=_ratio(value_U, n_U, alpha),
        snips=_ratio(value_U, weight_U, alpha),
        displays=y.size,
        users=users.size,
        matched=int((t > 0).sum()),
        effective_users=effective_size(weight_U),
        mean_weight=_ratio(np.bincount(at, whole, users.size), n_U, MEAN_WEIGHT_ALPHA),
        max_weight=float(whole.max()),
        clipped_weight=float(1 - w.sum() / whole.sum()),
    )


def _ratio(top_U: np.ndarray, bottom_U: np.ndarray, alpha: float) -> Estimate:
    """Ratio of two sums over users with its delta-method interval."""
    n, total = top_U.size, float(bottom_U.sum())
    value = float(top_U.sum()) / total
    residual = top_U - value * bottom_U
    variance = n / max(n - 1, 1) * float(residual @ residual) / total**2
    reach = float(-ndtri(alpha / 2)) * math.sqrt(variance)
    return Estimate(value, value - reach, value + reach)
