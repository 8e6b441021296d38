"""Metrics against manual calculations and scikit-learn; intervals against theory."""

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from models.cold_start.ragged import Ragged
from models.evaluation import metrics
from models.evaluation.metrics import bootstrap, paired_bootstrap, score


def test_metrics_of_three_rows_equal_a_manual_calculation() -> None:
    recommended = np.array([[4, 7, 1, 9], [0, 1, 2, 3], [5, 6, 7, 8]], np.int32)
    truth = Ragged.from_lists([[1, 4, 100, 50, 60, 70], [3, 1], [9]])
    got = score(recommended, truth, 4)
    w = 1 / np.log2([2, 3, 4, 5])
    np.testing.assert_allclose(got["precision"], [2 / 4, 2 / 2, 0])
    np.testing.assert_allclose(got["recall"], [2 / 6, 1, 0])
    np.testing.assert_allclose(got["ndcg"], [(w[0] + w[2]) / w.sum(), (w[1] + w[3]) / (w[0] + w[1]), 0])


def test_k_truncates_the_list() -> None:
    recommended = np.array([[3, 1, 2]])
    got = score(recommended, Ragged.from_lists([[1, 2]]), 2)
    assert got["precision"][0] == 0.5
    assert score(recommended, Ragged.from_lists([[1, 2]]), 1)["recall"][0] == 0


def test_perfect_list_scores_exactly_one() -> None:
    for k in (1, 7, 50):
        recommended = np.arange(60)[None, :].repeat(40, axis=0)
        truth = Ragged.from_lists([list(range(n, -1, -1)) for n in range(40)])
        for name, value in score(recommended, truth, k).items():
            if name != "recall":
                assert (value == 1).all(), name
        assert (value <= 1).all()


@pytest.mark.parametrize("k", [1, 10, 50])
def test_metrics_equal_scikit_learn_and_set_operations(k: int) -> None:
    rng = np.random.default_rng(0)
    n, b = 200, 60
    scores = rng.permuted(np.tile(np.arange(n, dtype=float), (b, 1)), axis=1)  # no ties
    recommended = np.argsort(-scores, axis=1)[:, :50]
    lists = [rng.choice(n, rng.integers(1, 90), replace=False) for _ in range(b)]
    relevance = np.zeros((b, n))
    for row, ids in enumerate(lists):
        relevance[row, ids] = 1
    got = score(recommended, Ragged.from_lists(lists), k)
    expected = [ndcg_score(relevance[i : i + 1], scores[i : i + 1], k=k) for i in range(b)]
    np.testing.assert_allclose(got["ndcg"], expected, rtol=1e-12)
    hits = [len(set(recommended[i, :k]) & set(lists[i])) for i in range(b)]
    np.testing.assert_allclose(got["precision"], [h / min(len(g), k) for h, g in zip(hits, lists, strict=True)])
    np.testing.assert_allclose(got["recall"], [h / len(g) for h, g in zip(hits, lists, strict=True)])


def test_duplicate_truths_count_once_and_blocks_do_not_matter(monkeypatch) -> None:
    rng = np.random.default_rng(0)
    recommended = np.stack([rng.choice(500, 9, replace=False) for _ in range(33)])
    lists = [rng.integers(0, 500, 200) for _ in range(33)]
    once = score(recommended, Ragged.from_lists([np.unique(ids) for ids in lists]), 9)
    monkeypatch.setattr(metrics, "_BLOCK_CELLS", 2_000)
    many = score(recommended, Ragged.from_lists(lists), 9)
    for name in metrics.METRICS:
        np.testing.assert_array_equal(once[name], many[name])


def test_empty_batch_returns_no_scores() -> None:
    assert score(np.empty((0, 3), int), Ragged.from_lists([]), 3)["ndcg"].shape == (0,)


@pytest.mark.parametrize(
    ("recommended", "truth", "k", "message"),
    [
        ([[1, 2], [3, 4]], [[1], []], 2, "row 1 has no truth"),
        ([[1, 2], [3, 3]], [[1], [2]], 2, "row 1 recommends a track twice"),
        ([[1, 2]], [[1], [2]], 2, "each of the 2 truths"),
        ([[1, 2]], [[1]], 3, r"length of the lists \(2\), got 3"),
        ([[1, -2]], [[1]], 2, "negative"),
        ([[0.5, 2]], [[1]], 2, "integers"),
    ],
)
def test_invalid_input_raises(recommended, truth, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        score(np.array(recommended), Ragged.from_lists(truth), k)


def test_bootstrap_approaches_the_normal_interval() -> None:
    values = np.random.default_rng(0).beta(2, 8, 4_000)
    low, high = bootstrap(values, 2_000, seed=1)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=half / 8)
    assert high == pytest.approx(values.mean() + half, abs=half / 8)
    assert (low, high) == bootstrap(values, 2_000, seed=1)
    assert (low, high) != bootstrap(values, 2_000, seed=2)
    assert bootstrap([0.25] * 9, 100) == (0.25, 0.25)


def test_bootstrap_does_not_depend_on_memory_blocks(monkeypatch) -> None:
    values = np.random.default_rng(0).random(50)
    whole = bootstrap(values, 300, 3)
    monkeypatch.setattr(metrics, "_BLOCK_DRAWS", 120)
    assert bootstrap(values, 300, 3) == whole


def test_paired_bootstrap_detects_a_difference_between_overlapping_intervals() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(400)
    better = base + 0.01 + 0.01 * rng.standard_normal(400)
    mean, low, high = paired_bootstrap(better, base, 500, 7)
    assert mean == pytest.approx((better - base).mean())
    assert 0 < low < mean < high
    back, back_low, back_high = paired_bootstrap(base, better, 500, 7)
    np.testing.assert_allclose([back, back_low, back_high], [-mean, -high, -low])
    assert bootstrap(better, 500)[0] < bootstrap(base, 500)[1]  # the unpaired intervals overlap


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap([], 100), "at least one"),
        (lambda: bootstrap([0.1, np.nan], 100), "finite"),
        (lambda: bootstrap([0.1], n=0), "n must be"),
        (lambda: paired_bootstrap([1.0], [1.0, 2.0], 100), "same listeners"),
    ],
)
def test_invalid_bootstrap_input_raises(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
