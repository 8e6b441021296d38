"""The tracks of a space that are nearest to others by features of audio or text, such as embeddings of recordings.

Shapes   N tracks of the space, M tracks that are looked up, R tracks of the space with features, d width of the space,
         F width of the features
Source   a nearest-neighbour map from attributes to factors: Gantner et al. 2010, Learning attribute-to-feature mappings
         for cold-start recommendations, ICDM, section 3.1
Differs  the cosine of the centred features instead of Pearson's correlation; every neighbour counts the same
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from models.arrays import AnyMatrix, BoolVector, DoubleMatrix, DoubleVector, LongVector
from models.cold_start.top_k import ItemIndex

NEAREST = 20  # tracks
MAX_OWN_ALBUM = 50  # tracks that a search finds in addition, because those of the own album are left out
MAX_SEARCHES = 20_000  # tracks of the space that `of_sample` looks up


class FeatureNeighbours:
    """Sums of the vectors of the nearest tracks."""

    def __init__(self, vector_ND: DoubleMatrix, features_NF: AnyMatrix | None, album_N: LongVector) -> None:
        """Index the tracks that have features.

        Args:
            vector_ND: vectors of the tracks of the space.
            features_NF: their features; a row with NaN is unknown. None: no track has features.
            album_N: their albums.
        """
        self.vector_ND, self.features_NF, self.album_N = vector_ND, features_NF, album_N
        self._has_N = _has_features(features_NF, len(vector_ND))
        self._rows_R = np.flatnonzero(self._has_N)
        if features_NF is not None and len(self._rows_R):
            known_RF = np.asarray(features_NF[self._rows_R], np.float32)
            self._mean_F = known_RF.mean(axis=0, dtype=np.float64).astype(np.float32)
            self._index = ItemIndex(known_RF - self._mean_F, "cosine")

    def of(
        self, features_MF: AnyMatrix | None, n_tracks: int, own_album_M: LongVector | None = None
    ) -> tuple[DoubleMatrix, DoubleVector]:
        """Return sum (M, d) and number (M,) of the vectors of the nearest tracks; zero for a track without features.

        Args:
            features_MF: features of the tracks that are looked up, as those of the space.
            n_tracks: M.
            own_album_M: albums whose tracks are not neighbours of a track; None: all tracks can be.

        Raises:
            ValueError: the features have another width than those of the space.
        """
        sum_MD, count_M = np.zeros((n_tracks, self.vector_ND.shape[1])), np.zeros(n_tracks)
        rows = np.flatnonzero(_has_features(features_MF, n_tracks))
        if features_MF is None or not len(rows) or not len(self._rows_R):
            return sum_MD, count_M
        if features_MF.shape[1] != len(self._mean_F):
            raise ValueError(
                f"features: {features_MF.shape[1]} values of a track, {len(self._mean_F)} of the tracks of the space"
            )
        n_asked = min(NEAREST + (0 if own_album_M is None else MAX_OWN_ALBUM), len(self._rows_R))
        near = self._rows_R[self._index.top_k(np.asarray(features_MF[rows], np.float32) - self._mean_F, n_asked)]
        used = np.ones(near.shape, bool) if own_album_M is None else self.album_N[near] != own_album_M[rows, None]
        used &= np.cumsum(used, axis=1) <= NEAREST
        row, place = np.nonzero(used)
        is_near = csr_array((np.ones(len(row)), (row, near[row, place])), shape=(len(rows), len(self.vector_ND)))
        sum_MD[rows], count_M[rows] = is_near @ self.vector_ND, used.sum(axis=1)
        return sum_MD, count_M

    def of_sample(self, seed: int) -> tuple[DoubleMatrix, DoubleVector, BoolVector]:
        """Look up tracks of the space themselves, without their own albums.

        A search compares a track with all others, so only MAX_SEARCHES tracks are looked up.

        Args:
            seed: seed of the sample.

        Returns:
            Sum (N, d) and number (N,) as in `of`, zero for tracks outside the sample; and whether they are complete,
            (N,): false for tracks with features outside the sample.
        """
        is_complete_N, rows = np.ones(len(self._has_N), bool), self._rows_R
        if len(rows) > MAX_SEARCHES:
            rows = np.sort(np.random.default_rng((seed, 1)).permutation(rows)[:MAX_SEARCHES])
            is_complete_N = ~self._has_N
            is_complete_N[rows] = True
        sum_ND, count_N = np.zeros_like(self.vector_ND), np.zeros(len(self._has_N))
        if self.features_NF is not None:
            sum_ND[rows], count_N[rows] = self.of(self.features_NF[rows], len(rows), self.album_N[rows])
        return sum_ND, count_N, is_complete_N


def _has_features(features_MF: AnyMatrix | None, n_tracks: int) -> BoolVector:
    return np.zeros(n_tracks, bool) if features_MF is None else np.asarray(np.isfinite(features_MF).all(axis=1))
