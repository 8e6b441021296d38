"""k-means against its definition and scikit-learn; duplicates, empty clusters, swaps, seeds and threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from sklearn.cluster import KMeans as Reference

from blockfactor import kmeans as module
from blockfactor.kmeans import kmeans


def nearest_centroids(x: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return np.square(x[:, None].astype(float) - centroids[None]).sum(axis=2).argmin(axis=1)


def blobs(n_blobs: int, each: int, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centre = 20 * rng.standard_normal((n_blobs, d))
    label = np.tile(np.arange(n_blobs), each)
    return (centre[label] + rng.standard_normal((len(label), d))).astype(np.float32), label


def continuum(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Return unit vectors, each a noisy mixture of three of 80 tastes. They form no clear clusters."""
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal((80, d))
    liked = rng.choice(80, (n, 3), p=1 / np.arange(1, 81) / np.sum(1 / np.arange(1, 81)))
    x = np.einsum("ut,utd->ud", rng.dirichlet([0.8] * 3, n), tastes[liked]) + 0.3 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_clusters_equal_well_separated_blobs() -> None:
    x, truth = blobs(12, 90)
    result = kmeans(x, 12, seed=3, n_init=5)
    pairs = set(zip(truth.tolist(), result.labels.tolist(), strict=True))
    assert len(pairs) == 12
    assert result.labels.dtype == np.int32
    assert result.centroids.dtype == np.float32


def test_centroids_are_cluster_means_and_inertia_is_the_squared_error() -> None:
    x, _ = blobs(5, 200, seed=1)
    result = kmeans(x, 40, seed=0, max_iter=4)
    assert np.bincount(result.labels, minlength=40).min() > 0
    means = np.stack([x[result.labels == s].mean(axis=0, dtype=float) for s in range(40)])
    np.testing.assert_allclose(result.centroids, means, rtol=1e-5, atol=1e-5)
    assert result.inertia == pytest.approx(np.square(x - means[result.labels]).sum(), rel=1e-5)


def test_means_over_many_blocks(monkeypatch) -> None:
    x, _ = blobs(3, 100)
    complete = kmeans(x, 9, seed=0)
    monkeypatch.setattr(module, "_BLOCK", 16)
    monkeypatch.setattr(module, "_SUM_BLOCK", 7)
    in_blocks = kmeans(x, 9, seed=0)
    np.testing.assert_array_equal(in_blocks.labels, complete.labels)
    np.testing.assert_allclose(in_blocks.centroids, complete.centroids, rtol=1e-5, atol=1e-5)


def test_converged_labels_are_the_nearest_centroids(monkeypatch) -> None:
    monkeypatch.setattr(module, "_TOLERANCE", 0)
    x, _ = blobs(6, 80)
    result = kmeans(x, 20, seed=0, max_iter=300)
    assert result.n_iter < 300
    np.testing.assert_array_equal(nearest_centroids(x, result.centroids), result.labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_inertia_is_as_low_as_with_scikit_learn(seed: int) -> None:
    x = continuum(6000, 32, seed)
    result = kmeans(x, 150, seed=seed)
    reference = Reference(150, random_state=seed).fit(x)
    assert result.inertia < 1.002 * reference.inertia_
    assert np.bincount(result.labels, minlength=150).min() > 0


def test_swaps_lower_the_inertia(monkeypatch) -> None:
    x = continuum(3000, 16)
    with_swaps = kmeans(x, 100, seed=0, max_iter=60).inertia
    monkeypatch.setattr(module, "_swap", lambda *_: False)
    assert with_swaps < 0.99 * kmeans(x, 100, seed=0, max_iter=60).inertia


def test_a_swap_by_hand() -> None:
    # Two centroids share one group of points. A third has two distant groups. The fourth cluster does not change.
    x = np.array([[0.0], [0.2], [0.1], [0.3], [10], [11], [20], [21], [60], [61]], np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2, 3, 3], np.int32)
    centroids = np.array([[0.1], [0.2], [15.5], [60.5]], np.float32)
    distance = np.sort(np.square(x - centroids.T), axis=1)
    with ThreadPoolExecutor(2) as pool:
        saved = (distance[:, 1] - distance[:, 0]).astype(np.float32)
        assert module._swap(x, labels, centroids, saved, 0.1, pool)
        assert sorted(centroids[:, 0].tolist()) == pytest.approx([0.2, 10.5, 20.5, 60.5], abs=0.11)
        assert not module._swap(x, labels, centroids, saved, 1000.0, pool)


def test_a_large_input_is_first_clustered_on_samples(monkeypatch) -> None:
    sizes = []
    lloyd = module._lloyd

    def recording(x, *rest):
        sizes.append(len(x))
        return lloyd(x, *rest)

    monkeypatch.setattr(module, "_lloyd", recording)
    x = continuum(8000, 16)
    result = kmeans(x, 30, seed=1)
    assert sizes == [500, 2000, 8000]
    assert result.labels.shape == (8000,)
    assert np.bincount(result.labels, minlength=30).min() > 0
    assert (nearest_centroids(x, result.centroids) != result.labels).mean() < 0.05
    assert result.inertia < 1.01 * Reference(30, random_state=0).fit(x).inertia_
    np.testing.assert_array_equal(result.labels, kmeans(x, 30, seed=1).labels)


def test_the_result_does_not_depend_on_the_number_of_threads(monkeypatch) -> None:
    x = continuum(4000, 16)
    two = kmeans(x, 40, seed=0)
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    one = kmeans(x, 40, seed=0)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.labels, two.labels)


def test_no_cluster_is_empty_with_many_duplicates() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)[np.minimum(rng.geometric(0.2, 5000), 39)]
    result = kmeans(x, 60, seed=0)
    assert np.bincount(result.labels, minlength=60).min() >= 1
    assert result.inertia == pytest.approx(0, abs=1e-3)


def test_seeds_follow_the_distribution_of_k_means_plus_plus() -> None:
    # Squared distances from 0 are 1, 100 and 100: the probability of seed 1 after seed 0 is 1 / 201.
    # Two vectors are equal (10): after one of them is drawn, the other has D² = 0 and is never drawn.
    x = np.array([[0.0], [1], [10], [10]], np.float32)
    square = np.square(x[:, 0])
    counts = {1.0: 0, 10.0: 0}
    for seed in range(4000):
        chosen = module._seeds(x, square, 2, np.random.default_rng(seed))[:, 0].tolist()
        if chosen[0] == 0:
            counts[chosen[1]] += 1
    share = counts[1.0] / sum(counts.values())
    assert 0.001 < share < 0.012  # 1 / 201
    for seed in range(50):
        assert sorted(module._seeds(x, square, 3, np.random.default_rng(seed))[:, 0].tolist()) == [0, 1, 10]


def test_batched_seeding_has_an_error_close_to_sequential_seeding(monkeypatch) -> None:
    x, _ = blobs(60, 20, d=16)
    square = np.vecdot(x, x)

    def mean_error() -> float:
        runs = [module._seeds(x, square, 60, np.random.default_rng(seed)) for seed in range(120)]
        return float(np.mean([np.square(x - c[nearest_centroids(x, c)]).sum() for c in runs]))

    batched = mean_error()
    monkeypatch.setattr(module, "_SEED_BATCH", 1)
    assert batched == pytest.approx(mean_error(), rel=0.3)  # without thinning: five times as large


def test_equal_seeds_give_equal_bits_and_other_seeds_differ() -> None:
    x, _ = blobs(4, 100)
    first, second = kmeans(x, 30, seed=5, n_init=2), kmeans(x, 30, seed=5, n_init=2)
    np.testing.assert_array_equal(first.centroids, second.centroids)
    np.testing.assert_array_equal(first.labels, second.labels)
    assert first.inertia == second.inertia
    assert (kmeans(x, 30, seed=6).centroids != first.centroids).any()


def test_more_starts_never_increase_the_inertia() -> None:
    x, _ = blobs(20, 30)
    values = [kmeans(x, 25, seed=1, n_init=n).inertia for n in (1, 3, 6)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("distinct", [1, 3])
def test_no_cluster_is_empty_if_vectors_are_equal(distinct: int) -> None:
    x = np.repeat(np.eye(3, 4, dtype=np.float32)[:distinct], 10, axis=0)
    result = kmeans(x, 8, seed=0)
    assert np.bincount(result.labels, minlength=8).min() >= 1
    assert np.isfinite(result.centroids).all()
    assert result.inertia == pytest.approx(0, abs=1e-6)


def test_an_empty_cluster_receives_the_farthest_vector_of_a_larger_cluster() -> None:
    labels = np.array([0, 0, 0, 2], np.int32)
    module._fill_empty(labels, np.array([1.0, 5, 2, 9], np.float32), 3)  # vector 3 is the last of its cluster
    assert labels.tolist() == [0, 1, 0, 2]


def test_as_many_clusters_as_vectors_and_one_cluster() -> None:
    x, _ = blobs(4, 5)
    assert sorted(kmeans(x, 20, seed=0).labels.tolist()) == list(range(20))
    np.testing.assert_allclose(kmeans(x, 1).centroids[0], x.mean(axis=0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(np.ones((3, 2)), 4), r"^k: must be from 1 to the number of vectors \(3\), got 4"),
        (lambda: kmeans(np.ones((3, 2)), 0), "got 0"),
        (lambda: kmeans(np.ones((3, 2)), 1, max_iter=0), "max_iter"),
        (lambda: kmeans(np.array([[1.0], [np.nan]]), 1), "x: row 1 contains NaN"),
        (lambda: kmeans(np.ones(3), 1), "must be a matrix"),
    ],
)
def test_invalid_input_raises(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
