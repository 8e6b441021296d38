"""Vectors of tracks that are too new for a space, from genre, features, artist, album and first listeners.

Shapes   N tracks of the space, M new tracks, H held-out tracks of the space, U listeners, d width of the space,
         F width of the features
Levels   all tracks -> genre -> features -> artist -> album -> first listeners. Each level corrects the estimate of the
         level above:
             estimate = (sum of the level's vectors + kappa * estimate above) / (number of the level's vectors + kappa)
         A level without vectors, or an unknown one, leaves the estimate above as it is
Features  of audio or text, such as an embedding of the recording. The level's vectors are those of the nearest tracks
         of the space (models/cold_start/feature_neighbours.py)
Kappa    for each level the one of KAPPAS with the least squared error on tracks of the space, whose own album is left
         out (at the level of albums: the track alone), because the album of a new track is new as a whole. The first
         listeners have two: an estimate from the artist is worth more listeners than one from the genre alone
Listeners  the vector of a listener is the normalised mean of the vectors of the tracks that the listener streamed. A
         linear map from the mean vector of a track's listeners to the track's vector is fitted on held-out albums,
         whose tracks are left out of the listeners' vectors; it absorbs scale and direction, which differ by space
Source   hierarchical shrinkage: Efron and Morris 1975, Data analysis using Stein's estimator; the map from side
         information to factors: Gantner et al. 2010, Learning attribute-to-feature mappings for cold-start
         recommendations, ICDM
Time     no function reads a time: what was not known at the as-of time must not be in the arguments
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import csr_array

from models.arrays import BoolVector, DoubleMatrix, DoubleVector, FloatMatrix, LongVector
from models.cold_start.feature_neighbours import FeatureNeighbours
from models.cold_start.linear_regression import fit_linear_regression
from models.cold_start.methods.base import Predict
from models.cold_start.sparse_rows import binarise, draw_from_rows
from models.cold_start.top_k import as_float_matrix, normalise

LEVELS = ("genre", "artist", "album")
KAPPAS = tuple(2.0**power for power in range(-3, 9))
HELD_OUT_SHARE = 0.3  # of the albums
MAX_FIRST_LISTENERS = 16  # of a held-out track, when kappa of the listeners is chosen
RIDGE = 0.1  # of the map, relative to the variance of a column


@dataclass(frozen=True, eq=False)
class TrackFacts:
    """What is known of tracks before they have listeners.

    Attributes:
        genre, artist, album: ids (M,) int64; a negative id is unknown.
        features_MF: features of audio or text; the rows of tracks without features are NaN. None: no track has any.

    Raises:
        ValueError: the ids are not flat integers of one length, or the features do not have one row per track.
    """

    genre: LongVector
    artist: LongVector
    album: LongVector
    features_MF: FloatMatrix | None = None

    def __post_init__(self) -> None:
        ids = [np.asarray(getattr(self, level)) for level in LEVELS]
        if len({one.shape for one in ids}) > 1 or any(one.ndim != 1 or one.dtype.kind not in "iu" for one in ids):
            shapes = ", ".join(f"{level} {one.shape} {one.dtype}" for level, one in zip(LEVELS, ids, strict=True))
            raise ValueError(f"track facts: must be flat integer arrays of one length, got {shapes}")
        features_MF = self.features_MF
        if features_MF is not None and (features_MF.ndim != 2 or len(features_MF) != len(self.artist)):
            raise ValueError(f"track facts: features of {len(self.artist)} tracks have the shape {features_MF.shape}")

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.artist)

    def take(self, rows: Any) -> TrackFacts:
        """Return the facts of some tracks, selected by indices or a mask."""
        features_MF = None if self.features_MF is None else self.features_MF[rows]
        return TrackFacts(self.genre[rows], self.artist[rows], self.album[rows], features_MF)


class _GroupSums:
    """Sum and number of the vectors of each group."""

    def __init__(self, vector_ND: DoubleMatrix, group_N: LongVector) -> None:
        self.ids_G, member_N = np.unique(group_N, return_inverse=True)
        n = len(group_N)
        is_member_GN = csr_array((np.ones(n), (member_N, np.arange(n))), shape=(len(self.ids_G), n))
        self.sum_GD: DoubleMatrix = is_member_GN @ vector_ND
        self.count_G: DoubleVector = np.bincount(member_N, minlength=len(self.ids_G)).astype(np.float64)

    def of(self, group_M: LongVector) -> tuple[DoubleMatrix, DoubleVector]:
        """Return sum (M, d) and number (M,) of the vectors of the groups; zero for an unknown or absent group."""
        place_M = np.minimum(np.searchsorted(self.ids_G, group_M), len(self.ids_G) - 1)
        known_M = (self.ids_G[place_M] == group_M) & (group_M >= 0)
        return np.where(known_M[:, None], self.sum_GD[place_M], 0.0), np.where(known_M, self.count_G[place_M], 0.0)


def shrink(
    sum_MD: DoubleMatrix, count_M: DoubleVector, parent_MD: DoubleMatrix, kappa: float | DoubleVector
) -> DoubleMatrix:
    """Return the means of groups of vectors, each drawn to an estimate known before, (M, d).

    Args:
        sum_MD: sum of the vectors of each group.
        count_M: number of these vectors.
        parent_MD: the estimates known before.
        kappa: number of vectors that an estimate known before counts for, above 0; one for all groups, or (M,).
    """
    kappa_M = np.broadcast_to(kappa, count_M.shape)[:, None]
    means: DoubleMatrix = (sum_MD + kappa_M * parent_MD) / (count_M[:, None] + kappa_M)
    return means


def choose_kappa(
    target_MD: DoubleMatrix, sum_MD: DoubleMatrix, count_M: DoubleVector, parent_MD: DoubleMatrix
) -> float:
    """Return the value of KAPPAS with which `shrink` has the least squared error.

    Args:
        target_MD: the true vectors; the sums do not contain them.
        sum_MD: sum of the vectors of each group.
        count_M: number of these vectors; groups without vectors do not matter.
        parent_MD: the estimates known before.

    Returns:
        One of KAPPAS; the largest, with which a level matters least, if no group has a vector.
    """
    some = count_M > 0
    if not some.any():
        return KAPPAS[-1]
    target, total, count, parent = target_MD[some], sum_MD[some], count_M[some], parent_MD[some]
    return min(KAPPAS, key=lambda kappa: float(np.square(shrink(total, count, parent, kappa) - target).sum()))


def listener_vectors(heard_UN: csr_array, track_ND: ArrayLike) -> FloatMatrix:
    """Return the normalised mean of the unit vectors of the tracks that each listener streamed, (U, d) float32.

    Args:
        heard_UN: sparse, nonzero for each track that a listener streamed; the values do not matter.
        track_ND: vectors of the tracks; tracks with a zero vector do not count.

    Returns:
        Zero rows for listeners without a track that has a vector.

    Raises:
        ValueError: the numbers of tracks differ, or a vector is not finite.
    """
    unit_ND = normalise(as_float_matrix("listener_vectors: track vectors", track_ND))
    if heard_UN.shape[1] != len(unit_ND):
        raise ValueError(f"listener_vectors: {heard_UN.shape[1]} columns for {len(unit_ND)} track vectors")
    return normalise(binarise(heard_UN) @ unit_ND)


@dataclass(frozen=True, eq=False)
class NewReleases:
    """Estimates the vectors of tracks that are not in a space.

    Attributes:
        kappa: by level, and of the features; of the first listeners of a track of an artist with a vector in the space
            ("listeners"), and of one of another artist ("listeners, no artist").
    """

    kappa: dict[str, float]
    _mean_D: DoubleVector
    _sums: dict[str, _GroupSums]
    _near: FeatureNeighbours
    _listener_UD: FloatMatrix
    _map: Predict

    @classmethod
    def fit(cls, track_ND: ArrayLike, facts_N: TrackFacts, heard_UN: csr_array, seed: int) -> NewReleases:
        """Fit the levels and the map of a space.

        Args:
            track_ND: vectors of the tracks of the space, at unit length where lists use the cosine; tracks with a zero
                vector are not learned from.
            facts_N: facts of these tracks.
            heard_UN: sparse, nonzero for each of these tracks that a listener streamed before the as-of time.
            seed: of the held-out albums and of their first listeners.

        Raises:
            ValueError: numbers of tracks differ, a vector is not finite, or fewer than four albums have a vector.
        """
        vectors = as_float_matrix("new releases: track vectors", track_ND)
        if not len(vectors) == len(facts_N) == heard_UN.shape[1]:
            raise ValueError(
                f"new releases: {len(vectors)} vectors, facts of {len(facts_N)} and {heard_UN.shape[1]} columns of "
                "streams must be of the same tracks"
            )
        rng = np.random.default_rng(seed)
        known = np.flatnonzero(vectors.any(axis=1))
        vector_ND, facts = vectors[known].astype(np.float64), facts_N.take(known)
        heard = binarise(heard_UN)[:, known]
        # Tracks without a known album are an album of their own, which no other track belongs to.
        album_N = np.where(facts.album >= 0, facts.album, -1 - np.arange(len(known)))
        albums = np.unique(album_N)
        if len(albums) < 4:
            raise ValueError(f"new releases: the space must have vectors of at least 4 albums, got {len(albums)}")
        mean_D = vector_ND.mean(axis=0)
        sums = {level: _GroupSums(vector_ND, getattr(facts, level)) for level in LEVELS}
        near = FeatureNeighbours(vector_ND, facts.features_MF, album_N)
        sum_near_ND, n_near_N, is_complete_N = near.of_sample(seed)

        kappa: dict[str, float] = {}
        estimate_ND = np.broadcast_to(mean_D, vector_ND.shape)
        for level in LEVELS:
            group_N = getattr(facts, level)
            if level == "album":
                left_out_ND, n_left_out_N = vector_ND, np.ones(len(known))
            else:
                left_out_ND, n_left_out_N = _album_sums(vector_ND, group_N, album_N)
            total_ND, count_N = sums[level].of(group_N)
            belongs_N = count_N > 0  # an unknown genre or artist has no sum from which to leave the album out
            total_ND = np.where(belongs_N[:, None], total_ND - left_out_ND, 0.0)
            count_N = np.where(belongs_N, count_N - n_left_out_N, 0.0)
            kappa[level] = choose_kappa(vector_ND, total_ND, np.where(is_complete_N, count_N, 0.0), estimate_ND)
            if level == "genre":
                estimate_ND = shrink(total_ND, count_N, estimate_ND, kappa[level])
                kappa["features"] = choose_kappa(vector_ND, sum_near_ND, n_near_N, estimate_ND)
                estimate_ND = shrink(sum_near_ND, n_near_N, estimate_ND, kappa["features"])
                without_artist_ND = estimate_ND
            elif level == "artist":
                estimate_ND, has_artist_N = shrink(total_ND, count_N, estimate_ND, kappa[level]), count_N > 0

        held_out = np.isin(album_N, rng.permutation(albums)[: max(2, round(HELD_OUT_SHARE * len(albums)))])
        listeners_UD = listener_vectors(heard[:, ~held_out], vector_ND[~held_out])
        target_HD, heard_UH = vector_ND[held_out], heard[:, held_out]
        sum_HD, count_H = _few_listeners(target_HD, album_N[held_out], heard_UH, listeners_UD, rng)
        complete_H = np.where(is_complete_N[held_out], count_H, 0.0)
        with_artist_H = np.where(has_artist_N[held_out], complete_H, 0.0)
        kappa["listeners"] = choose_kappa(target_HD, sum_HD, with_artist_H, estimate_ND[held_out])
        kappa["listeners, no artist"] = choose_kappa(target_HD, sum_HD, complete_H, without_artist_ND[held_out])
        mean_HD, n_listeners_H = _means(heard_UH, listeners_UD)
        fitted_map = _affine(mean_HD, target_HD, n_listeners_H > 0)
        return cls(kappa, mean_D, sums, near, listener_vectors(heard, vector_ND), fitted_map)

    def content(self, facts_M: TrackFacts) -> FloatMatrix:
        """Return the estimates from the facts alone, (M, d) float32, on the scale of the space's tracks.

        Args:
            facts_M: facts of the new tracks.

        Raises:
            ValueError: the features have another width than those of the fit.
        """
        return self._content(facts_M).astype(np.float32)

    def first_listeners(self, heard_UM: csr_array) -> FloatMatrix:
        """Return the estimates from the first listeners alone, (M, d) float32; zero for a track without a listener.

        Args:
            heard_UM: sparse, nonzero for each new track that a listener streamed before the as-of time. Listeners are
                those of `fit`; one without a vector does not count.
        """
        sum_MD, count_M = self._evidence(heard_UM)
        return (sum_MD / np.maximum(count_M, 1)[:, None]).astype(np.float32)

    def vectors(self, facts_M: TrackFacts, heard_UM: csr_array) -> FloatMatrix:
        """Return the estimates from content and first listeners, (M, d) float32, on the scale of the space's tracks.

        Args:
            facts_M: facts of the new tracks.
            heard_UM: as for `first_listeners`.

        Raises:
            ValueError: numbers of tracks or listeners differ.
        """
        if heard_UM.shape[1] != len(facts_M):
            raise ValueError(f"new releases: facts of {len(facts_M)} tracks, {heard_UM.shape[1]} columns of streams")
        sum_MD, count_M = self._evidence(heard_UM)
        has_artist_M = (self._sums["artist"].of(facts_M.artist)[1] > 0) | (self._sums["album"].of(facts_M.album)[1] > 0)
        kappa_M = np.where(has_artist_M, self.kappa["listeners"], self.kappa["listeners, no artist"])
        return shrink(sum_MD, count_M, self._content(facts_M), kappa_M).astype(np.float32)

    def _content(self, facts_M: TrackFacts) -> DoubleMatrix:
        estimate_MD = np.broadcast_to(self._mean_D, (len(facts_M), len(self._mean_D)))
        for level in LEVELS:
            estimate_MD = shrink(*self._sums[level].of(getattr(facts_M, level)), estimate_MD, self.kappa[level])
            if level == "genre":
                estimate_MD = shrink(
                    *self._near.of(facts_M.features_MF, len(facts_M)), estimate_MD, self.kappa["features"]
                )
        return estimate_MD

    def _evidence(self, heard_UM: csr_array) -> tuple[DoubleMatrix, DoubleVector]:
        if heard_UM.shape[0] != len(self._listener_UD):
            raise ValueError(f"new releases: {heard_UM.shape[0]} listeners, {len(self._listener_UD)} in the fit")
        return _mapped_sums(heard_UM, self._listener_UD, self._map)


def _album_sums(vector_ND: DoubleMatrix, group_N: LongVector, album_N: LongVector) -> tuple[DoubleMatrix, DoubleVector]:
    """Return sum (N, d) and number (N,) of the vectors of the tracks of the same group and album as each track."""
    pair_N = np.unique(np.stack([group_N, album_N]), axis=1, return_inverse=True)[1].ravel()
    return _GroupSums(vector_ND, pair_N).of(pair_N)


def _few_listeners(
    vector_HD: DoubleMatrix,
    album_H: LongVector,
    heard_UH: csr_array,
    listener_UD: FloatMatrix,
    rng: np.random.Generator,
) -> tuple[DoubleMatrix, DoubleVector]:
    """Return the sum of the mapped vectors of a few listeners of each held-out track (H, d), and their number (H,).

    The map is fitted on all listeners of the tracks of the other half of the albums.
    """
    mean_HD, count_H = _means(heard_UH, listener_UD)
    few_UH = _sample_listeners(heard_UH, MAX_FIRST_LISTENERS, rng)
    albums = np.unique(album_H)
    in_first_half_H = np.isin(album_H, rng.permutation(albums)[: len(albums) // 2])
    sum_HD, few_H = np.zeros_like(vector_HD), np.zeros(len(vector_HD))
    for half_H in (in_first_half_H, ~in_first_half_H):
        half_map = _affine(mean_HD, vector_HD, (count_H > 0) & ~half_H)
        sum_HD[half_H], few_H[half_H] = _mapped_sums(few_UH[:, half_H], listener_UD, half_map)
    return sum_HD, few_H


def _affine(mean_HD: DoubleMatrix, vector_HD: DoubleMatrix, used_H: BoolVector) -> Predict:
    """Return the map from mean vectors of listeners to vectors of tracks, fitted on the used tracks.

    Without any, it is the mean of all tracks.
    """
    if not used_H.any():
        mean_D = vector_HD.mean(axis=0)
        return lambda mean_MD: np.tile(mean_D, (len(np.asarray(mean_MD)), 1)).astype(np.float32)
    return fit_linear_regression(mean_HD[used_H].astype(np.float32), vector_HD[used_H].astype(np.float32), RIDGE)


def _means(heard_UM: csr_array, listener_UD: FloatMatrix) -> tuple[DoubleMatrix, DoubleVector]:
    """Return the mean vector of the listeners of each track (M, d), and their number (M,), without zero vectors."""
    has_vector_U = np.asarray(listener_UD.any(axis=1), np.float64)
    by_track_MU = binarise(heard_UM).T.tocsr()
    count_M = by_track_MU @ has_vector_U
    return (by_track_MU @ listener_UD.astype(np.float64)) / np.maximum(count_M, 1)[:, None], count_M


def _mapped_sums(heard_UM: csr_array, listener_UD: FloatMatrix, to_track: Predict) -> tuple[DoubleMatrix, DoubleVector]:
    """Return the sum of the mapped vectors of the listeners of each track (M, d), and their number (M,)."""
    mean_MD, count_M = _means(heard_UM, listener_UD)
    return count_M[:, None] * to_track(mean_MD.astype(np.float32)).astype(np.float64), count_M


def _sample_listeners(heard_UH: csr_array, most: int, rng: np.random.Generator) -> csr_array:
    """Return the streams of 1 to `most` random listeners of each track, or of all if there are fewer."""
    by_track_HU = heard_UH.T.tocsr()
    wanted_H = np.floor(np.exp(rng.random(by_track_HU.shape[0]) * np.log(most + 1))).astype(np.int64)
    n_H = np.minimum(wanted_H, np.diff(by_track_HU.indptr))
    return csr_array(draw_from_rows(by_track_HU, n_H, rng).T)
