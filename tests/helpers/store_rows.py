"""Rows for a store: a user's row is a function of a seed and the user's id, so that a test can check what a reader
returns.
"""

from __future__ import annotations

import numpy as np

from models.cold_start.ragged import Ragged
from serving.stores.interface import HISTORY, WARM, Block, StorePart

A, B = "a" * 64, "b" * 64
SPACE, D, N = "tt_svd", 6, 4


def filled(release=A, part=WARM, since="2026-11-16", n_users=300, seed=0, made_of="1"):
    """Return a filling whose rows are functions of (seed, user_id), and its blocks, with users in random order."""
    ids = 10 + np.random.default_rng(1).permutation(10 * n_users)[:n_users].astype(np.int64)
    blocks = [rows_of(ids[start : start + 64], seed) for start in range(0, n_users, 64)]
    return StorePart(release, SPACE, part, since, ids, D, N, f"{made_of}/{seed}"), blocks


def rows_of(ids, seed):
    random = [np.random.default_rng([seed, user]) for user in ids.tolist()]
    vectors = np.stack([rng.standard_normal(D) for rng in random]).astype(np.float32)
    segments = np.array([rng.integers(9) for rng in random], np.int32)
    tracks = np.stack([rng.integers(-1, 2**62, N) for rng in random])
    history = {name: Ragged.from_lists([rng.integers(0, 2**62, rng.integers(4)) for rng in random]) for name in HISTORY}
    return Block(ids, vectors, segments, tracks, history)


def assert_row_equals(row, user, seed, kind="warm", since="2026-11-16"):
    want = rows_of(np.array([user]), seed)
    assert (row.user_id, row.kind, row.since, row.segment_id) == (user, kind, since, int(want.segments_B[0]))
    np.testing.assert_array_equal(row.vector_D, want.vectors_BD[0])
    np.testing.assert_array_equal(row.track_ids, want.tracks_Bn[0])
    for name, lists in want.history.items():
        np.testing.assert_array_equal(getattr(row, name), lists.row(0))
        assert getattr(row, name).dtype == np.int64
    assert row.vector_D.dtype == np.float32
