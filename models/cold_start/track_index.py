"""Approximate top-k for large catalogues: an inverted file proposes candidates, exact scores order them.

Shapes   Q queries, N tracks, D width of the space, C lists, k places
Index    k-means divides the tracks into C lists. A query reads the `n_probe` lists whose centroids have the highest
         scores; there the tracks are stored with 8 bits per value. The CANDIDATES best of them are scored again with
         the exact vectors
Longer   lists than CANDIDATES continue with all other tracks in exact order, so a longer list begins like a shorter one
Memory   index and vectors are mapped: processes share one copy
Source   Jégou, Douze, Schmid 2011, section IV (inverted file); the index itself is faiss's IndexIVFScalarQuantizer
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from contracts.errors import CheckFailed
from models.arrays import FloatMatrix, FloatVector, IntMatrix, IntVector
from models.cold_start.top_k import ItemIndex, Similarity, as_float_matrix, normalise

INDEX, LAYOUT = "index.faiss", "layout.json"
CANDIDATES = 1024
TRAINING_TRACKS, TRAINING_PASSES = 64, 10  # of the k-means: tracks per list, and passes over them
_ROWS = 1 << 16  # tracks per block


class TrackIndex:
    """An opened index over the tracks of a space."""

    def __init__(self, folder: Path, items: ArrayLike) -> None:
        """Open the index, memory-mapped.

        Args:
            folder: folder with the files that `write` has written.
            items: vectors of the tracks (N, D) by track_idx; they stay memory-mapped.

        Raises:
            CheckFailed: a file is damaged, or of another catalogue.
        """
        import faiss

        self.items_ND = np.asarray(items)
        try:
            layout = json.loads((folder / LAYOUT).read_text())
            self.similarity: Similarity = layout["similarity"]
            self.n_probe, self.n_lists = int(layout["n_probe"]), int(layout["n_lists"])
            index: Any = faiss.read_index(str(folder / INDEX), faiss.IO_FLAG_MMAP)
            # By default, 32 threads per query read its lists from disk ahead: slower than pages that are in memory.
            lists: Any = faiss.downcast_InvertedLists(index.invlists)
            lists.prefetch_nthread = 0
            index.nprobe, self._index = self.n_probe, index
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise CheckFailed(f"{folder.parent.name}/{folder.name}: {error}") from error
        if (self._index.ntotal, self._index.d) != self.items_ND.shape:
            raise CheckFailed(
                f"{folder.parent.name}/{folder.name}: indexes {self._index.ntotal} tracks of width {self._index.d}, "
                f"but the release has {self.items_ND.shape}"
            )

    def vectors(self, rows: Any) -> FloatMatrix:
        """Return the vectors of tracks as they are scored, (n, D): at unit length for cosine.

        Args:
            rows: track_idx (n,), or a slice.
        """
        rows_nD = np.asarray(self.items_ND[rows], np.float32)
        return normalise(rows_nD) if self.similarity == "cosine" else rows_nD

    def top_k(self, queries: ArrayLike, k: int) -> IntMatrix:
        """Return approximately the k tracks with the highest score for each query, (Q, k) int32, best first.

        Args:
            queries: (Q, D). A query of zeros gives every track score 0, so its list is 0, 1 ... k - 1.
            k: length of the lists, 1 to N.

        Raises:
            ValueError: k or the shape of the queries is wrong, or a value is NaN or infinity.
        """
        q_QD = as_float_matrix("track index: queries", queries)
        n, d = self.items_ND.shape
        if q_QD.shape[1] != d:
            raise ValueError(f"track index: queries must have {d} columns, got {q_QD.shape[1]}")
        if not 1 <= k <= n:
            raise ValueError(f"track index: k must be from 1 to the number of tracks ({n}), got {k}")
        if self.similarity == "cosine":
            q_QD = normalise(q_QD)
        best = np.tile(np.arange(k, dtype=np.int32), (len(q_QD), 1))
        for row in np.flatnonzero(q_QD.any(axis=1)):
            best[row] = self._one(q_QD[row], k)
        return best

    def _one(self, q_D: FloatVector, k: int) -> IntVector:
        candidates = self._index.search(q_D[None], min(CANDIDATES, len(self.items_ND)))[1][0]
        near: NDArray[np.int64] = np.sort(candidates[candidates >= 0])  # -1: the lists contain fewer
        near = near[_best_first(np.vecdot(self.vectors(near), q_D), near)]
        if k <= len(near):
            head: IntVector = near[:k].astype(np.int32)
            return head
        score_N = np.concatenate([self.vectors(slice(s, s + _ROWS)) @ q_D for s in range(0, len(self.items_ND), _ROWS)])
        score_N[near] = -np.inf
        rest = np.argpartition(-score_N, k - len(near) - 1)[: k - len(near)]
        longer: IntVector = np.concatenate([near, rest[_best_first(score_N[rest], rest)]]).astype(np.int32)
        return longer


def _best_first(score_n: FloatVector, track_n: NDArray[np.integer]) -> NDArray[np.intp]:
    return np.lexsort((track_n, -score_n))


def write(
    folder: Path, items: ArrayLike, similarity: Similarity, queries: ArrayLike, k: int, min_recall: float
) -> None:
    """Build an index and write it.

    `n_probe` is the smallest power of two, or that and a half, with which the queries reach the recall with half of the
    allowed loss; all lists if there is none.

    Args:
        folder: folder to create.
        items: vectors of the tracks (N, D) by track_idx.
        similarity: score of a track's vector for a listener's vector.
        queries: vectors of listeners (Q, D) on which `n_probe` is chosen; not those that the gate measures.
        k: length of the lists.
        min_recall: smallest share of the exact lists that the gate accepts.
    """
    import faiss

    items_ND = np.asarray(items)
    n, d = items_ND.shape
    n_lists = 2 ** max(0, round(math.log2(4 * math.sqrt(n)) - 0.5))

    def scored(rows: Any) -> FloatMatrix:
        rows_nD = np.ascontiguousarray(items_ND[rows], np.float32)
        return normalise(rows_nD) if similarity == "cosine" else rows_nD

    index = faiss.IndexIVFScalarQuantizer(
        faiss.IndexFlatIP(d), d, n_lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT, False
    )
    index.cp.niter, index.cp.seed, index.cp.max_points_per_centroid = TRAINING_PASSES, 1, TRAINING_TRACKS
    index.cp.min_points_per_centroid, index.cp.spherical = 1, similarity == "cosine"
    sample = np.random.default_rng(0).choice(n, min(n, TRAINING_TRACKS * n_lists), replace=False)
    index.train(scored(np.sort(sample)))
    for start in range(0, n, _ROWS):
        index.add(scored(slice(start, start + _ROWS)))
    folder.mkdir()
    faiss.write_index(index, str(folder / INDEX))
    layout = {"similarity": similarity, "n_tracks": n, "n_lists": n_lists, "n_probe": n_lists}
    exact_Qk = ItemIndex(items_ND, similarity).top_k(queries, k)
    for n_probe in (m for p in range(n_lists.bit_length()) for m in (2**p, 3 * 2**p // 2) if p and m < n_lists):
        (folder / LAYOUT).write_text(json.dumps({**layout, "n_probe": n_probe}, sort_keys=True))
        if recall(TrackIndex(folder, items_ND).top_k(queries, k), exact_Qk) >= (1 + min_recall) / 2:
            return
    (folder / LAYOUT).write_text(json.dumps(layout, sort_keys=True))


def recall(lists_Qk: IntMatrix, exact_Qk: IntMatrix) -> float:
    """Return the mean share of each exact list that the approximate list contains; negative entries are no tracks."""
    shares = [
        len(exact.intersection(one)) / len(exact)
        for one, row in zip(lists_Qk.tolist(), exact_Qk.tolist(), strict=True)
        if (exact := {track for track in row if track >= 0})
    ]
    return float(np.mean(shares)) if shares else 1.0
