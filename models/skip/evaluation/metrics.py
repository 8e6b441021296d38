"""How well skips are told: ranking, decisions at a threshold, probabilities; and how sure we are of each.

Shapes   N plays with outcome, P positives, Q negatives, U users, S resamples
Source   AUC's variance by DeLong, DeLong, Clarke-Pearson 1988, with the midranks of Sun, Xu 2014, summed by user after
         Obuchowski 1997: plays of one user go together, and an interval that took them for independent would be too
         narrow; Brier 1950; the report for precision, recall, F1, accuracy and the confusion matrix
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def _checked(listened: ArrayLike, score: ArrayLike, both: bool = True) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    y_N, s_N = np.asarray(listened), np.asarray(score, np.float64)
    if y_N.ndim != 1 or y_N.shape != s_N.shape:
        raise ValueError(f"skip metrics: an outcome and a score for each play, got {y_N.shape} and {s_N.shape}")
    if not len(y_N) or not np.isin(y_N, (0, 1)).all():
        raise ValueError(f"skip metrics: outcomes must be 0 or 1, at least one of them, got {np.unique(y_N)[:5]}")
    if not np.isfinite(s_N).all():
        raise ValueError(f"skip metrics: scores must be finite, play {int(np.argmin(np.isfinite(s_N)))} is not")
    if both and y_N.min() == y_N.max():
        raise ValueError(f"skip metrics: AUC needs both classes, all {len(y_N)} plays are {int(y_N[0])}")
    return np.asarray(y_N == 1), s_N


def auc(listened: ArrayLike, score: ArrayLike) -> float:
    """Chance that a listened play scores above a skipped one, ties half.

    Raises:
        ValueError: shapes differ, labels outside 0 and 1, one class only, a score that is not finite.
    """
    y_N, s_N = _checked(listened, score)
    p = int(y_N.sum())
    return float((rankdata(s_N)[y_N].sum() - p * (p + 1) / 2) / (p * (len(y_N) - p)))


def _placements(y_N: NDArray[np.bool_], s_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """For each play the share of the other class that it is on the right side of, (N,); means of both are the AUC."""
    rank_N = rankdata(s_N)
    out_N = np.empty(len(s_N))
    p, q = int(y_N.sum()), int((~y_N).sum())
    out_N[y_N] = (rank_N[y_N] - rankdata(s_N[y_N])) / q
    out_N[~y_N] = 1 - (rank_N[~y_N] - rankdata(s_N[~y_N])) / p
    return out_N


def _by_user(placed_N: NDArray[np.float64], y_N: NDArray[np.bool_], user: ArrayLike | None) -> NDArray[np.float64]:
    """What each user (or play) adds to the AUC less its expectation, (U,); the sum of squares is the variance."""
    p, q = int(y_N.sum()), int((~y_N).sum())
    gap_N = np.where(y_N, (placed_N - placed_N[y_N].mean()) / p, (placed_N - placed_N[~y_N].mean()) / q)
    if user is None:
        return np.asarray(gap_N)
    if np.shape(user) != gap_N.shape:
        raise ValueError(f"skip metrics: a user for each play, got {np.shape(user)} for {gap_N.shape}")
    _, code_N = np.unique(np.asarray(user), return_inverse=True)
    return np.asarray(np.bincount(code_N, gap_N), np.float64)


def _widened(gap_U: NDArray[np.float64]) -> float:
    n = len(gap_U)
    return float(np.sqrt(np.square(gap_U).sum() * n / max(n - 1, 1)))


def auc_interval(listened: ArrayLike, score: ArrayLike, user: ArrayLike | None = None) -> Interval:
    """AUC with its 95 % interval, by users where they are given, else by plays."""
    y_N, s_N = _checked(listened, score)
    value = auc(y_N, s_N)
    half = Z95 * _widened(_by_user(_placements(y_N, s_N), y_N, user))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def auc_difference(listened: ArrayLike, ours: ArrayLike, theirs: ArrayLike, user: ArrayLike | None = None) -> Interval:
    """AUC of `ours` less that of `theirs` on the same plays, with the interval of the paired difference (DeLong)."""
    y_N, a_N = _checked(listened, ours)
    _, b_N = _checked(listened, theirs)
    value = auc(y_N, a_N) - auc(y_N, b_N)
    half = Z95 * _widened(_by_user(_placements(y_N, a_N) - _placements(y_N, b_N), y_N, user))
    return Interval(value, value - half, value + half)


def bootstrap_difference(
    listened: ArrayLike, ours: ArrayLike, theirs: ArrayLike, user: ArrayLike, draws: int = 500, seed: int = 0
) -> Interval:
    """The same difference, its interval by drawing users with replacement: (2.5 %, 97.5 %) of `draws` resamples.

    Slower than auc_difference and free of its normal approximation: what a gate that decides wants to see as well.
    A resample with one class only is drawn again.
    """
    y_N, a_N = _checked(listened, ours)
    _, b_N = _checked(listened, theirs)
    if draws < 1:
        raise ValueError(f"skip metrics: draws must be at least 1, got {draws}")
    users, code_N = np.unique(np.asarray(user), return_inverse=True)
    # Sorted once; a resample is then weights, and the weighted AUC a cumulative sum.
    orders = [_sorted(y_N, s_N) for s_N in (a_N, b_N)]
    rng = np.random.default_rng(seed)
    found: list[float] = []
    while len(found) < draws:
        weight_N = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))[code_N]
        if 0 < weight_N[y_N].sum() < weight_N.sum():
            one, two = (_weighted_auc(*order, weight_N) for order in orders)
            found.append(one - two)
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(auc(y_N, a_N) - auc(y_N, b_N), float(low), float(high))


def _sorted(
    y_N: NDArray[np.bool_], s_N: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]:
    order_N = np.argsort(s_N, kind="stable")
    _, level_N = np.unique(s_N[order_N], return_inverse=True)
    return order_N, y_N[order_N], level_N


def _weighted_auc(
    order_N: NDArray[np.int64], y_N: NDArray[np.bool_], level_N: NDArray[np.int64], weight_N: NDArray[np.int64]
) -> float:
    w_N = weight_N[order_N].astype(np.float64)
    up, down = np.bincount(level_N, w_N * y_N), np.bincount(level_N, w_N * ~y_N)
    below = np.cumsum(down) - down
    return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


@dataclass(frozen=True)
class Decisions:
    """What comes of taking plays at or above a threshold for listened ones."""

    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    precision: float
    recall: float
    f1: float
    accuracy: float


def decisions(listened: ArrayLike, proba: ArrayLike, threshold: float = 0.5) -> Decisions:
    """Confusion matrix and what follows from it; precision, recall and F1 are 0 where nothing is (to be) found."""
    y_N, p_N = _checked(listened, proba, both=False)
    said_N = p_N >= threshold
    tp, fp = int((said_N & y_N).sum()), int((said_N & ~y_N).sum())
    fn, tn = int((~said_N & y_N).sum()), int((~said_N & ~y_N).sum())
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    f1 = 2 * tp / max(2 * tp + fp + fn, 1)
    return Decisions(float(threshold), tp, fp, fn, tn, precision, recall, f1, (tp + tn) / len(y_N))


def best_threshold(listened: ArrayLike, proba: ArrayLike) -> float:
    """The threshold with most recall of both classes together (Youden 1950); choose it on validation.

    The mean of recall on listened and on skipped plays, since F1 and accuracy are near their best when all plays are
    taken for listened ones. Ties go to the higher threshold.
    """
    y_N, p_N = _checked(listened, proba)
    levels, code_N = np.unique(p_N, return_inverse=True)
    up, down = np.bincount(code_N, y_N)[::-1].cumsum(), np.bincount(code_N, ~y_N)[::-1].cumsum()
    return float(levels[::-1][int(np.argmax(up / up[-1] - down / down[-1]))])


def roc_curve(listened: ArrayLike, score: ArrayLike, points: int = 200) -> dict[str, list[float]]:
    """False and true positive rates from (0, 0) to (1, 1), at most about `points` of them."""
    up, down, _ = _steps(listened, score, points)
    return {"false_positive_rate": (down / down[-1]).tolist(), "true_positive_rate": (up / up[-1]).tolist()}


def pr_curve(listened: ArrayLike, score: ArrayLike, points: int = 200) -> dict[str, list[float]]:
    """Recall and precision from the highest score down, at most about `points` of them."""
    up, down, _ = _steps(listened, score, points)
    up, down, positives = up[1:], down[1:], up[-1]
    return {"recall": (up / positives).tolist(), "precision": (up / (up + down)).tolist()}


def _steps(
    listened: ArrayLike, score: ArrayLike, points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Positives and negatives at or above each score, falling, after a first 0."""
    y_N, s_N = _checked(listened, score)
    if points < 2:
        raise ValueError(f"skip metrics: points must be at least 2, got {points}")
    levels, code_N = np.unique(s_N, return_inverse=True)
    up = np.concatenate([[0], np.bincount(code_N, y_N)[::-1].cumsum()])
    down = np.concatenate([[0], np.bincount(code_N, ~y_N)[::-1].cumsum()])
    kept = np.unique(np.linspace(0, len(up) - 1, min(points, len(up))).astype(int))
    return up[kept], down[kept], levels


def brier(listened: ArrayLike, proba: ArrayLike) -> float:
    """Mean squared gap of probability and outcome, 0 best."""
    y_N, p_N = _checked(listened, proba, both=False)
    return float(np.square(p_N - y_N).mean())


def reliability(listened: ArrayLike, proba: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """What was said beside what happened, in `bins` groups of about equally many plays, from the lowest probability."""
    y_N, p_N = _checked(listened, proba, both=False)
    if bins < 1:
        raise ValueError(f"skip metrics: bins must be at least 1, got {bins}")
    groups = np.array_split(np.argsort(p_N, kind="stable"), min(bins, len(p_N)))
    return [{"said": float(p_N[g].mean()), "happened": float(y_N[g].mean()), "plays": float(len(g))} for g in groups]


def calibration_error(listened: ArrayLike, proba: ArrayLike, bins: int = 10) -> float:
    """Mean gap of said and happened over the groups of reliability(), weighed by plays."""
    rows = reliability(listened, proba, bins)
    return float(np.average([abs(r["said"] - r["happened"]) for r in rows], weights=[r["plays"] for r in rows]))


def auc_by_slice(
    listened: ArrayLike, score: ArrayLike, slices: dict[str, ArrayLike], user: ArrayLike | None = None, least: int = 50
) -> dict[str, Interval | None]:
    """AUC on each slice, given as a mask (N,); None where it has not `least` plays of each class."""
    y_N, s_N = _checked(listened, score)
    user_N = None if user is None else np.asarray(user)
    out: dict[str, Interval | None] = {}
    for name, mask in slices.items():
        mask_N = np.asarray(mask, bool)
        if mask_N.shape != y_N.shape:
            raise ValueError(f"skip metrics: slice {name} must be a mask of {len(y_N)} plays, got {mask_N.shape}")
        enough = min(int(y_N[mask_N].sum()), int((~y_N[mask_N]).sum())) >= least
        who = None if user_N is None else user_N[mask_N]
        out[name] = auc_interval(y_N[mask_N], s_N[mask_N], who) if enough else None
    return out
