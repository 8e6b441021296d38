"""Off-policy estimates: three displays by hand, and simulated logs with a known policy value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from models.evaluation.off_policy import effective_size, estimate_value, slate_propensities


def test_three_displays_equal_a_manual_calculation():
    """Weights 1 / 0.5, 0 and 0.5 / 0.25 = 2; outcomes 1, 1, 0: IPS 2 / 3, SNIPS 2 / 4."""
    estimate = estimate_value([1, 2, 3], [1, 1, 0], [0.5, 0.2, 0.25], [1, 0, 0.5], clip=100)
    assert estimate.ips.value == pytest.approx(2 / 3)
    assert estimate.snips.value == pytest.approx(1 / 2)
    assert (estimate.displays, estimate.users, estimate.matched) == (3, 3, 2)
    assert estimate.effective_users == pytest.approx(2)
    assert (estimate.mean_weight.value, estimate.max_weight) == pytest.approx((4 / 3, 2))
    # SNIPS over listeners: residuals 1, 0, -1 around 0.5, three listeners, total weight 4.
    reach = 1.959964 * math.sqrt(1.5 * 2 / 16)
    assert (estimate.snips.low, estimate.snips.high) == pytest.approx((0.5 - reach, 0.5 + reach), abs=1e-5)


def test_weights_are_clipped_and_the_clipped_weight_is_reported():
    estimate = estimate_value([1, 2], [1, 1], [0.01, 1.0], [1, 1], clip=10)
    assert estimate.clipped_weight == pytest.approx(1 - 11 / 101)
    assert estimate.ips.value == pytest.approx(11 / 2)
    assert estimate.max_weight == pytest.approx(100)


def test_displays_of_one_listener_count_as_one_effective_user():
    one = estimate_value(np.zeros(50), np.ones(50), np.full(50, 0.5), np.ones(50), clip=10)
    many = estimate_value(np.arange(50), np.ones(50), np.full(50, 0.5), np.ones(50), clip=10)
    assert one.effective_users == pytest.approx(1)
    assert many.effective_users == pytest.approx(50)
    assert effective_size([0.0, 0.0]) == 0


@pytest.mark.parametrize(
    ("propensity", "target"), [([0.0, 0.5], [1, 1]), ([0.5, 1.5], [1, 1]), ([0.5, 0.5], [1, 2]), ([0.5, 0.5], [0, 0])]
)
def test_invalid_propensities_or_targets_raise(propensity, target):
    with pytest.raises(ValueError, match="off policy"):
        estimate_value([1, 2], [1, 0], propensity, target, clip=10)


def test_slate_propensities_equal_simulated_frequencies():
    rng, greedy, pool, share = np.random.default_rng(0), np.array([3, 1, 4]), np.array([3, 1, 4, 7, 9]), 0.4
    counts = np.zeros((3, 10))
    for _ in range(40_000):
        shown = rng.permutation(pool)[:3] if rng.random() < share else greedy
        counts[np.arange(3), shown] += 1
    for track in pool:
        wanted = slate_propensities(np.full(3, track), greedy, len(pool), share)
        np.testing.assert_allclose(counts[:, track] / 40_000, wanted, atol=0.01)
    assert slate_propensities(greedy, greedy, 5, share) == pytest.approx([0.68, 0.68, 0.68])


def world(n_users: int, rng: np.random.Generator):
    """Simulate a log of n listeners with 1 to 3 lists of 4 out of 8 tracks.
    Stream probabilities depend on listener, track and position.
    """
    taste = rng.beta(1, 5, (n_users, 8))
    look = np.array([1.0, 0.8, 0.6, 0.4])
    greedy = np.argsort(-taste + 0.3 * rng.random(taste.shape), axis=1)[:, :4]
    target = np.argsort(taste, axis=1)[:, 2:6]  # another list of the same tracks
    user = np.repeat(np.arange(n_users), rng.integers(1, 4, n_users))
    shown = np.where(
        rng.random((len(user), 1)) < 0.5,
        rng.permuted(np.tile(np.arange(8), (len(user), 1)), axis=1)[:, :4],
        greedy[user],
    )
    streamed = rng.random(shown.shape) < look * taste[user[:, None], shown]
    propensity = slate_propensities(shown, greedy[user], 8, 0.5)
    truth = float((look * taste[user[:, None], target[user]]).mean())
    hit = (shown == target[user]).astype(float)
    return np.repeat(user, 4), streamed.ravel(), propensity.ravel(), hit.ravel(), truth


def test_estimate_converges_to_the_value_of_another_policy():
    rng, covered, estimates, truths, plain = np.random.default_rng(4), 0, [], [], []
    for _ in range(300):
        *log, truth = world(600, rng)
        estimate = estimate_value(*log, clip=1_000)
        covered += estimate.snips.low <= truth <= estimate.snips.high
        estimates.append((estimate.ips.value, estimate.snips.value))
        truths.append(truth)
        plain.append(float(np.mean(log[1])))
        assert estimate.mean_weight.low <= 1 <= estimate.mean_weight.high
    assert 0.91 < covered / 300 < 0.985
    for values in np.transpose(estimates):
        assert np.mean(values) == pytest.approx(np.mean(truths), rel=0.02)
    assert abs(np.mean(plain) - np.mean(truths)) > 0.2 * np.mean(
        truths
    )  # the stream rate of the log is a biased estimate
