"""Metrics of skip models by hand and against scikit-learn; calibration; what a model leans on."""

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


def made_up(n: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return y, np.round(sigmoid(y + rng.standard_normal(n)), 2), rng.integers(0, 50, n)


def test_auc_by_hand_and_as_scikit_learn():
    assert auc([0, 0, 1, 1], [0.1, 0.4, 0.4, 0.8]) == 0.875  # of four pairs one is tied
    y, p, _ = made_up()
    assert auc(y, p) == pytest.approx(roc_auc_score(y, p))


def test_the_interval_holds_the_truth_as_often_as_it_says():
    rng, held, n = np.random.default_rng(1), 0, 300
    for _ in range(n):
        user = np.repeat(np.arange(40), 5)
        taste = rng.standard_normal(40)[user]  # plays of one user go together
        y = (rng.random(200) < sigmoid(taste)).astype(int)
        found = auc_interval(y, rng.standard_normal(40)[user], user)  # a score that knows nothing: AUC is one half
        held += found.low <= 0.5 <= found.high
    assert 0.90 <= held / n <= 0.98


def test_plays_of_one_user_widen_the_interval():
    y, p, user = made_up()
    again = np.tile(np.arange(len(y)), 4)  # every play four times over: nothing new was learned
    wide = auc_interval(y[again], p[again], again)
    once = auc_interval(y, p, np.arange(len(y)))
    assert wide.high - wide.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert auc_interval(y[again], p[again]).high < wide.high
    assert auc_interval(y, p, user).value == auc(y, p)


def test_paired_differences_agree():
    y, p, user = made_up(1500)
    worse = p + 0.3 * np.random.default_rng(2).standard_normal(len(p))
    delong, draws = auc_difference(y, p, worse, user), bootstrap_difference(y, p, worse, user, draws=400)
    assert delong.value == draws.value == pytest.approx(auc(y, p) - auc(y, worse))
    assert delong.low == pytest.approx(draws.low, abs=0.01)
    assert delong.high == pytest.approx(draws.high, abs=0.01)
    assert delong.low > 0
    same = auc_difference(y, p, p, user)
    assert (same.low, same.value, same.high) == (0, 0, 0)


def test_decisions_by_hand_and_as_scikit_learn():
    found = decisions([1, 1, 0, 0, 1], [0.9, 0.5, 0.5, 0.2, 0.4])
    assert (found.true_positives, found.false_positives, found.false_negatives, found.true_negatives) == (2, 1, 1, 1)
    assert found.precision == found.recall == found.f1 == pytest.approx(2 / 3)
    assert found.accuracy == pytest.approx(3 / 5)
    y, p, _ = made_up()
    assert decisions(y, p, 0.6).f1 == pytest.approx(f1_score(y, p >= 0.6))
    nothing = decisions([0, 0], [0.1, 0.2])
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.accuracy) == (0, 0, 0, 1)


def test_the_best_threshold_parts_both_classes():
    assert best_threshold([0, 0, 1, 1], [0.1, 0.6, 0.7, 0.9]) == 0.7
    y, p, _ = made_up()
    chosen = best_threshold(y, p)
    sums = {t: (p >= t)[y == 1].mean() - (p >= t)[y == 0].mean() for t in np.unique(p)}
    assert sums[chosen] == pytest.approx(max(sums.values()))


def test_curves_are_those_of_scikit_learn():
    y, p, _ = made_up()
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


def test_brier_and_reliability():
    y, p, _ = made_up()
    assert brier(y, p) == pytest.approx(brier_score_loss(y, p))
    rows = reliability([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.6], bins=2)
    assert rows[0] == {"predicted": pytest.approx(0.2), "observed": 0.5, "plays": 2}
    assert rows[1] == {"predicted": pytest.approx(0.7), "observed": 1, "plays": 2}
    assert calibration_error([0, 1, 1, 1], [0.1, 0.3, 0.8, 0.6], bins=2) == pytest.approx(0.3)


def test_slices_have_an_auc_where_both_classes_are_there():
    y, p, user = made_up()
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
def test_what_cannot_be_judged_is_refused(y, p, message):
    with pytest.raises(ValueError, match=message):
        auc_interval(y, p)


@pytest.mark.parametrize("kind", KINDS)
def test_calibration_brings_what_is_said_to_what_happens(kind):
    rng = np.random.default_rng(0)
    truth = rng.random(8000)
    y = (rng.random(8000) < truth).astype(np.int8)
    score = 3 * np.log(truth / (1 - truth)) + 1  # far too sure of itself
    made = fit_calibration(kind, y[:4000], score[:4000])
    p = made(score[4000:])
    assert calibration_error(y[4000:], p) < 0.03 < calibration_error(y[4000:], sigmoid(score[4000:]))
    assert (np.diff(made(np.sort(score))) >= 0).all()
    assert ((p > 0) & (p < 1)).all()


def test_the_kind_that_fits_is_chosen():
    rng = np.random.default_rng(0)
    score = rng.standard_normal(6000)
    steps = np.where(score < 0, 0.1, 0.9)  # a staircase, which no sigmoid of this score is
    assert fit_best_calibration((rng.random(6000) < steps).astype(np.int8), 0.2 * score).kind == "isotonic"
    assert fit_best_calibration((rng.random(200) < sigmoid(score[:200])).astype(np.int8), score[:200]).kind == "platt"
    with pytest.raises(ValueError, match="at least 4 validation plays"):
        fit_best_calibration(np.asarray([0, 1], np.int8), np.zeros(2))


def test_importance_finds_what_a_model_reads():
    plays = world(800)
    at = plays.names.index("user_listened")
    found = permutation_importance(lambda some: some.numbers_NF[:, at] + 0.0, plays, draws=2)
    assert next(iter(found)) == "user"  # the pair of counts is one thing
    assert found["user"] > 0.05
    assert all(fall == 0 for name, fall in found.items() if name != "user")
    with pytest.raises(ValueError, match="needs both listened"):
        permutation_importance(lambda s: s.numbers_NF[:, 0], replace(plays, listened_N=np.ones(800, np.int8)))
