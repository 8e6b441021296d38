"""Standard methods for comparison, over first-day streams: item-kNN, EASE, and fold-in into ALS factors.

Shapes   U warm users, N tracks, B listeners, D width
Source   item-kNN: Aiolli 2013. EASE: Steck 2019, eq. 8. Fold-in: Hu, Koren, Volinsky 2008, eq. 4
Differs  a listener without a stream, for whom these methods define nothing, gets the most popular tracks
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import lapack
from scipy.sparse import csr_array

from blockfactor.als_kernels import fold_in, gram
from models.arrays import FloatMatrix, FloatVector, IntMatrix, IntVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.base import (
    Needs,
    WarmListeners,
    check_k,
    require_first_days,
    require_ids,
    top_k_in_chunks,
)
from models.cold_start.methods.neighbours import NeighbourRecipe, Neighbours

EASE_MAX_TRACKS = 30_000  # the inverse of a matrix of that size takes 3.6 GB
# The best of twenty settings each on real playlists (benchmarks/baselines.py), rounded.
EASE_RIDGE = 3_000.0
ITEM_KNN = NeighbourRecipe(
    token_exponent=0.83, track_exponent=0.29, shrinkage=20.0, artist_weight=0, album_weight=0, max_neighbours=1_000
)


def item_knn(warm: WarmListeners) -> Neighbours:
    """Fit item neighbours by asymmetric cosine, of tracks only."""
    return Neighbours.fit(warm, ITEM_KNN, "item_knn")


class Ease:
    """A linear autoencoder in closed form: weights (N, N) with a zero diagonal."""

    name = "ease"
    needs = Needs(first_days=True, cold_users=False)

    def __init__(self, warm: WarmListeners, ridge: float = EASE_RIDGE) -> None:
        """Solve for the weights; takes the memory of two (N, N) float32 matrices.

        Args:
            warm: training data with ids.
            ridge: L2 regularisation, added to the diagonal of the Gram matrix.

        Raises:
            ValueError: the data has no ids or more than EASE_MAX_TRACKS tracks, or the ridge is too low.
        """
        self.catalogue, _ = require_ids(self.name, warm)
        heard_UN = csr_array(warm.heard_UN, dtype=np.float32)
        n = heard_UN.shape[1]
        if n > EASE_MAX_TRACKS:
            raise ValueError(f"ease: {n} tracks would take {4e-9 * n * n:.0f} GB; at most {EASE_MAX_TRACKS} tracks")
        gram_NN = (heard_UN.T @ heard_UN).toarray(order="F")
        gram_NN[np.diag_indices(n)] += ridge
        factor, factor_status = lapack.spotrf(gram_NN, lower=True, overwrite_a=True)
        inverse, inverse_status = lapack.spotri(factor, lower=True, overwrite_c=True)
        if factor_status or inverse_status:
            raise ValueError(f"ease: the Gram matrix with ridge {ridge} is not positive definite; raise the ridge")
        weight_NN = np.tril(inverse) + np.tril(inverse, -1).T
        weight_NN /= -np.diag(weight_NN).copy()[None, :]
        weight_NN[np.diag_indices(n)] = 0
        self.weight_NN: FloatMatrix = weight_NN

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.weight_NN)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        return top_k_in_chunks(self._scores, first_days, k)

    def _scores(self, first_days: FirstDays) -> FloatMatrix:
        scores_BN: FloatMatrix = self.catalogue.streamed_tracks(first_days) @ self.weight_NN
        return scores_BN


class IalsFoldIn:
    """Recommends by the dot product with the listener's vector, solved against the tracks' ALS factors."""

    name = "ials_fold_in"
    needs = Needs(first_days=True, cold_users=False, parts=("track_vectors",))

    def __init__(self, warm: WarmListeners, alpha: float, regularisation: float, exponent: float) -> None:
        """Store the track factors and their Gram matrix.

        Args:
            warm: training data with ids, of the space ut_als.
            alpha: confidence weight that the factors were trained with.
            regularisation: L2 regularisation that the factors were trained with.
            exponent: frequency exponent of the regularisation that the factors were trained with.

        Raises:
            ValueError: the data has no ids.
        """
        self.catalogue, _ = require_ids(self.name, warm)
        self.track_ND = np.ascontiguousarray(warm.track_ND, np.float32)
        self.alpha, self.regularisation, self.exponent = alpha, regularisation, exponent
        self.gram_DD = gram(self.track_ND)

    @property
    def max_k(self) -> int:
        """Length of the longest list."""
        return len(self.track_ND)

    def recommend(self, x_BF: ArrayLike, k: int, first_days: FirstDays | None = None) -> IntMatrix:
        """Return (B, k) track_idx; see `Method.recommend`."""
        first_days = require_first_days(self.name, x_BF, first_days)
        check_k(self.name, k, self.max_k, "the number of tracks")
        return top_k_in_chunks(self._scores, first_days, k)

    def _scores(self, first_days: FirstDays) -> FloatMatrix:
        streamed_BN = self.catalogue.streamed_tracks(first_days)
        lists = np.split(streamed_BN.indices, streamed_BN.indptr[1:-1])
        vectors_BD = np.stack([self._listener_vector(tracks) for tracks in lists]).astype(np.float64)
        return (vectors_BD @ self.track_ND.T.astype(np.float64)).astype(np.float32)

    def _listener_vector(self, tracks: IntVector) -> FloatVector:
        ones = np.ones(len(tracks))
        return fold_in(tracks, ones, self.track_ND, self.alpha, self.regularisation, self.gram_DD, self.exponent)
