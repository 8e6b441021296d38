"""k-means, the nearest segment and rankings: against definitions, and where it is hard (ties, empties, duplicates)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.sparse import coo_array, csr_array
from sklearn.cluster import KMeans as Reference

from models.cold_start import segments
from models.cold_start.nearest_centroid import nearest_centroids
from models.cold_start.segments import kmeans, rankings


def blobs(n_blobs: int, each: int, d: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centre = 20 * rng.standard_normal((n_blobs, d))
    label = np.tile(np.arange(n_blobs), each)
    return (centre[label] + rng.standard_normal((len(label), d))).astype(np.float32), label


def continuum(n: int, d: int, seed: int = 0) -> np.ndarray:
    """Unit vectors of people between a few of many tastes, some of them common: no clear borders."""
    rng = np.random.default_rng(seed)
    tastes = rng.standard_normal((80, d))
    liked = rng.choice(80, (n, 3), p=1 / np.arange(1, 81) / np.sum(1 / np.arange(1, 81)))
    x = np.einsum("ut,utd->ud", rng.dirichlet([0.8] * 3, n), tastes[liked]) + 0.3 * rng.standard_normal((n, d))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def test_well_separated_blobs_are_found() -> None:
    x, truth = blobs(12, 90)
    found = kmeans(x, 12, seed=3, n_init=5)
    pairs = set(zip(truth.tolist(), found.labels.tolist(), strict=True))
    assert len(pairs) == 12
    assert found.labels.dtype == np.int32
    assert found.centroids.dtype == np.float32


def test_centroids_are_the_plain_means_and_inertia_is_their_error() -> None:
    x, _ = blobs(5, 200, seed=1)
    found = kmeans(x, 40, seed=0, max_iter=4)
    assert np.bincount(found.labels, minlength=40).min() > 0
    means = np.stack([x[found.labels == s].mean(axis=0, dtype=float) for s in range(40)])
    np.testing.assert_allclose(found.centroids, means, rtol=1e-5, atol=1e-5)
    assert found.inertia == pytest.approx(np.square(x - means[found.labels]).sum(), rel=1e-5)


def test_means_over_many_blocks(monkeypatch) -> None:
    x, _ = blobs(3, 100)
    whole = kmeans(x, 9, seed=0)
    monkeypatch.setattr(segments, "_BLOCK", 16)
    monkeypatch.setattr(segments, "_SUM_BLOCK", 7)
    cut = kmeans(x, 9, seed=0)
    np.testing.assert_array_equal(cut.labels, whole.labels)
    np.testing.assert_allclose(cut.centroids, whole.centroids, rtol=1e-5, atol=1e-5)


def test_converged_labels_are_the_nearest_centroids(monkeypatch) -> None:
    monkeypatch.setattr(segments, "_TOLERANCE", 0)
    x, _ = blobs(6, 80)
    found = kmeans(x, 20, seed=0, max_iter=300)
    assert found.n_iter < 300
    np.testing.assert_array_equal(nearest_centroids(x, found.centroids), found.labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_as_good_as_scikit_learn(seed: int) -> None:
    x = continuum(6000, 32, seed)
    ours = kmeans(x, 150, seed=seed)
    theirs = Reference(150, random_state=seed).fit(x)
    assert ours.inertia < 1.002 * theirs.inertia_
    assert np.bincount(ours.labels, minlength=150).min() > 0


def test_swaps_lower_the_inertia(monkeypatch) -> None:
    x = continuum(3000, 16)
    with_swaps = kmeans(x, 100, seed=0, max_iter=60).inertia
    monkeypatch.setattr(segments, "_swap", lambda *_: False)
    assert with_swaps < 0.99 * kmeans(x, 100, seed=0, max_iter=60).inertia


def test_a_swap_by_hand() -> None:
    # Two centroids share one heap, one has two heaps far apart; a fourth segment is left as it is.
    x = np.array([[0.0], [0.2], [0.1], [0.3], [10], [11], [20], [21], [60], [61]], np.float32)
    labels = np.array([0, 0, 1, 1, 2, 2, 2, 2, 3, 3], np.int32)
    centroids = np.array([[0.1], [0.2], [15.5], [60.5]], np.float32)
    distance = np.sort(np.square(x - centroids.T), axis=1)
    with ThreadPoolExecutor(2) as pool:
        saved = (distance[:, 1] - distance[:, 0]).astype(np.float32)
        assert segments._swap(x, labels, centroids, saved, 0.1, pool)
        assert sorted(centroids[:, 0].tolist()) == pytest.approx([0.2, 10.5, 20.5, 60.5], abs=0.11)
        assert not segments._swap(x, labels, centroids, saved, 1000.0, pool)


def test_many_users_start_from_a_quarter(monkeypatch) -> None:
    sizes = []
    lloyd = segments._lloyd

    def watched(x, *rest):
        sizes.append(len(x))
        return lloyd(x, *rest)

    monkeypatch.setattr(segments, "_lloyd", watched)
    x = continuum(8000, 16)
    found = kmeans(x, 30, seed=1)
    assert sizes == [500, 2000, 8000]
    assert found.labels.shape == (8000,)
    assert np.bincount(found.labels, minlength=30).min() > 0
    assert (nearest_centroids(x, found.centroids) != found.labels).mean() < 0.05
    assert found.inertia < 1.01 * Reference(30, random_state=0).fit(x).inertia_
    np.testing.assert_array_equal(found.labels, kmeans(x, 30, seed=1).labels)


def test_the_answer_does_not_depend_on_the_number_of_threads(monkeypatch) -> None:
    x = continuum(4000, 16)
    two = kmeans(x, 40, seed=0)
    monkeypatch.setattr(segments.os, "cpu_count", lambda: 1)
    one = kmeans(x, 40, seed=0)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.labels, two.labels)


def test_many_duplicates_leave_no_segment_empty() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 8)).astype(np.float32)[np.minimum(rng.geometric(0.2, 5000), 39)]
    found = kmeans(x, 60, seed=0)
    assert np.bincount(found.labels, minlength=60).min() >= 1
    assert found.inertia == pytest.approx(0, abs=1e-3)


def test_seeds_follow_the_distribution_of_k_means_plus_plus() -> None:
    # Squared distances from 0 are 1, 100 and 100: after the seed 0 comes 1 once in 201 times.
    # Two users stand at 10; after one of them the other has D² = 0 and is never drawn.
    x = np.array([[0.0], [1], [10], [10]], np.float32)
    square = np.square(x[:, 0])
    counts = {1.0: 0, 10.0: 0}
    for seed in range(4000):
        chosen = segments._seeds(x, square, 2, np.random.default_rng(seed))[:, 0].tolist()
        if chosen[0] == 0:
            counts[chosen[1]] += 1
    share = counts[1.0] / sum(counts.values())
    assert 0.001 < share < 0.012  # 1 / 201
    for seed in range(50):
        assert sorted(segments._seeds(x, square, 3, np.random.default_rng(seed))[:, 0].tolist()) == [0, 1, 10]


def test_batched_seeds_are_as_good_as_one_at_a_time(monkeypatch) -> None:
    x, _ = blobs(60, 20, d=16)
    square = np.vecdot(x, x)

    def mean_error() -> float:
        runs = [segments._seeds(x, square, 60, np.random.default_rng(seed)) for seed in range(120)]
        return float(np.mean([np.square(x - c[nearest_centroids(x, c)]).sum() for c in runs]))

    batched = mean_error()
    monkeypatch.setattr(segments, "_SEED_BATCH", 1)
    assert batched == pytest.approx(mean_error(), rel=0.3)  # without thinning: five times as large


def test_same_seed_same_bits_other_seed_other_start() -> None:
    x, _ = blobs(4, 100)
    one, two = kmeans(x, 30, seed=5, n_init=2), kmeans(x, 30, seed=5, n_init=2)
    np.testing.assert_array_equal(one.centroids, two.centroids)
    np.testing.assert_array_equal(one.labels, two.labels)
    assert one.inertia == two.inertia
    assert (kmeans(x, 30, seed=6).centroids != one.centroids).any()


def test_more_starts_are_never_worse() -> None:
    x, _ = blobs(20, 30)
    values = [kmeans(x, 25, seed=1, n_init=n).inertia for n in (1, 3, 6)]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("distinct", [1, 3])
def test_no_segment_is_empty_when_users_are_alike(distinct: int) -> None:
    x = np.repeat(np.eye(3, 4, dtype=np.float32)[:distinct], 10, axis=0)
    found = kmeans(x, 8, seed=0)
    assert np.bincount(found.labels, minlength=8).min() >= 1
    assert np.isfinite(found.centroids).all()
    assert found.inertia == pytest.approx(0, abs=1e-6)


def test_an_empty_segment_takes_the_farthest_user_it_may() -> None:
    labels = np.array([0, 0, 0, 2], np.int32)
    segments._fill_empty(labels, np.array([1.0, 5, 2, 9], np.float32), 3)  # user 3 is the last of its segment
    assert labels.tolist() == [0, 1, 0, 2]


def test_as_many_segments_as_users_and_one_segment() -> None:
    x, _ = blobs(4, 5)
    assert sorted(kmeans(x, 20, seed=0).labels.tolist()) == list(range(20))
    np.testing.assert_allclose(kmeans(x, 1).centroids[0], x.mean(axis=0), rtol=1e-4, atol=1e-4)


def test_nearest_is_the_definition() -> None:
    rng = np.random.default_rng(0)
    x, c = rng.standard_normal((2500, 8)).astype("f4"), rng.standard_normal((37, 8)).astype("f4")
    distance = np.square(x[:, None].astype(float) - c[None]).sum(axis=2)
    got = nearest_centroids(x, c)
    assert got.dtype == np.int32
    np.testing.assert_array_equal(got, distance.argmin(axis=1))
    for b in range(0, 2500, 101):
        assert nearest_centroids(x[b : b + 1], c)[0] == got[b]
    assert nearest_centroids(x[:0], c).shape == (0,)


def test_nearest_ties_go_to_the_lower_segment() -> None:
    c = np.array([[3.0, 0], [1, 1], [-1, 1], [1, 1]], np.float32)
    assert nearest_centroids(np.array([[0.0, 0.3], [1, 1], [9, 0]], np.float32), c).tolist() == [1, 1, 0]


def listens(lists: list[list[int]], n: int) -> csr_array:
    row = np.repeat(np.arange(len(lists)), [len(a) for a in lists])
    return csr_array(coo_array((np.ones(row.size, np.int8), (row, np.concatenate(lists).astype(int))), (len(lists), n)))


def test_rankings_by_hand() -> None:
    heard = listens([[5, 2, 7], [2, 7], [7, 9], [0], [9, 1]], 10)
    got = rankings(np.array([1, 1, 1, 0, 3]), heard, 4, 5)
    assert got.dtype == np.int32
    assert got.tolist() == [
        [0, 1, 2, 3, 4],  # one track, then the most popular others
        [7, 2, 5, 9, 0],  # three have 7, two 2; 5 and 9 tie: the more popular first
        [0, 1, 2, 3, 4],  # nobody: popularity
        [1, 9, 0, 2, 3],
    ]


def test_rankings_against_a_sort_of_everything() -> None:
    rng = np.random.default_rng(0)
    heard = csr_array((rng.random((300, 80)) < 0.15).astype(np.float32))
    labels = rng.integers(0, 9, 300)
    got = rankings(labels, heard, 9, 40)
    for s in range(9):
        count = heard.toarray()[labels == s].sum(axis=0)
        np.testing.assert_array_equal(got[s], np.lexsort((np.arange(80), -count))[:40])
    assert all(len(set(row)) == 40 for row in rankings(labels, heard, 9, 80)[:, :40].tolist())


def test_rankings_do_not_mind_the_order_of_columns_in_a_row() -> None:
    unsorted = csr_array((np.ones(3), np.array([7, 2, 5]), np.array([0, 3])), shape=(1, 10))
    assert rankings(np.zeros(1, int), unsorted, 1, 3).tolist() == [[2, 5, 7]]
    assert unsorted.indices.tolist() == [7, 2, 5]  # the caller's matrix is left alone


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kmeans(np.ones((3, 2)), 4), r"segments.k: must be from 1 to the number of users \(3\), got 4"),
        (lambda: kmeans(np.ones((3, 2)), 0), "got 0"),
        (lambda: kmeans(np.ones((3, 2)), 1, max_iter=0), "max_iter"),
        (lambda: kmeans(np.array([[1.0], [np.nan]]), 1), "row 1 holds NaN"),
        (lambda: kmeans(np.ones(3), 1), "must be a matrix"),
        (lambda: nearest_centroids(np.ones((1, 3)), np.ones((2, 2))), "share D"),
        (lambda: nearest_centroids(np.full((1, 2), np.inf), np.ones((2, 2))), "x: row 0 holds NaN"),
        (lambda: rankings(np.array([0]), listens([[1]], 3), 1, 4), r"segments.ranking_length: .*tracks \(3\), got 4"),
        (lambda: rankings(np.array([2]), listens([[1]], 3), 2, 1), "labels must be from 0 to 1"),
        (lambda: rankings(np.array([0, 1]), listens([[1]], 3), 2, 1), "labels must be"),
        (lambda: rankings(np.array([0]), 2.0 * listens([[1]], 3), 1, 1), "with value 1"),
        (lambda: rankings(np.array([0]), np.ones((1, 3)), 1, 1), "sparse"),
    ],
)
def test_wrong_input_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_track_stored_twice_is_refused() -> None:
    twice = csr_array((np.ones(2), np.array([1, 1]), np.array([0, 2])), shape=(1, 3))
    with pytest.raises(ValueError, match="once, with value 1"):
        rankings(np.array([0]), twice, 1, 1)
