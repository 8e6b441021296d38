"""Properties of a set of lists beside accuracy: diversity, novelty, coverage, concentration on few artists.

Shapes   B listeners, k places, N tracks, D width of the vectors
Source   intra-list distance (Ziegler et al. 2005); expected popularity complement (Vargas, Castells 2011, section 4.2,
         without discounts); catalogue coverage (Herlocker et al. 2004); Gini index (Fleder, Hosanagar 2009)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import AnyVector, FloatMatrix, IdVector, LongVector


def list_properties(
    recommended: ArrayLike, unit_ND: FloatMatrix, listeners_N: LongVector, n_listeners: int, artist_N: IdVector
) -> dict[str, float]:
    """Return the properties of B lists, each from 0 to 1 (diversity to 2).

    Args:
        recommended: track_idx (B, k), all below N.
        unit_ND: vectors of the tracks at unit length.
        listeners_N: warm listeners of each track.
        n_listeners: number of warm listeners.
        artist_N: main artist of each track.

    Returns:
        diversity: mean of 1 - cosine over the pairs of tracks of a list, mean over the lists.
        novelty: mean share of warm listeners who have not streamed a recommended track.
        coverage: share of the tracks that at least one list contains.
        artist_concentration: Gini index of the artists' places; 0: all artists of the catalogue have equally many.

    Raises:
        ValueError: there is no list, a list has no place, or a place has no track.
    """
    rec_BK = np.asarray(recommended)
    if rec_BK.ndim != 2 or not rec_BK.size or rec_BK.min() < 0 or rec_BK.max() >= len(unit_ND):
        raise ValueError(f"list_properties: lists must be (B, k) track_idx below {len(unit_ND)}, got {rec_BK.shape}")
    k = rec_BK.shape[1]
    distances = [1.0 - _mean_cosine(unit_ND[row]) for row in rec_BK] if k > 1 else [0.0]
    places_A = np.bincount(np.unique(artist_N, return_inverse=True)[1], np.bincount(rec_BK.ravel(), None, len(unit_ND)))
    return {
        "diversity": float(np.mean(distances)),
        "novelty": float(1 - listeners_N[rec_BK].mean() / max(n_listeners, 1)),
        "coverage": len(np.unique(rec_BK)) / len(unit_ND),
        "artist_concentration": gini(places_A),
    }


def gini(amounts: AnyVector) -> float:
    """Return the Gini index of amounts of at least 0, (A,): 0 for equal amounts, near 1 if one has everything."""
    ordered = np.sort(np.asarray(amounts, np.float64))
    if not ordered.sum() > 0:
        return 0.0
    n = len(ordered)
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def _mean_cosine(unit_KD: FloatMatrix) -> float:
    """Return the mean cosine of the pairs of different rows."""
    total = unit_KD.sum(axis=0, dtype=np.float64)
    k = len(unit_KD)
    own = float(np.vecdot(unit_KD, unit_KD).sum())
    return (float(total @ total) - own) / (k * (k - 1))
