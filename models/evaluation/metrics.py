"""Metrics of recommended lists, and bootstrap intervals of their means.

Shapes   B listeners, k places, L places of a longer list; truth: the distinct tracks streamed on days 1 to 30, one list
         per listener
Source   Briand et al. 2021, section 4.1.2; binary gains, discount 1 / log2(rank + 1)
Differs  Precision is divided by min(|truth|, k), and the ideal list of NDCG has that length, so that the maximum is 1.
         NDCG uses the order of the list. `ties="average"` is for comparison with the published table: its authors used
         scikit-learn, which averages over tied tracks
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from models.arrays import AnyMatrix, BoolMatrix, DoubleMatrix, DoubleVector, LongMatrix, LongVector
from models.cold_start.ragged import Ragged

METRICS = ("precision", "recall", "ndcg")
Ties = Literal["order", "average"]
_BLOCK_CELLS = 4_000_000
_BLOCK_DRAWS = 2_000_000


def score(
    recommended: ArrayLike, truth: Ragged, k: int, ties: Ties = "order", levels: ArrayLike | None = None
) -> dict[str, DoubleVector]:
    """Compute precision, recall and NDCG at k of each listener.

    Args:
        recommended: track_idx (B, L), best first, distinct in a row.
        truth: track_idx of the tracks that each listener streamed; repeats count once.
        k: number of places to evaluate, at most L.
        ties: with "average", NDCG gives tracks of one level the mean gain of them all, as scikit-learn's ndcg_score
            does.
            Precision and recall always use the order.
        levels: with "average", the score of each recommended track (B, L), not rising along a row. All tracks that tie
            with place k must be among the L (models/evaluation/ties.py).

    Returns:
        "precision", "recall" and "ndcg", (B,) float64 each, 0 to 1.

    Raises:
        ValueError: shapes do not match, k is out of range, a list has a repeated or negative track, a listener has no
            truth, or levels rise; the message has the row.
    """
    rec_BK = np.asarray(recommended)
    if rec_BK.ndim != 2 or len(rec_BK) != len(truth) or rec_BK.dtype.kind not in "iu":
        raise ValueError(
            f"score: recommended must be (B, k) integers with a row for each of the {len(truth)} truths, "
            f"got {rec_BK.shape} {rec_BK.dtype}"
        )
    if not 1 <= k <= rec_BK.shape[1]:
        raise ValueError(f"score: k must be from 1 to the length of the lists ({rec_BK.shape[1]}), got {k}")
    if ties not in ("order", "average") or (levels is None) != (ties == "order"):
        raise ValueError(f"score: ties must be 'order', or 'average' with levels, got {ties!r}")
    if ties == "order":
        rec_BK = rec_BK[:, :k]
    rec_BK = rec_BK.astype(np.int64, copy=False)
    if (empty := truth.lengths == 0).any():
        raise ValueError(f"score: row {int(np.argmax(empty))} has no truth; exclude such listeners from the cohort")
    if rec_BK.size and min(rec_BK.min(), truth.ids.min()) < 0:
        raise ValueError("score: track_idx must not be negative")
    ordered = np.sort(rec_BK, axis=1)
    if (repeated := (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)).any():
        raise ValueError(f"score: row {int(np.argmax(repeated))} recommends a track twice")

    hits_BK, n_truth_B = _hits(rec_BK, truth)
    n_hits_B = hits_BK[:, :k].sum(axis=1)
    reachable_B = np.minimum(n_truth_B, k)
    discount_K = 1 / np.log2(np.arange(2, k + 2))
    gains_BK = hits_BK[:, :k].astype(np.float64) if levels is None else _mean_gains(hits_BK, np.asarray(levels), k)
    # Both sums run in order of rank, so that a perfect list has exactly 1.
    gain_B = np.cumsum(gains_BK * discount_K, axis=1)[:, -1]
    ideal_B = np.cumsum(discount_K)[reachable_B - 1]
    return {"precision": n_hits_B / reachable_B, "recall": n_hits_B / n_truth_B, "ndcg": gain_B / ideal_B}


def artist_share(recommended: ArrayLike, artist_N: ArrayLike) -> DoubleVector:
    """Return the number of distinct artists of each list, divided by its length, (B,) float64.

    Args:
        recommended: track_idx (B, k). Indices of N and above are places without a track, which count for no artist.
        artist_N: main artist of each track.
    """
    rec_BK, artist = np.asarray(recommended), np.asarray(artist_N)
    if not rec_BK.shape[1]:
        raise ValueError("artist_share: lists must have at least one place")
    is_track_BK = rec_BK < len(artist)
    codes = np.unique(artist, return_inverse=True)[1]
    code_BK = np.where(is_track_BK, codes[np.where(is_track_BK, rec_BK, 0)], -1)
    ordered_BK = np.sort(code_BK, axis=1)
    is_new_BK = np.concatenate([ordered_BK[:, :1] >= 0, ordered_BK[:, 1:] != ordered_BK[:, :-1]], axis=1)
    share: DoubleVector = (is_new_BK & (ordered_BK >= 0)).sum(axis=1) / rec_BK.shape[1]
    return share


def _mean_gains(hits_BL: BoolMatrix, levels_BL: AnyMatrix, k: int) -> DoubleMatrix:
    """Return for each of the first k places the share of hits among all places of its level, (B, k)."""
    if levels_BL.shape != hits_BL.shape:
        raise ValueError(f"score: levels must be {hits_BL.shape}, as recommended is, got {levels_BL.shape}")
    n = hits_BL.shape[1]
    steps_BL = np.diff(levels_BL, axis=1)
    if (rises := (steps_BL > 0).any(axis=1)).any():
        raise ValueError(f"score: levels of row {int(np.argmax(rises))} rise; the best come first")
    at_L = np.arange(n)
    new_BL = np.concatenate([np.ones((len(hits_BL), 1), bool), steps_BL < 0], axis=1)
    first_BL = np.maximum.accumulate(np.where(new_BL, at_L, 0), axis=1)[:, :k]
    last_BL = np.concatenate([new_BL[:, 1:], np.ones((len(hits_BL), 1), bool)], axis=1)
    after_BL = np.minimum.accumulate(np.where(last_BL, at_L + 1, n)[:, ::-1], axis=1)[:, ::-1][:, :k]
    total_BL = np.concatenate([np.zeros((len(hits_BL), 1), np.int64), np.cumsum(hits_BL, axis=1)], axis=1)
    n_hits_BK = np.take_along_axis(total_BL, after_BL, axis=1) - np.take_along_axis(total_BL, first_BL, axis=1)
    gains: DoubleMatrix = n_hits_BK / (after_BL - first_BL)
    return gains


def _hits(rec_BK: LongMatrix, truth: Ragged) -> tuple[BoolMatrix, LongVector]:
    """Return which recommended tracks are in the truth, (B, L), and the number of distinct tracks of a truth, (B,)."""
    hits_BK = np.empty(rec_BK.shape, bool)
    n_truth_B = np.empty(len(rec_BK), np.int64)
    if not rec_BK.size:
        return hits_BK, n_truth_B
    width = int(max(rec_BK.max(), truth.ids.max())) + 1
    rows = max(1, min(len(rec_BK), _BLOCK_CELLS // width))
    # cell (b, t) = 1 + the last position of track t in the block's ids, 0 = t is not in the truth of b
    cells = np.zeros(rows * width, np.int32)
    for start in range(0, len(rec_BK), rows):
        block = truth.rows(start, min(start + rows, len(truth)))
        base = np.arange(len(block)) * width
        row = np.repeat(np.arange(len(block)), block.lengths)
        at = base[row] + block.ids
        place = np.arange(1, at.size + 1, dtype=np.int32)
        cells[at] = place
        hits_BK[start : start + rows] = cells[base[:, None] + rec_BK[start : start + rows]] > 0
        n_truth_B[start : start + rows] = np.bincount(row[cells[at] == place], minlength=len(block))
        cells[at] = 0
    return hits_BK, n_truth_B


def bootstrap(values: ArrayLike, n: int, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % percentile interval (low, high) of a mean, by the bootstrap.

    Args:
        values: one value per listener, (B,).
        n: number of resamples of listeners.
        seed: seed of the resamples.

    Raises:
        ValueError: there is no value, a value is not finite, or n is below 1.
    """
    value_B = np.asarray(values, np.float64)
    if value_B.ndim != 1 or not value_B.size or not np.isfinite(value_B).all():
        raise ValueError(f"bootstrap: values must be (B,), at least one, all finite; got shape {value_B.shape}")
    if n < 1:
        raise ValueError(f"bootstrap: n must be at least 1, got {n}")
    rng = np.random.default_rng(seed)
    mean_N = np.empty(n)
    step = max(1, _BLOCK_DRAWS // value_B.size)
    for start in range(0, n, step):
        rows = min(step, n - start)
        draws = rng.integers(value_B.size, size=(rows, value_B.size), dtype=np.int32)
        mean_N[start : start + rows] = value_B[draws].mean(axis=1)
    low, high = np.quantile(mean_N, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, n: int, seed: int = 0) -> tuple[float, float, float]:
    """Return the mean of a - b and its 95 % interval (mean, low, high); a is better where low > 0.

    Args:
        a: one value per listener, (B,).
        b: values of the same listeners.
        n: number of resamples of listeners.
        seed: seed of the resamples.

    Raises:
        ValueError: lengths differ, there is no value, a value is not finite, or n is below 1.
    """
    a_B, b_B = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a_B.shape != b_B.shape or a_B.ndim != 1:
        raise ValueError(
            f"paired_bootstrap: a and b must be (B,) of the same listeners, got {a_B.shape} and {b_B.shape}"
        )
    low, high = bootstrap(a_B - b_B, n, seed)
    return float((a_B - b_B).mean()), low, high
