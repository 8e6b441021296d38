"""A list of recommended tracks in the order in which they will be listened to, without sounding all alike.

Shapes   B listeners, L tracks of a list, D width of a track's vector
Source   maximal marginal relevance (Carbonell, Goldstein 1998) over relevance times chance of a listen: what a place
         is worth is a track that fits and is not skipped
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from models.evaluation.diversity import select_diverse


def rerank(
    tracks_BL: ArrayLike,
    listen_BL: ArrayLike,
    diversity: float,
    relevance_BL: ArrayLike | None = None,
    artists_BL: ArrayLike | None = None,
    vectors_BLD: ArrayLike | None = None,
) -> NDArray[np.int64]:
    """The same tracks of each listener in a new order, (B, L).

    A track is worth its chance of a listen (1 - the chance of a skip) times its relevance, each list's values scaled
    to reach 1. `relevance_BL` is not negative, highest best; where it is missing the list's own order is taken, 1 /
    log2(1 + place), as exposure falls. `diversity` from 0 (worth alone) to 1 (difference alone, after the first track)
    weighs likeness to what stands before: two tracks are alike by the product of their unit vectors, or, given
    `artists_BL` instead, fully where the artist is the same and not at all otherwise.

    Raises:
        ValueError: shapes differ, a chance outside 0 to 1, negative relevance, diversity outside 0 to 1, diversity
            asked for with neither artists nor vectors, or both given.
    """
    tracks = np.asarray(tracks_BL, np.int64)
    listen = np.asarray(listen_BL, np.float32)
    if tracks.ndim != 2 or listen.shape != tracks.shape:
        raise ValueError(f"rerank: tracks and chances must be (B, L) alike, got {tracks.shape} and {listen.shape}")
    if not ((listen >= 0) & (listen <= 1)).all():
        raise ValueError("rerank: chances of a listen must be from 0 to 1")
    if not 0 <= diversity <= 1:
        raise ValueError(f"rerank.diversity: must be from 0 to 1, got {diversity}")
    if (artists_BL is None) == (vectors_BLD is None) and (diversity > 0 or artists_BL is not None):
        raise ValueError("rerank: likeness needs either artists or vectors")
    b, n = tracks.shape
    if relevance_BL is None:
        relevance = np.broadcast_to((1 / np.log2(1 + np.arange(1, n + 1))).astype(np.float32), (b, n))
    else:
        relevance = np.asarray(relevance_BL, np.float32)
        if relevance.shape != tracks.shape or not (relevance >= 0).all():
            raise ValueError(f"rerank: relevance must be {tracks.shape}, none below 0, got {relevance.shape}")
    worth = _to_one(listen) * _to_one(relevance)
    if not diversity:
        return np.take_along_axis(tracks, np.argsort(-worth, axis=1, kind="stable"), axis=1)
    vectors = None if vectors_BLD is None else np.asarray(vectors_BLD, np.float32)
    out = np.empty_like(tracks)
    for row in range(b):
        if vectors is not None:
            unit_LD = _unit(vectors[row], n)
        else:
            _, code_L = np.unique(np.asarray(artists_BL)[row], return_inverse=True)
            unit_LD = np.eye(int(code_L.max(initial=0)) + 1, dtype=np.float32)[code_L]
        out[row] = tracks[row][select_diverse(worth[row], unit_LD, n, diversity)]
    return out


def _to_one(value_BL: NDArray[np.float32]) -> NDArray[np.float32]:
    top_B1 = value_BL.max(axis=1, keepdims=True, initial=0)
    return np.asarray(value_BL / np.where(top_B1 > 0, top_B1, 1), np.float32)


def _unit(vectors_LD: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    if vectors_LD.ndim != 2 or len(vectors_LD) != n or not np.isfinite(vectors_LD).all():
        raise ValueError(f"rerank: vectors must be ({n}, D) and finite for each listener, got {vectors_LD.shape}")
    length_L1 = np.linalg.norm(vectors_LD, axis=1, keepdims=True)
    return np.asarray(vectors_LD / np.where(length_L1 > 0, length_L1, 1), np.float32)
