"""The approximate index: its recall, its laws, equal bytes, and damaged files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from contracts.errors import CheckFailed
from models.cold_start import track_index
from models.cold_start.top_k import top_k
from models.cold_start.track_index import TrackIndex, recall

N, D, K = 12_000, 32, 50


def clusters(n: int, seed: int) -> np.ndarray:
    """Vectors (n, D) around 200 centres, like tracks around artists."""
    centre_CD = np.random.default_rng(1).standard_normal((200, D))
    rng = np.random.default_rng(seed)
    x_ND = centre_CD[rng.integers(200, size=n)] + 0.4 * rng.standard_normal((n, D))
    return (x_ND * rng.uniform(0.5, 2, (n, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def items() -> np.ndarray:
    return clusters(N, 2)


@pytest.fixture(scope="module", params=["cosine", "dot"])
def similarity(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def index(items, similarity, tmp_path_factory) -> TrackIndex:
    folder = tmp_path_factory.mktemp("space") / "track_index"
    track_index.write(folder, items, similarity, clusters(200, 3), K, 0.98)
    return TrackIndex(folder, items)


def test_it_finds_the_exact_tracks_of_listeners_that_it_was_not_adjusted_on(index, items, similarity):
    queries = clusters(200, 4)
    lists = index.top_k(queries, K)
    assert recall(lists, top_k(queries, items, K, similarity)) >= 0.98
    assert 1 <= index.n_probe < index.n_lists


def test_tracks_are_ordered_by_their_exact_scores(index, items):
    (query,) = clusters(1, 5)
    (tracks,) = index.top_k(query[None], K)
    score = index.vectors(tracks) @ query
    assert (np.diff(score) <= 1e-5).all()


def test_a_longer_list_begins_like_a_shorter_one_and_ends_with_all_tracks(index):
    query = clusters(1, 6)
    every = index.top_k(query, N)[0]
    assert sorted(every.tolist()) == list(range(N))
    for k in (1, 50, track_index.CANDIDATES, track_index.CANDIDATES + 1, 5_000):
        np.testing.assert_array_equal(index.top_k(query, k)[0], every[:k])


def test_a_batch_equals_single_calls(index):
    queries = clusters(5, 7)
    np.testing.assert_array_equal(index.top_k(queries, K), [index.top_k(one[None], K)[0] for one in queries])


def test_a_query_of_zeros_gets_the_most_popular_tracks(index):
    np.testing.assert_array_equal(index.top_k(np.zeros((1, D)), 5), [range(5)])


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((1, D)), 0, "k must be from 1"),
        (np.ones((1, D)), N + 1, "k must be from 1"),
        (np.ones((1, D + 1)), 1, f"must have {D} columns"),
        (np.full((1, D), np.nan), 1, "NaN"),
    ],
)
def test_a_wrong_query_raises_value_error(index, queries, k, message):
    with pytest.raises(ValueError, match=message):
        index.top_k(queries, k)


def test_equal_vectors_give_equal_bytes_with_any_number_of_threads(items, tmp_path):
    import faiss

    written = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        folder = tmp_path / f"with {threads}"
        track_index.write(folder, items, "cosine", clusters(20, 3), K, 0.9)
        written.append([(folder / name).read_bytes() for name in (track_index.INDEX, track_index.LAYOUT)])
    assert written[0] == written[1]


def test_a_catalogue_smaller_than_the_candidates_is_found_as_a_whole(tmp_path):
    items = clusters(300, 8)
    track_index.write(tmp_path / "track_index", items, "cosine", clusters(20, 3), K, 0.9)
    index = TrackIndex(tmp_path / "track_index", items)
    assert sorted(index.top_k(clusters(1, 9), 300)[0].tolist()) == list(range(300))


def damage(folder) -> None:
    path = folder / track_index.INDEX
    path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (damage, "track_index"),
        (lambda folder: (folder / track_index.INDEX).unlink(), "track_index"),
        (lambda folder: (folder / track_index.LAYOUT).write_text("{"), "track_index"),
        (lambda folder: (folder / track_index.LAYOUT).write_text(json.dumps({"n_lists": 1})), "similarity"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, break_it, message):
    items = clusters(300, 8)
    folder = tmp_path / "track_index"
    track_index.write(folder, items, "cosine", clusters(20, 3), K, 0.9)
    break_it(folder)
    with pytest.raises(CheckFailed, match=message):
        TrackIndex(folder, items)


def test_an_index_of_another_catalogue_is_refused(tmp_path):
    items = clusters(300, 8)
    track_index.write(tmp_path / "track_index", items, "cosine", clusters(20, 3), K, 0.9)
    with pytest.raises(CheckFailed, match="300 tracks of width 32, but the release has"):
        TrackIndex(tmp_path / "track_index", items[:200])
