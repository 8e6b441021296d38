"""Candidates of listeners for a learned ranker, and the features of each, from methods that score every track.

Shapes   B listeners, N tracks, D width of the space, V tokens (tracks, artists, albums, countries, age classes),
         U warm users, C candidates, L tracks of a method's list, P pairs of a listener and a token whose
         neighbours count, E entries of the pairs' neighbours, F features
Stage    the first of two (Covington, Adams, Sargin 2016): the second is models/cold_start/methods/ranked_candidates.py
Law      a row depends on its listener only: sums are made within a row, and matrix products are sparse

This module needs no PyTorch and no LightGBM: evaluation and service compute the features with the same code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from models.arrays import FloatMatrix, FloatVector, IntMatrix, LongMatrix, LongVector
from models.cold_start.input_vector import FirstDays
from models.cold_start.methods.blend import Blend
from models.cold_start.methods.segment_rates import SegmentRates
from models.cold_start.top_k import normalise, top_k_of_scores

N_FEEDBACK = 40  # tracks of the blend whose neighbours are looked up (pseudo relevance feedback)
_TINY = np.float32(np.finfo(np.float32).tiny)

FEATURES = (
    # of the first-day autoencoder
    "autoencoder_log_probability",
    "autoencoder_log_ratio",  # to the listener's most likely track
    "autoencoder_log_lift",  # over the track's share of all streams
    "autoencoder_rank",
    "artist_log_probability",  # of all tracks of the candidate's artist together
    "album_log_probability",
    # of the neighbours of first-day tracks, artists and albums
    "neighbour_score",
    "neighbour_ratio",
    "neighbour_rank",
    "track_neighbour_sum",
    "track_neighbour_max",
    "track_neighbour_share",  # of the first-day tracks that have the candidate as a neighbour
    "artist_neighbour_sum",
    "album_neighbour_sum",
    # of the segments
    "segment_log_rate",
    "segment_log_lift",
    "segment_rank",
    # of several methods together
    "blend_score",
    "blend_rank",
    "mean_log_rank",
    "feedback_sum",  # as a neighbour of the blend's best tracks
    "feedback_max",
    # cosines of the space's vectors of candidate and other tracks
    "vector_max",  # over the first-day tracks
    "vector_mean",
    "vector_feedback",  # mean over the blend's best tracks
    # of the candidate and the first day
    "log_listeners",
    "log_artist_listeners",
    "artist_tracks",
    "same_artist",  # first-day tracks of the candidate's artist
    "same_album",
    "log_listeners_above_day",  # over the mean of the first-day tracks
    # of the listener
    "day_tracks",
    "day_artists",
    "day_albums",
    "day_log_listeners",
    "best_log_probability",
    "best_neighbour_score",
)


@dataclass(frozen=True, eq=False)
class DayScores:
    """Scores of every track for B listeners.

    Attributes:
        tokens_BV: tokens of the first days, sparse of ones.
        likelihood_BN: probability of the autoencoder over that of the listener's most likely track.
        neighbour_BN: sum of the neighbour scores of the first day's tokens.
        rate_BN: share of the members of the listener's segments who stream the track.
        blend_BN: score of the blend.
        lists: the C best tracks by each of the four scores, in this order, (B, C) track_idx each.
    """

    tokens_BV: csr_array
    likelihood_BN: FloatMatrix
    neighbour_BN: FloatMatrix
    rate_BN: FloatMatrix
    blend_BN: FloatMatrix
    lists: tuple[IntMatrix, ...]

    def __len__(self) -> int:
        """Return B, the number of listeners."""
        return len(self.blend_BN)


class CandidateStage:
    """Scores all tracks for first days, selects candidates and computes their features."""

    def __init__(
        self, blend: Blend, segments: SegmentRates, listeners_N: LongVector, track_ND: FloatMatrix, n_candidates: int
    ) -> None:
        """Combine fitted parts.

        Args:
            blend: autoencoder and neighbours.
            segments: counts of the segments, with the vocabulary of the neighbours.
            listeners_N: warm listeners of each track.
            track_ND: vectors of the tracks, of any length; may be mapped from a file.
            n_candidates: C, also the length of the lists that they come from (N if there are fewer tracks).

        Raises:
            ValueError: n_candidates is below 1.
        """
        if n_candidates < 1:
            raise ValueError(f"ranker.candidates: must be at least 1, got {n_candidates}")
        self.blend, self.segments, self.listeners_N, self.track_ND = blend, segments, listeners_N, track_ND
        self.vocabulary = blend.neighbours.vocabulary
        self.n_tracks = self.vocabulary.n_tracks
        self.n_candidates = min(n_candidates, self.n_tracks)
        spans = self.vocabulary.spans
        self._token_of = {"artist": self.vocabulary.artist_token_N, "album": self.vocabulary.album_token_N}
        self._group_of = {kind: token_N - spans[kind].start for kind, token_N in self._token_of.items()}
        self._n_groups = {kind: spans[kind].stop - spans[kind].start for kind in self._token_of}
        counts = np.asarray(listeners_N, np.float64)
        artist_N = self._group_of["artist"]
        self._log_rate_N = np.log(segments.rate_N).astype(np.float32)
        self._log_listeners_N = np.log1p(counts).astype(np.float32)
        self._log_share_N = np.log((counts + 0.5) / (counts + 0.5).sum()).astype(np.float32)
        self._log_artist_N = np.log1p(np.bincount(artist_N, counts)).astype(np.float32)[artist_N]
        self._artist_tracks_N = np.bincount(artist_N).astype(np.float32)[artist_N]

    def score(self, first_days: FirstDays) -> DayScores:
        """Return the scores of every track for B listeners."""
        neighbours = self.blend.neighbours
        tokens_BV = self.vocabulary.first_day_tokens(first_days)
        likelihood_BN = self.blend.autoencoder.scores(tokens_BV)
        neighbour_BN = neighbours.sums(tokens_BV)
        blend_BN = self.blend.combine(likelihood_BN, neighbours.scale(neighbour_BN))
        four = (likelihood_BN, neighbour_BN, self.segments.rates(tokens_BV), blend_BN)
        return DayScores(tokens_BV, *four, tuple(top_k_of_scores(score_BN, self.n_candidates) for score_BN in four))

    def candidates(self, scores: DayScores) -> IntMatrix:
        """Return the C tracks with the best place in any of the lists, (B, C) track_idx; ties by the blend's score."""
        n = self.n_candidates
        listed_BL = np.concatenate(scores.lists, axis=1)
        place_BL = np.broadcast_to(np.tile(np.arange(n), len(scores.lists)), listed_BL.shape)
        key_BL = np.sort(listed_BL.astype(np.int64) * n + place_BL, axis=1)  # by track, then by place
        track_BL = (key_BL // n).astype(np.int32)
        is_repeat_BL = np.zeros(track_BL.shape, bool)
        is_repeat_BL[:, 1:] = track_BL[:, 1:] == track_BL[:, :-1]  # in another list, at the same or a later place
        score_BL = np.take_along_axis(scores.blend_BN, track_BL, axis=1) * np.float32(0.5)  # 0 to 0.5
        score_BL -= (key_BL % n).astype(np.float32)
        score_BL[is_repeat_BL] = -np.inf
        return np.take_along_axis(track_BL, top_k_of_scores(score_BL, n), axis=1)

    def features(self, scores: DayScores, track_BC: IntMatrix) -> FloatMatrix:
        """Return the features of the candidates in the order of FEATURES, (B, C, F).

        Args:
            scores: scores of the same listeners.
            track_BC: candidates as track_idx, distinct in a row.
        """
        slot_BN = np.full(scores.blend_BN.shape, -1, np.int32)
        np.put_along_axis(slot_BN, track_BC, np.arange(track_BC.shape[1], dtype=np.int32)[None, :], axis=1)
        values = (
            self._autoencoder_features(scores, track_BC)
            | self._neighbour_features(scores, track_BC)
            | self._token_features(scores, slot_BN, track_BC.shape[1])
            | self._list_features(scores, track_BC, slot_BN)
            | self._vector_features(scores, track_BC)
            | self._day_features(scores, track_BC)
        )
        out_BCF = np.empty((*track_BC.shape, len(FEATURES)), np.float32)
        for f, name in enumerate(FEATURES):
            out_BCF[:, :, f] = values[name]
        return out_BCF

    def _autoencoder_features(self, scores: DayScores, track_BC: IntMatrix) -> dict[str, FloatMatrix]:
        ratio_BN = scores.likelihood_BN
        log_total_B1 = np.log(ratio_BN.sum(axis=1, keepdims=True))
        log_ratio_BC = _log(np.take_along_axis(ratio_BN, track_BC, axis=1))
        values = {
            "autoencoder_log_probability": log_ratio_BC - log_total_B1,
            "autoencoder_log_ratio": log_ratio_BC,
            "autoencoder_log_lift": log_ratio_BC - log_total_B1 - self._log_share_N[track_BC],
            "best_log_probability": -log_total_B1,
        }
        for kind, group_N in self._group_of.items():
            mass_BG = np.empty((len(ratio_BN), self._n_groups[kind]), np.float32)
            for b, ratio_N in enumerate(ratio_BN):
                mass_BG[b] = np.bincount(group_N, ratio_N, self._n_groups[kind])
            mass_BC = np.take_along_axis(mass_BG, group_N[track_BC], axis=1)
            values[f"{kind}_log_probability"] = _log(mass_BC) - log_total_B1
        return values

    def _neighbour_features(self, scores: DayScores, track_BC: IntMatrix) -> dict[str, FloatMatrix]:
        best_B1 = scores.neighbour_BN.max(axis=1, keepdims=True)
        neighbour_BC = np.take_along_axis(scores.neighbour_BN, track_BC, axis=1)
        return {
            "neighbour_score": neighbour_BC,
            "neighbour_ratio": neighbour_BC / np.maximum(best_B1, _TINY),
            "best_neighbour_score": best_B1,
        }

    def _token_features(self, scores: DayScores, slot_BN: IntMatrix, n_candidates: int) -> dict[str, FloatMatrix]:
        """Return features of the candidates as neighbours of the first day's tokens and of the blend's best tracks."""
        spans, tokens_BV, top_BL = self.vocabulary.spans, scores.tokens_BV, scores.lists[3][:, :N_FEEDBACK]
        row_B, token_P = np.arange(len(scores)), tokens_BV.indices.astype(np.int64)
        kind_P = np.searchsorted([spans[kind].stop for kind in ("track", "artist", "album")], token_P, side="right")
        row_P = np.repeat(row_B, np.diff(tokens_BV.indptr))
        n_tracks_B1 = np.maximum(np.bincount(row_P[kind_P == 0], minlength=len(scores)), 1)[:, None]
        # Country and age have no neighbours. In place of them, the blend's best tracks are the fourth kind.
        has_neighbours_P = kind_P < 3
        weights_BL = np.take_along_axis(scores.blend_BN, top_BL, axis=1)
        sums, highest, counts = _neighbour_sums(
            self.blend.neighbours.score_VN,
            np.concatenate([row_P[has_neighbours_P], np.repeat(row_B, top_BL.shape[1])]),
            np.concatenate([token_P[has_neighbours_P], top_BL.ravel()]),
            np.concatenate([kind_P[has_neighbours_P], np.full(top_BL.size, 3)]),
            np.concatenate([np.ones(has_neighbours_P.sum(), np.float32), weights_BL.ravel()]),
            4,
            slot_BN,
            n_candidates,
        )
        return {
            "track_neighbour_sum": sums[0],
            "track_neighbour_max": highest[0],
            "track_neighbour_share": counts[0] / n_tracks_B1.astype(np.float32),
            "artist_neighbour_sum": sums[1],
            "album_neighbour_sum": sums[2],
            "feedback_sum": sums[3],
            "feedback_max": highest[3],
        }

    def _list_features(self, scores: DayScores, track_BC: IntMatrix, slot_BN: IntMatrix) -> dict[str, FloatMatrix]:
        names = ("autoencoder_rank", "neighbour_rank", "segment_rank", "blend_rank")
        n_candidates = track_BC.shape[1]
        values = {
            name: _places(np.take_along_axis(slot_BN, list_BL, axis=1), n_candidates)
            for name, list_BL in zip(names, scores.lists, strict=True)
        }
        log_ranks = [np.log1p(values[name]) for name in names[:3]]
        values["mean_log_rank"] = np.mean(log_ranks, axis=0, dtype=np.float32)
        rate_BC = _log(np.take_along_axis(scores.rate_BN, track_BC, axis=1))
        values["segment_log_rate"] = rate_BC
        values["segment_log_lift"] = rate_BC - self._log_rate_N[track_BC]
        values["blend_score"] = np.take_along_axis(scores.blend_BN, track_BC, axis=1)
        return values

    def _vector_features(self, scores: DayScores, track_BC: IntMatrix) -> dict[str, FloatMatrix]:
        names = ("vector_max", "vector_mean", "vector_feedback")
        values = {name: np.zeros(track_BC.shape, np.float32) for name in names}
        tracks_BN = csr_array(scores.tokens_BV[:, : self.n_tracks])
        for b, track_C in enumerate(track_BC):  # one product a listener, so that a row does not depend on its batch
            unit_CD = normalise(self.track_ND[track_C])
            day = tracks_BN.indices[tracks_BN.indptr[b] : tracks_BN.indptr[b + 1]]
            if len(day):
                cosine_CT = unit_CD @ normalise(self.track_ND[day]).T
                values["vector_max"][b], values["vector_mean"][b] = cosine_CT.max(axis=1), cosine_CT.mean(axis=1)
            best_LD = normalise(self.track_ND[scores.lists[3][b, :N_FEEDBACK]])
            values["vector_feedback"][b] = unit_CD @ best_LD.mean(axis=0)
        return values

    def _day_features(self, scores: DayScores, track_BC: IntMatrix) -> dict[str, FloatMatrix]:
        tokens_BV, spans = scores.tokens_BV, self.vocabulary.spans
        tracks_BN = csr_array(tokens_BV[:, : self.n_tracks])
        n_tracks_B = np.diff(tracks_BN.indptr)
        mean_B1 = ((tracks_BN @ self._log_listeners_N) / np.maximum(n_tracks_B, 1)).astype(np.float32)[:, None]
        # A liked artist is a token without a track of the day: it counts as one.
        counts_BV = csr_array((tracks_BN @ self.vocabulary.tokens_of_tracks_NV).maximum(tokens_BV))
        log_listeners_BC = self._log_listeners_N[track_BC]
        return {
            "log_listeners": log_listeners_BC,
            "log_artist_listeners": self._log_artist_N[track_BC],
            "artist_tracks": self._artist_tracks_N[track_BC],
            "same_artist": _entries(counts_BV, self._token_of["artist"][track_BC]),
            "same_album": _entries(counts_BV, self._token_of["album"][track_BC]),
            "log_listeners_above_day": log_listeners_BC - mean_B1,
            "day_tracks": n_tracks_B[:, None].astype(np.float32),
            "day_artists": _n_tokens(tokens_BV, spans["artist"]),
            "day_albums": _n_tokens(tokens_BV, spans["album"]),
            "day_log_listeners": mean_B1,
        }


def listener_totals(heard_UN: csr_array) -> LongVector:
    """Return the number of listeners of each track, (N,), from a sparse (U, N) of ones."""
    return np.asarray(heard_UN.sum(axis=0)).ravel().astype(np.int64)


def _log(values: FloatMatrix) -> FloatMatrix:
    """Return the logarithms of values of at least 0; a zero, which rounding can produce, counts as the smallest one."""
    return np.log(np.maximum(values, _TINY))


def _places(slot_BL: IntMatrix, n_candidates: int) -> FloatMatrix:
    """Return each candidate's place in a list from 0, (B, C); L for a candidate that the list does not contain.

    Args:
        slot_BL: the list's tracks as positions of candidates, -1 for other tracks.
        n_candidates: C.
    """
    place_BC = np.full((len(slot_BL), n_candidates), slot_BL.shape[1], np.float32)
    row, place = np.nonzero(slot_BL >= 0)
    place_BC[row, slot_BL[row, place]] = place
    return place_BC


def _neighbour_sums(
    score_VN: csr_array,
    row_P: LongVector,
    token_P: LongVector,
    kind_P: LongVector,
    weight_P: FloatVector,
    n_kinds: int,
    slot_BN: IntMatrix,
    n_candidates: int,
) -> tuple[FloatMatrix, FloatMatrix, FloatMatrix]:
    """Return sum, maximum and number of the tokens' scores for each kind and candidate, (kinds, B, C) each.

    Args:
        score_VN: scores of the tracks that are stored for each token.
        row_P: listener of each pair.
        token_P: token of each pair.
        kind_P: kind of the token, from 0.
        weight_P: factor of the token's scores.
        n_kinds: number of kinds.
        slot_BN: position of each track among the listener's candidates, -1 for other tracks.
        n_candidates: C.
    """
    start_P, stop_P = score_VN.indptr[token_P].astype(np.int64), score_VN.indptr[token_P + 1].astype(np.int64)
    length_P = stop_P - start_P
    first_P = np.cumsum(length_P) - length_P
    tracks = [score_VN.indices[start:stop] for start, stop in zip(start_P.tolist(), stop_P.tolist(), strict=True)]
    track_E = np.concatenate(tracks or [np.empty(0, np.int32)])
    slot_E = slot_BN.ravel()[np.repeat(row_P * slot_BN.shape[1], length_P) + track_E]
    # Few of the stored tracks are candidates: scores and places are computed for these alone.
    entry = np.flatnonzero(slot_E >= 0)
    pair = np.searchsorted(first_P, entry, side="right") - 1
    place = (kind_P[pair] * len(slot_BN) + row_P[pair]) * n_candidates + slot_E[entry]
    value = score_VN.data[start_P[pair] - first_P[pair] + entry] * weight_P[pair]
    shape = (n_kinds, len(slot_BN), n_candidates)
    size = n_kinds * len(slot_BN) * n_candidates
    highest = np.zeros(size, np.float32)
    np.maximum.at(highest, place, value)
    sums = np.bincount(place, value, size).astype(np.float32)
    counts = np.bincount(place, minlength=size).astype(np.float32)
    return sums.reshape(shape), highest.reshape(shape), counts.reshape(shape)


def _entries(matrix: csr_array, column_BC: LongMatrix) -> FloatMatrix:
    """Return the entries of a sparse (B, V) at columns (B, C), zero where there is none."""
    if not matrix.nnz:
        return np.zeros(column_BC.shape, np.float32)
    matrix.sort_indices()
    n_columns = matrix.shape[1]
    key = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr)) * n_columns + matrix.indices
    wanted_BC = np.arange(len(column_BC))[:, None] * n_columns + column_BC
    place_BC = np.minimum(np.searchsorted(key, wanted_BC), len(key) - 1)
    return np.where(key[place_BC] == wanted_BC, matrix.data[place_BC], 0).astype(np.float32)


def _n_tokens(tokens_BV: csr_array, span: slice) -> FloatMatrix:
    """Return the number of tokens of one kind of each listener, (B, 1)."""
    is_kind = (tokens_BV.indices >= span.start) & (tokens_BV.indices < span.stop)
    row = np.repeat(np.arange(tokens_BV.shape[0]), np.diff(tokens_BV.indptr))
    return np.bincount(row[is_kind], minlength=tokens_BV.shape[0])[:, None].astype(np.float32)
