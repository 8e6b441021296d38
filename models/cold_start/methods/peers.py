"""What one would use instead: item neighbours, EASE, and a fold-in into matrix factors, all from first-day streams.

Shapes   U warm users, N tracks, B listeners, D width
Source   item-kNN: Aiolli 2013. EASE: Steck 2019, eq. 8. Fold-in: Hu, Koren, Volinsky 2008, eq. 4
Differs  none of them has an answer of its own without a stream: such a listener gets the most popular tracks
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import lapack
from scipy.sparse import csr_array

from blockfactor.als_kernels import fold_in, gram
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

MOST_EASE = 30_000  # tracks: the inverse of that many squared takes 3.6 GB


def item_knn(warm: WarmListeners) -> Neighbours:
    """Item neighbours by asymmetric cosine: tracks alone."""
    return Neighbours.fit(warm, NeighbourRecipe(artist_weight=0, album_weight=0), "item_knn")


class Ease:
    """A linear autoencoder in closed form: weights (N, N) without a diagonal."""

    name = "ease"
    needs = Needs(days=True, cold_users=False)

    def __init__(self, warm: WarmListeners, ridge: float = 200.0) -> None:
        """Needs N squared numbers of memory, twice for a moment; ValueError above MOST_EASE tracks."""
        self.catalogue, _ = require_ids(self.name, warm)
        heard_UN = csr_array(warm.heard_UN, dtype=np.float32)
        n = heard_UN.shape[1]
        if n > MOST_EASE:
            raise ValueError(f"ease: {n} tracks would take {4e-9 * n * n:.0f} GB; at most {MOST_EASE} tracks")
        gram_NN = (heard_UN.T @ heard_UN).toarray(order="F")
        gram_NN[np.diag_indices(n)] += ridge
        factor, failed = lapack.spotrf(gram_NN, lower=True, overwrite_a=True)
        inverse, failed_too = lapack.spotri(factor, lower=True, overwrite_c=True)
        if failed or failed_too:
            raise ValueError(f"ease: the Gram matrix with ridge {ridge} is not positive definite; raise the ridge")
        weight_NN = np.tril(inverse) + np.tril(inverse, -1).T
        weight_NN /= -np.diag(weight_NN).copy()[None, :]
        weight_NN[np.diag_indices(n)] = 0
        self.weight_NN: NDArray[np.float32] = weight_NN

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, len(self.weight_NN), "the number of tracks")
        return top_k_in_chunks(lambda part: self.catalogue.streamed_tracks(part) @ self.weight_NN, days, k)


class IalsFoldIn:
    """The listener's vector solved against the tracks' ALS factors; ranked by dot product."""

    name = "ials_fold_in"
    needs = Needs(days=True, cold_users=False, parts=("track_vectors",))

    def __init__(self, warm: WarmListeners, alpha: float, regularisation: float, exponent: float = 0.0) -> None:
        """Needs the space of ut_als; alpha, regularisation and exponent as it was trained."""
        self.catalogue, _ = require_ids(self.name, warm)
        self.track_ND = np.ascontiguousarray(warm.track_ND, np.float32)
        self.alpha, self.regularisation, self.exponent = alpha, regularisation, exponent
        self.gram_DD = gram(self.track_ND)

    def recommend(self, x_BF: ArrayLike, k: int, days: FirstDays | None = None) -> NDArray[np.int32]:
        """Distinct track_idx, best first, (B, k)."""
        days = require_first_days(self.name, x_BF, days)
        check_k(self.name, k, len(self.track_ND), "the number of tracks")
        return top_k_in_chunks(self._scores, days, k)

    def _scores(self, days: FirstDays) -> NDArray[np.float32]:
        streamed_BN = self.catalogue.streamed_tracks(days)
        lists = np.split(streamed_BN.indices, streamed_BN.indptr[1:-1])
        vectors_BD = np.stack([self._vector(tracks) for tracks in lists]).astype(np.float64)
        return (vectors_BD @ self.track_ND.T.astype(np.float64)).astype(np.float32)

    def _vector(self, tracks: NDArray[np.int32]) -> NDArray[np.float32]:
        ones = np.ones(len(tracks))
        return fold_in(tracks, ones, self.track_ND, self.alpha, self.regularisation, self.gram_DD, self.exponent)
