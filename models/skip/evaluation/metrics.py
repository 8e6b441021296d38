"""Metrics of skip prediction: ranking, decisions at a threshold, calibration, and confidence intervals.

Shapes   N plays with outcome, P positives, Q negatives, U users, S resamples
Source   AUC's variance by DeLong, DeLong, Clarke-Pearson 1988, with the midranks of Sun, Xu 2014, summed by user after
         Obuchowski 1997: plays of one user are dependent, and an interval that assumes independence is too narrow;
         Brier 1950; the report for precision, recall, F1, accuracy and the confusion matrix
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

Z95 = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def _checked(listened: ArrayLike, score: ArrayLike, both: bool = True) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    y_N, s_N = np.asarray(listened), np.asarray(score, np.float64)
    if y_N.ndim != 1 or y_N.shape != s_N.shape:
        raise ValueError(f"skip metrics: needs an outcome and a score for each play, got {y_N.shape} and {s_N.shape}")
    if not len(y_N) or not np.isin(y_N, (0, 1)).all():
        raise ValueError(f"skip metrics: needs at least one outcome, each 0 or 1, got {np.unique(y_N)[:5]}")
    if not np.isfinite(s_N).all():
        raise ValueError(f"skip metrics: scores must be finite, play {int(np.argmin(np.isfinite(s_N)))} is not")
    if both and y_N.min() == y_N.max():
        raise ValueError(f"skip metrics: AUC needs both classes, all {len(y_N)} plays are {int(y_N[0])}")
    return np.asarray(y_N == 1), s_N


def auc(listened: ArrayLike, score: ArrayLike) -> float:
    """Return the area under the ROC curve; a tie of a listened and a skipped play counts one half.

    Raises:
        ValueError: Shapes differ, labels are not 0 or 1, there is one class only, or a score is not finite.
    """
    y_N, s_N = _checked(listened, score)
    p = int(y_N.sum())
    return float((rankdata(s_N)[y_N].sum() - p * (p + 1) / 2) / (p * (len(y_N) - p)))


def _placements(y_N: NDArray[np.bool_], s_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return, for each play, the share of plays of the other class that are ranked correctly against it, (N,).

    The mean over each class is the AUC.
    """
    rank_N = rankdata(s_N)
    out_N = np.empty(len(s_N))
    p, q = int(y_N.sum()), int((~y_N).sum())
    out_N[y_N] = (rank_N[y_N] - rankdata(s_N[y_N])) / q
    out_N[~y_N] = 1 - (rank_N[~y_N] - rankdata(s_N[~y_N])) / p
    return out_N


def _by_user(placement_N: NDArray[np.float64], y_N: NDArray[np.bool_], user: ArrayLike | None) -> NDArray[np.float64]:
    """Return each user's (or play's) deviation from the expected AUC, (U,); the variance is the sum of squares."""
    p, q = int(y_N.sum()), int((~y_N).sum())
    gap_N = np.where(y_N, (placement_N - placement_N[y_N].mean()) / p, (placement_N - placement_N[~y_N].mean()) / q)
    if user is None:
        return np.asarray(gap_N)
    if np.shape(user) != gap_N.shape:
        raise ValueError(f"skip metrics: needs a user for each play, got {np.shape(user)} for {gap_N.shape}")
    _, code_N = np.unique(np.asarray(user), return_inverse=True)
    return np.asarray(np.bincount(code_N, gap_N), np.float64)


def _standard_error(gap_U: NDArray[np.float64]) -> float:
    n = len(gap_U)
    return float(np.sqrt(np.square(gap_U).sum() * n / max(n - 1, 1)))


def auc_interval(listened: ArrayLike, score: ArrayLike, user: ArrayLike | None = None) -> Interval:
    """Return the AUC with its 95 % interval.

    Args:
        listened: Labels.
        score: Scores.
        user: User of each play, whose plays are then treated as dependent; None for independent plays.
    """
    y_N, s_N = _checked(listened, score)
    value = auc(y_N, s_N)
    half = Z95 * _standard_error(_by_user(_placements(y_N, s_N), y_N, user))
    return Interval(value, max(value - half, 0.0), min(value + half, 1.0))


def auc_difference(listened: ArrayLike, ours: ArrayLike, theirs: ArrayLike, user: ArrayLike | None = None) -> Interval:
    """Return the difference of two AUCs on the same plays, with its paired 95 % interval (DeLong).

    Args:
        listened: Labels.
        ours: Scores of the first model.
        theirs: Scores of the second model, whose AUC is subtracted.
        user: User of each play; None for independent plays.
    """
    y_N, a_N = _checked(listened, ours)
    _, b_N = _checked(listened, theirs)
    value = auc(y_N, a_N) - auc(y_N, b_N)
    half = Z95 * _standard_error(_by_user(_placements(y_N, a_N) - _placements(y_N, b_N), y_N, user))
    return Interval(value, value - half, value + half)


def bootstrap_difference(
    listened: ArrayLike, ours: ArrayLike, theirs: ArrayLike, user: ArrayLike, draws: int = 500, seed: int = 0
) -> Interval:
    """Return the difference of two AUCs with a bootstrap interval over users: its 2.5 % and 97.5 % quantiles.

    Slower than auc_difference, but without its normal approximation; the gate uses both. A resample with one class only
    is drawn again.

    Args:
        listened: Labels.
        ours: Scores of the first model.
        theirs: Scores of the second model, whose AUC is subtracted.
        user: User of each play; users are resampled with replacement.
        draws: Number of resamples.
        seed: Seed of the resamples.
    """
    y_N, a_N = _checked(listened, ours)
    _, b_N = _checked(listened, theirs)
    if draws < 1:
        raise ValueError(f"skip metrics: draws must be at least 1, got {draws}")
    users, code_N = np.unique(np.asarray(user), return_inverse=True)
    # Scores are sorted once. A resample is then a vector of weights, and the weighted AUC a cumulative sum.
    orders = [_sorted(y_N, s_N) for s_N in (a_N, b_N)]
    rng = np.random.default_rng(seed)
    differences: list[float] = []
    while len(differences) < draws:
        weight_N = np.bincount(rng.integers(0, len(users), len(users)), minlength=len(users))[code_N]
        if 0 < weight_N[y_N].sum() < weight_N.sum():
            first, second = (_weighted_auc(*order, weight_N) for order in orders)
            differences.append(first - second)
    low, high = np.quantile(differences, [0.025, 0.975])
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
    """Confusion matrix and derived metrics when plays at or above a threshold are predicted as listened."""

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
    """Return the confusion matrix and derived metrics; precision, recall and F1 are 0 if their denominator is 0."""
    y_N, p_N = _checked(listened, proba, both=False)
    predicted_N = p_N >= threshold
    tp, fp = int((predicted_N & y_N).sum()), int((predicted_N & ~y_N).sum())
    fn, tn = int((~predicted_N & y_N).sum()), int((~predicted_N & ~y_N).sum())
    precision, recall = tp / max(tp + fp, 1), tp / max(tp + fn, 1)
    f1 = 2 * tp / max(2 * tp + fp + fn, 1)
    return Decisions(float(threshold), tp, fp, fn, tn, precision, recall, f1, (tp + tn) / len(y_N))


def best_threshold(listened: ArrayLike, proba: ArrayLike) -> float:
    """Return the threshold with the largest mean recall of both classes (Youden 1950); choose it on validation.

    F1 and accuracy are not used, because they are close to their maximum when all plays are predicted as listened. Of
    equal thresholds the highest is returned.
    """
    y_N, p_N = _checked(listened, proba)
    levels, code_N = np.unique(p_N, return_inverse=True)
    up, down = np.bincount(code_N, y_N)[::-1].cumsum(), np.bincount(code_N, ~y_N)[::-1].cumsum()
    return float(levels[::-1][int(np.argmax(up / up[-1] - down / down[-1]))])


def roc_curve(listened: ArrayLike, score: ArrayLike, points: int = 200) -> dict[str, list[float]]:
    """Return false and true positive rates from (0, 0) to (1, 1), at most about `points` of them."""
    up, down, _ = _steps(listened, score, points)
    return {"false_positive_rate": (down / down[-1]).tolist(), "true_positive_rate": (up / up[-1]).tolist()}


def pr_curve(listened: ArrayLike, score: ArrayLike, points: int = 200) -> dict[str, list[float]]:
    """Return recall and precision from the highest score down, at most about `points` of them."""
    up, down, _ = _steps(listened, score, points)
    up, down, positives = up[1:], down[1:], up[-1]
    return {"recall": (up / positives).tolist(), "precision": (up / (up + down)).tolist()}


def _steps(
    listened: ArrayLike, score: ArrayLike, points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the numbers of positives and negatives at or above each score, in falling order, after a leading 0."""
    y_N, s_N = _checked(listened, score)
    if points < 2:
        raise ValueError(f"skip metrics: points must be at least 2, got {points}")
    levels, code_N = np.unique(s_N, return_inverse=True)
    up = np.concatenate([[0], np.bincount(code_N, y_N)[::-1].cumsum()])
    down = np.concatenate([[0], np.bincount(code_N, ~y_N)[::-1].cumsum()])
    positions = np.unique(np.linspace(0, len(up) - 1, min(points, len(up))).astype(int))
    return up[positions], down[positions], levels


def brier(listened: ArrayLike, proba: ArrayLike) -> float:
    """Return the mean squared difference of probability and outcome (Brier score); 0 is best."""
    y_N, p_N = _checked(listened, proba, both=False)
    return float(np.square(p_N - y_N).mean())


def reliability(listened: ArrayLike, proba: ArrayLike, bins: int = 10) -> list[dict[str, float]]:
    """Return predicted and observed frequency in `bins` groups of about equal size, lowest probability first."""
    y_N, p_N = _checked(listened, proba, both=False)
    if bins < 1:
        raise ValueError(f"skip metrics: bins must be at least 1, got {bins}")
    groups = np.array_split(np.argsort(p_N, kind="stable"), min(bins, len(p_N)))
    return [
        {"predicted": float(p_N[g].mean()), "observed": float(y_N[g].mean()), "plays": float(len(g))} for g in groups
    ]


def calibration_error(listened: ArrayLike, proba: ArrayLike, bins: int = 10) -> float:
    """Return the mean absolute difference of predicted and observed frequency, weighted by plays (ECE)."""
    rows = reliability(listened, proba, bins)
    return float(np.average([abs(r["predicted"] - r["observed"]) for r in rows], weights=[r["plays"] for r in rows]))


def auc_by_slice(
    listened: ArrayLike,
    score: ArrayLike,
    slices: dict[str, ArrayLike],
    user: ArrayLike | None = None,
    min_class_plays: int = 50,
) -> dict[str, Interval | None]:
    """Return the AUC of each slice.

    Args:
        listened: Labels.
        score: Scores.
        slices: By name, a mask (N,).
        user: User of each play; None for independent plays.
        min_class_plays: Smallest number of plays of each class.

    Returns:
        By name, the AUC with its interval, or None for a slice with too few plays.
    """
    y_N, s_N = _checked(listened, score)
    user_N = None if user is None else np.asarray(user)
    out: dict[str, Interval | None] = {}
    for name, mask in slices.items():
        mask_N = np.asarray(mask, bool)
        if mask_N.shape != y_N.shape:
            raise ValueError(f"skip metrics: slice {name} must be a mask of {len(y_N)} plays, got {mask_N.shape}")
        enough = min(int(y_N[mask_N].sum()), int((~y_N[mask_N]).sum())) >= min_class_plays
        part_user_N = None if user_N is None else user_N[mask_N]
        out[name] = auc_interval(y_N[mask_N], s_N[mask_N], part_user_N) if enough else None
    return out
