"""Metrics of skip models against manual calculations and scikit-learn; calibration; permutation importance."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, f1_score, precision_recall_curve, roc_auc_score

from models.skip.data.arrays import sigmoid
from models.skip.ensemble.calibration import KINDS, fit_best_calibration, fit_calibration
from models.skip.evaluation.metrics import (
    auc,
    auc_by_slice,
    auc_difference,
    auc_interval,
    best_threshold,
    bootstrap_difference,
    brier,
    calibration_error,
    decisions,
    pr_curve,
    reliability,
    roc_curve,
)
from models.skip.evaluation.permutation_importance import permutation_importance
from tests.helpers.skip_world import world


def synthetic_scores(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.round(sigmoid(y + rng.standard_normal(n)), 2), rng.integers(0, 50, n)


def test_auc_equals_a_manual_calculation_and_scikit_learn():
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875  # one of four pairs is tied
    y, p, _ = synthetic_scores()
    assert auc(y, p) == pytest.approx(roc_auc_score(y, p))


def test_auc_interval_has_nominal_coverage():
    rng, covered, n = np.random.default_rng(1), 0, 300
    for _ in range(n):
        user = np.repeat(np.arange(40), 5)
        taste = rng.standard_normal(40)[user]  # plays of one user are correlated
        y = (rng.random(200) < sigmoid(taste)).astype(int)
        interval = auc_interval(y, rng.standard_normal(40)[user], user)  # an uninformative score: AUC is one half
        covered += interval.low <= 0.5 <= interval.high
    assert 0.90 <= covered / n <= 0.98


def test_repeated_plays_of_one_user_do_not_narrow_the_interval():
    y, p, user = synthetic_scores()
    again = np.tile(np.arange(len(y)), 4)  # every play four times adds no information
    wide = auc_interval(y[again], p[again], again)
    once = auc_interval(y, p, np.arange(len(y)))
    assert wide.high - wide.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert auc_interval(y[again], p[again]).high < wide.high
    assert auc_interval(y, p, user).value == auc(y, p)


def test_delong_and_bootstrap_differences_are_close():
    y, p, user = synthetic_scores(1500)
    worse = p + 0.3 * np.random.default_rng(2).standard_normal(len(p))
    delong, draws = auc_difference(y, p, worse, user), bootstrap_difference(y, p, worse, user, draws=400)
    assert delong.value == draws.value == pytest.approx(auc(y, p) - auc(y, worse))
    assert delong.low == pytest.approx(draws.low, abs=0.01)
    assert delong.high == pytest.approx(draws.high, abs=0.01)
    assert delong.low > 0
    same = auc_difference(y, p, p, user)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_decisions_equal_a_manual_calculation_and_scikit_learn():
    result = decisions([1, 1, 0, 0, 1], [0.9, 0.5, 0.5, 0.2, 0.4])
    assert (result.true_positives, result.false_positives, result.false_negatives, result.true_negatives) == (
        2,
        1,
        1,
        1,
    )
    assert result.precision == result.recall == result.f1 == pytest.approx(2 / 3)
    assert result.accuracy == pytest.approx(3 / 5)
    y, p, _ = synthetic_scores()
    assert decisions(y, p, 0.6).f1 == pytest.approx(f1_score(y, p >= 0.6))
    no_counters = decisions([0, 0], [0.1, 0.2])
    assert (no_counters.precision, no_counters.recall, no_counters.f1, no_counters.accuracy) == (0, 0, 0, 1)


def test_best_threshold_maximises_the_class_separation():
    assert best_threshold([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9]) == 0.7
    y, p, _ = synthetic_scores()
    chosen = best_threshold(y, p)
    sums = {t: (p >= t)[y == 1].mean() - (p >= t)[y == 0].mean() for t in np.unique(p)}
    assert sums[chosen] == pytest.approx(max(sums.values()))


def test_curves_equal_scikit_learn():
    y, p, _ = synthetic_scores()
    roc = roc_curve(y, p, points=10_000)
    area = np.trapezoid(roc["true_positive_rate"], roc["false_positive_rate"])
    assert area == pytest.approx(roc_auc_score(y, p))
    assert roc["true_positive_rate"][0] == 0
    assert roc["true_positive_rate"][-1] == 1
    precision, recall, _ = precision_recall_curve(y, p)
    ours = pr_curve(y, p, points=10_000)
    np.testing.assert_allclose(ours["precision"], precision[:-1][::-1])
    np.testing.assert_allclose(ours["recall"], recall[:-1][::-1])
    assert len(roc_curve(y, p, points=20)["true_positive_rate"]) == 20


def test_brier_score_and_reliability_table():
    y, p, _ = synthetic_scores()
    assert brier(y, p) == pytest.approx(brier_score_loss(y, p))
    rows = reliability([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.6], bins=2)
    assert rows[0] == {"predicted": pytest.approx(0.2), "observed": 0.5, "plays": 2}
    assert rows[1] == {"predicted": pytest.approx(0.7), "observed": 1, "plays": 2}
    assert calibration_error([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.6], bins=2) == pytest.approx(0.3)


def test_auc_by_slice_is_none_without_both_classes():
    y, p, user = synthetic_scores()
    slices = auc_by_slice(y, p, {"even": user % 2 == 0, "few": user == 3, "none": np.zeros(len(y), bool)}, user)
    assert slices["even"].value == pytest.approx(roc_auc_score(y[user % 2 == 0], p[user % 2 == 0]))
    assert slices["few"] is None
    assert slices["none"] is None


@pytest.mark.parametrize(
    ("y", "p", "message"),
    [
        ([1, 1], [0.1, 0.2], "needs both classes, all 2 plays are 1"),
        ([0, 2], [0.1, 0.2], "each 0 or 1"),
        ([0, 1], [0.1], "an outcome and a score for each play"),
        ([0, 1], [0.1, np.nan], "play 1 is not"),
        ([], [], "at least one"),
    ],
)
def test_invalid_outcomes_or_scores_raise(y, p, message):
    with pytest.raises(ValueError, match=message):
        auc_interval(y, p)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_reduces_the_calibration_error(kind):
    rng = np.random.default_rng(0)
    truth = rng.random(8000)
    y = (rng.random(8000) < truth).astype(np.int8)
    score = 3 * np.log(truth / (1 - truth)) + 1  # an overconfident score
    calibrator = fit_calibration(kind, y[:4000], score[:4000])
    p = calibrator(score[4000:])
    assert calibration_error(y[4000:], p) < 0.03 < calibration_error(y[4000:], sigmoid(score[4000:]))
    assert (np.diff(calibrator(np.sort(score))) >= 0).all()
    assert ((p > 0) & (p < 1)).all()


def test_choose_returns_the_better_calibration_kind():
    rng = np.random.default_rng(0)
    score = rng.standard_normal(6000)
    steps = np.where(score < 0, 0.1, 0.9)  # a step function, which no sigmoid of this score can fit
    assert fit_best_calibration((rng.random(6000) < steps).astype(np.int8), 0.2 * score).kind == "isotonic"
    assert fit_best_calibration((rng.random(200) < sigmoid(score[:200])).astype(np.int8), score[:200]).kind == "platt"
    with pytest.raises(ValueError, match="at least 4 validation plays"):
        fit_best_calibration(np.asarray([0, 1], np.int8), np.zeros(2))


def test_importance_is_positive_only_for_features_in_use():
    plays = world(800)
    at = plays.names.index("user_listened")
    importance = permutation_importance(lambda some: some.numbers_NF[:, at] + 0.0, plays, draws=2)
    assert next(iter(importance)) == "user"  # a pair of counts is permuted together
    assert importance["user"] > 0.05
    assert all(fall == 0 for name, fall in importance.items() if name != "user")
    with pytest.raises(ValueError, match="needs both listened"):
        permutation_importance(lambda s: s.numbers_NF[:, 0], replace(plays, listened_N=np.ones(800, np.int8)))
