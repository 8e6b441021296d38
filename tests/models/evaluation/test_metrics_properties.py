"""Properties of the metrics: bounds, a perfect list, the order of listeners, and a plain implementation."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from models.cold_start.ragged import Ragged
from models.evaluation.metrics import METRICS, artist_share, bootstrap, paired_bootstrap, score

N = 30
quick = settings(derandomize=True, deadline=None, max_examples=80)
truths = st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=2 * N), min_size=1, max_size=6)


@st.composite
def listeners(draw):
    """Draw lists (B, L) distinct in a row, a truth for each, and k."""
    truth = draw(truths)
    length = draw(st.integers(1, N))
    rows = [draw(st.permutations(range(N)))[:length] for _ in truth]
    return np.array(rows), truth, draw(st.integers(1, length))


def naive(recommended: list[int], truth: list[int], k: int) -> dict[str, float]:
    relevant = set(truth)
    hits = [track in relevant for track in recommended[:k]]
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(len(relevant), k)))
    return {
        "precision": sum(hits) / min(len(relevant), k),
        "recall": sum(hits) / len(relevant),
        "ndcg": sum(1 / math.log2(rank + 2) for rank, hit in enumerate(hits) if hit) / ideal,
    }


@quick
@given(listeners())
def test_metrics_equal_a_plain_implementation_and_are_between_0_and_1(drawn):
    recommended, truth, k = drawn
    got = score(recommended, Ragged.from_lists(truth), k)
    for b, row in enumerate(recommended.tolist()):
        expected = naive(row, truth[b], k)
        for name in METRICS:
            assert math.isclose(got[name][b], expected[name], abs_tol=1e-12), name
            assert 0 <= got[name][b] <= 1


@quick
@given(listeners(), st.randoms(use_true_random=False))
def test_order_of_listeners_changes_nothing(drawn, random):
    recommended, truth, k = drawn
    order = random.sample(range(len(truth)), len(truth))
    one = score(recommended, Ragged.from_lists(truth), k)
    other = score(recommended[order], Ragged.from_lists([truth[b] for b in order]), k)
    for name in METRICS:
        np.testing.assert_array_equal(one[name][order], other[name])


@quick
@given(truths, st.integers(1, N))
def test_perfect_list_has_exactly_one_and_a_list_of_misses_zero(truth, k):
    best = [list(dict.fromkeys(tracks)) for tracks in truth]
    filled = [row + [N + n for n in range(N - len(row))] for row in best]
    got = score(np.array(filled), Ragged.from_lists(truth), k)
    assert (got["precision"] == 1).all()
    assert (got["ndcg"] == 1).all()
    np.testing.assert_array_equal(got["recall"], [min(k, len(row)) / len(row) for row in best])
    misses = score(np.tile(N + np.arange(N), (len(truth), 1)), Ragged.from_lists(truth), k)
    assert not any(misses[name].any() for name in METRICS)


@quick
@given(listeners(), st.data())
def test_hit_at_a_better_rank_never_lowers_a_metric(drawn, data):
    recommended, truth, k = drawn
    b = data.draw(st.integers(0, len(truth) - 1))
    relevant = set(truth[b])
    row = recommended[b].tolist()
    better = sorted(row, key=lambda track: track not in relevant)  # hits first, otherwise in the same order
    one, other = (score(np.array([r]), Ragged.from_lists([truth[b]]), k) for r in (row, better))
    for name in METRICS:
        assert other[name][0] >= one[name][0] - 1e-12, name


@quick
@given(listeners())
def test_artist_share_counts_distinct_artists(drawn):
    recommended, _, _ = drawn
    artist_N = np.arange(N) // 3
    expected = [len(set(artist_N[row].tolist())) / len(row) for row in recommended]
    np.testing.assert_allclose(artist_share(recommended, artist_N), expected)


values = st.lists(st.floats(0, 1), min_size=1, max_size=30)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(values, st.integers(0, 2**32 - 1))
def test_interval_lies_between_the_extremes_and_repeats(some, seed):
    low, high = bootstrap(some, 50, seed)
    assert min(some) - 1e-12 <= low <= high <= max(some) + 1e-12
    assert (low, high) == bootstrap(some, 50, seed)
    zero = np.zeros(len(some))
    mean, low_of_difference, high_of_difference = paired_bootstrap(some, zero, 50, seed)
    assert (low_of_difference, high_of_difference) == (low, high)
    assert math.isclose(mean, np.mean(some))
    assert paired_bootstrap(some, some, 50, seed) == (0, 0, 0)
