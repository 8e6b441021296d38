"""Re-ranking of recommended tracks by relevance, probability of listening, and diversity.

Shapes   B listeners, L tracks of a list, D width of a track's vector
Source   maximal marginal relevance (Carbonell, Goldstein 1998), with relevance times probability of listening as the
         value of a track
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
    """Return the tracks of each listener in a new order, (B, L).

    The value of a track is its probability of listening times its relevance, both scaled to a maximum of 1 within the
    list.

    Args:
        tracks_BL: Track ids in the original order.
        listen_BL: Probability of listening, 1 minus the skip probability.
        diversity: Weight of dissimilarity to earlier tracks, from 0 (value only) to 1 (dissimilarity only, after the
            first track).
        relevance_BL: Non-negative relevance, highest best; None: 1 / log2(1 + position), the exposure of a position.
        artists_BL: Artist ids; two tracks have similarity 1 if the artist is the same, else 0.
        vectors_BLD: Track vectors, whose cosine is the similarity; give this or `artists_BL`.

    Raises:
        ValueError: Shapes differ, a probability is not in [0, 1], relevance is negative, diversity is not in [0, 1], or
            diversity is given with neither artists nor vectors, or with both.
    """
    tracks = np.asarray(tracks_BL, np.int64)
    listen = np.asarray(listen_BL, np.float32)
    if tracks.ndim != 2 or listen.shape != tracks.shape:
        raise ValueError(
            f"rerank: tracks and probabilities must have the same shape (B, L), got {tracks.shape} and {listen.shape}"
        )
    if not ((listen >= 0) & (listen <= 1)).all():
        raise ValueError("rerank: probabilities of listening must be from 0 to 1")
    if not 0 <= diversity <= 1:
        raise ValueError(f"rerank.diversity: must be from 0 to 1, got {diversity}")
    if (artists_BL is None) == (vectors_BLD is None) and (diversity > 0 or artists_BL is not None):
        raise ValueError("rerank: similarity needs either artists or vectors")
    b, n = tracks.shape
    if relevance_BL is None:
        relevance = np.broadcast_to((1 / np.log2(1 + np.arange(1, n + 1))).astype(np.float32), (b, n))
    else:
        relevance = np.asarray(relevance_BL, np.float32)
        if relevance.shape != tracks.shape or not (relevance >= 0).all():
            raise ValueError(
                f"rerank: relevance must have shape {tracks.shape} and be at least 0, got {relevance.shape}"
            )
    value = _scaled_to_max(listen) * _scaled_to_max(relevance)
    if not diversity:
        return np.take_along_axis(tracks, np.argsort(-value, axis=1, kind="stable"), axis=1)
    vectors = None if vectors_BLD is None else np.asarray(vectors_BLD, np.float32)
    out = np.empty_like(tracks)
    for row in range(b):
        if vectors is not None:
            unit_LD = _unit_length(vectors[row], n)
        else:
            _, code_L = np.unique(np.asarray(artists_BL)[row], return_inverse=True)
            unit_LD = np.eye(int(code_L.max(initial=0)) + 1, dtype=np.float32)[code_L]
        out[row] = tracks[row][select_diverse(value[row], unit_LD, n, diversity)]
    return out


def _scaled_to_max(score_BL: NDArray[np.float32]) -> NDArray[np.float32]:
    top_B1 = score_BL.max(axis=1, keepdims=True, initial=0)
    return np.asarray(score_BL / np.where(top_B1 > 0, top_B1, 1), np.float32)


def _unit_length(vectors_LD: NDArray[np.float32], n: int) -> NDArray[np.float32]:
    if vectors_LD.ndim != 2 or len(vectors_LD) != n or not np.isfinite(vectors_LD).all():
        raise ValueError(f"rerank: vectors must be ({n}, D) and finite for each listener, got {vectors_LD.shape}")
    length_L1 = np.linalg.norm(vectors_LD, axis=1, keepdims=True)
    return np.asarray(vectors_LD / np.where(length_L1 > 0, length_L1, 1), np.float32)
