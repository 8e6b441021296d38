"""Co-occurrence counts, selection of pairs and PMI by hand and against a sparse product."""

import math
from datetime import timedelta

import numpy as np
import pytest
import scipy.sparse as sp
from pyspark.sql.classic.dataframe import DataFrame

from contracts.errors import CheckFailed
from jobs.matrix import catalog, track_pairs
from tests.helpers.small_tables import DAY, SECOND, fill, streams, table


def collection(number, tracks, added_at, owner=None):
    return [
        {"playlist_id": number, "position": n, "track_id": t, "user_id": owner, "added_at": added_at}
        for n, t in enumerate(tracks)
    ]


@pytest.fixture
def filled_context(spark, context):
    """Catalogue = tracks 1..5, all streamed by two users; track_idx = track_id - 1."""
    week = context.week
    users = [{"user_id": u, "registered_at": week.cohort_start - DAY} for u in (10, 20)]
    users.append({"user_id": 30, "registered_at": week.cohort_start})
    events = [e for u in (10, 20) for e in streams(u, range(1, 6), week.as_of - DAY)]
    old = week.as_of - SECOND
    playlists = [
        *collection(1, [1, 2, 3, 19], old),
        *collection(2, [2, 1], old, owner=10),
        *collection(3, [3, 4, 3], old),
        *collection(4, [4, 5], old),
        *collection(5, [1, 2, 4], week.as_of),
        *collection(6, [1, 2, 4], old, owner=30),
        *collection(7, [1, 2, 4], old, owner=99),
        *collection(8, [18, 19], old),
    ]
    fill(context, users=users, events=events, playlists=playlists)
    catalog.run(context)
    return context


def change_matrix_settings(filled_context, **changes):
    matrix = filled_context.settings.matrix.model_copy(update=changes)
    filled_context.settings = filled_context.settings.model_copy(update={"matrix": matrix})
    return filled_context


def pairs_of(filled_context):
    rows = filled_context.lake.read("track_pairs", week=filled_context.week.name).to_pylist()
    return {(r["track_idx_i"] + 1, r["track_idx_j"] + 1): (r["n_together"], r["pmi"]) for r in rows}


def test_pmi_by_hand_from_visible_collections_only(filled_context):
    """Four collections are visible. Counts: 1, 2, 3, 4 are in two each, 5 in one; (3, 4) has PMI ln 1 = 0."""
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1))
    assert pairs_of(filled_context) == {
        (1, 2): (2, pytest.approx(math.log(4 * 2 / 4))),
        (4, 5): (1, pytest.approx(math.log(4 * 1 / 2))),
    }


def test_private_playlists_add_to_the_pairs_and_are_marked(filled_context):
    """Public: no owner, or `public` is true. Null is private, as where a source has no such column."""
    old = filled_context.week.as_of - SECOND
    rows = [
        *collection(1, [1, 2], old),
        *({**row, "public": False} for row in collection(2, [1, 2], old)),
        *({**row, "public": True} for row in collection(3, [2, 3], old, owner=10)),
        *({**row, "public": False} for row in collection(4, [4, 5], old, owner=10)),
        *collection(5, [4, 5], old, owner=20),
    ]
    filled_context.lake.write("playlists", table("playlists", rows))
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1))
    public = filled_context.lake.read("collections", week=filled_context.week.name).to_pylist()
    assert {row["playlist_id"]: row["public"] for row in public} == {1: True, 2: True, 3: True, 4: False, 5: False}
    assert pairs_of(filled_context)[4, 5] == (2, pytest.approx(math.log(5 * 2 / 4)))


def test_min_cooccurrences_and_shift(filled_context):
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=2))
    assert set(pairs_of(filled_context)) == {(1, 2)}
    with pytest.raises(CheckFailed, match=r"lower matrix\.min_cooccurrences or matrix\.shift"):
        track_pairs.run(change_matrix_settings(filled_context, shift=1.0))
    assert set(pairs_of(filled_context)) == {(1, 2)}, "a failed run does not change the table"


def test_smoothing_is_the_mean_of_both_directions(filled_context):
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1, smoothing=0.75))
    n = np.array([2, 2, 2, 2, 1]) ** 0.75
    share, plain = n / n.sum(), np.array([2, 2, 2, 2, 1]) / 9
    expected = math.log(4 * 1 / 2) - 0.5 * (math.log(share[3] / plain[3]) + math.log(share[4] / plain[4]))
    assert pairs_of(filled_context)[4, 5][1] == pytest.approx(expected, rel=1e-5)


def test_long_collections_are_truncated_to_their_first_catalogue_tracks(filled_context):
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1, max_collection_length=2))
    assert (1, 3) not in pairs_of(filled_context)
    report = filled_context.lake.report("track_pairs", week=filled_context.week.name)
    assert report["rows_in"] == 8
    assert (report["collections"], report["collections_truncated"], report["sum_of_squared_lengths"]) == (4, 1, 16)
    assert report["dropped"] == {
        "added at as_of or later, owner registered later, or track outside the catalogue": 12,
        "repetition in its collection": 1,
        "after the first 2 tracks of its collection": 1,
    }


def test_a_pair_is_selected_only_if_each_is_among_the_strongest_of_the_other(filled_context):
    """With one neighbour each: 2 has only 3, but 3 occurs more with 1; 4 has only 1, but 1 occurs more with 3."""
    lists = [[1, 3], [1, 3], [2, 3], [1, 4], *[[5]] * 4]
    old = filled_context.week.as_of - SECOND
    rows = [row for n, tracks in enumerate(lists) for row in collection(n, tracks, old)]
    filled_context.lake.write("playlists", table("playlists", rows))
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1))
    assert set(pairs_of(filled_context)) == {(1, 3), (1, 4), (2, 3)}
    track_pairs.run(change_matrix_settings(filled_context, min_cooccurrences=1, max_neighbours=1))
    assert set(pairs_of(filled_context)) == {(1, 3)}


def test_the_driver_collects_at_most_one_row_per_track(filled_context, monkeypatch):
    """Rows of each collected result: at most one per track (5), never one per collection (50) or pair (6)."""
    sizes = []
    for name in ("toArrow", "collect", "toPandas"):
        original = getattr(DataFrame, name)

        def recording(frame, original=original):
            result = original(frame)
            sizes.append(len(result))
            return result

        monkeypatch.setattr(DataFrame, name, recording)
    old = filled_context.week.as_of - SECOND
    rows = [row for n in range(50) for row in collection(n, [1, 2, 3, 4] if n % 2 else [5], old)]
    filled_context.lake.write("playlists", table("playlists", rows))
    report = track_pairs.run(filled_context)
    assert report["rows"]["track_pairs"] == 6
    assert sizes
    assert max(sizes) <= 5


def test_no_visible_collection_raises(filled_context):
    filled_context.lake.drop("playlists")
    filled_context.lake.write(
        "playlists", table("playlists", collection(5, [1, 2, 4], filled_context.week.as_of + timedelta(days=1)))
    )
    with pytest.raises(CheckFailed, match="playlists: no collection added before 2026-11-16"):
        track_pairs.run(filled_context)


@pytest.mark.parametrize(("max_neighbours", "n_tasks"), [(1000, 1), (1000, 3), (6, 1), (6, 4)])
def test_counts_and_selected_pairs_match_a_sparse_product(spark, max_neighbours, n_tasks):
    rng = np.random.default_rng(3)
    lists = [sorted({int(t) for t in rng.zipf(1.3, 12) if t <= 40}, reverse=True) for _ in range(300)]
    lists = [[t - 1 for t in ts] for ts in lists if ts]
    frame = spark.createDataFrame([(ts,) for ts in lists], "tracks array<int>").persist()
    counts, n_collections = track_pairs.count_collections(frame, 40)
    neighbours = track_pairs.count_neighbours(frame, 40, 2, max_neighbours, n_tasks).persist()
    pairs = track_pairs.compute_pairs(neighbours, counts, n_collections, 1.0, 0.0)
    got = {(r[0], r[1]): (r[2], r[3]) for r in pairs.collect()}

    rows = np.repeat(np.arange(len(lists)), [len(ts) for ts in lists])
    x = sp.csr_matrix((np.ones(len(rows), int), (rows, np.concatenate(lists))), shape=(len(lists), 40))
    c = (x.T @ x).toarray()
    n = c.diagonal().copy()
    np.fill_diagonal(c, 0)
    np.testing.assert_array_equal(counts, n)
    c[c < 2] = 0
    strongest = [
        set(
            np.lexsort((np.arange(40), -c[i]))[:max_neighbours][
                c[i][np.lexsort((np.arange(40), -c[i]))[:max_neighbours]] > 0
            ]
        )
        for i in range(40)
    ]
    expected = {}
    for i in range(40):
        for j in range(i + 1, 40):
            if c[i, j] and j in strongest[i] and i in strongest[j]:
                value = math.log(len(lists) * c[i, j] / (n[i] * n[j]))
                if value > 0:
                    expected[i, j] = (c[i, j], pytest.approx(value, rel=1e-5, abs=1e-6))
    assert got == expected
    assert max_neighbours > 100 or all(sum(i in pair for pair in got) <= max_neighbours for i in range(40))
